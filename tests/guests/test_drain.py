"""Four hosts and eight busy guests: a host is emptied for maintenance and filled again, whatever dies on the way."""

import configparser
import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from lab import fleet
from lab.directory import Lab, LabHost
from lab.guest.spec import DiskSpec
from models.database import transaction
from models.guest import Guest
from models.job import Job, JobState
from tests import factories, labs
from tests.helpers import MIB, Moves, until
from tests.tokens import Token
from workers.process import processes

pytestmark = pytest.mark.guests

GUESTS = 8
EXAMPLES = Path(__file__).parents[2] / "examples"
MEMORY = {"host-b": 1200, "host-c": 1200, "host-d": 250}
"""MiB that guests may have there together: host-d takes one of 160 MiB, the others seven."""
SETTINGS = labs.BRISK | {
    "DROVER_WEBHOOK_KEY": factories.WEBHOOK_KEY,
}
LIMITS = {"host-patience": "20s", "retention": "0"}
"""A dead host is given up after 10 s instead of five minutes."""


class RoomsLab(Lab):
    """Its hosts say how much memory they have for guests."""

    def host_environment(self, host: LabHost) -> dict[str, str]:
        limit = MEMORY.get(host.name, 0) * MIB
        return super().host_environment(host) | {"DROVER_GUEST_MEMORY_BYTES": str(limit)}


@pytest.fixture(scope="module")
def moves() -> Iterator[Moves]:
    """Eight guests on host-a."""
    with labs.temporary(4, settings=SETTINGS, limits=LIMITS, kind=RoomsLab) as lab:
        made = Moves(lab)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda number: _boot(made, number), range(GUESTS)))
        yield made


def _boot(moves: Moves, number: int) -> None:
    """Of two sizes: each kind of guest boots once, which takes seconds of a core."""
    moves.boot(DiskSpec(size_bytes=(64 + 8 * (number % 2)) * MIB))


def _restart_worker(lab: Lab, host: str) -> None:
    for process in processes.find(lab.mark(f"worker-{host}")):
        process.kill()
    fleet.start_worker(lab, lab.host(host))


def drover(moves: Moves, *words: str, code: int = 0) -> dict[str, Any]:
    """The command's JSON document."""
    command = [fleet._program("drover"), *words, "--json"]
    environment = os.environ | moves.lab.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def where(moves: Moves) -> dict[str, str]:
    with transaction() as session:
        return {guest.name: guest.host for guest in session.scalars(select(Guest))}


def intact(moves: Moves) -> None:
    """Every guest runs where its record says, and has lost nothing."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda pair: moves.intact(*pair), where(moves).items()))


def host_state(moves: Moves, host: str) -> str:
    [state] = [row["state"] for row in drover(moves, "host", "list")["hosts"] if row["name"] == host]
    return str(state)


def test_a_drain_does_what_its_dry_run_said_and_the_return_brings_everybody_home(moves: Moves) -> None:
    planned = drover(moves, "drain", "host-a", "--dry-run")
    assert where(moves) == dict.fromkeys(moves.names, "host-a")
    assert planned["skipped"] == []
    foreseen = {move["guest"]: move["destination"] for move in planned["moves"]}
    drained = drover(moves, "drain", "host-a", "--wait")
    assert where(moves) == foreseen, (planned, drained)
    assert sorted(foreseen.values()) == ["host-b"] * 4 + ["host-c"] * 4
    assert (drained["state"], drained["moved"], drained["skipped"]) == ("done", GUESTS, 0)
    assert host_state(moves, "host-a") == "maintenance"
    intact(moves)
    returned = drover(moves, "return", "host-a", "--wait")
    assert (returned["state"], returned["moved"]) == ("done", GUESTS)
    assert where(moves) == dict.fromkeys(moves.names, "host-a")
    assert host_state(moves, "host-a") == "active"
    intact(moves)


def test_a_killed_worker_a_full_host_and_a_dead_one_do_not_keep_a_host_from_being_emptied(moves: Moves) -> None:
    drain = drover(moves, "drain", "host-a", "--bandwidth", "1M")  # so that no move is faster than a busy machine
    doomed = until("a copy to host-c runs", lambda: _frozen_while_copying_to(moves, "host-c"), 120)
    _power_off(moves, "host-c")
    _restart_worker(moves.lab, "host-a")
    drover(moves, "drain", "set", str(drain["id"]), "--bandwidth", "64M")
    until("the drain has ended", lambda: _with_operators_help(moves, drain["id"]), 400, every_s=0.5)
    ended = drover(moves, "drain", "show", str(drain["id"]))
    assert ended["state"] == "done", ended
    assert doomed not in {row["job"] for row in ended["guests"]}
    assert sorted(where(moves).values()) == ["host-b"] * (GUESTS - 1) + ["host-d"]
    intact(moves)
    returned = drover(moves, "return", "host-a", "--wait")
    assert returned["state"] == "done"
    assert where(moves) == dict.fromkeys(moves.names, "host-a")
    intact(moves)


def _frozen_while_copying_to(moves: Moves, host: str) -> int | None:
    """Freeze host-a's worker while jobs on their way to this host copy and nothing has arrived there; one of them."""
    if not _copying_to(moves, host):
        return None
    [worker] = processes.find(moves.lab.mark("worker-host-a"))
    worker.signal(signal.SIGSTOP)
    if (copying := _copying_to(moves, host)) is None:  # one was faster
        worker.signal(signal.SIGCONT)
    return copying


