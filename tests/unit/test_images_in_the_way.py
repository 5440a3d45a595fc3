"""Messages about a file where an image is to be made: never to remove what may be a guest's."""

from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from workers.images.manifest import Manifest, in_the_way


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs"
    (folder / "7").mkdir(parents=True)
    return folder


def test_the_image_of_a_job_is_left_to_the_job(jobs: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk0.qcow2"
    Manifest(jobs / "7" / "created.json").claim(image)
    said = in_the_way(image, jobs)
    assert said.startswith(f"{image} exists already and belongs to job 7, leave it")
    assert "remove it" not in said


def test_another_job_is_told_likewise_when_it_would_make_the_image(jobs: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk0.qcow2"
    Manifest(jobs / "7" / "created.json").claim(image)
    with pytest.raises(PreconditionFailed, match="belongs to job 7"):
        Manifest(jobs / "8" / "created.json").claim(image)


def test_an_image_in_use_is_left_to_its_user(jobs: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk0.qcow2"
    with image.open("wb"):
        said = in_the_way(image, jobs)
    assert "is in use (pid " in said
    assert "leave it" in said


def test_what_nobody_uses_may_be_moved_away_even_if_some_record_is_damaged(jobs: Path, tmp_path: Path) -> None:
    (jobs / "7" / "created.json").write_text('{"files": {')
    image = tmp_path / "disk0.qcow2"
    image.touch()
    assert in_the_way(image, jobs) == f"{image} exists already: if no guest needs it, move it away"
