"""A file that a QEMU has open and that is not where it was: what brings it back works."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from models.plan import Link
from workers.preflight import astray
from workers.preflight.astray import Identity
from workers.process.processes import DELETED


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """In a folder of the guest's."""
    (tmp_path / "web").mkdir()
    (path := tmp_path / "web" / "disk.raw").write_text("the guest's")
    return path


def opened(path: Path) -> Identity:
    found = astray.file_at(str(path))
    assert found is not None
    return found


def follow(remedy: str | None) -> None:
    """Do what stands in backquotes."""
    assert remedy is not None
    for command in remedy.split("`")[1::2]:
        subprocess.run(shlex.split(command), check=True)


def in_a_new_folder(image: Path) -> Path:
    (image.parent / "sub").mkdir()
    return image.rename(image.parent / "sub" / "it's.raw")


def out_of_its_folder(image: Path) -> Path:
    there = image.rename(image.parents[1] / "x")
    image.parent.rmdir()
    return there


WAYS: dict[str, Callable[[Path], Path]] = {
    "renamed": lambda image: image.rename(image.with_name("old.raw")),
    "moved": in_a_new_folder,
    "folder renamed": lambda image: image.parent.rename(image.parents[1] / "web2") / image.name,
    "folder gone": out_of_its_folder,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_was_moved_is_back_in_its_place(image: Path, way: str) -> None:
    there = WAYS[way](image)
    follow(astray.remedy(str(image), {opened(there): str(there)}))
    assert image.read_text() == "the guest's"


def test_what_is_in_its_place_is_moved_away_first(image: Path) -> None:
    there = image.rename(image.with_name("old.raw"))
    image.write_text("another")
    said = astray.remedy(str(image), {opened(there): str(there)}) or ""
    assert said.startswith(f"move what is at {image} away, then `mv ")


@pytest.mark.parametrize("folder", [False, True])
def test_a_link_that_leads_elsewhere_leads_back(tmp_path: Path, folder: bool) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "disk.raw").write_text(name)
    name, target = ("current", "v2") if folder else ("disk.raw", "v2/disk.raw")
    (tmp_path / name).symlink_to(target)
    there = tmp_path / "v1" / "disk.raw"
    link = Link(path=str(tmp_path / name), target=target)
    follow(astray.remedy(str(tmp_path / "v2" / "disk.raw"), {opened(there): str(there)}, [link]))
    assert (tmp_path / name / "disk.raw" if folder else tmp_path / name).read_text() == "v1"


def test_a_file_that_something_is_mounted_over_needs_it_unmounted(image: Path) -> None:
    said = astray.remedy(str(image), {(1, 1): str(image)}) or ""
    assert said.startswith("`umount ")
    assert "mounted over it" in said


def test_a_file_without_a_name_cannot_be_brought_back(image: Path) -> None:
    other = image.with_name("other.raw")
    other.touch()
    astray_ones = {(1, 1): f"{image}{DELETED}", opened(other): str(other)}
    assert astray.remedy(str(image), astray_ones) is None
    assert astray.remedy(str(image), {(1, 1): "/of a file system that was unmounted"}) is None


def test_of_several_the_one_of_the_same_name_is_meant(image: Path) -> None:
    (image.parent / "sub").mkdir()
    there = image.rename(image.parent / "sub" / "disk.raw")
    (other := image.with_name("other.raw")).touch()
    both = {opened(one): str(one) for one in (there, other)}
    assert astray.remedy(str(image.with_name("third.raw")), both) == f"put it back, it is one of {there}, {other}"
    follow(astray.remedy(str(image), both))
    assert image.read_text() == "the guest's"
