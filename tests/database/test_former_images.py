"""Images that a guest left behind are its disks again only if nobody has touched them, and are put back if it stays."""

import asyncio
import os
import subprocess
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from drover.errors import Transient
from models.database import transaction
from models.guest import Guest
from models.host import Host
from models.job import Disk, Event, Job, JobState
from models.plan import Plan
from models.sample import Sample
from models.way_back import FormerImage, WayBack
from tests import factories
from tests.documents import destination_plan, inspection
from workers import files
from workers.disks import delta
from workers.images import evidence, manifest, records, retention, way_back
from workers.images.way_back import Choice
from workers.qemu import nbd, written
from workers.qemu.nbd import Extent
from workers.step import Context
from workers.trust import held_plan

BITMAP = "drover-written-1-0123456789ab"
SIZE = 1 << 20


def touched(path: Path, how: str) -> None:
    """Somebody does this to the file."""
    if how == "a byte in a sample":
        with path.open("r+b") as file:
            file.write(b"y")
    elif how == "a byte behind the file system's back":
        before = path.stat()
        with path.open("r+b") as file:
            file.write(b"y")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "a byte elsewhere":
        with path.open("r+b") as file:
            file.seek(SIZE // 126 + 1)
            file.write(b"y")
    elif how == "larger":
        before = path.stat()
        with path.open("ab") as file:
            file.write(b"y")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "a copy in its place":
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("a byte in a sample", "somebody has written to it"),
        ("a byte behind the file system's back", "somebody has written to it"),
        ("a byte elsewhere", "somebody has written to it"),
        ("larger", "its size has changed"),
        ("a copy in its place", "another file has taken its place"),
        ("gone", "it is gone"),
        ("nothing", None),
    ],
)
def test_evidence_shows_whatever_was_done_to_an_image(tmp_path: Path, how: str, why: str | None) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * SIZE)
    before = evidence.of(image)
    assert before is not None
    image = image.rename(tmp_path / "image.drover-1")  # as it is set aside
    touched(image, how)
    assert evidence.differs(before, evidence.of(image)) == why


def test_what_changed_is_cut_into_pieces_that_share_no_cluster() -> None:
    piece = delta.PIECE_BYTES
    extents = [Extent(0, 4096, 1), Extent(4096, 4096, 0), Extent(8192, 2 * piece, 1), Extent(9 * piece, 512, 1)]
    cut = [[(one.offset, one.length) for one in several] for several in delta.pieces(extents)]
    assert cut == [
        [(0, 4096), (8192, piece - 8192)],
        [(piece, piece)],
        [(2 * piece, 8192)],
        [(9 * piece, 512)],
    ]


@pytest.fixture
def back(database: None, tmp_path: Path) -> Context:
    """Web left host one with job 1, and goes back there; nothing was done for that yet."""
    for host in ("one", "two"):
        factories.host(host)
    factories.guest("web", "one")
    left = factories.job("web", "two", state=JobState.DONE)
    image = tmp_path / f"disk.drover-{left}"
    image.write_bytes(b"x" * SIZE)
    seen = evidence.of(image)
    assert seen is not None
    with transaction() as session:
        kept = {"retired_path": str(image), "retired_until": func.now() + timedelta(days=1)}
        session.execute(update(Disk).values(kept))
        session.execute(update(Guest).values(host="two"))
    ours = factories.ours(host="one", directory=tmp_path / "worker", guest_root=tmp_path)
    records.retired(ours, left).add({str(image): image.stat().st_ino})
    former = FormerImage(
        path=str(tmp_path / "disk"), kept_at=str(image), format="raw", virtual_size_bytes=SIZE, evidence=seen
    )
    way_back._write(ours, WayBack(guest="web", job=left, bitmap=BITMAP, images=(former,)))
    job = factories.job("web", "one", state=JobState.RUNNING)
    ctx = Context(claim=factories.claim(ours, job, 0), settings=ours)
    hold(ctx, planned(tmp_path))
    return ctx


def hold(ctx: Context, plan: Plan) -> None:
    files.private_folder(ctx.directory.path)
    held_plan.hold(ctx.directory.path, plan)


