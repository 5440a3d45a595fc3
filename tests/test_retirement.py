"""Images that a guest left behind are deleted beside the heartbeat, with no transaction open."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, text, update

from models.database import transaction
from models.job import Disk, JobState
from models.settings import settings
from tests import fleet_rows
from tests.support import until
from workers import retirement

pytestmark = pytest.mark.usefixtures("database")


def test_an_image_that_takes_long_to_delete_holds_no_transaction_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, begun, go_on = tmp_path / "image", threading.Event(), threading.Event()
    image.touch()
    fleet_rows.host("one")
    fleet_rows.host("two")
    fleet_rows.guest("web", "one")
    job = fleet_rows.job("web", "two", state=JobState.DONE)
    with transaction() as session:
        session.execute(update(Disk).values(retired_path=str(image), retired_until=func.clock_timestamp()))
    unlink = Path.unlink

    def slowly(path: Path, *, missing_ok: bool = False) -> None:
        begun.set()
        go_on.wait(30)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", slowly)
    deleting = threading.Thread(target=retirement.delete_expired, args=(replace(settings(), host="one"),))
    deleting.start()
    assert begun.wait(30)
    idle = text("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
    with transaction() as session:
        assert session.scalar(idle) == 0
    go_on.set()
    deleting.join()
    until("it is gone", lambda: not image.exists())
    assert fleet_rows.load(job).disks[0].retired_until is None
