"""systemd may take seconds, and is asked beside the event loop: a step is cancelled, or ended, meanwhile."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, update

from models.database import transaction
from models.documents import Switchover
from models.guest import Guest
from models.host_rpc import Sighting, StopGuest
from models.job import Direction, Side
from models.launcher import Inhibition, LauncherKind
from tests import factories
from tests.step_contexts import claimed, done
from workers import files
from workers.launcher import cold, inhibitor, run, systemd, units
from workers.step import Context
from workflows.migration.links import StepName

pytestmark = pytest.mark.usefixtures("database")
SHOWN = f"LoadState=loaded\nMainPID={os.getpid()}\n"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd is asked and told, each beside the loop."""
    found = []

    def ask(*words: str) -> "subprocess.CompletedProcess[str]":
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        found.append(words[0])
        return subprocess.CompletedProcess(words, 0, SHOWN, "")

    monkeypatch.setattr(systemd, "ask", ask)
    monkeypatch.setattr(systemd, "BOOTED", tmp_path)
    monkeypatch.setattr(systemd, "UNITS", tmp_path / "units")
    return found


def test_the_unit_of_a_guest_that_has_left_is_cleared_away_beside_the_loop(tmp_path: Path, asked: list[str]) -> None:
    ctx = claimed(tmp_path, (StepName.CLEANUP, Side.SOURCE), Direction.DO, committed_at=func.now())
    with transaction() as session:
        session.execute(update(Guest).values(host="two"))
    added = systemd.drop_in(units.of("web"), inhibitor.DROP_IN)
    systemd.add(added, "[Service]\nRestart=no\n")
    inhibitor._record(ctx).write(Inhibition(kind=LauncherKind.UNIT, unit=units.of("web")))
    asked.clear()
    done(ctx)
    assert [word for word in asked if word != "show"] == ["kill", "disable", "daemon-reload", "reset-failed"]
    assert not added.exists()


def test_the_unit_of_a_guest_that_has_come_is_enabled_beside_the_loop(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Running:
        pid = os.getpid()

        async def query(self, command: str) -> dict[str, str]:
            return {"status": "running"}

    @asynccontextmanager
    async def guest(ctx: Context) -> AsyncIterator[Running]:
        yield Running()

    monkeypatch.setattr(Context, "guest", guest)
    link = (StepName.CUTOVER, Side.DESTINATION)
    ctx = claimed(tmp_path, link, Direction.DO, committed_at=func.now(), switchover=Switchover(attempt=1))
    done(ctx)
    assert [word for word in asked if word != "show"] == ["daemon-reload", "enable"]
    with transaction() as session:
        launcher = session.get_one(Guest, "web").launcher
    assert launcher is not None
    assert launcher.name == units.of("web")


def test_a_guest_is_stopped_by_its_unit_beside_the_loop(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = run.launch_file("web", tmp_path)
    files.private_folder(launch.parent)
    launch.write_text(json.dumps({"guest": "web", "job": 1, "argv": [], "qmp": "", "log": "", "environment": {}}))
    monkeypatch.setattr(cold, "_seen", lambda question, settings: Sighting(launch_file=True, pid=os.getpid()))
    asyncio.run(cold.stop(StopGuest(guest="web"), factories.ours(host="one", directory=tmp_path)))
    assert [word for word in asked if word != "show"] == ["stop"]
