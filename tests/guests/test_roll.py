"""A lab of four hosts is rolled through, with a hook that stands for a reboot: a host's worker ends, and comes back."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from lab import fleet
from lab.directory import Lab
from models.database import transaction
from models.guest import Guest
from models.job import Job, JobState
from models.roll import HookRun, RollHost, RollHostState, RollState
from tests import labs
from tests.helpers import Moves, next_heartbeat, until
from workers.process import processes
from workflows.roll import commands

pytestmark = [pytest.mark.thorough, pytest.mark.guests]

HOSTS = ("host-a", "host-b", "host-c", "host-d")
HOOK = """#!/bin/sh -e
# `ssh HOST reboot` of somebody who waits until the reboot has begun
echo "reboots $DROVER_ROLL_HOST at $DROVER_ROLL_ADDRESS"
echo "$DROVER_ROLL_HOST" >>"$1/asked"
until [ -e "$1/$DROVER_ROLL_HOST" ]; do sleep 0.05; done
"""


@pytest.fixture
def hooks() -> Iterator[Path]:
    """The control node's folder of hooks."""
    folder = Path(tempfile.mkdtemp(prefix="hooks", dir="/tmp"))
    (folder / "reboot").write_text(HOOK)
    (folder / "reboot").chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def moves(hooks: Path) -> Iterator[Moves]:
    """Four hosts; two of them have a guest."""
    with labs.temporary(4, settings=labs.BRISK | {"DROVER_HOOKS": str(hooks)}) as lab:
        made = Moves(lab)
        for host in HOSTS[:2]:
            made.boot(host=host, write_rate=20, dirty_rate=1)
        yield made


def drover(moves: Moves, *words: str, code: int = 0) -> dict[str, Any]:
    """The command's JSON document."""
    done = subprocess.run(
        [fleet._program("drover"), *words, "--json"],
        env=os.environ | moves.lab.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows() -> dict[str, RollHost]:
    with transaction() as session:
        return {row.host: row for row in session.scalars(select(RollHost))}


def is_at(host: str, state: RollHostState) -> bool:
    return rows()[host].state is state


def events() -> str:
    with transaction() as session:
        runs = session.scalars(select(HookRun)).all()
    return "\n".join(str(vars(row)) for row in [*rows().values(), *runs])


@contextmanager
def never_two_out() -> Iterator[None]:
    """For the time of a `with` block no more than one host is out, whenever one looks."""
    over, seen = threading.Event(), []

    def look() -> None:
        while not over.wait(0.1):
            seen.append(sorted(host for host, row in rows().items() if row.state.out))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
    assert all(len(out) <= 1 for out in seen), seen
    assert {host for out in seen for host in out} == set(HOSTS)


def kill(lab: Lab, what: str) -> None:
    for process in processes.find(lab.mark(what)):
        process.kill()


def begin_reboot(lab: Lab, hooks: Path, host: str) -> None:
    """The host goes down, and with it its worker; the hook sees that."""
    kill(lab, f"worker-{host}")
    (hooks / host).touch()


def reboot(lab: Lab, hooks: Path, host: str) -> None:
    until(f"{host} is in its hook", lambda: asked(hooks)[-1:] == [host], 180)
    begin_reboot(lab, hooks, host)
    fleet.start_worker(lab, lab.host(host))


def asked(hooks: Path) -> list[str]:
    """The hosts for which the hook was run, in that order."""
    file = hooks / "asked"
    return file.read_text().split() if file.exists() else []


def test_four_hosts_are_rebooted_one_by_one_although_the_controller_dies_twice_and_one_host_comes_back_late(
    moves: Moves, hooks: Path
) -> None:
    lab = moves.lab
    every_host = [word for host in HOSTS for word in ("--host", host)]
    submitted = drover(moves, "roll", *every_host, "--hook", f"reboot {hooks}", "--bandwidth", "32M/s")
    number = submitted["id"]
    with never_two_out():
        until("a guest leaves host-a", lambda: _a_move_runs("host-a"), 120)
        kill(lab, "controller")
        fleet.start_controller(lab)

        until("host-a is in its hook", lambda: asked(hooks) == ["host-a"], 180)
        kill(lab, "controller")
        intact(moves, moves.names[0])
        begin_reboot(lab, hooks, "host-a")
        until("the hook has ended without a controller", _a_hook_has_ended)
        assert is_at("host-a", RollHostState.IN_HOOK)
        fleet.start_worker(lab, lab.host("host-a"))
        fleet.start_controller(lab)

        until("host-b is in its hook", lambda: asked(hooks)[1:] == ["host-b"], 180)
        intact(moves, moves.names[1])
        begin_reboot(lab, hooks, "host-b")
        until("host-b is awaited", lambda: is_at("host-b", RollHostState.COMING_BACK))
        _an_hour_passes("host-b")
        watched = drover(moves, "roll", "watch", str(number), code=4)
        assert watched["state"] == "paused"
        assert "host-b: it was not healthy within 30 min: " in watched["error"]
        assert [row["state"] for row in watched["hosts"]] == ["done", "coming_back", "waiting", "waiting"]
        fleet.start_worker(lab, lab.host("host-b"))
        next_heartbeat("host-b")
        commands.resume(number)

        for host in HOSTS[2:]:
            reboot(lab, hooks, host)
        ended = drover(moves, "roll", "watch", str(number), "--timeout", "300")
    assert ended["state"] == RollState.DONE, events()
    assert asked(hooks) == list(HOSTS), "the hook was run once for each"
    assert "reboots host-a at" in ended["hosts"][0]["hook_run"]["output"]
    for guest, home in zip(moves.names, HOSTS, strict=False):
        assert intact(moves, guest) == home


def intact(moves: Moves, name: str) -> str:
    """It runs and has lost nothing; answers where."""
    with transaction() as session:
        host = session.get_one(Guest, name).host
    moves.intact(name, host)
    return host


def _a_move_runs(source: str) -> bool:
    with transaction() as session:
        running = select(Job.id).where(Job.source == source, Job.state == JobState.RUNNING)
        return session.scalar(running.limit(1)) is not None


def _a_hook_has_ended() -> bool:
    with transaction() as session:
        return session.scalar(select(HookRun.id).where(HookRun.exit_code == 0)) is not None


def _an_hour_passes(host: str) -> None:
    with transaction() as session:
        session.scalars(select(RollHost).where(RollHost.host == host)).one().since -= timedelta(hours=1)
