"""What a host's role may write of itself and its moves keeps nobody from reading what is read together with it."""

from collections.abc import Iterator

import pytest
from sqlalchemy import func

from drover.broker.app import app
from drover.by_database import ByDatabase
from drover.controller import loop
from drover.metrics import collector
from drover.operations import Wanted
from drover.settings import settings
from drover.views import inbox
from models.database import transaction
from models.job import JobState
from models.storage import Storage
from tests.factories import guest, host, job, load
from workflows import isolation, permissions

pytestmark = pytest.mark.usefixtures("database")

NEWER = "'{\"version\": 99}'"
LARGE = f'{{"total": {10**400}, "remaining": {10**400}, "bytes_per_s": 1}}'
OF_WEB = "job_id = (SELECT id FROM job WHERE guest = 'web')"


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """One of the host that writes, and one of others."""
    monkeypatch.setattr(app, "send_task", lambda *_, **__: None)
    isolation.PAUSES.clear()
    monkeypatch.setattr(loop, "_looked", {})
    for name in ("one", "two", "three"):
        host(name)
    for name, on in (("web", "one"), ("db", "three")):
        guest(name, on, process=f"boot/1/{name}/1")
    with transaction() as session:
        session.add(Storage(host="one", name="s", driver="folder", place="/s", seen_at=func.clock_timestamp()))
    yield job("web", "two", state=JobState.RUNNING), job("db", "two")
    isolation.PAUSES.clear()


@pytest.mark.parametrize(
    "written",
    [
        f"UPDATE host SET qemus = {NEWER}, qemus_at = now(), facts = {NEWER} WHERE name = 'one'",
        f"UPDATE guest SET launcher = {NEWER} WHERE name = 'web'",
        f"UPDATE job SET pace = {NEWER}, ram = {NEWER}, downtime = {NEWER} WHERE guest = 'web'",
        f"UPDATE job SET health = {NEWER}, proof = {NEWER} WHERE guest = 'web'",
        f"UPDATE job SET ram = '{LARGE}' WHERE guest = 'web'",
        "UPDATE job SET downtime = '{\"stopped_at\": 1e300}' WHERE guest = 'web'",
        f"UPDATE disk SET bytes_total = {2**60} WHERE {OF_WEB};"
        " UPDATE job SET pace = '{\"copied_per_s\": 1e-300, \"limit_per_s\": 1}' WHERE guest = 'web';"
        " UPDATE step SET state = 'running', token = 1, owner = 'x', lease_until = now() + interval '1 hour'"
        f" WHERE name = 'await_sync' AND {OF_WEB}",
    ],
)
def test_rows_of_others_are_read_although_one_host_wrote_what_nobody_understands(
    moves: tuple[int, int], written: str
) -> None:
    with transaction() as session:
        session.connection().exec_driver_sql(written)
    loop.tick(settings())
    assert load(moves[1]).state is JobState.RUNNING
    assert collector.Fleet(settings(), lambda: True)._ask_database()
    operator = ByDatabase(permissions.operator())
    assert (len(operator.hosts(None)), len(operator.guests(None))) == (3, 2)
    assert len(operator.jobs(Wanted(everything=True))) == 2
    with transaction() as session:
        assert all(item.document() for item in inbox.items(session, settings()))
