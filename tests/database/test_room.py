"""What a host says of its own room: file systems, what images take, which guests are gone."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import func

from drover.errors import HostRefused, PreconditionFailed
from drover.settings import Settings
from models.database import transaction
from models.guest import Guest
from models.host_rpc import Inspect
from models.plan import Layout, PlannedDisk
from models.storage import Storage, counted_bytes, is_low
from tests import documents, factories
from tests.factories import GB
from tests.helpers import MIB, until
from workers.images.manifest import free_bytes
from workers.process import processes
from workers.process.processes import Process
from workers.storage import drivers, making, places, room, watch
from workers.trust import policy
from workflows import guests, layouts

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def ours(database: None, tmp_path: Path) -> Settings:
    factories.host("one", guest_root=str(tmp_path))
    return factories.ours(host="one", guest_root=tmp_path, directory=tmp_path / "drover")


def disk(path: Path, virtual: int, allocated: int | None) -> PlannedDisk:
    return PlannedDisk(
        index=0,
        device="d",
        format="qcow2",
        source_path="/s",
        destination_path=str(path),
        virtual_size_bytes=virtual,
        allocated_bytes=allocated,
        create_options={},
        discard="unmap",
    )


@pytest.mark.parametrize(
    ("allocated", "factor", "counted"), [(10, 1, 100), (10, 9, 20), (None, 9, 100), (110, 9, 110), (0, 1000, 0)]
)
def test_a_disk_counts_with_what_is_written_and_a_part_of_the_rest(
    allocated: int | None, factor: float, counted: int
) -> None:
    assert counted_bytes(100, allocated, factor) == counted


def test_a_storage_is_low_before_it_is_full() -> None:
    assert not is_low(100 * GB, 11 * GB)
    assert is_low(100 * GB, 9 * GB)
    assert not is_low(None, None)
    assert not is_low(64 * MIB, 40 * MIB)
    assert is_low(64 * MIB, 20 * MIB)


def test_a_thin_image_needs_no_room_for_its_virtual_size(ours: Settings, tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "x")
    huge = disk(tmp_path / "a.qcow2", 4 * free, 5 * MIB)
    room.check([huge], ours)
    with pytest.raises(PreconditionFailed, match="make room for"):
        room.check([huge], ours, thin_factor=1)
    with pytest.raises(PreconditionFailed, match="make room for"):
        room.check([huge], ours, grown_bytes=2 * free)  # the guest wrote so much since the move was planned


def test_each_storage_is_over_committed_as_it_is_set(ours: Settings, tmp_path: Path) -> None:
    for name, place, factor in (("guests", tmp_path, 1), ("bulk", tmp_path / "bulk", 1000)):
        with transaction() as session:
            session.add(Storage(host="one", name=name, driver="folder", place=str(place), thin_factor=factor))
    virtual = 4 * free_bytes(tmp_path / "x")
    room.check([disk(tmp_path / "bulk" / "a.qcow2", virtual, 5 * MIB)], ours)
    with pytest.raises(PreconditionFailed, match="make room for"):
        room.check([disk(tmp_path / "a.qcow2", virtual, 5 * MIB)], ours)
    room.check([disk(tmp_path / "a.qcow2", virtual, 5 * MIB)], ours, thin_factor=1000)


def test_disks_that_go_to_the_storage_with_the_most_room_leave_room_for_each_other(ours: Settings) -> None:
    with transaction() as session:
        for name, free in (("a", 100), ("b", 90), ("c", 50)):
            session.add(Storage(host="one", name=name, driver="folder", place=f"/{name}", free_bytes=free * GB))
    first, *_ = documents.inspection().disks
    sizes = enumerate((60, 60, 20))
    disks = tuple(first.model_copy(update={"index": n, "allocated_bytes": size * GB}) for n, size in sizes)

    def chosen(names: str) -> list[str | None]:
        layout = layouts.effective("two", "one", documents.inspection(disks=disks), Layout(storage=names))
        return [disk.storage for disk in layout.disks]

    assert chosen("any") == ["a", "b", "c"]
    assert chosen("b,c") == ["b", "c", "b"]
    assert chosen("elsewhere") == ["elsewhere"] * 3


def test_a_thin_volume_counts_with_what_is_written_to_it(ours: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (pool := ours.guest_root / "policy.toml").write_text('[storages.thin]\ndriver = "lvm"\nplace = "vg/pool"\n')
    rules = policy.of(ours.model_copy(update={"policy": pool}))
    monkeypatch.setattr(drivers.Lvm, "room", lambda _: (10 * GB, 8 * GB))
    thin = documents.planned_volume(Path("/dev/vg/a"), 100 * GB, "thin").model_copy(update={"allocated_bytes": GB})

    def problems(factor: float) -> list[str]:
        return making.device_problems([thin], ours, rules, Layout(), room.thin_factors(ours, factor))

    assert problems(20) == []
    assert "8.0 GB free and the guest's disks need 100.0 GB" in problems(1)[0]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Folders on file systems of their own, by their options."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    with ExitStack() as stack:

        def mounted(options: str) -> Path:
            (folder := tmp_path / options).mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "drover-test", str(folder)], check=True)
            stack.callback(subprocess.run, ["umount", str(folder)], check=True)
            return folder

        yield mounted


def test_where_no_file_can_be_made_is_known_before_with_the_reason(
    small: Callable[[str], Path], tmp_path: Path
) -> None:
    def said(folder: Path, *, images: int = 1, virtual: int = GB, others: Sequence[Path] = ()) -> str:
        disks = [disk(folder / f"{number}.raw", virtual, 0) for number in range(images)]
        raw = [one.model_copy(update={"format": "raw"}) for one in disks]
        return "; ".join(
            f"{seen}: {remedy}" for seen, remedy in making.impossible_files(raw, (), map(str, others)).items()
        )

    assert "read-only: mount it writable" in said(small("ro"))
    few = small("nr_inodes=3")
    assert said(few, images=2) == ""
    assert "no inodes left" in said(few, images=3)
    assert "no inodes left" in said(few, images=1, others=[few / "logs", few / "logs" / "log"])
    assert said(few, images=1, others=[few, few / "qmp.sock"]) == ""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * MIB, limits[1]))
    try:
        assert "an image of 1.0 GB" in said(tmp_path)
        assert said(tmp_path, virtual=64 * MIB) == ""
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("*.raw"))


def test_each_storage_is_reported_with_its_room(ours: Settings, tmp_path: Path) -> None:
    other = Path("/dev/shm") / tmp_path.name
    found = {place.name: place for place in places.places(policy.of(ours), [other / "disk.raw"])}
    assert found["guests"].place == str(tmp_path)
    assert found["dev-shm"].place == "/dev/shm"
    watch.look(ours)
    with transaction() as session:
        row = session.get_one(Storage, ("one", "guests"))
    assert row.total_bytes == found["guests"].total_bytes
    assert row.thin_factor == 20


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Process]:
    """A process that has 64 MiB of an image open for writing, and a file for reading."""
    (tmp_path / "base.raw").write_bytes(b"x" * MIB)
    program = f"""
