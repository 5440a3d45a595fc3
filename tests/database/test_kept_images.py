"""Images that guests left behind: listed with their room, purged on request, and by the host where it gets short."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import update

from drover.settings import Settings
from drover.views import inbox
from models.database import transaction
from models.guest import Guest
from models.job import Disk, Job, JobState
from tests import factories
from tests.cli.support import document, drover
from workers.images import records, retention
from workers.storage import room
from workflows import capacity, guests
from workflows.submissions import MigrationSubmission

pytestmark = pytest.mark.usefixtures("database")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def hosts(database: None) -> None:
    for name in ("one", "two"):
        factories.host(name)


def left_behind(guest: str, folder: Path, *, hours: int, bytes_: int = MIB, needed: bool = False) -> tuple[int, Path]:
    """A guest went from host one to host two so many hours ago; its image is kept."""
    factories.guest(guest, "one")
    job = factories.job(guest, "two", state=JobState.DONE, way_back_needed=needed)
    image = folder / f"{guest}.qcow2.drover-{job}"
    image.write_bytes(b"x" * bytes_)
    at = datetime.now(UTC) - timedelta(hours=hours)
    with transaction() as session:
        session.execute(update(Guest).where(Guest.name == guest).values(host="two"))
        session.execute(update(Job).where(Job.id == job).values(committed_at=at))
        session.execute(
            update(Disk)
            .where(Disk.job_id == job)
            .values(retired_path=str(image), retired_until=at + timedelta(days=1), retired_bytes=bytes_)
        )
    records.retired(ours(folder), job).add({str(image): image.stat().st_ino})
    return job, image


def ours(folder: Path) -> Settings:
    return factories.ours(host="one", directory=folder / "worker", guest_root=folder)


def test_kept_images_are_listed_oldest_first_with_the_room_that_they_give(tmp_path: Path) -> None:
    left_behind("web", tmp_path, hours=1)
    left_behind("db", tmp_path, hours=5, bytes_=2 * MIB)
    listed = document("image", "list", "--json")
    assert [(image["guest"], image["takes_bytes"]) for image in listed["images"]] == [("db", 2 * MIB), ("web", MIB)]
    assert listed["takes_bytes"] == 3 * MIB
    assert [image["guest"] for image in document("image", "list", "--older-than", "3h", "--json")["images"]] == ["db"]
    assert document("image", "list", "--host", "two", "--json")["images"] == []
    assert "together 3.1 MB" in drover("image", "list").stdout


def test_hosts_stand_in_the_inbox_before_they_delete_images_by_which_guests_could_go_back(tmp_path: Path) -> None:
    for guest, hours, needed in (("web", 23, False), ("db", 23, False), ("new", 1, False), ("unwell", 23, True)):
        left_behind(guest, tmp_path, hours=hours, needed=needed)
    with transaction() as session:
        found = [item for item in inbox.items(session, ours(tmp_path)) if item.want is inbox.Want.IMAGES]
    assert [(item.about, "(db, web) are deleted from " in item.sentence) for item in found] == [("one", True)]
    assert [command[0] for command in found[0].commands] == ["drover image list --host one", "drover migrate db --back"]


def test_purged_images_are_deleted_by_their_host_and_no_others(tmp_path: Path) -> None:
    _, web = left_behind("web", tmp_path, hours=1)
    _, db = left_behind("db", tmp_path, hours=5)
    assert document("image", "purge", "--guest", "web", "--dry-run", "--json")["gives_bytes"] == MIB
    retention.delete_expired(ours(tmp_path))
    assert web.exists()
    assert drover("image", "purge", "--guest", "web").exit_code == 0
    retention.delete_expired(ours(tmp_path))
    assert (web.exists(), db.exists()) == (False, True)


def test_a_purge_that_names_nothing_is_refused(tmp_path: Path) -> None:
    _, web = left_behind("web", tmp_path, hours=1)
    for words in ((), ("--all", "--guest", "web"), ("--job", "99"), ("--host", "nowhere")):
        assert drover("image", "purge", *words).exit_code == 2
    retention.delete_expired(ours(tmp_path))
    assert web.exists()


def test_the_last_way_back_neither_expires_nor_is_purged_until_that_is_said(tmp_path: Path) -> None:
    job, web = left_behind("web", tmp_path, hours=48, needed=True)
    result = drover("image", "purge", "--guest", "web")
    assert f"its check failed after job {job}" in result.stdout
    retention.delete_expired(ours(tmp_path))
    assert web.exists()
    assert document("image", "list", "--json")["images"][0]["last_way_back"]
    assert drover("image", "purge", "--guest", "web", "--last-way-back").exit_code == 0
    retention.delete_expired(ours(tmp_path))
    assert not web.exists()


def test_the_last_way_back_is_an_image_like_others_once_the_guest_has_moved_again(tmp_path: Path) -> None:
    _, web = left_behind("web", tmp_path, hours=48, needed=True)
    factories.job("web", "one", state=JobState.DONE)
    retention.delete_expired(ours(tmp_path))
    assert not web.exists()


@pytest.mark.parametrize("with_its_folder", [False, True])
def test_an_image_that_somebody_has_deleted_is_listed_no_more(tmp_path: Path, with_its_folder: bool) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    job, image = left_behind("web", folder, hours=1)
    here = ours(folder).model_copy(update={"directory": tmp_path / "worker"})
    records.retired(here, job).add({str(image): image.stat().st_ino})
    retention.delete_expired(here)
    assert len(document("image", "list", "--json")["images"]) == 1
    image.unlink()
    if with_its_folder:
        shutil.rmtree(folder)
    retention.delete_expired(here)
    assert document("image", "list", "--json")["images"] == []
    assert not records.retired(here, job).path.exists()


def test_an_image_whose_file_system_is_not_mounted_is_kept(tmp_path: Path) -> None:
    mount, aside = tmp_path / "mount", tmp_path / "aside"
    (mount / "web").mkdir(parents=True)
    _, image = left_behind("web", mount / "web", hours=1)
    here = ours(tmp_path)
    mount.rename(aside)
    mount.mkdir()
    retention.delete_expired(here)
    mount.rmdir()
    aside.rename(mount)
    assert document("image", "list", "--json")["images"][0]["path"] == str(image)


def test_an_image_of_a_move_that_has_not_ended_may_not_be_in_its_place_yet(tmp_path: Path) -> None:
    job, image = left_behind("web", tmp_path, hours=1)
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job).values(state=JobState.RUNNING))
    image.unlink()
    retention.delete_expired(ours(tmp_path))
    assert len(document("image", "list", "--json")["images"]) == 1


class Usage(NamedTuple):
    """As of `shutil.disk_usage`."""

    total: int
    used: int
    free: int


def test_a_host_whose_file_system_gets_full_deletes_the_oldest_images_until_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, needed = left_behind("needed", tmp_path, hours=9, needed=True)
    images = [left_behind(name, tmp_path, hours=hours)[1] for name, hours in (("a", 7), ("b", 5), ("c", 1))]

    def usage(_: Path) -> Usage:
        return Usage(100 << 30, 0, (20 << 30) - (images[1].exists() + images[0].exists()) * (9 << 30))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    retention.make_room(ours(tmp_path))
    assert [image.exists() for image in images] == [False, True, True]
    assert needed.exists()
    images[0].touch()  # room is short again, and only what nobody has set aside there
    retention.make_room(ours(tmp_path))
    assert [image.exists() for image in images] == [True, False, True]
    assert needed.exists()


def test_whoever_lacks_room_is_told_what_kept_images_take_there(tmp_path: Path) -> None:
    left_behind("web", tmp_path, hours=1, bytes_=3 * MIB)
    assert room._kept(tmp_path, ours(tmp_path)).startswith(" (images that guests left behind take 3.1 MB there")
    assert room._kept(tmp_path, factories.ours(host="two")) == ""


def disk_left(host: str, planning: Sequence[str] | None = None) -> float:
    with transaction() as session:
        return capacity.rooms(session, factories.ours(), planning=planning)[host].disk_bytes


def test_a_kept_image_does_not_stand_in_the_way_of_the_guest_that_goes_back_to_it(tmp_path: Path) -> None:
    left_behind("web", tmp_path, hours=1, bytes_=7 * MIB)
    left_behind("db", tmp_path, hours=1, bytes_=MIB)
    both = disk_left("one")
    assert disk_left("one", ["web"]) == both + 7 * MIB
    factories.job("web", "one")
    assert disk_left("one") == both + 7 * MIB


def test_a_guest_goes_back_to_where_it_came_from(tmp_path: Path) -> None:
    left_behind("web", tmp_path, hours=1)
    asked = MigrationSubmission.read({"guest": "web", "back": True, "idempotency_key": "k"})
    assert guests.destination(asked) == guests.destination(asked.model_copy(update={"idempotency_key": None})) == "one"
    factories.job("web", "one", state=JobState.DONE, idempotency_key="k")
    with transaction() as session:
        session.execute(update(Guest).values(host="one"))
    assert guests.destination(asked) == "one", "the same submission means the same move"
    assert guests.destination(asked.model_copy(update={"idempotency_key": None})) == "two"


def test_a_guest_that_came_from_nowhere_cannot_go_back(tmp_path: Path) -> None:
    factories.guest("new", "one")
    result = drover("migrate", "new", "--back")
    assert (result.exit_code, "was never moved to one: name a host with --to" in result.stderr) == (2, True)


@pytest.mark.parametrize("words", [(), ("--back", "--to", "two")])
def test_a_move_has_one_destination(tmp_path: Path, words: tuple[str, ...]) -> None:
    factories.guest("web", "one")
    assert drover("migrate", "web", *words).exit_code == 2
