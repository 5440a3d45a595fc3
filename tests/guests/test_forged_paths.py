"""A row that names a path makes no worker write, serve, rename or delete what the host itself did not write down."""

import asyncio
import os
import socket
from pathlib import Path

import pytest
from sqlalchemy import update

from drover.errors import Fatal
from drover.settings import Settings
from models.database import transaction
from models.job import Disk, Job, JobState, Side, Step
from models.plan import DestinationPlan, Plan
from models.transitions import StepState
from tests import factories
from tests.documents import destination_plan, inspection
from tests.helpers import Moves, until
from workers import executor
from workers.disks import nbd_server
from workers.guest import run_files
from workers.images import retention
from workers.process import processes
from workers.step import Context, JobDirectory
from workers.steps import STEPS
from workers.trust import held_plan
from workflows.migration import jobs
from workflows.migration.claims import Claim
from workflows.submit_options import SubmitOptions

rows = pytest.mark.usefixtures("database")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The guest root."""
    made = tmp_path / "guests"
    made.mkdir()
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that is nobody's image."""
    made = tmp_path / "passwd"
    made.write_text("root")
    return made


def _ours(host: str, root: Path) -> Settings:
    return factories.ours(host=host, directory=root.parent / "worker", guest_root=root)


def _claim(name: str, side: Side, ours: Settings, planned: Plan) -> Claim:
    """Of a step of a running job, all before which is done; its host holds this plan."""
    for host in ("one", "two"):
        factories.host(host)
    factories.guest("web", "one")
    job_id = factories.job("web", "two", state=JobState.RUNNING, plan=planned)
    held_plan.hold(JobDirectory.of(job_id, ours).path, planned)
    with transaction() as session:
        steps = session.get_one(Job, job_id).steps
        [due] = [step for step in steps if (step.name, step.side) == (name, side)]
        session.execute(update(Step).where(Step.seq < due.seq).values(state=StepState.DONE))
    return factories.claim(ours, job_id, steps.index(due))


def _planned(**fields: object) -> DestinationPlan:
    [disk] = destination_plan().disks
    return destination_plan(disks=(disk.model_copy(update={"virtual_size_bytes": 1} | fields),))


@rows
@pytest.mark.parametrize("path", ["{}/passwd.new", "{}/guests/../passwd.new", "/dev/shm/drover-forged"])
def test_no_image_is_made_outside_of_the_guest_root(root: Path, path: str) -> None:
    path = path.format(root.parent)
    ours, planned = _ours("two", root), Plan(source=inspection(), destination=_planned(destination_path=path))
    claim = _claim("prepare_dest_image", Side.DESTINATION, ours, planned)
    with pytest.raises(Fatal, match="does not lie below this host's guest root"):
        executor.run(STEPS[claim.name, claim.side], claim, ours)
    assert not Path(path).exists()


@rows
def test_no_file_is_served_that_the_job_did_not_make(root: Path, victim: Path) -> None:
    ours = _ours("two", root)
    planned = Plan(source=inspection(), destination=_planned(destination_path=str(victim)))
    claim = _claim("start_nbd", Side.DESTINATION, ours, planned)
    with pytest.raises(Fatal, match=rf"{victim} was not made by job {claim.job.id}"):
        asyncio.run(nbd_server.start(Context(claim=claim, settings=ours), "nonce"))


@rows
def test_no_file_is_set_aside_that_the_host_did_not_write_down(root: Path) -> None:
    ours, image = _ours("one", root), root / "disk0.raw"
    image.touch()
    planned = Plan(source=inspection(), destination=_planned(source_path=str(image)))
    ctx = Context(claim=_claim("cleanup", Side.SOURCE, ours, planned), settings=ours)
    with pytest.raises(Fatal, match=rf"{image} is not touched: this host did not write it down as an image of web"):
        retention.set_aside(ctx)
    assert image.exists()
    assert factories.load(ctx.job.id).disks[0].retired_path is None


@rows
@pytest.mark.parametrize("has_it_open", [True, False])
def test_what_is_written_down_at_the_source_is_what_qemu_has_open(root: Path, has_it_open: bool) -> None:
    ours, image = _ours("one", root), root / "disk0.raw"
    image.touch()
    me = processes.process(os.getpid())
    assert me is not None
    source = inspection(pid=me.pid, started=me.started)
    planned = Plan(source=source, destination=_planned(source_path=str(image)))
    claim = _claim("mirror_disks", Side.SOURCE, ours, planned)
    ctx = Context(claim=claim, settings=ours)
    if not has_it_open:
        with pytest.raises(Fatal, match=rf"does not have {image} open: put the image back"):
            retention.write_down(ctx)
        return
    with image.open():
        retention.write_down(ctx)
    retention.set_aside(ctx)
    assert not image.exists()
    assert (root / f"disk0.raw.drover-{ctx.job.id}").exists()


def test_sockets_and_pidfiles_are_removed_only_when_they_are_dead_ones_below_the_guest_root(root: Path) -> None:
    ours, dead = factories.offline(guest_root=root), {}
    for place in (root, root.parent):
        dead[place] = [place / "qmp.sock", place / "qemu.pid"]
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(dead[place][0]))
        dead[place][1].write_text(f"{2**22 + 1}\n")  # above the most that Linux gives
        run_files.unlink_dead(ours, [str(dead[place][0])], str(dead[place][1]))
    assert not any(path.exists() for path in dead[root])
    assert all(path.exists() for path in dead[root.parent])
    for text in ("", "root:x:0", f"{os.getpid()}", f"{2**22 + 1} and more than a number"):
        (root / "passwd").write_text(text)
        run_files.unlink_dead(ours, [str(root / "passwd")], str(root / "passwd"))
        assert (root / "passwd").exists(), text


@pytest.mark.thorough
@pytest.mark.guests
def test_a_forged_row_in_mid_move_costs_no_other_file_anything_and_the_move_ends_well(moves: Moves) -> None:
    guest = moves.boot()
    job = jobs.submit(guest, "host-b", terms=SubmitOptions(hold=True))
    until("both sides are equal", lambda: all(disk.ready_at for disk in moves.job(job.id).disks))
    image = moves.job(job.id).disks[0].source_path
    victim = moves.lab.host("host-a").guests / "not-an-image"
    victim.write_text("of somebody else")
    with transaction() as session:
        session.execute(update(Disk).where(Disk.job_id == job.id).values(source_path=str(victim)))
    jobs.release(job.id)
    done = moves.ended(job.id)
    moves.done(done)
    moves.intact(guest, "host-b")
    moves.nothing_left(done)
    assert Path(f"{image}.drover-{job.id}").exists()
    assert victim.read_text() == "of somebody else"
    victim.unlink()
