"""Bad requests get one clear sentence that names what to do, before anything is changed."""

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from lab import fleet, guests
from lab.directory import Lab
from lab.guest.spec import DiskSpec, GuestSpec
from models.database import transaction
from models.host import Host
from models.host_rpc import PlanDestination
from models.job import Job
from tests import factories
from tests.cli.support import drover
from tests.helpers import MIB, Moves, next_heartbeat, until
from workers.process import processes
from workers.qemu.monitor import connect
from workers.trust import attestation
from workflows.guests import known_guest
from workflows.host_rpc import ask
from workflows.migration import jobs
from workflows.migration.preflight import movable

pytestmark = pytest.mark.guests


@pytest.fixture
def nothing_changes(moves: Moves) -> Iterator[None]:
    """No job is made, and host-b has the same files and processes as before."""
    before = _traces(moves)
    yield
    assert _traces(moves) == before


def _traces(moves: Moves) -> tuple[int, list[Path]]:
    with transaction() as session:
        count = session.query(Job).count()
    return count, sorted(moves.lab.host("host-b").guests.rglob("*"))


def refused(guest: str, to: str) -> str:
    """The sentence; also seen by a user of the command line, with exit code 2."""
    with pytest.raises(PreconditionFailed) as refusal:
        jobs.submit(guest, to)
    done = drover("migrate", guest, "--to", to, "--wait")
    assert done.exit_code == 2, done.stderr
    assert done.stderr.startswith("error: ")
    return str(refusal.value)


@pytest.mark.usefixtures("nothing_changes")
def test_an_unknown_guest(moves: Moves) -> None:
    assert "drover guest adopt nobody" in refused("nobody", "host-b")


@pytest.mark.usefixtures("nothing_changes")
def test_an_unknown_host_and_the_host_it_is_on(moves: Moves) -> None:
    guest = moves.boot()
    assert "did you mean host-b or host-a? see `drover host list`" in refused(guest, "host-x")
    assert "is on host-a already" in refused(guest, "host-a")


def test_an_image_that_exists_already_is_named_and_left_alone(moves: Moves) -> None:
    guest = moves.boot()
    image = moves.lab.host("host-b").guests / guest / "disk0.qcow2"
    image.parent.mkdir()
    image.write_text("precious")
    assert f"{image} exists already" in refused(guest, "host-b")
    assert image.read_text() == "precious"


@pytest.mark.usefixtures("nothing_changes")
def test_an_image_that_was_moved_away_under_the_running_guest(moves: Moves) -> None:
    guest = moves.boot()
    image = moves.lab.host("host-a").guests / guest / "disk0.qcow2"
    image.rename(image.with_name("moved.qcow2"))
    assert f"has it open; `mv {image.with_name('moved.qcow2')} {image}`" in refused(guest, "host-b")


@pytest.mark.thorough
def test_an_image_that_is_moved_away_while_it_is_copied_is_waited_for(moves: Moves) -> None:
    guest = moves.boot(fill_mib=24)
    image = moves.lab.host("host-a").guests / guest / "disk0.qcow2"
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=8 * MIB)
    until("the copy runs", lambda: moves.job(job.id).disks[0].bytes_copied > MIB)
    moved = image.rename(image.with_name("moved.qcow2"))
    until("the job says so", lambda: f"`mv {moved} {image}`; the move waits for that" in moves.events(job.id))
    moved.rename(image)
    moves.hurry(job.id)
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")


@pytest.mark.usefixtures("nothing_changes")
def test_no_room_for_the_disks(moves: Moves) -> None:
    guest = moves.boot(DiskSpec(size_bytes=64 * MIB), DiskSpec(size_bytes=16_000_000 * MIB, format="raw"))
    assert "make room for" in refused(guest, "host-b")


@pytest.mark.usefixtures("nothing_changes")
def test_a_guest_whose_qemu_is_gone(moves: Moves) -> None:
    guest = moves.boot()
    moves.power_off(guest)
    assert "no monitor answers at" in refused(guest, "host-b")


