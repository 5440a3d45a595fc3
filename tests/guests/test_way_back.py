"""A guest that goes back to the images that it left behind needs only what it has written since, or is told why not."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from drover import words
from lab import fleet, network
from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.job import Job
from tests.cli.support import document, drover
from tests.helpers import MIB, Moves, until
from workers.process import processes
from workers.qemu import written
from workers.qemu.monitor import connect

pytestmark = [pytest.mark.thorough, pytest.mark.guests]
OTHER = {"host-a": "host-b", "host-b": "host-a"}


@pytest.fixture(scope="module")
def away(lab: Lab, round_trips: int) -> Iterator[tuple[Moves, str]]:
    made = Moves(lab)
    yield made, _sent_away(made, round_trips)
    made.end()


def _sent_away(moves: Moves, round_trips: int) -> str:
    """A guest with a qcow2 and a raw disk that has been moved to host-b: the more rounds, the more it writes."""
    disks = (DiskSpec(size_bytes=64 * MIB), DiskSpec(size_bytes=64 * MIB, format="raw"))
    guest = moves.boot(*disks, write_rate=min(20 * round_trips, 200))
    moves.done(moves.move(guest, "host-b"))
    moves.intact(guest, "host-b")
    return guest


def move_back(moves: Moves, guest: str, **options: Any) -> Job:
    """To the host where it is not; it has lost nothing there."""
    job = moves.move(guest, OTHER[host_of(guest)], **options)
    moves.done(job)
    moves.intact(guest, job.destination)
    return job


def host_of(guest: str) -> str:
    return str(document("guest", "show", guest)["host"])


def came_as_a_whole(moves: Moves, job: Job, why: str) -> None:
    assert [disk.delta_bytes for disk in job.disks] == [None, None]
    assert why in moves.events(job.id)


def sent(job: Job) -> list[int]:
    changed = [disk.delta_bytes for disk in job.disks if disk.delta_bytes is not None]
    assert len(changed) == len(job.disks), "it came as a whole"
    return changed


def test_a_guest_goes_back_and_forth_with_what_it_has_written_since(away: tuple[Moves, str]) -> None:
    moves, guest = away
    planned = document("migrate", guest, "--back", "--dry-run")
    assert (planned["destination"], planned["no_way_back"]) == ("host-a", None)
    assert planned["way_back"] is not None
    for _ in range(2):
        job = move_back(moves, guest)
        assert all(0 < changed < 32 * MIB for changed in sent(job)), moves.events(job.id)
        assert f"only what it has written since is sent: {words.size(sum(sent(job)))}" in moves.events(job.id)
        moves.nothing_left(job)


def test_an_image_that_somebody_has_touched_is_not_built_upon(away: tuple[Moves, str]) -> None:
    moves, guest = away
    there = moves.lab.host(OTHER[host_of(guest)])
    [image] = (there.guests / guest).glob("disk1*.drover-*")
    with image.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"x")
    planned = document("migrate", guest, "--back", "--dry-run")
    assert (planned["way_back"], planned["no_way_back"]) == (None, f"{image}: somebody has written to it")
    came_as_a_whole(moves, move_back(moves, guest), f"{image}: somebody has written to it")


def test_a_guest_whose_writes_were_not_recorded_comes_as_a_whole(away: tuple[Moves, str]) -> None:
    moves, guest = away

    async def forget() -> None:
        async with connect(moves.lab.host(host_of(guest)).guests / guest / "qmp.sock") as monitor:
            for disk in (await written.disks(monitor)).values():
                for name in disk.bitmaps:
                    await monitor.execute("block-dirty-bitmap-remove", node=disk.node, name=name)

    asyncio.run(forget())
    came_as_a_whole(moves, move_back(moves, guest), "what has changed since then is not known")


def _sends(moves: Moves, job: Job) -> None:
    until("it sends what has changed", lambda: "only what it has" in moves.events(job.id))


def test_a_way_back_that_was_called_off_is_open_as_before(away: tuple[Moves, str]) -> None:
    moves, guest = away
    here = host_of(guest)
    job = moves.submit(guest, OTHER[here], bandwidth_bytes_per_s=64 << 10)
    _sends(moves, job)
    assert document("job", "cancel", str(job.id), "--wait", code=3)["state"] == "rolled_back"
    moves.nothing_left(job)
    moves.intact(guest, here)
    assert sent(move_back(moves, guest))


def test_a_guest_whose_disks_are_offered_to_somebody_else_is_copied_onto_its_images(away: tuple[Moves, str]) -> None:
    moves, guest = away
    _somebody(moves, guest, "nbd-server-start", addr=_theirs(moves, guest))
    came_as_a_whole(moves, move_back(moves, guest), "offers its disks to somebody else")
    assert sent(move_back(moves, guest)), "and the next time"


def test_images_that_were_half_copied_over_are_not_built_upon(away: tuple[Moves, str]) -> None:
    """QEMU may begin a copy of all by zeroes: after that the changes alone would not do."""
    moves, guest = away
    here = host_of(guest)
    _somebody(moves, guest, "nbd-server-start", addr=_theirs(moves, guest))
    job = moves.submit(guest, OTHER[here], bandwidth_bytes_per_s=MIB)
    until("a copy of all goes on", lambda: any(disk.bytes_copied > MIB for disk in moves.job(job.id).disks))
    _somebody(moves, guest, "nbd-server-stop")
    assert document("job", "cancel", str(job.id), "--wait", code=3)["state"] == "rolled_back"
    moves.nothing_left(job)
    assert [disk.delta_bytes for disk in move_back(moves, guest).disks] == [None, None]


def _theirs(moves: Moves, guest: str) -> dict[str, Any]:
    return {"type": "unix", "data": {"path": str(moves.lab.host(host_of(guest)).guests / guest / "theirs")}}


def _somebody(moves: Moves, guest: str, command: str, **arguments: Any) -> None:
    """Beside Drover, by the guest's other monitor."""

    async def tell() -> None:
        async with connect(moves.lab.host(host_of(guest)).guests / guest / "watch.sock") as monitor:
            await monitor.execute(command, **arguments)

    asyncio.run(tell())