def planned(folder: Path, recorded: tuple[str, ...] = (BITMAP,), **changed: Any) -> Plan:
    seen = inspection()
    disks = tuple(disk.model_copy(update={"written": dict.fromkeys(recorded, 4096)}) for disk in seen.disks)
    there = destination_plan()
    wanted = {"destination_path": str(folder / "disk"), "virtual_size_bytes": SIZE} | changed
    made = tuple(disk.model_copy(update=wanted) for disk in there.disks)
    return Plan(source=seen.model_copy(update={"disks": disks}), destination=there.model_copy(update={"disks": made}))


def image_of(ctx: Context) -> Path:
    [way] = way_back._known(ctx.settings)
    return Path(way.images[0].kept_at)


def test_a_guest_goes_back_to_its_image_which_expires_no_more(back: Context, tmp_path: Path) -> None:
    image = image_of(back)
    choice = way_back.chosen(back)
    assert choice.way is not None
    assert choice.changed_bytes == 4096
    way_back.take(back, choice.way)
    assert (tmp_path / "disk").read_bytes() == b"x" * SIZE
    assert not image.exists()
    assert back.directory.owns(tmp_path / "disk")
    assert factories.load(choice.way.job).disks[0].retired_until is None
    assert not list(way_back._known(back.settings))
    assert way_back.chosen(back).way == choice.way, "a worker that goes on with the step"
    way_back.take(back, choice.way)
    assert (tmp_path / "disk").exists()


@pytest.mark.parametrize("changes_alone", [True, False])
def test_an_image_is_put_back_with_what_was_written_to_it_if_the_guest_stays(
    back: Context, tmp_path: Path, changes_alone: bool
) -> None:
    image = image_of(back)
    choice = way_back.chosen(back)
    assert choice.way is not None
    way_back.take(back, choice.way)
    with (tmp_path / "disk").open("r+b") as file:
        file.write(b"what was sent")
    back.job.disks[0].delta_bytes = 13 if changes_alone else None
    way_back.put_back(back)
    way_back.put_back(back)
    assert image.read_bytes().startswith(b"what was sent")
    assert not (tmp_path / "disk").exists()
    assert not back.directory.owns(tmp_path / "disk")
    assert factories.load(choice.way.job).disks[0].retired_until is not None
    assert retention.knows(back.settings, choice.way.job, image)
    found = way_back.chosen(back).way
    assert (found is not None) is changes_alone, "where all was sent the image is nothing to build upon"


@pytest.mark.parametrize("kept_for", [timedelta(0), timedelta(hours=1), timedelta(days=9)])
def test_an_image_that_is_put_back_is_kept_as_long_as_before_at_least(back: Context, kept_for: timedelta) -> None:
    with transaction() as session:
        before = session.scalars(select(Disk.retired_until).where(Disk.retired_until.is_not(None))).one()
        session.get_one(Host, "one").retention = kept_for  # an operator has changed it meanwhile
    choice = way_back.chosen(back)
    assert choice.way is not None
    way_back.take(back, choice.way)
    way_back.put_back(back)
    after = factories.load(choice.way.job).disks[0].retired_until
    assert before is not None
    assert after is not None
    assert after == before if kept_for < timedelta(days=1) else after > before + timedelta(days=1)


def test_changes_for_which_there_is_no_room_wait_for_it_and_say_so_once(
    back: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "TRY_AGAIN_S", 0.01)
    copier, left = delta._Copier(back, 0), {"a": 2, "b": 5}

    async def write(which: str) -> None:
        left[which] -= 1
        if left[which] >= 0:
            raise nbd.NoRoom("full")

    async def both() -> None:
        await asyncio.gather(*(copier._once_there_is_room(0, partial(write, which)) for which in left))

    asyncio.run(both())
    with transaction() as session:
        told = [event.sentence for event in session.query(Event).order_by(Event.id)]
        assert session.get_one(Job, back.job.id).steps[0].error is None
    path = back.disks[0].destination_path
    held_up = f"one has no room left for {path}: make room there (or raise the quota) and the move goes on"
    assert [sentence.partition(", or")[0] for sentence in told[-2:]] == [held_up, "the move goes on"]
    assert told.count("the move goes on") == 1


