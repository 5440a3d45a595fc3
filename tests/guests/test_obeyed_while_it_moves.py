"""What operators and clocks say while a guest moves is obeyed: windows, budgets, and a pause that is accepted."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from drover.errors import PreconditionFailed
from models.documents import MigrationOptions, Window
from models.job import JobState
from tests.helpers import MIB, Moves, until
from workers.qemu.monitor import connect
from workflows import budgets, schedule
from workflows.migration import completion, jobs
from workflows.migration.jobs import Changes
from workflows.submit_options import SubmitOptions

pytestmark = [pytest.mark.thorough, pytest.mark.guests]
MB = 10**6
OBEYED_S = 10.0
"""On a busy machine; at rest it is less than two."""


def _max_bandwidth(moves: Moves, guest: str) -> int:
    async def ask() -> int:
        async with connect(str(moves.lab.host("host-a").guests / guest / "watch.sock")) as monitor:
            return int((await monitor.query("query-migrate-parameters"))["max-bandwidth"])

    return asyncio.run(ask())


def test_a_window_that_is_too_short_under_the_limit_is_refused_and_one_that_closes_keeps_the_guest(
    moves: Moves,
) -> None:
    guest = moves.boot(fill_mib=24)
    at = datetime.now(UTC)
    minute = Window(
        start=f"{at - timedelta(seconds=60):%H:%M}", end=f"{at + timedelta(seconds=60):%H:%M}", timezone="UTC"
    )
    slow = MigrationOptions(bandwidth_bytes_per_s=100_000)
    with pytest.raises(PreconditionFailed, match=r"it takes about .* and its window"):
        jobs.submit(guest, "host-b", options=slow, terms=SubmitOptions(window=minute))

    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=4 * MIB)
    until("it copies", lambda: moves.step_is(job.id, "await_sync", "running"))
    closed = schedule.window(f"{at - timedelta(hours=2):%H:%M}-{at - timedelta(hours=1):%H:%M}", "UTC")
    jobs.change(job.id, Changes(window=closed, bandwidth_bytes_per_s=0))
    until("it waits in sync", lambda: moves.job(job.id).seed and all(disk.ready_at for disk in moves.job(job.id).disks))
    assert "opens again" in (moves.job(job.id).wait_reason or "")
    with pytest.raises(PreconditionFailed, match="the window of job"):
        completion.price(job.id)
    assert moves.job(job.id).cutover_begun_at is None, "the guest stays"
    jobs.change(job.id, Changes(window="always"))
    done = moves.ended(job.id)
    moves.done(done)
    moves.intact(guest, "host-b")


def test_ram_obeys_a_budget_and_a_move_that_does_not_converge_is_completed_by_a_pause(moves: Moves) -> None:
    guest = moves.boot(dirty_mib=32, dirty_rate=64, write_rate=0)
    budgets.define("all", None, None, 8 * MB, None)
    try:
        job = moves.submit(guest, "host-b", max_downtime_ms=1)
        until("RAM is sent", lambda: (ram := moves.job(job.id).ram) is not None and ram.bytes_per_s)
        until("it has the budget", lambda: _max_bandwidth(moves, guest) == 8 * MB)
        budgets.define("all", None, None, 24 * MB, None)
        until("it has the new one", lambda: _max_bandwidth(moves, guest) == 24 * MB, OBEYED_S, every_s=0.2)
        price = completion.price(job.id)
        assert (price.guest, price.bytes_per_s <= 24 * MB) == (guest, True)
        assert 0 < price.now_s <= price.most_s < 60
        assert moves.job(job.id).state is JobState.RUNNING
        completion.complete_now(job.id, price.most_s)
        done = moves.ended(job.id)
    finally:
        budgets.remove("all")
    moves.done(done)
    assert done.downtime is not None
    assert (done.downtime.ms or 0.0) / 1000 <= price.most_s
    moves.intact(guest, "host-b")
