"""A host starts a guest cold only if it is certain that the guest does not live elsewhere by now."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.database import transaction
from models.guest import Guest
from models.host_rpc import LookForGuest, StartGuest, StopGuest
from models.job import Job, JobState
from tests import factories
from tests.helpers import until
from workers import files
from workers.launcher import cold, given_away, run, whereabouts
from workers.process import processes
from workers.process.processes import Process

NOWHERE = "postgresql+psycopg://drover@127.0.0.1:9/drover"


@pytest.fixture
def ours(database: None, tmp_path: Path) -> Settings:
    """Host two, to which web was moved from host one."""
    for name in ("one", "two", "three"):
        factories.host(name)
    factories.guest("web", "one")
    factories.job("web", "two", state=JobState.DONE)
    lives_on("two")
    made = factories.ours(host="two", directory=tmp_path)
    launch_file(tmp_path)
    return made


def launch_file(folder: Path, **more: Any) -> Path:
    path = run.launch_file("web", folder)
    files.private_folder(path.parent)
    started = {"argv": ["/bin/sh", "-c", f"echo >{folder}/started"], "log": f"{folder}/log", "environment": {}}
    path.write_text(json.dumps({"guest": "web", "job": 1, "qmp": f"{folder}/q", "host": "two"} | started | more))
    return path


def lives_on(host: str) -> None:
    with transaction() as session:
        session.execute(update(Guest).values(host=host))


def its_launch_file(ours: Settings) -> Path:
    return run.launch_file("web", ours.directory)


def test_where_it_lives_it_is_started(ours: Settings) -> None:
    assert run._cold("web", its_launch_file(ours))["guest"] == "web"


def test_a_host_that_it_was_given_away_from_does_not_start_it(
    ours: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    lives_on("one")  # an operator has said that host two is off for good
    with pytest.raises(SystemExit) as refused:
        run._cold("web", its_launch_file(ours))
    assert refused.value.code == run.NOT_HERE
    assert "web lives on one now, not on this host" in capsys.readouterr().err
    with pytest.raises(PreconditionFailed, match="web lives on one, not on two: nothing was started"):
        asyncio.run(cold.start(StartGuest(guest="web", uuid=None), ours))


def test_a_guest_that_nobody_knows_any_more_is_started_where_it_is(ours: Settings) -> None:
    with transaction() as session:
        session.query(Guest).delete()
    assert run._cold("web", its_launch_file(ours))["guest"] == "web"


def test_without_an_answer_it_waits_and_a_launch_file_that_has_gone_meanwhile_is_not_followed(
    ours: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = launch_file(ours.directory, host="")
    monkeypatch.delenv("DROVER_HOST", raising=False)  # nothing says which host this is
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 3:
            launch_file(ours.directory)
            monkeypatch.setattr(whereabouts, "elsewhere", lambda guest, host: None)
            path.unlink()

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(SystemExit) as refused:
        run._cold("web", path)
    assert refused.value.code == run.NOT_HERE
    assert capsys.readouterr().err.count("web is not started yet: nobody can say whether it lives here") == 1


@pytest.mark.parametrize("unasked", ["0", "1"])
def test_at_boot_without_a_database_a_guest_starts_only_where_the_administrator_said_so(
    tmp_path: Path, unasked: str
) -> None:
    launch_file(tmp_path)
    said = tmp_path / "said"
    environment = {"DROVER_DIRECTORY": str(tmp_path), "DROVER_DATABASE_URL": NOWHERE, "DROVER_START_UNASKED": unasked}
    with said.open("w") as out:
        command = [sys.executable, "-m", "workers.launcher.run", "web"]
        started = subprocess.Popen(command, env=os.environ | environment, stderr=out)
    try:
        if unasked == "1":
            assert started.wait(20) == 0
        else:
            until("it says that it waits", lambda: "web is not started yet" in said.read_text(), 120)
        assert (tmp_path / "started").exists() == (unasked == "1")
    finally:
        started.kill()
        started.wait()


def test_a_worker_that_comes_back_puts_aside_what_would_start_a_guest_that_lives_elsewhere(ours: Settings) -> None:
    path = its_launch_file(ours)
    given_away.look(ours)
    assert path.exists()
    lives_on("one")
    given_away.look(ours)
    assert not path.exists()
    assert path.with_suffix(".moved").exists()


@pytest.mark.parametrize(("fenced", "stays"), [(None, True), ("two", False)])
def test_while_a_job_moves_it_its_steps_see_to_that_unless_this_host_is_fenced(
    ours: Settings, fenced: str | None, stays: bool
) -> None:
    job = factories.job("web", "three", state=JobState.NEEDS_OPERATOR)
    with transaction() as session:
        session.get_one(Job, job).fenced = fenced
    lives_on("three")
    given_away.look(ours)
    assert its_launch_file(ours).exists() == stays


UUID, OTHER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
OURS = f"web-{os.getpid()}"
"""No guest of another test that runs now is called so: all processes of the machine are looked at."""


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    """Starts a program of this name, as some systems call QEMU."""
    monkeypatch.delenv("DROVER_LAB_DIR", raising=False)
    program, running = shutil.copy("/bin/sh", tmp_path / "kvm"), []

    def begin(*words: str) -> Process:
        running.append(subprocess.Popen([program, "-c", "read x", *words], stdin=subprocess.PIPE))
        until("it is that", lambda: Path(f"/proc/{running[-1].pid}/exe").resolve() == program)
        found = processes.process(running[-1].pid)
        assert found is not None
        return found

    yield begin
    for one in running:
        one.kill()
        one.communicate()


@pytest.mark.parametrize(
    ("words", "uuid", "is_web"),
    [
        (("-name", f"guest={OURS}"), None, True),
        (("-name", f"{OURS},debug-threads=on"), UUID, True),
        (("-name", "other", "-uuid", UUID), UUID.upper(), True),
        (("-name", OURS, "-uuid", OTHER), UUID, False),
        (("-name", "other"), None, False),
    ],
)
def test_a_qemu_is_the_guests_by_its_uuid_or_else_by_its_name(
    ours: Settings, kvm: Callable[..., Process], words: tuple[str, ...], uuid: str | None, is_web: bool
) -> None:
    process = kvm(*words)
    seen = asyncio.run(cold.look(LookForGuest(guest=OURS, uuid=uuid), ours))
    assert seen.pid == (process.pid if is_web else None)


def test_a_qemu_without_a_name_is_the_guests_if_it_was_last_known_by_that_process(
    ours: Settings, kvm: Callable[..., Process]
) -> None:
    process = kvm("-m", "64")
    known = LookForGuest(guest=OURS, process=processes.identity(process))
    assert asyncio.run(cold.look(known, ours)).process == known.process


def test_a_guest_whose_monitor_gives_no_answer_is_not_said_to_have_been_asked_to_power_off(
    ours: Settings, kvm: Callable[..., Process]
) -> None:
    kvm("-name", "web")
    with pytest.raises(PreconditionFailed, match="web was not asked to power off, and runs on: "):
        asyncio.run(cold.stop(StopGuest(guest="web"), ours))
