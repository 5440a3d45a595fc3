"""What a host itself wrote down of images: {path: inode}, of block devices {path: -number}.

Only those are renamed or deleted, whatever a row says.
"""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from drover.settings import Settings
from workers import files
from workers.files import write_durably


@dataclass(frozen=True)
class ImageRecord:
    """One file of the worker's own."""

    path: Path

    def read(self) -> dict[str, int]:
        """Empty when there is none."""
        try:
            known: dict[str, int] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        return known

    def add(self, images: dict[str, int]) -> None:
        """Write them down beside those that are there."""
        write_durably(self.path, json.dumps(self.read() | images))

    def forget(self, image: Path) -> None:
        """Take out an image that is not there any more."""
        left = {name: inode for name, inode in self.read().items() if name != str(image)}
        if left:
            write_durably(self.path, json.dumps(left))
        else:
            self.path.unlink(missing_ok=True)

    def has(self, image: Path, status: os.stat_result) -> bool:
        """That file, at that path, was written down."""
        return self.read().get(str(image)) == mark(status)


def mark(status: os.stat_result) -> int:
    """How records name what is there: a file by its inode, a block device by its number, below zero."""
    return -status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_ino


def beside(path: Path | str, job_id: int) -> str:
    """Where a file is put that a job sets aside."""
    return f"{path}.drover-{job_id}"


def retired_folder(settings: Settings) -> Path:
    """Where the records of retired images are."""
    return settings.directory / "retired"


def retired(settings: Settings, job_id: int) -> ImageRecord:
    """The images that a job's guest left behind on this host."""
    return ImageRecord(retired_folder(settings) / f"{job_id}.json")


def way_back(settings: Settings, job_id: int) -> Path:
    """What is known of these images, see `workers.images.way_back`."""
    return ways_back(settings) / f"{int(job_id)}.json"


def ways_back(settings: Settings) -> Path:
    """Where that is known of all."""
    return settings.directory / "ways-back"


def retired_more(settings: Settings, job_id: int) -> ImageRecord:
    """What it left behind besides, which is kept for as long as they are."""
    return ImageRecord(settings.directory / "retired-more" / f"{job_id}.json")


def adopt_retired(settings: Settings, images: dict[int, list[Path]]) -> None:
    """Write down what an earlier version has set aside, by job: once, for the folder is there from then on."""
    draft = retired_folder(settings).with_suffix(".new")
    files.private_folder(draft)
    for job_id, paths in images.items():
        there = {str(path): found.st_ino for path in paths if (found := files.status(path)) is not None}
        if there:
            ImageRecord(draft / f"{job_id}.json").add(there)
    draft.rename(retired_folder(settings))
