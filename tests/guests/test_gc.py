"""`drover gc` removes what no unfinished job owns, and nothing else: leftovers are made by killing workers for real."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, update

from drover.settings import Settings
from lab.directory import Lab
from models.database import transaction
from models.documents import HostFacts
from models.guest import Guest
from models.host import Host
from models.host_rpc import CollectOrphans
from models.job import Disk, Job, JobState, Side, Step, StepState
from tests import factories, helpers
from tests.cli.support import drover
from tests.helpers import MIB, Moves, until
from workers import files, orphans
from workers.images import manifest, records
from workers.orphans import discovery
from workers.orphans.naming import mirror_names
from workers.process import processes
from workers.process.processes import Process
from workers.qemu.monitor import connect
from workflows.migration import jobs

pytestmark = pytest.mark.guests

UNKNOWN = 987654321
"""No job has this number."""


@dataclass(frozen=True)
class Answer:
    """The output of one call of `drover gc`."""

    code: int
    document: dict[str, Any]

    def of(self, job_id: int) -> dict[tuple[str, str], dict[str, Any]]:
        """The finds of one job by host and kind."""
        return {(find["host"], find["kind"]): find for find in self.document["finds"] if find["job"] == job_id}


@pytest.fixture(scope="module")
def resident(lab: Lab) -> Iterator[str]:
    """A guest for the tests that leave it at host-a."""
    with helpers.resident(lab, fill_mib=32) as name:
        yield name


def gc(*words: str) -> Answer:
    done = drover("gc", "--json", *words)
    assert done.exit_code in {0, 1}, done.stderr
    answer = Answer(done.exit_code, json.loads(done.stdout))
    left = [find for find in answer.document["finds"] if not find["removed"]]
    assert answer.code == int(bool(left) and "--dry-run" not in words), done.stdout + done.stderr
    return answer


def force(job_id: int, state: JobState) -> None:
    """Set a job's state in the database, whatever is true; no step of it is claimed."""
    steps = {JobState.DONE: StepState.DONE, JobState.NEEDS_OPERATOR: StepState.FAILED}
    step = steps.get(state, StepState.ROLLED_BACK)
    with transaction() as session:
        session.execute(update(Step).where(Step.job_id == job_id).values(state=step, lease_until=None, owner=None))
        session.execute(update(Job).where(Job.id == job_id).values(state=state, finished_at=func.now()))


@pytest.fixture
def workers_end(moves: Moves) -> Iterator[Any]:
    """Kills the workers of both hosts; starts them again on demand and at the end."""

    def end() -> None:
        for host in moves.lab.hosts:
            for process in processes.find(moves.lab.mark(f"worker-{host.name}")):
                process.kill()

    yield end
    helpers.start_workers(moves.lab, but_for=_killed)


_killed: set[str] = set()
"""Incarnations of workers."""


def copying(moves: Moves, guest: str, **options: Any) -> Job:
    job = moves.submit(guest, "host-b", **({"bandwidth_bytes_per_s": 2 * MIB} | options))
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    return moves.job(job.id)


def abandoned(moves: Moves, guest: str, workers_end: Any) -> Job:
    """A copy under way whose job the database takes for rolled back; nothing of it was cleaned up."""
    job = copying(moves, guest)
    with transaction() as session:
        _killed.update(host.incarnation for host in session.query(Host).all())
    workers_end()
    force(job.id, JobState.NEEDS_OPERATOR)
    helpers.start_workers(moves.lab, but_for=_killed)
    assert not gc().of(job.id), "it waits for an operator: nothing of it is garbage"
    force(job.id, JobState.ROLLED_BACK)
    return moves.job(job.id)


def process_of(moves: Moves, job: Job, role: str) -> Process:
    [found] = processes.find(f"{moves.directory(job, 'host-b')}/{role}")
    return found


def block_names(moves: Moves, guest: str) -> set[str]:
    """Block jobs and nodes of ours in the guest's QEMU."""

    async def ask() -> set[str]:
        async with connect(_row(guest).qmp) as monitor:
            return await mirror_names(monitor)

    return asyncio.run(ask())


def _row(guest: str) -> Guest:
    with transaction() as session:
        return session.get_one(Guest, guest)


