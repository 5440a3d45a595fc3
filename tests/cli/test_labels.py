"""Labels on the command line, and lists of what a selector names."""

from datetime import UTC, datetime, timedelta

import pytest

from models.database import transaction
from models.drain import Drain, DrainKind
from models.job import JobState
from models.storage import Storage
from tests import factories
from tests.cli.support import document, drover, insert_job

pytestmark = pytest.mark.usefixtures("database")
LISTS = ("guest", "host", "job", "drain", "storage", "image")


def listed(what: str, selector: str) -> int:
    return len(document(what, "list", "--selector", selector)[f"{what}s"])


def test_lists_show_what_a_selector_names_and_refuse_what_is_none() -> None:
    factories.guest("db", on="hv2")
    insert_job(JobState.RUNNING)
    with transaction() as session:
        session.add_all([Drain(kind=DrainKind.DRAIN, host=name) for name in ("hv1", "hv2")])
        session.add_all([Storage(host=name, name="guests", driver="folder", place="/") for name in ("hv1", "hv2")])
    assert "labels pinned,tier=web" in drover("guest", "set", "web", "--label", "tier=web", "--label", "pinned").stdout
    assert "labels rack=r1" in drover("host", "set", "hv1", "--label", "rack=r1").stdout
    assert [listed(what, "tier=web,pinned") for what in ("guest", "job")] == [1, 1]
    assert [listed(what, "!tier") for what in ("guest", "job")] == [1, 0]
    assert [listed(what, "rack=r1") for what in ("host", "drain", "storage")] == [1, 1, 1]
    assert listed("image", "rack=r1") == 0
    assert [listed(what, "host=hv1|hv2") for what in ("host", "drain", "storage")] == [2, 2, 2]
    for what in LISTS:
        wrong = drover(what, "list", "--selector", "a b")
        assert (wrong.exit_code, "is not understood: write KEY=VALUE" in wrong.stderr) == (2, True), what
    assert drover("host", "set", "hv1", "--label", "host=x").exit_code == 2
    assert "labels pinned" in drover("guest", "set", "web", "--unlabel", "tier").stdout


def test_a_guest_is_kept_from_drains_with_a_reason_and_a_date() -> None:
    day = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"
    for half in (("--never-drain", "licence"), ("--until", day)):
        assert "go together" in drover("guest", "set", "web", *half).stderr
    past = drover("guest", "set", "web", "--never-drain", "licence", "--until", "2020-01-01")
    assert (past.exit_code, "has passed" in past.stderr) == (2, True)
    said = drover("guest", "set", "web", "--never-drain", "licence", "--until", day).stdout
    assert f"it is never drained until {day} 00:00 UTC: licence" in said
    assert document("guest", "list")["guests"][0]["never_drain"] == "licence"
    assert "never drained" not in drover("guest", "set", "web", "--never-drain", "").stdout
