"""A move that does not converge is completed by a pause that is told beforehand; whoever sends obeys meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func

from drover.errors import PreconditionFailed
from models.documents import MigrationOptions, Pace, RamProgress
from models.job import JobState
from tests import factories
from tests.database.test_windows import passed, sentences
from workers.switchover.parameters import SourceParameters, Terms
from workers.switchover.source import UNLIMITED, Source
from workflows import budgets
from workflows.migration import completion

MB = 10**6
SENDING = RamProgress(status="active", transferred=500 * MB, remaining=40 * MB, total=800 * MB, bytes_per_s=20 * MB)


def under_way(**columns: Any) -> int:
    for name in ("one", "two"):
        factories.host(name)
    factories.guest("web", on="one")
    sent = {"ram": SENDING, "cutover_begun_at": func.clock_timestamp()}
    return factories.job("web", "two", **{"state": JobState.RUNNING} | sent | columns)


@pytest.mark.usefixtures("database")
def test_the_price_is_what_is_left_at_the_rate_that_the_budgets_will_allow() -> None:
    number = under_way(options=MigrationOptions(bandwidth_bytes_per_s=MB))
    price = completion.price(number)
    assert (price.guest, price.now_s, price.most_s) == ("web", 2.0, 40.0)
    budgets.define("all", None, None, 10 * MB, None)
    assert (completion.price(number).now_s, completion.price(number).most_s) == (4.0, 80.0)
    assert factories.load(number).options.bandwidth_bytes_per_s == MB, "nothing was changed"


@pytest.mark.usefixtures("database")
def test_an_accepted_pause_is_the_target_and_the_limit_and_a_hold_are_gone() -> None:
    number = under_way(options=MigrationOptions(bandwidth_bytes_per_s=MB), hold=True)
    completion.complete_now(number, 42.0)
    found = factories.load(number)
    assert (found.options.max_downtime_ms, found.options.bandwidth_bytes_per_s, found.hold) == (42_000, 0, False)
    assert "an operator has it completed now: web may stand still for up to 42 s" in sentences(number)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"state": JobState.QUEUED}, "only one that is under way"),
        ({"cancel_requested": True}, "only one that is under way"),
        ({"committed_at": func.now()}, "past the point of no return"),
        ({"window": passed()}, "the window of job .* is closed"),
        (
            {"pace": Pace(copied_per_s=5e6, written_per_s=6e6)},
            "web writes 6.0 MB/s and its disks are copied with 5.0 MB/s",
        ),
    ],
)
@pytest.mark.usefixtures("database")
def test_what_a_pause_cannot_complete_is_refused_and_stays_as_it_is(columns: dict[str, Any], why: str) -> None:
    number = under_way(**columns)
    for ask in (lambda: completion.price(number), lambda: completion.complete_now(number, 5.0)):
        with pytest.raises(PreconditionFailed, match=why):
            ask()
    assert factories.load(number).options == MigrationOptions()


@pytest.mark.parametrize("pause_s", [0.0, -1.0, 2001.0])
def test_a_pause_that_qemu_does_not_take_is_refused(pause_s: float) -> None:
    with pytest.raises(PreconditionFailed, match="cannot be asked for"):
        completion.complete_now(1, pause_s)


def test_the_process_that_sends_obeys_what_changed_and_allows_a_pause_only_once_it_may(tmp_path: Path) -> None:
    told: list[dict[str, int]] = []

    class Guest:
        async def execute(self, command: str, **arguments: int) -> None:
            assert command == "migrate-set-parameters"
            told.append(arguments)

    terms = tmp_path / "terms"
    parameters = SourceParameters(
        qmp="/q", ram="/r", switchover="/s", images=[], journal="/j", mirrors=[], nodes=[], live=True,
        max_downtime_ms=300, bandwidth_bytes_per_s=MB, deadline_s=1.0, devices=[], terms_file=str(terms),
    )  # fmt: skip
    made = object.__new__(Source)
    made.parameters, made.guest, made.may_switch = parameters, Guest(), False  # type: ignore[assignment]
    made.terms = Terms(bandwidth_bytes_per_s=MB, max_downtime_ms=300)
    asyncio.run(made.obey())
    for rate, pause_ms in ((MB, 300), (2 * MB, 300), (0, 900), (0, 900)):
        Terms(bandwidth_bytes_per_s=rate, max_downtime_ms=pause_ms).save(terms)
        asyncio.run(made.obey())
    assert told == [{"max_bandwidth": 2 * MB}, {"max_bandwidth": UNLIMITED}]
    made.may_switch = True
    Terms(bandwidth_bytes_per_s=0, max_downtime_ms=5000).save(terms)
    asyncio.run(made.obey())
    assert told[2:] == [{"downtime_limit": 5000}]
