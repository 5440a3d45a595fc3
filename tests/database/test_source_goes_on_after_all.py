"""An operator gives a guest back to its source after it ran at the destination: it runs once, and nothing is lost."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drover.errors import Fatal
from models.database import transaction
from models.job import Direction, Event, Job, Side
from models.plain import Evidence
from models.way_back import FormerImage, WayBack
from tests import factories
from tests.helpers import until
from tests.step_contexts import Link, claimed, done, ran_here
from workers import files
from workers.images import records, retention, way_back
from workers.launcher import run
from workers.process import processes
from workers.step import Context
from workflows.migration.links import StepName

pytestmark = pytest.mark.usefixtures("database")


def given_back(folder: Path, link: Link, *, kept: bool = True) -> Context:
    """This link is to be rolled back, and the source is to go on, if `kept`."""
    return claimed(folder, link, Direction.ROLLBACK, kept_by_source=kept)


def ran_on_its_image(ctx: Context) -> tuple[Path, Path]:
    """The guest ran on its image here, and may be started here; both files."""
    ran_here(ctx)
    image = Path(ctx.disks[0].destination_path)
    ctx.directory.manifest.claim(image)
    image.write_text("what it wrote here")
    cold = run.launch_file("web", ctx.settings.directory)
    files.private_folder(cold.parent)
    cold.write_text(json.dumps({"guest": "web"}))
    return image, cold


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Has a process that is not Drover's open a file."""
    started = []

    def by_somebody(path: Path) -> None:
        with path.open() as file:
            reader = subprocess.Popen(["sleep", "300"], stdin=file)
        started.append(reader)
        until("it has it open", lambda: any(found.pid == reader.pid for found in processes.having_open(path)))

    yield by_somebody
    for reader in started:
        reader.kill()
        reader.wait()


def test_nothing_can_start_it_at_the_destination_any_more(tmp_path: Path) -> None:
    ctx = given_back(tmp_path, (StepName.CUTOVER, Side.DESTINATION))
    image, cold = ran_on_its_image(ctx)
    done(ctx)
    done(ctx)
    assert not cold.exists()
    assert image.exists()
    assert ctx.directory.may_run_here, "until the source's side is rolled back"


def test_whoever_has_its_image_open_at_the_destination_runs_it_there_and_all_stays_as_it_is(
    tmp_path: Path, opened: Any
) -> None:
    ctx = given_back(tmp_path, (StepName.CUTOVER, Side.DESTINATION))
    image, cold = ran_on_its_image(ctx)
    opened(image)
    with pytest.raises(Fatal, match=r"web runs on two \(pid \d+\).*systemctl stop drover-guest@web.*drover job retry"):
        done(ctx)
    assert cold.exists()


def test_a_destination_that_nobody_said_to_give_it_back_keeps_it(tmp_path: Path) -> None:
    ctx = given_back(tmp_path, (StepName.CUTOVER, Side.DESTINATION), kept=False)
    _, cold = ran_on_its_image(ctx)
    done(ctx)
    assert cold.exists()


def test_what_it_wrote_at_the_destination_is_kept_there_under_another_name(tmp_path: Path) -> None:
    ctx = given_back(tmp_path, (StepName.MIGRATE_RAM, Side.DESTINATION))
    image, _ = ran_on_its_image(ctx)
    done(ctx)
    kept = tmp_path / f"there.raw.drover-{ctx.job.id}"
    assert kept.read_text() == "what it wrote here"
    assert not image.exists()
    assert not ctx.directory.may_run_here
    assert not ctx.directory.manifest.files(), "prepare_dest_image deletes nothing of it"
    with transaction() as session:
        assert str(kept) in " ".join(event.sentence for event in session.query(Event))


def test_an_image_that_it_came_back_to_and_wrote_to_is_no_way_back_any_more(tmp_path: Path) -> None:
    ctx = given_back(tmp_path, (StepName.MIGRATE_RAM, Side.DESTINATION))
    image, _ = ran_on_its_image(ctx)
    evidence = Evidence(device=1, inode=image.stat().st_ino, size_bytes=1, modified_ns=1, digest="")
    former = FormerImage(
        path=str(image), kept_at=str(tmp_path / "old"), format="raw", virtual_size_bytes=1, evidence=evidence
    )
    way = WayBack(guest="web", job=ctx.job.id, bitmap="b", images=(former,))
    way_back._taken(ctx.directory).write(way)
    done(ctx)
    way_back.put_back(ctx)  # as prepare_dest_image does next
    assert not (tmp_path / "old").exists()
    assert not list(way_back._known(ctx.settings))


def cleared_away(ctx: Context) -> tuple[Path, Path, Path]:
    """`cleanup` has set the source's image aside, and a TPM's state, and taken the launch file."""
    suffix = f"drover-{ctx.job.id}"
    image, state = (Path(f"{ctx.disks[0].source_path}.{suffix}"), ctx.settings.guest_root / f"tpm.{suffix}")
    for path, record in ((image, records.retired), (state, records.retired_more)):
        path.write_text("of the switchover")
        files.private_folder(record(ctx.settings, ctx.job.id).path.parent)
        record(ctx.settings, ctx.job.id).add({str(path): path.stat().st_ino})
    launch = ctx.directory.path / "launch.json"
    launch.write_text("{}")
    with transaction() as session:
        disk = session.get_one(Job, ctx.job.id).disks[0]
        disk.retired_path, disk.retired_until = str(image), disk.job.created_at
    return image, state, launch


def test_the_source_gets_back_all_that_it_had_cleared_away(tmp_path: Path) -> None:
    ctx = given_back(tmp_path, (StepName.CUTOVER, Side.SOURCE))
    cleared_away(ctx)
    cold = run.launch_file("web", ctx.settings.directory)
    files.private_folder(cold.parent)
    done(ctx)
    done(ctx)
    assert (tmp_path / "here.raw").read_text() == "of the switchover"
    assert (tmp_path / "tpm").exists()
    assert cold.exists()
    retention.delete_expired(ctx.settings)
    assert (tmp_path / "here.raw").exists()
    assert factories.load(ctx.job.id).disks[0].retired_path is None


def test_a_worker_that_died_while_it_gave_a_name_back_is_followed_by_one_that_ends_it(tmp_path: Path) -> None:
    ctx = given_back(tmp_path, (StepName.CUTOVER, Side.SOURCE))
    image, _, _ = cleared_away(ctx)
    (tmp_path / "here.raw").hardlink_to(image)
    (ctx.directory.path / "launch.json").unlink()
    done(ctx)
    assert (tmp_path / "here.raw").exists()
    assert not image.exists()


def test_what_has_taken_the_place_of_its_image_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    ctx = given_back(tmp_path, (StepName.CUTOVER, Side.SOURCE))
    image, _, _ = cleared_away(ctx)
    (tmp_path / "here.raw").write_text("somebody's")
    with pytest.raises(FileExistsError):
        done(ctx)
    assert (tmp_path / "here.raw").read_text() == "somebody's"
    assert image.exists()
