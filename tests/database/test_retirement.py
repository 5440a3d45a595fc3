"""Images that a guest left behind are deleted beside the heartbeat, with no transaction open."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import func, text, update

from models.database import transaction
from models.job import Disk, JobState
from tests import factories
from tests.helpers import until
from workers import files
from workers.images import records, retention

pytestmark = pytest.mark.usefixtures("database")


def test_an_image_that_takes_long_to_delete_holds_no_transaction_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, begun, go_on = tmp_path / "image", threading.Event(), threading.Event()
    image.touch()
    factories.host("one")
    factories.host("two")
    factories.guest("web", "one")
    job = factories.job("web", "two", state=JobState.DONE)
    _expired(image)
    ours = factories.ours(host="one", directory=tmp_path / "worker")
    records.retired(ours, job).add({str(image): image.stat().st_ino})
    unlink = files.unlink

    def slowly(path: Path) -> None:
        begun.set()
        go_on.wait(30)
        unlink(path)

    monkeypatch.setattr(files, "unlink", slowly)
    deleting = threading.Thread(target=retention.delete_expired, args=(ours,))
    deleting.start()
    assert begun.wait(30)
    idle = text("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
    with transaction() as session:
        assert session.scalar(idle) == 0
    go_on.set()
    deleting.join()
    until("it is gone", lambda: not image.exists())
    assert factories.load(job).disks[0].retired_until is None
    assert not records.retired(ours, job).path.exists()


def _expired(image: Path) -> None:
    with transaction() as session:
        session.execute(update(Disk).values(retired_path=str(image), retired_until=func.clock_timestamp()))


def _job() -> int:
    factories.host("one")
    factories.host("two")
    factories.guest("web", "one")
    return factories.job("web", "two", state=JobState.DONE)


def test_a_row_that_names_a_file_which_this_host_did_not_set_aside_deletes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job, ours = _job(), factories.ours(host="one", directory=tmp_path / "worker")
    retention.delete_expired(ours)  # at its first start there was nothing
    image = tmp_path / f"disk0.qcow2.drover-{job}"
    image.touch()
    _expired(image)
    retention.delete_expired(ours)
    assert image.exists()
    assert f"{image} stays for good: this host did not set it aside" in caplog.text
    assert factories.load(job).disks[0].retired_until is None, "it is said once"


def test_another_file_at_the_place_of_a_retired_image_is_left_alone(tmp_path: Path) -> None:
    job, ours = _job(), factories.ours(host="one", directory=tmp_path / "worker")
    image, other = tmp_path / f"disk0.qcow2.drover-{job}", tmp_path / "other"
    image.touch()
    other.touch()
    records.retired(ours, job).add({str(image): image.stat().st_ino})
    other.rename(image)
    _expired(image)
    retention.delete_expired(ours)
    assert image.exists()


@pytest.mark.parametrize(("name", "stays"), [("disk0.qcow2.drover-{}", False), ("passwd", True), ("x.drover-0", True)])
def test_what_an_earlier_version_has_set_aside_is_taken_over_at_the_first_start_by_its_name(
    tmp_path: Path, name: str, stays: bool
) -> None:
    job, ours = _job(), factories.ours(host="one", directory=tmp_path / "worker", guest_root=tmp_path)
    image = tmp_path / name.format(job)
    image.touch()
    with transaction() as session:
        session.execute(update(Disk).values(source_path=str(tmp_path / "disk0.qcow2")))
    _expired(image)
    retention.delete_expired(ours)
    assert image.exists() == stays


def test_what_was_set_aside_beside_the_images_is_deleted_with_the_last_of_them(tmp_path: Path) -> None:
    job, ours = _job(), factories.ours(host="one", directory=tmp_path / "worker")
    image, state = tmp_path / f"disk0.qcow2.drover-{job}", tmp_path / f"tpm2-00.permall.drover-{job}"
    for path, record in ((image, records.retired(ours, job)), (state, records.retired_more(ours, job))):
        path.touch()
        record.add({str(path): path.stat().st_ino})
    retention.delete_expired(ours)
    assert state.exists()
    _expired(image)
    retention.delete_expired(ours)
    assert not image.exists()
    assert not state.exists()
    assert not records.retired_more(ours, job).path.exists()
