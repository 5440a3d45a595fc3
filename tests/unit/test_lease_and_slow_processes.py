"""A step whose event loop is held up, or that waits for a slow process, keeps its lease."""

import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from drover.errors import Transient
from drover.settings import Settings
from models.documents import MigrationOptions
from models.job import Job, Side
from tests import factories
from tests.helpers import until
from workers import executor
from workers.process import processes
from workers.process.processes import Process
from workers.step import Context, StepHandler
from workers.steps.migrate_ram import _Progress
from workflows.migration import claims
from workflows.migration.claims import Claim

STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
)


class Blocking(StepHandler):
    """Holds its event loop up for longer than the lease lasts."""

    name, side = "cleanup", Side.SOURCE

    async def verify(self, ctx: Context) -> bool:
        return False

    async def do(self, ctx: Context) -> None:
        time.sleep(3)  # noqa: ASYNC251 - a blocking call is what this is about
        ctx.claim.check()
        raise Transient("it kept its lease")


@pytest.fixture
def claim() -> Claim:
    return factories.offline_claim(Job(id=1), "cleanup", Side.SOURCE, lasts_s=1.5)


def test_a_step_that_holds_up_its_event_loop_keeps_its_lease(
    claim: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renew(claim: Claim, settings: Settings) -> None:
        claim.renewed_at = time.monotonic()
        claim.deadline = claim.renewed_at + 1.5

    monkeypatch.setattr(claims, "renew", renew)
    settings = factories.offline(directory=tmp_path, lease_ttl=timedelta(seconds=1.5))
    context = Context(claim=claim, settings=settings)
    with pytest.raises(Transient, match="it kept its lease"):
        asyncio.run(executor._under_lease(Blocking(), context))


def test_nothing_waits_in_the_event_loop_for_a_process_that_ends_slowly(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stubborn = processes.spawn(f"{tmp_path}/mark", [sys.executable, "-c", STUBBORN], log)
    until("it ignores SIGTERM", lambda: "up" in log.read_text())

    async def end() -> int:
        ending, turns = asyncio.create_task(stubborn.end(grace_s=1.0)), 0
        while not ending.done():
            await asyncio.sleep(0.01)
            turns += 1
        await ending
        return turns

    assert asyncio.run(end()) > 5
    assert not stubborn.alive


def test_a_process_that_does_not_die_though_killed_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "KILLED_S", 0.05)
    monkeypatch.setattr(Process, "signal", lambda *_: None)  # as for one that is stuck in the kernel
    this = processes.process(os.getpid())
    assert this is not None
    with pytest.raises(Transient, match="does not end although it was killed"):
        asyncio.run(this.end_now())


def test_nothing_of_an_attempt_to_send_ram_is_written_behind_its_end(claim: Claim, tmp_path: Path) -> None:
    claim.job.guest, claim.job.options = "web", MigrationOptions()
    written = list[dict[str, int]]()

    class Slow(_Progress):
        def _record(self, ram: dict[str, int]) -> None:
            time.sleep(0.3)
            written.append(ram)

    async def attempt() -> None:
        progress = Slow(Context(claim=claim, settings=factories.offline(directory=tmp_path)), 1)
        progress.write({"total": 1, "remaining": 0})
        assert not written, "the watch is held up by it"
        await progress.written()
        assert written

    asyncio.run(attempt())
