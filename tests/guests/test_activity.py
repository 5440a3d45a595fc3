"""What a guest does is seen by its host, and told with the time that its move will take."""

import asyncio
from pathlib import Path

import pytest

from models.activity import Activity
from models.database import transaction
from tests.helpers import MIB, Moves
from workers.guest import activity
from workers.qemu.monitor import connect
from workflows.guests import known_guest

pytestmark = pytest.mark.guests

MEMORY = 160 * MIB


def seen(moves: Moves, guest: str, seconds: float) -> Activity | None:
    async def look(monitor_at: Path) -> Activity | None:
        async with connect(monitor_at) as monitor:
            return await activity.seen(monitor, MEMORY, seconds)

    return asyncio.run(look(moves.lab.host("host-a").guests / guest / "watch.sock"))


@pytest.mark.thorough
def test_what_a_guest_writes_and_changes_is_seen_and_a_move_tells_what_it_was_expected_to_take(moves: Moves) -> None:
    guest = moves.boot(write_rate=100, dirty_mib=32, dirty_rate=2)  # slower than any move of the lab has sent RAM
    assert seen(moves, guest, 0) is None
    found = seen(moves, guest, 1.0)
    assert found is not None
    assert 20_000 < found.written_per_s < 2 * 100 * 4096
    assert found.dirty_per_s is not None
    assert MIB / 4 < found.dirty_per_s < 64 * MIB
    with transaction() as session:
        session.merge(known_guest(guest)).activity = found
    job = moves.move(guest, "host-b", bandwidth_bytes_per_s=64 * MIB)
    moves.done(job)
    expected = job.estimate
    assert expected is not None
    assert expected.limit_bytes_per_s == 64 * MIB
    assert expected.never is None
