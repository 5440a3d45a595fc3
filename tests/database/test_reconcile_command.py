"""`drover reconcile` looks at every job, whatever became of one of them."""

from typing import Any

import pytest

from drover.errors import PreconditionFailed
from models.job import Job, Side
from tests.cli.support import document, drover
from tests.factories import guest, host, job
from workflows.migration import operator_actions, reconcile
from workflows.migration.reconcile import Look, Owner

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def two(database: None, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Two jobs; the second goes on by what was seen, the first was decided by somebody else meanwhile."""
    for name in ("one", "two"):
        host(name)
    for name in ("web", "db"):
        guest(name, "one")
    first, second = job("web", "two"), job("db", "two")

    def seen(found: Job, *_: Any) -> Look:
        return Look(
            job_id=found.id,
            guest=found.guest,
            seen=dict.fromkeys(Side),
            verdict=reconcile.Verdict(Owner.SOURCE, "it runs there"),
        )

    def resolved(found: Job, *_: Any) -> bool:
        if found.id == first:
            raise PreconditionFailed("it went on while its hosts were asked")
        return True

    monkeypatch.setattr(reconcile, "look", seen)
    monkeypatch.setattr(operator_actions, "by_what_was_seen", resolved)
    return first, second


def test_one_job_that_is_refused_keeps_no_other_from_going_on_and_all_are_told_of(two: tuple[int, int]) -> None:
    result = drover("reconcile")
    assert result.exit_code == 2
    assert "it was left as it is: it went on while its hosts were asked" in result.output
    assert "it goes on: the source owns the guest" in result.output


def test_the_document_says_so_too(two: tuple[int, int]) -> None:
    found = {one["job"]: (one["resolved"], one["refused"]) for one in document("reconcile", code=2)["jobs"]}
    assert found == {two[0]: (False, "it went on while its hosts were asked"), two[1]: (True, None)}
