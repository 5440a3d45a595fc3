"""Block devices: which may be taken, what a job makes, and a real guest that moves between them and image files."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func

from drover.errors import Fatal, PreconditionFailed
from lab import fleet
from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.database import transaction
from models.documents import MigrationOptions
from models.job import Job, JobState
from models.plan import DiskLayout, Layout, SourceDisk
from models.storage import Storage
from tests import documents, factories
from tests.helpers import MIB, Moves, until
from tests.loops import detach_all, loop_device, need_loops, write_hook
from workers.storage import devices, making
from workers.storage.targets import Targets
from workers.storage.volumes import Volumes
from workers.trust import policy
from workers.trust.policy import HostPolicy
from workflows import guests, storages
from workflows.migration import jobs, preflight


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    with loop_device(tmp_path / "disk", 16 * MIB) as device:
        yield device


def test_a_device_is_taken_only_when_it_is_named(loop: Path, tmp_path: Path) -> None:
    assert f"`--overwrite-device {loop}`" in str(devices.unfit(loop, MIB, ()))
    assert devices.unfit(loop, MIB, (str(loop),)) is None
    link = tmp_path / "lv"
    link.symlink_to(loop)
    assert devices.unfit(link, MIB, (str(link),)) is None
    assert devices.unfit(link, MIB, (str(loop),)) is None  # one device, by either name
    assert devices.real(link) == loop


def test_a_device_that_is_too_small_is_refused(loop: Path) -> None:
    assert devices.unfit(loop, 16 * MIB, (str(loop),)) is None
    assert f"{loop} has {16 * MIB} bytes and the guest's disk {16 * MIB + 512}" in str(
        devices.unfit(loop, 16 * MIB + 512, (str(loop),))
    )


def test_a_device_that_somebody_uses_is_refused(loop: Path, tmp_path: Path) -> None:
    with loop.open("rb"):
        assert f"in use (open in process {os.getpid()}" in str(devices.unfit(loop, MIB, (str(loop),)))
    subprocess.run(["mkfs.ext4", "-q", str(loop)], check=True)
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", str(loop), str(place)], check=True)
    try:
        assert "in use (mounted, or part of another device)" in str(devices.unfit(loop, MIB, (str(loop),)))
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert devices.unfit(loop, MIB, (str(loop),)) is None


def test_a_read_only_device_and_what_is_no_device_are_refused(loop: Path, tmp_path: Path) -> None:
    subprocess.run(["blockdev", "--setro", str(loop)], check=True)
    try:
        assert "read-only" in str(devices.unfit(loop, MIB, (str(loop),)))
    finally:
        subprocess.run(["blockdev", "--setrw", str(loop)], check=True)  # the next one of its number would have it
    file = tmp_path / "file"
    file.touch()
    assert "no block device" in str(devices.unfit(file, MIB, (str(file),)))
    assert "there is no" in str(devices.unfit(tmp_path / "x", MIB, (str(tmp_path / "x"),)))


def test_a_link_of_another_user_is_not_followed(loop: Path, tmp_path: Path) -> None:
    link = tmp_path / "lv"
    link.symlink_to(loop)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    assert "only links of root's" in str(devices.unfit(link, MIB, (str(link),)))


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[HostPolicy]:
    """The policy of a host whose storage `vol` makes loop devices."""
    program = write_hook(tmp_path)
    file = tmp_path / "policy.toml"
    file.write_text(f'[storages.vol]\ndriver = "hook"\nplace = "{tmp_path}/volumes"\nprogram = "{program}"\n')
    yield policy.of(factories.offline(host="one", guest_root=tmp_path / "guests", policy=file))
    detach_all(tmp_path)


def test_the_policy_decides_which_devices_a_guest_may_have(hook: HostPolicy, loop: Path, tmp_path: Path) -> None:
    assert not hook.may_have(str(loop))
    assert not hook.may_write(str(loop))
    assert hook.may_have(str(tmp_path / "volumes" / "web"))
    hook.devices = (*hook.devices, loop)
    assert hook.may_have(str(loop))
    (tmp_path / "guests").mkdir()
    (tmp_path / "guests" / "lv").symlink_to(loop)
    assert hook.may_have(str(tmp_path / "guests" / "lv"))
    hook.devices = ()
    assert not hook.may_have(str(tmp_path / "guests" / "lv"))


def test_a_volume_is_made_once_and_removed_by_who_made_it_alone(hook: HostPolicy, tmp_path: Path) -> None:
    mine, volume = Volumes(tmp_path / "7" / "devices.json"), tmp_path / "volumes" / "web"
    mine.make(volume, 5 * MIB, "vol", hook)
    mine.make(volume, 5 * MIB, "vol", hook)
    assert mine.owns(volume)
    assert devices.size_bytes(volume) == 5 * MIB
    other = Volumes(tmp_path / "8" / "devices.json")
    with pytest.raises(PreconditionFailed, match="exists already"):
        other.make(volume, MIB, "vol", hook)
    other.delete_all(hook)
    assert mine.owns(volume)
    mine.delete_all(hook)
    assert not volume.is_symlink()
    assert not mine.owns(volume)


def test_a_volume_whose_making_was_not_recorded_is_found_again(hook: HostPolicy, tmp_path: Path) -> None:
    mine, volume = Volumes(tmp_path / "7" / "devices.json"), tmp_path / "volumes" / "web"
    mine.make(volume, 5 * MIB, "vol", hook)
    record = json.loads(mine.file.read_text())
    record[str(volume)]["number"] = None  # as the worker died right after it was made
    mine.file.write_text(json.dumps(record))
    assert list(mine.made()) == [volume]
    mine.make(volume, 5 * MIB, "vol", hook)
    assert mine.owns(volume)
    mine.delete_all(hook)
    assert not volume.is_symlink()


def test_a_device_that_was_taken_is_never_removed(hook: HostPolicy, loop: Path, tmp_path: Path) -> None:
    mine = Volumes(tmp_path / "7" / "devices.json")
    mine.take(loop)
    assert mine.owns(loop)
    assert list(mine.made()) == []
    mine.delete_all(hook)
    assert devices.is_one(loop)


def test_a_hook_that_fails_says_why(hook: HostPolicy, tmp_path: Path) -> None:
    (tmp_path / "files" / "web").touch()
    with pytest.raises(Fatal, match="create web 1048576 failed"):
        Volumes(tmp_path / "7" / "devices.json").make(tmp_path / "volumes" / "web", MIB, "vol", hook)


def test_all_disks_of_a_guest_must_fit_into_a_storage_together(hook: HostPolicy, tmp_path: Path) -> None:
    (tmp_path / "room").write_text(str(10 * MIB))
    volumes = (tmp_path / "volumes" / name for name in ("a", "b"))
    disks = [documents.planned_volume(volume, 6 * MIB, "vol") for volume in volumes]
    assert making.device_problems(disks[:1], factories.offline(), hook, Layout(), lambda _: 1) == []
    [problem] = making.device_problems(disks, factories.offline(), hook, Layout(), lambda _: 1)
    assert "the storage vol has 10.5 MB free and the guest's disks need 12.6 MB there" in problem


@pytest.mark.parametrize("root", ["/srv", "/"])
def test_a_volume_keeps_its_name_in_whichever_group_it_goes(root: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[storages.new]\ndriver = "lvm"\nplace = "vg1"\n')
    rules = policy.of(factories.offline(host="one", policy=file))
    disk = source_disk("/dev/vg0/web-disk0", block_device=True, format="raw")
    assert targets(root, rules, Layout(storage="new")).of(disk, on_chain=False).path == "/dev/vg1/web-disk0"


def test_on_backing_files_no_room_is_taken_ahead(tmp_path: Path) -> None:
    rules = policy.of(factories.offline(host="one", policy=tmp_path / "none"))
    full = source_disk("/srv/web.qcow2", format="qcow2", create_options={"preallocation": "falloc", "compat": "1.1"})
    plain = targets("/srv", rules, Layout())
    assert plain.of(full, on_chain=False).create_options == full.create_options
    assert plain.of(full, on_chain=True).create_options == {"compat": "1.1"}
    assert targets("/srv", rules, Layout(format="raw")).of(full, on_chain=False).create_options == {
        "preallocation": "falloc"
    }
    with pytest.raises(PreconditionFailed, match="`--chain flatten`, or leave `--thick` out"):
        targets("/srv", rules, Layout(thick=True)).of(full, on_chain=True)


def source_disk(path: str, **fields: Any) -> SourceDisk:
    disk = documents.inspection().disks[0]
    return disk.model_copy(update={"path": path, **fields})


def targets(root: str, rules: HostPolicy, layout: Layout) -> Targets:
    return Targets(
        relative=lambda path: str(Path(path).relative_to(root)),
        root=Path(root),
        folder=Path(root, "web"),
        layout=layout,
        rules=rules,
    )


# Real guests: one for all of these, which lives on host-a until the last


@dataclass(frozen=True)
class Place:
    """A lab whose policy has block devices, and a guest with a disk of 64 MiB."""

    moves: Moves
    guest: str
    folder: Path
    loop: Path
    """72 MiB, full of something else."""


@pytest.fixture(scope="module")
def place(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    need_loops()
    moves, folder = Moves(lab), tmp_path_factory.mktemp("storages")
    with loop_device(folder / "loop", 72 * MIB, fill=b"\xaa") as loop:
        vol = f'{{driver = "hook", place = "{folder}/volumes", program = "{write_hook(folder)}"}}'
        bulk = f'{{driver = "folder", place = "{folder}/bulk"}}'
        (folder / "bulk").mkdir()
        fleet.write_policy(lab, devices=json.dumps([str(loop)]), storages=f"{{vol = {vol}, bulk = {bulk}}}")
        try:
            yield Place(moves, moves.boot(DiskSpec(size_bytes=64 * MIB)), folder, loop)
        finally:
            moves.end()
            detach_all(folder)
            fleet.write_policy(lab)


def _on(path: Path | str, **more: Any) -> Layout:
    return Layout(disks=(DiskLayout(index=0, path=str(path), **more),))


@pytest.mark.guests
def test_what_would_be_in_the_way_is_said_before_anything_begins(place: Place) -> None:
    loop = place.loop

    def refused(layout: Layout) -> str:
        with pytest.raises(PreconditionFailed) as error:
            preflight.plan(guests.known_guest(place.guest), "host-b", MigrationOptions(layout=layout))
        return str(error.value)

    assert f"`--overwrite-device {loop}`" in refused(_on(loop))
    with loop.open("rb"):
        assert "is in use (open in process" in refused(_on(loop).model_copy(update={"overwrite": (str(loop),)}))
    assert "its policy" in refused(_on("/dev/null").model_copy(update={"overwrite": ("/dev/null",)}))
    for wrong, why in (
        (Layout(storage="fast"), "there is no storage 'fast': there are guests, vol, bulk"),
        (Layout(disks=(DiskLayout(index=3, format="raw"),)), "the guest has no disk 3"),
    ):
        assert why in (told := refused(wrong))
        assert "none of the images that are moved" not in told, "that is no reason of its own"
    (place.folder / "room").write_text("1000000")
    assert "the storage vol has 1.0 MB free" in refused(Layout(storage="vol"))
    (place.folder / "room").unlink()


@pytest.mark.guests
def test_a_move_that_is_rolled_back_leaves_no_volume(place: Place) -> None:
    moves = place.moves
    job = moves.submit(place.guest, "host-b", layout=Layout(storage="vol"), bandwidth_bytes_per_s=MIB)
    try:
        until("the copy runs", lambda: moves.job(job.id).disks[0].bytes_copied, 20)
    except AssertionError:
        print(moves.events(job.id), moves.job(job.id).wait_reason)
        raise
    assert list((place.folder / "volumes").iterdir())
    jobs.cancel(job.id)
    assert moves.ended(job.id).state is JobState.ROLLED_BACK
    assert list((place.folder / "volumes").iterdir()) == []


@pytest.mark.thorough
@pytest.mark.guests
def test_a_guest_moves_between_files_and_block_devices_in_every_form_and_loses_nothing(place: Place) -> None:
    moves, loop = place.moves, place.loop
    home = moves.lab.host("host-a").guests / place.guest
    _move(place, "host-b", "raw", _on(loop).model_copy(update={"overwrite": (str(loop),)}))
    seen = guests.inspect(guests.known_guest(place.guest)).disks[0]
    assert (seen.path, seen.block_device, seen.virtual_size_bytes) == (str(loop), True, 64 * MIB)

    made = _move(place, "host-a", "qcow2", Layout(storage="vol", format="qcow2"))
    volume = Path(made.disks[0].destination_path)
    assert devices.is_one(volume)
    assert made.disks[0].retired_path == str(loop)  # kept where it is

    until("host-a reports its storages", lambda: _reported("host-a", "vol"))
    storages.map_to("host-a", "vol", "host-b", "bulk", image_format="raw", thick=True)
    job = _move(place, "host-b", "raw", Layout())
    image = Path(job.disks[0].destination_path)
    assert image.is_relative_to(place.folder / "bulk")
    assert image.stat().st_size == 64 * MIB
    assert job.disks[0].retired_path == f"{volume}.drover-{job.id}"
    assert devices.is_one(Path(job.disks[0].retired_path))
    assert not volume.is_symlink()

    _its_time_is_over(job)
    until("the volume is removed", lambda: not Path(str(job.disks[0].retired_path)).is_symlink())
    _move(place, "host-a", "qcow2", _on(home / "back.qcow2", format="qcow2", thick=False))


def _move(place: Place, to: str, image_format: str, layout: Layout) -> Job:
    """Move it, and find all its writes where its image is now."""
    moves = place.moves
    job = moves.move(place.guest, to, layout=layout, verify=True)
    moves.done(job)
    spec = moves.lab.path / "specs" / f"{place.guest}.json"
    [disk] = json.loads(spec.read_text())
    spec.write_text(json.dumps([{**disk, "image": job.disks[0].destination_path, "format": image_format}]))
    moves.intact(place.guest, to)
    moves.nothing_left(job)
    return job


def _its_time_is_over(job: Job) -> None:
    with transaction() as session:
        for disk in session.get_one(Job, job.id).disks:
            disk.retired_until = func.now()


def _reported(host: str, name: str) -> bool:
    with transaction() as session:
        return session.get(Storage, (host, name)) is not None