def test_a_drained_host_gets_its_guest_back_with_what_it_has_written_since(away: tuple[Moves, str]) -> None:
    moves, guest = away
    here = host_of(guest)
    drained = json.loads(drover("drain", here, "--wait", "--json").stdout)  # guests of other tests may have to stay
    assert [row["state"] for row in drained["guests"] if row["guest"] == guest] == ["moved"]
    moves.intact(guest, OTHER[here])
    returned = document("return", here, "--wait")
    [row] = [row for row in returned["guests"] if row["guest"] == guest]
    assert sent(moves.job(row["job"]))
    moves.intact(guest, here)


def _nothing(moves: Moves, job: Job) -> None: ...


def _source_worker(moves: Moves, job: Job) -> None:
    _kill_worker(moves, job.source)


def _destination_worker(moves: Moves, job: Job) -> None:
    _kill_worker(moves, job.destination)


def _kill_worker(moves: Moves, host: str) -> None:
    for process in processes.find(moves.lab.mark(f"worker-{host}")):
        process.kill()
    fleet.start_worker(moves.lab, moves.lab.host(host))


def _nbd_server(moves: Moves, job: Job) -> None:
    for process in processes.find(f"{moves.directory(job, job.destination)}/exporter"):
        process.kill()


def _streams(moves: Moves, job: Job) -> None:
    for process in processes.find(f"{moves.directory(job, job.source)}/streams"):
        process.kill()


def _link(moves: Moves, job: Job) -> None:
    network.cut(moves.lab, moves.lab.host(job.source))
    time.sleep(CUT_S)
    network.mend(moves.lab, moves.lab.host(job.source))


FAULTS = (_source_worker, _nbd_server, _destination_worker, _streams, _nothing)
CUT_S = 3.0
LONGEST_S = 2.0
"""So long the guest writes before each of many moves, and the fault lets wait for itself, at most."""
MOVES_OF_A_GUEST = 20
"""Then another one takes its place: all that a guest has ever said is read after each move."""


@dataclass
class Seen:
    """Of many moves."""

    faults: Counter[str] = field(default_factory=Counter)
    changed_bytes: int = 0
    crossed_bytes: int = 0
    """Between the hosts, but for the RAM."""

    def add(self, fault: str, job: Job, crossed_bytes: int) -> None:
        self.faults[fault] += 1
        self.changed_bytes += sum(sent(job)) + sum(disk.bytes_rewritten for disk in job.disks)
        self.crossed_bytes += crossed_bytes - (job.ram.transferred if job.ram is not None else 0)


def test_no_write_is_lost_whatever_dies_as_what_changed_is_sent(away: tuple[Moves, str], round_trips: int) -> None:
    """The last one here: where many round trips are asked for, it ends the guest of the others."""
    moves, guest = away
    seed, seen = time.time_ns(), Seen()
    print("seed", seed)
    chance, longest_s = random.Random(seed), min(0.1 * round_trips, LONGEST_S)
    has_network = moves.lab.network_file.exists()
    faults = (*FAULTS, _link) if has_network else FAULTS
    for number in range(2 * round_trips):
        if number and number % MOVES_OF_A_GUEST == 0:
            moves.power_off(guest)
            guest = _sent_away(moves, round_trips)
        time.sleep(chance.uniform(0, longest_s))  # it writes meanwhile
        fault = chance.choice(faults)
        job = moves.submit(guest, OTHER[host_of(guest)], bandwidth_bytes_per_s=chance.choice((64, 256)) << 10)
        before = network.sent_bytes(moves.lab, moves.lab.host(job.source)) if has_network else 0
        _sends(moves, job)
        time.sleep(chance.uniform(0, longest_s))
        fault(moves, job)
        moves.hurry(job.id)
        done = moves.ended(job.id)
        moves.done(done)
        assert sent(done), moves.events(job.id)
        moves.intact(guest, job.destination)
        crossed = network.sent_bytes(moves.lab, moves.lab.host(job.source)) - before if has_network else 0
        seen.add(fault.__name__, done, crossed)
        print(number + 1, seen, flush=True)