def _copying_to(moves: Moves, host: str) -> int | None:
    """A job on its way to this host, if no guest has arrived there or may be about to."""
    with transaction() as session:
        jobs = session.scalars(select(Job).where(Job.destination == host, Job.state == JobState.RUNNING)).all()
        copying = [job.id for job in jobs if _is_served(job)]
    crossing = any(job.cutover_begun_at for job in jobs) or host in where(moves).values()
    return None if crossing else next(iter(copying), None)


def _is_served(job: Job) -> bool:
    return any(step.name == "start_nbd" and step.state == "done" for step in job.steps)


def _power_off(moves: Moves, host: str) -> None:
    """Everything that runs on a host dies: worker, NBD servers, QEMUs."""
    for process in processes.find(moves.lab.mark(f"worker-{host}")):
        process.kill()
    for process in processes.find_below(moves.lab.host(host).folder):
        process.kill()


class _Unit(configparser.ConfigParser):
    """A unit of systemd: the case of its keys matters."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _with_operators_help(moves: Moves, drain_id: int) -> bool:
    """The operator states that the dead host is off for each job that asks; returns whether the drain is over."""
    with transaction() as session:
        to_the_dead = (Job.state == JobState.NEEDS_OPERATOR, Job.destination == "host-c")  # others are looked at again
        asked = session.scalars(select(Job.id).where(*to_the_dead)).all()
    for job in asked:
        drover(moves, "job", "resolve", str(job), "--owner", "source", "--fenced", "host-c")
    shown = drover(moves, "drain", "show", str(drain_id))
    if shown["state"] == "incomplete":
        drover(moves, "drain", "resume", str(drain_id))
    return bool(shown["state"] == "done")


@pytest.fixture
def alone(moves: Moves) -> str:
    """The only guest that is left: for what is about how a drain is asked for."""
    moves.end(moves.names[1:])
    return moves.names[0]


def _in_environment(moves: Moves, text: str, host: str) -> str:
    """A line of an example, with this lab's host and files in the place of the example's."""
    folder = moves.lab.path / "etc"
    folder.mkdir(exist_ok=True)
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in moves.lab.environment.items()]  # as in the guide
    (folder / "environment").write_text("".join(lines))
    here = f"{Path(sys.executable).parent}/"
    replaced = {"/etc/drover": str(folder), "/var/log": str(folder), "hv17": host, "/opt/drover/bin/": here}
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def _shell(command: str) -> None:
    subprocess.run(["sh", "-c", command], env={"PATH": os.environ["PATH"]}, check=True, timeout=300)


def test_the_cron_line_and_the_systemd_unit_of_the_examples_do_what_they_say(moves: Moves, alone: str) -> None:
    [line] = [line for line in (EXAMPLES / "cron/drover").read_text().splitlines() if not line.startswith("#")]
    schedule, command = line.split("root", 1)
    assert len(schedule.split()) == 5
    night = "--window 22:00-04:00 --timezone Europe/Berlin"
    assert night in command
    window = f"--window {datetime.now(UTC):%H:%M}-{datetime.now(UTC) + timedelta(hours=3):%H:%M}"  # whenever this runs
    _shell(_in_environment(moves, command.replace(night, window).replace("\\%", "%"), "host-a"))
    home = where(moves)[alone]
    assert home != "host-a"

    unit = _Unit(strict=False, interpolation=None)
    unit.read(EXAMPLES / "systemd/drover-drain@.service")
    environment = f"set -a; . {unit['Service']['EnvironmentFile']} && "
    _shell(_in_environment(moves, environment + unit["Service"]["ExecStart"].replace("%i", home), home))
    assert where(moves)[alone] != home
    for host in ("host-a", home):
        drover(moves, "host", "uncordon", host)
    timer = (EXAMPLES / "systemd/drover-drain@.timer").read_text()
    assert "OnCalendar=Sat 22:00 Europe/Berlin" in timer
    moves.intact(alone, where(moves)[alone])


def test_the_operator_of_the_examples_waits_for_the_end_and_the_webhook_tells_of_it(moves: Moves, alone: str) -> None:
    operator = runpy.run_path(str(EXAMPLES / "celery/operator.py"))
    receiver = runpy.run_path(str(EXAMPLES / "webhook/receiver.py"))
    told: list[dict[str, Any]] = []
    server = receiver["serve"](0, factories.receiver(), told.append)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    host = where(moves)[alone]
    try:
        drain = operator["DrainHostOperator"](
            host=host,
            broker=moves.lab.environment["DROVER_BROKER_URL"],
            drover=[fleet._program("drover")],
            poll_s=0.5,
            wishes={"webhook": f"http://127.0.0.1:{server.server_port}/", "priority": 3},
            sign=Token().signed,
        )
        ended = drain.execute({"run_id": "2026-11-23"})
        assert (ended["state"], ended["priority"]) == ("done", 3)
        assert drain.execute({"run_id": "2026-11-23"})["id"] == ended["id"], "the same run is the same drain"
        until("the webhook has arrived", lambda: told, 30)
        assert [(message["event"], message["drain"]["host"]) for message in told] == [("drain.done", host)]
        with pytest.raises(operator["DrainFailed"], match="there is no host"):
            _refused(drain, "nowhere-near")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        drover(moves, "host", "uncordon", host)


def _refused(drain: Any, to: str) -> None:
    """What cannot be done is on record under the key, so that whoever waits need not wait for ever."""
    drain.wishes = {"to": [to]}
    drain.execute({"run_id": "refused"})
