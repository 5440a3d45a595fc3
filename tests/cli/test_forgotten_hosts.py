"""A hypervisor that is gone for good is taken off the lists, unless something still needs it, and may come back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, update

from drover.metrics import gauges
from drover.settings import settings
from drover.views import fleet, inbox
from models.database import transaction
from models.documents import Hook
from models.drain import Drain, DrainKind
from models.guest import Guest
from models.host import Host, HostState
from models.job import Disk, JobState
from models.roll import Roll, RollHost
from tests import factories
from tests.cli.support import document, drover
from workflows import capacity, orphans

pytestmark = pytest.mark.usefixtures("database")


def heard() -> None:
    """Its worker starts again."""
    with transaction() as session:
        session.get_one(Host, "gone").heartbeat_at = func.clock_timestamp()


def shown() -> set[str]:
    """Wherever hosts are shown or asked: those that are shown anywhere."""
    ours = settings()
    with transaction() as session:
        found = {room.name for room in fleet.rooms(session, ours)} | set(capacity.rooms(session, ours))
        found |= {item.about for item in inbox.items(session, ours)}
        now = datetime.now(UTC)
        for metric in (*gauges.of_hosts(session, now, ours), *gauges.of_jobs(session, now, ours)):
            found |= {sample.labels["host"] for sample in metric.samples if "host" in sample.labels}
    found |= {row["name"] for row in document("host", "list")["hosts"]}
    found |= {row["host"] for row in document("host", "headroom")["hosts"]}
    return found.union(*orphans.hosts())


def test_a_host_that_is_gone_is_listed_no_more_and_takes_no_guest_when_it_is_heard_again(
    answers: dict[str, object],
) -> None:
    assert "gone" in shown()
    done = drover("host", "forget", "gone")
    assert (done.exit_code, "listed no more" in done.stdout) == (0, True)
    assert "gone" not in shown()
    for words in (("cordon", "gone"), ("uncordon", "gone"), ("forget", "gone")):
        refused = drover("host", *words)
        assert refused.exit_code == 2
        assert "there is no host 'gone' any more, it was forgotten: once its worker starts" in refused.stderr
    assert "was forgotten" in drover("drain", "hv1", "--to", "gone", "--dry-run").stderr
    heard()
    assert "gone" in shown()
    assert "gone takes no guest: it was forgotten (`drover host uncordon gone`)" in (
        drover("migrate", "web", "--to", "gone", "--dry-run").stderr
    )
    assert document("host", "uncordon", "gone") == {"name": "gone", "state": "active"}


def guest() -> None:
    factories.guest("db", "gone")


def job() -> None:
    factories.job("web", "gone", state=JobState.NEEDS_OPERATOR)


def drain() -> None:
    with transaction() as session:
        session.add(Drain(kind=DrainKind.RETURN, host="gone"))


def roll() -> None:
    with transaction() as session:
        made = Roll(max_unavailable=1, hook=Hook(argv=("h",)), back_within=timedelta(hours=1))
        made.hosts = [RollHost(host="gone", position=0)]
        session.add(made)


def last_way_back() -> None:
    with transaction() as session:
        session.get_one(Guest, "web").host = "gone"
    moved = factories.job("web", "hv2", state=JobState.DONE, way_back_needed=True)
    with transaction() as session:
        session.get_one(Guest, "web").host = "hv2"
        kept = {"retired_path": "/web", "retired_until": func.now()}
        session.execute(update(Disk).where(Disk.job_id == moved).values(kept))


@pytest.mark.parametrize(
    ("there_is", "remedy"),
    [
        (heard, "systemctl disable --now drover-worker"),
        (guest, "(db): `drover drain gone` moves them"),
        (job, "of web is needs_operator: `drover job explain "),
        (drain, "of it is queued: `drover drain cancel "),
        (roll, "has it: `drover roll cancel "),
        (last_way_back, "`drover image purge --guest web --last-way-back`"),
    ],
)
def test_a_host_that_something_needs_is_not_forgotten(there_is: Callable[[], None], remedy: str) -> None:
    there_is()
    refused = drover("host", "forget", "gone")
    assert refused.exit_code == 2
    assert "gone was not forgotten, nothing was changed: " in refused.stderr
    assert remedy in refused.stderr
    with transaction() as session:
        assert session.get_one(Host, "gone").state is HostState.ACTIVE