ALL = {
    ("host-a", "mirror"), ("host-a", "directory"),
    ("host-b", "process"), ("host-b", "qemu"), ("host-b", "image"), ("host-b", "directory"),
}  # fmt: skip
WAITS = {("host-a", "process")}
"""The source's switchover process, which has no order yet and ends by itself after a minute."""


@pytest.mark.thorough
def test_all_that_an_rolled_back_job_left_on_both_hosts_is_found_and_removed(moves: Moves, workers_end: Any) -> None:
    guest = moves.boot(fill_mib=32)
    job = abandoned(moves, guest, workers_end)
    nbd_server, qemu = process_of(moves, job, "exporter"), process_of(moves, job, "incoming")
    assert job.plan is not None
    image, socket_path = Path(job.disks[0].destination_path), Path(job.plan.destination.qmp)
    mirrors = block_names(moves, guest)
    for _ in range(2):  # the first changed nothing
        seen = gc("--dry-run")
        assert seen.document["dry_run"]
        assert set(seen.of(job.id)) - WAITS == ALL
        assert all(find["kept"] is None and not find["removed"] for find in seen.of(job.id).values())
        assert nbd_server.alive
        assert qemu.alive
        assert image.exists()
        assert mirrors == block_names(moves, guest) == {f"drover-{job.id}-0"}
    assert {host for host, _ in gc("--host", "host-a", "--dry-run").of(job.id)} == {"host-a"}
    done = gc().of(job.id)
    assert set(done) - WAITS == ALL
    assert all(find["removed"] for find in done.values())
    moves.nothing_left(job)
    assert not image.exists()
    assert not socket_path.exists()
    assert not block_names(moves, guest)
    assert not gc().of(job.id), "it was all gone"
    moves.intact(guest, "host-a")
    moves.done(moves.move(guest, "host-b"))
    moves.intact(guest, "host-b")


def test_a_waiting_qemu_that_cannot_be_asked_stays_and_with_it_its_image(
    moves: Moves, resident: str, workers_end: Any
) -> None:
    guest = resident
    job = abandoned(moves, guest, workers_end)
    qemu = process_of(moves, job, "incoming")
    qemu.signal(signal.SIGSTOP)
    kept = gc().of(job.id)
    assert {key for key, find in kept.items() if find["kept"]} == {
        ("host-b", "qemu"), ("host-b", "image"), ("host-b", "directory")
    }  # fmt: skip
    assert "unknown" in kept["host-b", "qemu"]["kept"]
    assert f"process {qemu.pid} has it open" in kept["host-b", "image"]["kept"]
    assert qemu.alive
    assert Path(job.disks[0].destination_path).exists()
    qemu.signal(signal.SIGCONT)
    gc()
    moves.nothing_left(job)
    assert qemu.wait(0)
    moves.intact(guest, "host-a")


def test_a_waiting_qemu_that_was_let_run_or_is_marked_so_stays(moves: Moves, resident: str, workers_end: Any) -> None:
    guest = resident
    job = abandoned(moves, guest, workers_end)
    qemu = process_of(moves, job, "incoming")
    marker = moves.directory(job, "host-b") / "may-run-here"
    marker.write_bytes(b"may run\n")
    find = gc("--host", "host-b").of(job.id)["host-b", "qemu"]
    assert "may run in it" in find["kept"]
    assert qemu.alive
    assert marker.exists()
    marker.unlink()
    again = another_job(guest)
    kept = gc("--host", "host-b").of(job.id)
    assert "being moved by another job" in kept["host-b", "qemu"]["kept"]
    assert qemu.alive
    force(again, JobState.ROLLED_BACK)
    gc()
    moves.nothing_left(job)


def another_job(guest: str) -> int:
    """One that waits for an operator, so that it does nothing by itself."""
    with transaction() as session:
        job = Job(guest=guest, source="host-a", destination="host-b", state=JobState.NEEDS_OPERATOR)
        job.steps = [Step(seq=0, name="cleanup", side=Side.SOURCE, host="host-a", state=StepState.FAILED)]
        session.add(job)
        session.flush()
        return job.id


