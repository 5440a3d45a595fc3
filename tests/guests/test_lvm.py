"""The storage driver for LVM, by LVM's own programs: in the virtual machine of `tests/guests/test_in_a_vm.py`."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.errors import Fatal, PreconditionFailed
from models.plan import Layout
from tests import documents, factories
from tests.vm import POOL, VOLUMES
from workers.images.records import mark
from workers.storage import devices, drivers, leaving, making
from workers.storage.volumes import Volumes
from workers.trust import policy
from workers.trust.policy import HostPolicy

MIB = 1 << 20
pytestmark = [
    pytest.mark.all_lines,
    pytest.mark.skipif(not Path(POOL).exists(), reason="only the virtual machine has these volume groups"),
]


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[HostPolicy]:
    file = tmp_path / "policy.toml"
    file.write_text(f"storages = {VOLUMES}\n")
    yield policy.of(factories.offline(host="one", guest_root=tmp_path / "guests", policy=file))
    for group in ("thick", "thin"):
        for volume in told("lvs", "-o", "lv_name", "--noheadings", group).split():
            if volume != "pool":
                told("lvremove", "--yes", "--quiet", f"{group}/{volume}")


def told(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("storage", ["thick", "thin"])
def test_a_volume_is_made_found_renamed_and_removed(storage: str, rules: HostPolicy, tmp_path: Path) -> None:
    mine, path = Volumes(tmp_path / "7" / "devices.json"), Path("/dev", storage, "web-disk0.qcow2")
    mine.make(path, 33 * MIB + 512, storage, rules)
    assert mine.owns(path)
    assert devices.size_bytes(path) == 36 * MIB  # whole extents
    assert devices.unfit(path, 33 * MIB, (str(path),)) is None
    assert told("lvs", "--noheadings", "-o", "lv_tags", f"{storage}/{path.name}") == "drover"
    mine.let_go()
    aside = leaving.aside(path, 7, rules)
    leaving.set_aside(path, aside, rules)
    assert (devices.is_one(path), devices.is_one(Path(aside))) == (False, True)
    there = devices.status(Path(aside))
    assert there is not None
    assert leaving.free(Path(aside), mark(there), rules)
    assert not devices.is_one(Path(aside))


def test_a_volume_that_another_has_is_left_alone(rules: HostPolicy, tmp_path: Path) -> None:
    path = Path("/dev/thick/web")
    Volumes(tmp_path / "7" / "devices.json").make(path, 8 * MIB, "thick", rules)
    other = Volumes(tmp_path / "8" / "devices.json")
    with pytest.raises(PreconditionFailed, match="exists already"):
        other.make(path, 8 * MIB, "thick", rules)
    other.delete_all(rules)
    assert devices.is_one(path)


def test_a_volume_below_another_or_in_use_is_not_overwritten(rules: HostPolicy) -> None:
    hidden = Path("/dev/mapper/thin-pool_tdata")
    assert "in use (held by dm-" in str(devices.unfit(hidden, MIB, (str(hidden),)))
    drivers.driver("thick", rules).create("web", 8 * MIB)
    path = Path("/dev/thick/web")
    assert "`--overwrite-device /dev/thick/web`" in str(devices.unfit(path, MIB, ()))
    with path.open("rb"):
        assert f"open in process {os.getpid()}" in str(devices.unfit(path, MIB, (str(path),)))
    told("lvchange", "--permission", "r", "thick/web")
    assert "read-only" in str(devices.unfit(path, MIB, (str(path),)))
    told("lvchange", "--permission", "rw", "thick/web")


def test_extents_that_are_missing_are_told_beforehand(rules: HostPolicy, tmp_path: Path) -> None:
    ours, thick, thin = factories.offline(), drivers.driver("thick", rules), drivers.driver("thin", rules)
    assert (thick.takes(33 * MIB), thick.thin, thin.thin) == (36 * MIB, False, True)
    total, free = thick.room() or (0, 0)
    assert 480 * MIB < free <= total <= 512 * MIB
    assert thin.room() == (600 * MIB, 600 * MIB)
    half = free // 2 - MIB  # two of them fit by their bytes, and not by their extents
    disks = [documents.planned_volume(Path("/dev/thick/a"), half, "thick")]
    assert making.device_problems(disks, ours, rules, Layout(), lambda _: 1) == []
    disks += [documents.planned_volume(Path("/dev/thick/b"), half, "thick")]
    [problem] = making.device_problems(disks, ours, rules, Layout(), lambda _: 1)
    assert "the storage thick has" in problem
    thick.create("a", half)
    with pytest.raises(Fatal, match="insufficient free space"):
        thick.create("b", half)


def test_the_room_of_a_pool_is_what_is_not_written_yet(rules: HostPolicy) -> None:
    thin = drivers.driver("thin", rules)
    thin.create("web", 200 * MIB)
    told("dd", "if=/dev/urandom", "of=/dev/thin/web", "bs=1M", "count=60", "oflag=direct")
    total, free = thin.room() or (0, 0)
    assert total - free == pytest.approx(60 * MIB, abs=MIB)


def test_a_volume_whose_pool_is_full_says_so_to_who_writes(rules: HostPolicy) -> None:
    thin = drivers.driver("thin", rules)
    thin.create("web", 700 * MIB)
    full = subprocess.run(
        ["dd", "if=/dev/zero", "of=/dev/thin/web", "bs=4M", "count=170", "oflag=direct"], capture_output=True, text=True
    )
    assert "No space left on device" in full.stderr or "Input/output error" in full.stderr
    thin.remove("web")
    assert not devices.is_one(Path("/dev/thin/web"))
    total, free = thin.room() or (0, 0)
    assert free == total
