"""Images that a guest left behind are deleted beside the heartbeat, with no transaction open."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import func, text, update

from models.database import transaction
from models.job import Disk, JobState
from tests import factories
from tests.helpers import until
from workers.images import retention

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
    with transaction() as session:
        session.execute(update(Disk).values(retired_path=str(image), retired_until=func.clock_timestamp()))
    here = factories.ours(host="one", directory=tmp_path)
    retention.remember(here, job, image, str(image))
    unlink = Path.unlink

    def slowly(path: Path, *, missing_ok: bool = False) -> None:
        begun.set()
        go_on.wait(30)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", slowly)
    deleting = threading.Thread(target=retention.delete_expired, args=(here,))
    deleting.start()
    assert begun.wait(30)
    idle = text("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
    with transaction() as session:
        assert session.scalar(idle) == 0
    go_on.set()
    deleting.join()
    until("it is gone", lambda: not image.exists())
    assert factories.load(job).disks[0].retired_until is None
