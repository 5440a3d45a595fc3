"""What operators and clocks say while a guest moves is obeyed: windows, budgets, and a pause that is accepted."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drover.errors import PreconditionFailed
from lab.guest.spec import DiskSpec
from models.documents import MigrationOptions, Window
from models.job import JobState
from tests.cli.support import drover
from tests.helpers import MIB, Moves, until
from workers.qemu.monitor import connect
from workers.steps import await_sync
from workflows import budgets, schedule
from workflows.migration import completion, jobs
from workflows.migration.jobs import Changes
from workflows.submit_options import SubmitOptions

pytestmark = [pytest.mark.thorough, pytest.mark.guests]
MB = 10**6
RECORDS_OF_RAM = 3
"""Of the one that is being written as something is changed, of the next one, which finds it, and until QEMU is told."""


def _asked(moves: Moves, guest: str, command: str) -> Any:
    async def ask() -> Any:
        async with connect(str(moves.lab.host("host-a").guests / guest / "watch.sock")) as monitor:
            return await monitor.query(command)

    return asyncio.run(ask())


def _max_bandwidth(moves: Moves, guest: str) -> int:
    return int(_asked(moves, guest, "query-migrate-parameters")["max-bandwidth"])


def _mirrors_rate(moves: Moves, guest: str) -> int:
    return sum(int(mirror["speed"]) for mirror in _asked(moves, guest, "query-block-jobs"))


def _obeyed(moves: Moves, number: int, rate: Callable[[], int], wanted: int, records: int) -> None:
    """QEMU is told of a change after so many of its worker's records at the latest, which are no more than
    `await_sync.POLL_S` apart, or a second for RAM: a busy machine puts off all of them alike.
    """
    seen = {moves.job(number).progress_at}

    def obeyed() -> bool:
        seen.add(moves.job(number).progress_at)
        late = len(seen) > records
        obeys = rate() == wanted
        assert obeys or not late, f"{rate()} B/s"
        return obeys

    until(f"it is told of {wanted} B/s", obeyed)


def test_disks_of_all_moves_obey_a_changed_budget_and_limit_with_the_next_look_at_them(moves: Moves) -> None:
    disk = DiskSpec(size_bytes=256 * MIB, format="raw")
    first, second = (moves.boot(disk, write_rate=0, fill_mib=128) for _ in range(2))
    drover("host", "set", "host-a", "--bandwidth", "4M/s")
    try:
        jobs_of = {guest: moves.submit(guest, "host-b").id for guest in (first, second)}
        until("both copy their shares", lambda: all(_mirrors_rate(moves, guest) == 2 * MB for guest in jobs_of))
        until("it is on record", lambda: all(moves.job(job).pace is not None for job in jobs_of.values()))
        for command, of_first, of_second in (
            (("host", "set", "host-a", "--bandwidth", "6M/s"), 3 * MB, 3 * MB),
            (("job", "set", str(jobs_of[first]), "--bandwidth", "1M/s"), MB, 5 * MB),
            (("host", "set", "host-a", "--bandwidth", "3M/s"), MB, 2 * MB),
        ):
            drover(*command)
            _obeyed(moves, jobs_of[first], lambda: _mirrors_rate(moves, first), of_first, records=2)
            _obeyed(moves, jobs_of[second], lambda: _mirrors_rate(moves, second), of_second, records=2)
        for job in jobs_of.values():
            jobs.cancel(job)
    finally:
        drover("host", "set", "host-a", "--bandwidth", "")
    for job in jobs_of.values():
        moves.ended(job)
    assert await_sync.POLL_S < 2


def test_the_hours_of_a_budget_count_from_their_first_minute_on(moves: Moves) -> None:
    guest = moves.boot(DiskSpec(size_bytes=256 * MIB, format="raw"), write_rate=0, fill_mib=128)
    begin = (datetime.now(UTC) + timedelta(seconds=75)).replace(second=0, microsecond=0)
    hours = f"{begin:%H:%M}-{begin + timedelta(hours=1):%H:%M}=4M/s"
    drover("host", "set", "host-a", "--bandwidth", "1M/s", "--bandwidth-at", hours)
    before = set()

    def begun() -> bool:
        before.add(_mirrors_rate(moves, guest))
        return datetime.now(UTC) >= begin

    try:
        job = moves.submit(guest, "host-b").id
        until("it copies", lambda: _mirrors_rate(moves, guest) == MB)
        until("the hours begin", begun, 90)
        _obeyed(moves, job, lambda: _mirrors_rate(moves, guest), 4 * MB, records=2)
        jobs.cancel(job)
    finally:
        drover("host", "set", "host-a", "--bandwidth", "", "--bandwidth-at", "")
    moves.ended(job)
    assert MB in before
    assert before <= {MB, 4 * MB}


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


def _ram_obeys_whatever_changes(moves: Moves, number: int, guest: str) -> None:
    """Its own limit, its host's budget, that of these hours, and another move that begins and ends."""

    def obeyed(wanted: int) -> None:
        _obeyed(moves, number, lambda: _max_bandwidth(moves, guest), wanted, records=RECORDS_OF_RAM)

    now = datetime.now(UTC)
    hours = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}=4M/s"
    for command, wanted in (
        (("job", "set", str(number), "--bandwidth", "7M/s"), 7 * MB),
        (("host", "set", "host-a", "--bandwidth", "6M/s"), 6 * MB),
        (("host", "set", "host-a", "--bandwidth-at", hours), 4 * MB),
    ):
        drover(*command)
        obeyed(wanted)
    other = moves.submit(moves.boot(DiskSpec(size_bytes=256 * MIB, format="raw"), fill_mib=128), "host-b").id
    until("the other one is copied", lambda: moves.step_is(other, "await_sync", "running"))
    obeyed(2 * MB)
    jobs.cancel(other)
    moves.ended(other)
    obeyed(4 * MB)
    drover("host", "set", "host-a", "--bandwidth-at", "", "--bandwidth", "")
    obeyed(7 * MB)
    drover("job", "set", str(number), "--bandwidth", "0")
    obeyed(8 * MB)


def test_ram_obeys_a_budget_and_a_move_that_does_not_converge_is_completed_by_a_pause(moves: Moves) -> None:
    guest = moves.boot(dirty_mib=32, dirty_rate=64, write_rate=0)
    budgets.define("all", None, None, 8 * MB, None)
    try:
        job = moves.submit(guest, "host-b", max_downtime_ms=1)
        until("RAM is sent", lambda: (ram := moves.job(job.id).ram) is not None and ram.bytes_per_s)
        until("it has the budget", lambda: _max_bandwidth(moves, guest) == 8 * MB)
        _ram_obeys_whatever_changes(moves, job.id, guest)
        budgets.define("all", None, None, 24 * MB, None)
        _obeyed(moves, job.id, lambda: _max_bandwidth(moves, guest), 24 * MB, records=RECORDS_OF_RAM)
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
