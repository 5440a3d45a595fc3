"""What a move that was rolled back had copied is kept at its destination, if it was complete."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from drover.errors import PreconditionFailed
from models import kept_images
from models.database import transaction
from models.documents import MigrationOptions
from models.event_action import EventAction
from models.job import Direction, Disk, Event, Job, JobState, Side, record_event
from models.job_folder import ClosedImages
from tests import factories
from tests.cli.support import document, drover
from tests.documents import inspection
from tests.step_contexts import claimed, done
from workers.disks import kept_copy
from workers.images import manifest, retention, way_back
from workers.qemu import written
from workers.step import Context
from workers.steps import prepare_dest_image
from workers.storage import room
from workflows.migration.links import StepName

pytestmark = pytest.mark.usefixtures("database")
NONCE = "0123"


def rolled_back(folder: Path, *, closed: bool = True, recorded: bool = True, **columns: Any) -> Context:
    """It is the turn of the destination's images; the NBD server and all else there has ended."""
    ctx = claimed(folder, (StepName.PREPARE_DEST_IMAGE, Side.DESTINATION), Direction.ROLLBACK, **columns)
    [disk] = ctx.disks
    image = Path(disk.destination_path)
    ctx.directory.manifest.claim(image)
    with image.open("r+b") as file:
        file.write(b"what was copied")
        file.truncate(disk.virtual_size_bytes)
    if closed:
        ctx.directory.closed_images.write(ClosedImages(nonce=NONCE))
    if recorded:
        with transaction() as session:
            record_event(session, ctx.job.id, by="one", action=EventAction.COPY_RECORDED, sentence="said the source")
    return ctx


def ended(ctx: Context) -> None:
    done(ctx)
    with transaction() as session:
        session.execute(update(Job).values(state=JobState.ROLLED_BACK))


def kept_at(ctx: Context) -> Path:
    return Path(f"{ctx.disks[0].destination_path}.drover-{ctx.job.id}")


@pytest.mark.thorough
def test_a_complete_copy_is_kept_at_the_destination_for_the_next_move_there(tmp_path: Path) -> None:
    ctx = rolled_back(tmp_path)
    ended(ctx)
    assert kept_at(ctx).read_bytes().startswith(b"what was copied")
    assert not Path(ctx.disks[0].destination_path).exists(), "it is nobody's disk"
    [listed] = document("image", "list", "--json")["images"]
    assert {name: listed[name] for name in ("job", "host", "guest", "path", "copy", "last_way_back")} == {
        "job": ctx.job.id,
        "host": "two",
        "guest": "web",
        "path": str(kept_at(ctx)),
        "copy": True,
        "last_way_back": False,
    }
    assert "a copy" in drover("image", "list").stdout

    bitmap = written.name(ctx.job.id, NONCE)
    disks = [disk.model_copy(update={"written": {bitmap: 4096, "of another": 0}}) for disk in inspection().disks]
    choice = way_back.expected(ctx.settings, "web", inspection(disks=tuple(disks)), ctx.disks)
    assert choice.way is not None
    assert (choice.way.job, choice.way.bitmap, choice.changed_bytes) == (ctx.job.id, bitmap, 4096)
    unknown = way_back.expected(ctx.settings, "web", inspection(), ctx.disks)
    assert "what has changed since then is not known: its QEMU was started anew" in str(unknown.why)
    unknown = way_back.expected(ctx.settings, "web", inspection(qemu_version=(9, 2, 1)), ctx.disks)
    assert "its QEMU (9.2.1) may have missed that a disk was made smaller" in str(unknown.why)


def test_of_two_that_fit_the_one_is_taken_that_lacks_less(tmp_path: Path) -> None:
    ctx = rolled_back(tmp_path)
    ended(ctx)
    [way] = way_back._known(ctx.settings)
    way_back._write(ctx.settings, way.model_copy(update={"job": 99, "bitmap": "drover-written-99-0"}))
    for less, more in ((99, ctx.job.id), (ctx.job.id, 99)):
        known = {known.job: known.bitmap for known in way_back._known(ctx.settings)}
        counts = {known[less]: 4096, known[more]: 8192}
        disks = [disk.model_copy(update={"written": counts}) for disk in inspection().disks]
        chosen = way_back.expected(ctx.settings, "web", inspection(disks=tuple(disks)), ctx.disks).way
        assert chosen is not None
        assert chosen.job == less