@pytest.mark.usefixtures("nothing_changes")
def test_a_guest_that_is_paused(moves: Moves) -> None:
    guest = moves.boot()

    async def pause() -> None:
        async with connect(known_guest(guest).qmp) as monitor:
            await monitor.execute("stop")

    asyncio.run(pause())
    assert "the guest is paused" in refused(guest, "host-b")


def test_a_guest_moves_by_its_free_monitor_while_another_client_holds_the_one_that_is_on_record(moves: Moves) -> None:
    guest = moves.boot()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(known_guest(guest).qmp)
        client.recv(4096)
        moves.done(moves.move(guest, "host-b"))
    assert known_guest(guest).qmp.endswith("watch.sock")


@pytest.mark.usefixtures("nothing_changes")
def test_a_monitor_that_another_client_holds(moves: Moves) -> None:
    guest = moves.boot()
    qmp = Path(known_guest(guest).qmp)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for client, monitor in ((first, qmp), (second, qmp.with_name("watch.sock"))):
            client.connect(str(monitor))
            client.recv(4096)
        assert f"is held by process {os.getpid()} (" in refused(guest, "host-b")


@pytest.mark.usefixtures("nothing_changes")
def test_a_qemu_that_the_destination_does_not_have(moves: Moves) -> None:
    name = "qemu-system-x86_64-special"
    program = moves.lab.path / name
    shutil.copy(str(shutil.which("qemu-system-x86_64")), program)
    guest = "special"
    moves.names.append(guest)
    directory = moves.lab.host("host-a").guests / guest
    spec = GuestSpec(name=guest, directory=directory, disks=(DiskSpec(size_bytes=16 * MIB),), qemu=str(program))
    with policy(moves.lab, qemu=json.dumps([str(program)])):
        guests.boot(moves.lab, spec, "host-a")
        program.unlink()
        assert f"there is no {name} here; install it" in refused(guest, "host-b")


@pytest.mark.usefixtures("nothing_changes")
def test_a_guest_that_is_run_by_a_program_which_its_hosts_policy_does_not_list(moves: Moves) -> None:
    guest = moves.boot()
    with policy(moves.lab, qemu='["/usr/bin/another"]'):
        said = refused(guest, "host-b")
    assert f"which {moves.lab.policy} on host-a does not list under `qemu`" in said


@contextmanager
def policy(lab: Lab, **lines: str) -> Iterator[None]:
    """Another policy on both hosts for the time of a `with` block."""
    fleet.write_policy(lab, **lines)
    try:
        yield
    finally:
        fleet.write_policy(lab)


@pytest.mark.usefixtures("nothing_changes")
def test_a_loopback_address_is_no_way_from_one_machine_to_another(
    moves: Moves, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, host = known_guest(moves.boot()), moves.lab.host("host-a")
    monkeypatch.setattr(attestation, "machine", lambda: "another")
    there = factories.ours(host=host.name, directory=host.folder / "drover", guest_root=host.guests)
    seen = attestation.attested(movable(guest).model_copy(update={"attestation": None}), there)
    question = PlanDestination(guest=guest.name, source_root=str(host.guests), source=seen)
    with pytest.raises(PreconditionFailed, match=r"where no other host reaches it; .* the right DROVER_ADDRESS"):
        ask("host-b", question)


def test_a_host_that_is_not_heard_of(moves: Moves) -> None:
    guest = moves.boot()
    [worker, *_] = processes.find(moves.lab.mark("worker-host-b"))
    worker.signal(signal.SIGSTOP)
    try:
        with transaction() as session:
            session.get_one(Host, "host-b").heartbeat_at = session.get_one(Host, "host-b").heartbeat_at.replace(
                year=2020
            )
        assert "drover worker --host host-b" in refused(guest, "host-b")
    finally:
        worker.signal(signal.SIGCONT)
        next_heartbeat("host-b")


def test_a_guest_that_is_being_moved_already(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=8 * MIB)
    assert f"is being moved already by job {job.id}" in refused(guest, "host-b")
    jobs.cancel(job.id)
    moves.ended(job.id)