def test_the_rate_at_which_changes_are_sent_is_kept_like_that_of_a_mirror(back: Context) -> None:
    delta._Copier(back, 0).record()
    with transaction() as session:
        assert session.scalars(select(Sample.of_ram)).all() == [False]


def test_an_image_that_somebody_has_written_to_is_not_begun_with(back: Context) -> None:
    image = image_of(back)
    image.write_bytes(b"z" * SIZE)
    assert way_back.chosen(back) == Choice(why=f"{image}: somebody has written to it")


def test_an_image_that_is_not_kept_any_more_is_not_begun_with(back: Context) -> None:
    with transaction() as session:
        session.execute(update(Disk).values(retired_until=func.now()))
    assert way_back.chosen(back).why == "they are not kept any more"


@pytest.mark.parametrize(
    ("recorded", "changed", "why"),
    [
        (("drover-written-1-of another copy",), {}, "its QEMU was started anew"),
        ((), {}, "its QEMU was started anew"),
        ((BITMAP,), {"virtual_size_bytes": 2 * SIZE}, "another size or format"),
        ((BITMAP,), {"format": "qcow2"}, "another size or format"),
        ((BITMAP,), {"destination_path": "/elsewhere/disk"}, "is not where one of its images was"),
        ((BITMAP,), {"destination_device": True}, "is not where one of its images was"),
    ],
)
def test_a_guest_that_does_not_fit_its_image_is_copied_as_a_whole(
    back: Context, tmp_path: Path, recorded: tuple[str, ...], changed: dict[str, Any], why: str
) -> None:
    hold(back, planned(tmp_path, recorded, **changed))
    choice = way_back.chosen(back)
    assert choice.way is None
    assert why in str(choice.why)


def test_an_image_whose_place_is_taken_stays_where_it_is(back: Context, tmp_path: Path) -> None:
    image = image_of(back)
    (tmp_path / "disk").write_text("somebody's")
    choice = way_back.chosen(back)
    assert choice.way is not None
    with pytest.raises(Transient, match="cannot be taken back"):
        way_back.take(back, choice.way)
    assert image.exists()
    assert (tmp_path / "disk").read_text() == "somebody's"


def test_a_job_that_began_with_empty_images_goes_on_with_them(back: Context, tmp_path: Path) -> None:
    back.directory.manifest.claim(tmp_path / "disk")
    assert way_back.chosen(back) == Choice()


@pytest.mark.parametrize("how", ["purged", "deleted by hand"])
def test_images_that_are_not_kept_any_more_are_told_as_why_all_is_copied(
    back: Context, tmp_path: Path, how: str
) -> None:
    [way] = way_back._known(back.settings)
    image = Path(way.images[0].kept_at)
    hold(back, planned(tmp_path, recorded=(written.name(way.job, "its nonce"),)))
    if how == "purged":
        with transaction() as session:
            session.execute(update(Disk).where(Disk.retired_path.is_not(None)).values(retired_until=func.now()))
    else:
        image.unlink()
    retention.delete_expired(back.settings)
    assert not image.exists()
    assert not list(way_back._known(back.settings))
    assert way_back.chosen(back) == Choice(why="they are not kept any more")


@pytest.mark.parametrize(
    ("made", "then", "plain"),
    [
        (["-f", "qcow2"], [], True),
        (["-f", "raw"], [], True),
        (["-f", "raw"], ["truncate -s 2M {}"], False),
        (["-f", "qcow2"], ["qemu-img snapshot -c s {}"], False),
        (["-f", "qcow2"], ["qemu-img bitmap --add {} b"], False),
        (["-f", "qcow2", "-o", "data_file={}.data"], [], False),
    ],
)
def test_an_image_that_holds_more_than_its_disk_is_no_way_back(
    tmp_path: Path, made: list[str], then: list[str], plain: bool
) -> None:
    image = tmp_path / "image"
    words = [word.format(image) for word in made]
    subprocess.run(["qemu-img", "create", "-q", *words, str(image), "1M"], check=True)
    for word in then:
        subprocess.run([part.format(image) for part in word.split()], check=True)
    assert manifest.only_a_disk(image, made[1], 1 << 20) == plain