def test_a_worker_that_died_while_it_kept_a_copy_is_followed_by_one_that_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = rolled_back(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(way_back, "_set_aside", _dies)
        with pytest.raises(KeyboardInterrupt):
            way_back.keep_copy(ctx)
    ended(ctx)
    assert kept_at(ctx).exists()
    assert retention.knows(ctx.settings, ctx.job.id, kept_at(ctx))


def _dies(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "lacking",
    [
        {"closed": False},
        {"recorded": False},
        {"options": MigrationOptions(retention_s=0)},
    ],
    ids=["the NBD server did not close it", "the source does not know what it lacks", "nothing is to be kept"],
)
def test_a_copy_that_nobody_could_build_upon_is_deleted(tmp_path: Path, lacking: dict[str, Any]) -> None:
    ctx = rolled_back(tmp_path, **lacking)
    ended(ctx)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("there.raw")]
    assert document("image", "list", "--json")["images"] == []


def test_an_image_with_more_than_the_disk_in_it_is_deleted(tmp_path: Path) -> None:
    ctx = rolled_back(tmp_path)
    os.truncate(ctx.disks[0].destination_path, 4096)
    ended(ctx)
    assert not kept_at(ctx).exists()
    with transaction() as session:
        [told] = session.query(Event).where(Event.action == "way_back")
    assert "its copy on two is deleted all the same" in told.sentence


def test_a_copy_is_deleted_by_the_host_that_has_it_once_its_time_is_over(tmp_path: Path) -> None:
    ctx = rolled_back(tmp_path)
    ended(ctx)
    with transaction() as session:
        session.execute(update(Disk).values(retired_until=func.now()))
    retention.delete_expired(factories.ours(host="one", directory=tmp_path / "one", guest_root=tmp_path))
    assert kept_at(ctx).exists()
    retention.delete_expired(ctx.settings)
    assert not kept_at(ctx).exists()
    assert not list(way_back._known(ctx.settings))


def test_room_that_gets_short_is_taken_from_copies_before_images_on_which_a_guest_has_lived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = rolled_back(tmp_path)
    ended(copy)
    factories.guest("db", "two")
    left = factories.job("db", "one", state=JobState.DONE)
    with transaction() as session:
        old = {"retired_path": str(tmp_path / "old"), "retired_until": func.now() + timedelta(hours=1)}
        session.execute(update(Disk).where(Disk.job_id == left).values(**old, retired_bytes=1))
        session.execute(update(Job).where(Job.id == left).values(committed_at=func.now() - timedelta(days=1)))
    monkeypatch.setattr(retention, "_cramped", lambda _: True)
    first = retention._oldest_in_the_way(copy.settings)
    assert first is not None
    assert first.job_id == copy.job.id


def test_copies_give_way_to_a_move_that_lacks_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = rolled_back(tmp_path)
    ended(ctx)
    needed = 2 * ctx.disks[0].virtual_size_bytes
    with transaction() as session:
        session.execute(update(Disk).values(retired_bytes=needed))
    monkeypatch.setattr(manifest, "free_bytes", lambda _: 0 if kept_at(ctx).exists() else needed)
    with pytest.raises(PreconditionFailed):
        room.check(ctx.disks, ctx.settings)
    room.check(ctx.disks, ctx.settings, copies_give_way=True)
    prepare_dest_image._have_room(ctx)
    assert not kept_at(ctx).exists()
    monkeypatch.setattr(manifest, "free_bytes", lambda _: 0)
    with pytest.raises(PreconditionFailed):
        prepare_dest_image._have_room(ctx)


def test_what_goes_onto_images_that_were_left_there_is_no_copy_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = rolled_back(tmp_path)
    for bitmap, kept in ((None, True), ("drover-written-1-0", False)):
        monkeypatch.setattr(kept_copy, "begun_with", lambda _, bitmap=bitmap: bitmap)
        assert kept_copy._would_be_kept(ctx) is kept


def test_bitmaps_are_of_use_as_long_as_the_images_are_kept(tmp_path: Path) -> None:
    ctx = rolled_back(tmp_path)
    ended(ctx)
    with transaction() as session:
        assert kept_images.any_of(session, ctx.job.id)
        session.execute(update(Disk).values(retired_until=None))
        assert not kept_images.any_of(session, ctx.job.id)
        assert session.scalar(select(kept_images.on_host()).where(Job.id == ctx.job.id)) == "two"
    assert written.job_of(written.name(ctx.job.id, NONCE)) == ctx.job.id
    assert written.job_of("drover-written-by somebody") is None