def test_a_living_job_is_not_touched_while_it_runs(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = copying(moves, guest, bandwidth_bytes_per_s=4 * MIB)
    asked = 0
    while not moves.job(job.id).state.settled:
        assert not gc().of(job.id)
        asked += 1
    assert asked > 1
    moves.done(moves.job(job.id))
    assert "tried again" not in moves.events(job.id)
    moves.intact(guest, "host-b")


def test_the_qemu_of_a_moved_guest_is_never_touched(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.move(guest, "host-b")
    moves.done(job)
    qemu = process_of(moves, job, "incoming")
    assert not gc().of(job.id)
    with leftovers(moves, job, "host-b") as nbd_server:
        done = gc().of(job.id)
        assert {key: find["removed"] for key, find in done.items()} == {
            ("host-b", "process"): True, ("host-b", "directory"): True
        }  # fmt: skip
        assert not nbd_server.alive
    assert not moves.directory(job, "host-b").exists()
    assert qemu.alive
    moves.intact(guest, "host-b")


@pytest.mark.thorough
def test_the_qemu_of_a_moved_guest_is_not_touched_even_if_the_database_says_rolled_back(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.move(guest, "host-b")
    moves.done(job)
    qemu = process_of(moves, job, "incoming")
    with leftovers(moves, job, "host-b"):
        force(job.id, JobState.ROLLED_BACK)
        kept = gc().of(job.id)
        assert "it is running" in kept["host-b", "qemu"]["kept"]
        assert "lives on this host now" in kept["host-b", "image"]["kept"]
        assert "still in use by: incoming" in kept["host-b", "directory"]["kept"]
        assert qemu.alive
        force(job.id, JobState.DONE)
        gc()
    assert not gc().of(job.id)
    moves.intact(guest, "host-b")


@contextmanager
def leftovers(moves: Moves, job: Job, host: str) -> Iterator[Process]:
    """A process that is marked as the job's NBD server, and a directory that names the guest's image as the job's."""
    directory = moves.directory(job, host)
    image = Path(job.disks[0].destination_path)
    record = {"files": {str(image): image.stat().st_ino}, "folders": {str(image.parent): None}}
    files.write_durably(directory / "created.json", json.dumps(record))
    nbd_server = processes.spawn(f"{directory}/exporter", ["sleep", "600"], directory / "exporter.log")
    try:
        yield nbd_server
    finally:
        nbd_server.kill()


def test_what_belongs_to_a_job_that_the_database_does_not_know_is_told_and_stays(moves: Moves) -> None:
    directory = moves.lab.host("host-a").folder / "drover" / "jobs" / str(UNKNOWN)
    nbd_server = processes.spawn(f"{directory}/exporter", ["sleep", "600"], directory / "exporter.log")
    switch = processes.spawn(f"{directory}/switch-3", ["sleep", "600"], directory / "switch-3.log")
    try:
        for words in ((), ("--dry-run",)):
            kept = gc(*words)
            assert {find["what"] for find in kept.of(UNKNOWN).values()} >= {f"directory {directory}"}
            assert all("--unknown-jobs" in find["kept"] for find in kept.of(UNKNOWN).values())
        assert nbd_server.alive
        assert directory.exists()
        assert "resumes it by itself" in str(gc("--unknown-jobs").document["finds"])
        assert nbd_server.wait(0)
        assert switch.alive
        switch.kill()
        assert gc("--unknown-jobs").of(UNKNOWN)["host-a", "directory"]["removed"]
        assert not directory.exists()
    finally:
        nbd_server.kill()
        switch.kill()


def test_the_images_of_an_unknown_job_stay_for_they_may_be_a_guests(moves: Moves) -> None:
    directory = moves.lab.host("host-a").folder / "drover" / "jobs" / str(UNKNOWN)
    image = moves.lab.host("host-a").guests / "whose" / "disk0.qcow2"
    manifest.Manifest(directory / "created.json").claim(image)
    try:
        [find] = gc("--unknown-jobs").of(UNKNOWN).values()
        assert str(image) in find["kept"]
        assert image.exists()
    finally:
        image.unlink()
    told = f"host-a: directory {directory}, job {UNKNOWN}: the database has no such job; would be removed\n"
    assert drover("gc", "--unknown-jobs", "--dry-run").stdout == told
    assert gc("--unknown-jobs").code == 0
    assert not directory.exists()


def test_a_guest_whose_monitor_is_taken_is_told_and_nothing_else_happens(moves: Moves, resident: str) -> None:
    guest = resident
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.connect(_row(guest).qmp)
        answer = gc("--host", "host-a")
    assert any(guest in note["note"] for note in answer.document["notes"])


def test_only_jobs_that_are_done_or_rolled_back_have_ended_for_gc(moves: Moves, resident: str) -> None:
    guest = resident
    job = copying(moves, guest)
    jobs.cancel(job.id)
    while not moves.job(job.id).state.settled:
        gc()
    moves.nothing_left(moves.ended(job.id))
    assert moves.job(job.id).state is JobState.ROLLED_BACK


@pytest.mark.parametrize("changed", [False, True])
def test_a_job_that_is_alive_right_before_the_removal_keeps_what_it_has(
    moves: Moves, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """`changed`: as if the job were another one between finding and removing."""
    here = with_host(moves, "host-y")
    job_id = ended_job(here, JobState.ROLLED_BACK)
    directory = here.directory / "jobs" / str(job_id)
    process = processes.spawn(f"{directory}/exporter", ["sleep", "600"], directory / "exporter.log")
    finds = discovery.finds

    async def then_change(ours: Any) -> Any:
        found = await finds(ours)
        if changed:
            with transaction() as session:
                session.execute(update(Job).where(Job.id == job_id).values(state=JobState.NEEDS_OPERATOR))
        return found

    monkeypatch.setattr(orphans, "finds", then_change)
    try:
        reply = asyncio.run(orphans.collect(CollectOrphans(unknown_jobs=False), here))
        assert [find.removed for find in reply.finds] == [not changed] * 2
        assert process.alive is changed
        assert directory.exists() is changed
    finally:
        process.kill()
        forget_host(here, job_id)


def test_images_left_behind_by_moves_go_when_their_time_is_over(moves: Moves) -> None:
    here = with_host(moves, "host-x")
    left, kept = here.guest_root / "old.drover-1", here.guest_root / "new.drover-1"
    for path in (left, kept):
        path.write_text("an image")
    now = datetime.now(UTC)
    job_id = ended_job(here, JobState.DONE, (left, now - timedelta(hours=1)), (kept, now + timedelta(hours=1)))
    records.retired(here, job_id).add({str(path): path.stat().st_ino for path in (left, kept)})
    try:
        question = CollectOrphans(unknown_jobs=False)
        for answer, removed in ((orphans.look, False), (orphans.collect, True)):
            [find] = asyncio.run(answer(question, here)).finds
            assert (find.kind, find.what, find.job) == ("retired", f"retired image {left}", job_id)
            assert find.removed is removed
            assert left.exists() is not removed
        assert kept.exists()
        assert not asyncio.run(orphans.collect(question, here)).finds
    finally:
        forget_host(here, job_id)


def with_host(moves: Moves, name: str) -> Settings:
    """A host without a worker: nobody cleans up there but us. Answers the settings that its worker would have."""
    folder = moves.lab.path / name
    (folder / "guests").mkdir(parents=True, exist_ok=True)
    with transaction() as session:
        beat = datetime(2020, 1, 1, tzinfo=UTC)
        values = {"address": "127.0.0.1", "guest_root": str(folder), "incarnation": name, "facts": HostFacts()}
        session.merge(Host(name=name, heartbeat_at=beat, **values))
    return factories.ours(host=name, directory=folder, guest_root=folder / "guests")


def ended_job(here: Settings, state: JobState, *retired: tuple[Path, datetime]) -> int:
    disks = [
        Disk(index=index, device="d", format="raw", source_path="/s", destination_path="/d", bytes_total=1,
             retired_path=str(path), retired_until=until_then)
        for index, (path, until_then) in enumerate(retired)
    ]  # fmt: skip
    with transaction() as session:
        session.add(Guest(name=f"of-{here.host}", host="host-a", qmp="/none"))
        session.flush()
        job = Job(guest=f"of-{here.host}", source=here.host, destination="host-a", state=state, disks=disks)
        session.add(job)
        session.flush()
    return job.id


def forget_host(here: Settings, job_id: int) -> None:
    with transaction() as session:
        for table, key in (
            (Disk, Disk.job_id == job_id),
            (Job, Job.id == job_id),
            (Guest, Guest.name == f"of-{here.host}"),
            (Host, Host.name == here.host),
        ):
            session.execute(delete(table).where(key))