import os, time
image = os.open({str(tmp_path / "disk.raw")!r}, os.O_CREAT | os.O_RDWR)
base = os.open({str(tmp_path / "base.raw")!r}, os.O_RDONLY)
os.ftruncate(image, 1 << 40)
os.posix_fallocate(image, 0, {64 * MIB})
print("ready", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = processes.process(child.pid)
        assert process is not None
        yield process
        child.kill()


def seen(name: str) -> Guest:
    with transaction() as session:
        return session.get_one(Guest, name)


def test_what_a_guest_writes_is_seen_without_asking_its_qemu(ours: Settings, writer: Process) -> None:
    factories.guest("web", "one", disk_bytes=1 << 40, process=processes.identity(writer))
    watch.look(ours)
    assert seen("web").allocated_bytes == 64 * MIB
    assert seen("web").gone_at is None


def test_a_guest_whose_process_has_ended_is_gone(ours: Settings, writer: Process) -> None:
    factories.guest("web", "one", process=processes.identity(writer), allocated_bytes=GB)
    os.kill(writer.pid, 9)
    until("it has ended", lambda: not writer.alive)
    watch.look(ours)
    first = seen("web").gone_at
    assert first is not None
    assert seen("web").allocated_bytes == GB
    watch.look(ours)
    assert seen("web").gone_at == first


def test_who_asks_for_a_guest_that_is_gone_is_told_what_to_do(ours: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(host: str, question: Inspect) -> None:
        raise HostRefused("no monitor answers", host=host)

    monkeypatch.setattr(guests, "ask", refuses)
    factories.guest("web", "one", gone_at=func.now())
    with pytest.raises(
        PreconditionFailed, match=r"web does not run: its QEMU on one has ended.*drover guest start web"
    ):
        guests.inspect(guests.known_guest("web"))


def test_of_a_process_of_another_namespace_nothing_is_said(ours: Settings, writer: Process) -> None:
    boot, _, pid, _ = processes.identity(writer).split("/")
    factories.guest("web", "one", process=f"{boot}/1/{pid}/1")
    factories.guest("old", "one")
    watch.look(ours)
    assert seen("web").gone_at is None
    assert seen("old").gone_at is None
