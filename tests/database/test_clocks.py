"""Every moment on record is the database's, however wrong the clock of whoever writes it."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import DateTime, text

from drover.settings import settings
from models.base import Base, now
from models.database import engine, transaction
from models.job import Direction, JobState
from tests.factories import guest, host, job, load
from workflows.migration import claims

pytestmark = pytest.mark.usefixtures("database")

AN_HOUR_AHEAD = """
import datetime, time

class Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(hours=1)

    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(hours=1)

right = time.time
datetime.datetime, time.time = Ahead, lambda: right() + 3600
"""
"""Run before anything else is imported."""


def test_a_process_whose_clock_is_wrong_writes_no_wrong_moment(tmp_path: Path) -> None:
    for name in ("one", "two"):
        host(name)
    for number in range(3):
        guest(f"web-{number}", "one")
    numbers = [
        job("web-0", "two", state=JobState.RUNNING, webhook="http://127.0.0.1:1/"),
        job("web-1", "two", state=JobState.RUNNING, hold=True),
        job("web-2", "two"),
    ]
    program = AN_HOUR_AHEAD + "import runpy; runpy.run_module('tests.all_that_is_written', run_name='__main__')"
    argv = [sys.executable, "-c", program, str(tmp_path), *(str(number) for number in numbers)]
    done = subprocess.run(argv, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    written = moments()
    assert written.keys() >= WRITTEN
    with transaction() as session:
        now: datetime = session.scalars(text("SELECT clock_timestamp()")).one()
    ahead = {where: at for where, at in written.items() if at > now + AFTER.get(where, timedelta(0))}
    assert not ahead


AFTER = {"disk.retired_until": timedelta(hours=24)}
WRITTEN = {
    "job.progress_at",
    "job.committed_at",
    "job.finished_at",
    "step.started_at",
    "step.finished_at",
    "attempt.ended_at",
    "disk.ready_at",
    "disk.retired_until",
    "guest.moved_at",
    "drain.started_at",
    "drain.finished_at",
    "host_request.answered_at",
}
"""What the process must have written at least."""


def moments() -> dict[str, datetime]:
    """The latest moment in each column that has one."""
    found = {}
    with transaction() as session:
        for table in Base.metadata.sorted_tables:
            for column in table.columns:
                if isinstance(column.type, DateTime):
                    latest = session.scalar(text(f'SELECT max({column.name}) FROM "{table.name}"'))
                    if latest is not None:
                        found[f"{table.name}.{column.name}"] = latest
        for told in session.scalars(text("SELECT max(body ->> 'at') FROM delivery")):
            found["delivery.body"] = datetime.fromisoformat(told)
    return found


def test_what_is_counted_from_a_moment_is_right_as_the_clocks_of_the_server_change() -> None:
    with transaction() as session:
        session.execute(text("ALTER DATABASE drover SET timezone = 'Europe/Berlin'"))
    engine().dispose()
    try:
        with transaction() as session:
            assert now(session).utcoffset() == timedelta(0)
            told = text("SELECT timestamptz '2026-10-25 00:59:50Z', timestamptz '2026-10-25 01:00:20Z'")
            before, after = session.execute(told).one()
    finally:
        with transaction() as session:
            session.execute(text("ALTER DATABASE drover RESET timezone"))
    assert after - before == timedelta(seconds=30)
    assert before + timedelta(seconds=30) == after
    assert after.astimezone(UTC) == datetime(2026, 10, 25, 1, 0, 20, tzinfo=UTC)


def test_a_step_that_is_taken_over_keeps_the_time_of_its_first_beginning() -> None:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")
    number = job("web", "two", state=JobState.RUNNING)

    def take() -> claims.Claim:
        step = load(number).steps[0]
        taken = claims.claim(
            job_id=number,
            seq=step.seq,
            name=step.name,
            epoch=load(number).epoch,
            direction=Direction.DO,
            host=step.host,
            owner="x",
            settings=settings(),
        )
        assert taken is not None
        return taken

    claims.hand_back(take())
    first = load(number).steps[0].started_at
    claims.finish(take())
    assert first is not None
    assert load(number).steps[0].started_at == first
