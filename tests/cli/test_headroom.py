"""Whether hosts could be emptied, how long it takes, and what stands in the way."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.database import transaction
from models.drain import Drain, DrainKind, DrainState
from models.guest import Guest
from models.job import JobState
from tests.cli.support import document, drover, insert_job
from workflows import guests
from workflows.guests import NeverDrain

pytestmark = pytest.mark.usefixtures("database", "answers")
NOT_OK = 3


def test_a_host_that_can_be_emptied_says_how_long_it_takes() -> None:
    found = document("host", "ok-to-drain", "hv1")
    assert (found["host"], found["ok"], found["guests"], found["obstacles"], found["skipped"]) == (
        "hv1",
        True,
        1,
        [],
        [],
    )
    assert found["total_s"] > 0
    assert drover("host", "ok-to-drain", "hv1").stdout.startswith("hv1 can be emptied: 1 guest moves in about ")
    assert drover("host", "ok-to-drain", "hv2").stdout == "hv2 is empty\n"


def test_the_wait_for_a_window_is_no_part_of_how_long_a_host_takes() -> None:
    opens = datetime.now(UTC) + timedelta(hours=2)
    window = f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M}"
    found = document("host", "ok-to-drain", "hv1", "--window", window)
    assert found["ok"], found
    assert found["total_s"] < 3600


def test_what_stands_in_the_way_is_told_with_what_to_do(answers: dict[str, Any]) -> None:
    number = insert_job(JobState.NEEDS_OPERATOR)
    with transaction() as session:
        session.add(Drain(kind=DrainKind.DRAIN, host="hv1", state=DrainState.PAUSED))
    answers["plan_destination"] = "hv2 cannot take web: no room"
    said = drover("host", "ok-to-drain", "hv1")
    assert said.exit_code == NOT_OK
    assert "is paused: `drover drain show" in said.stdout
    assert f"job {number} of web needs an operator: `drover job explain {number}`" in said.stdout
    found = document("host", "headroom")["hosts"]
    assert [(one["host"], one["ok"]) for one in found] == [("gone", False), ("hv1", False), ("hv2", False)], found
    assert "start it there" in str(found[0]["obstacles"]), "what runs on a silent host nobody knows"


def test_a_destination_that_refuses_stands_in_the_way(answers: dict[str, Any]) -> None:
    answers["plan_destination"] = "hv2 cannot take web: no room"
    [left] = document("host", "ok-to-drain", "hv1", code=NOT_OK)["skipped"]
    assert (left["guest"], "hv2 cannot take web: no room" in left["reason"]) == ("web", True)
    assert document("host", "headroom", "--selector", "host=hv1")["hosts"][0]["ok"], "nobody was asked"


def test_a_guest_that_is_never_drained_and_a_window_that_is_too_short_stand_in_the_way() -> None:
    with transaction() as session:
        session.get_one(Guest, "web").disk_bytes = 10**12
    until = datetime.now(UTC) + timedelta(days=1)
    [reason] = document("host", "headroom", "--selector", "host=hv1", "--window", "03:00-03:05")["hosts"][0][
        "obstacles"
    ]
    assert "and the window 03:00-03:05 UTC lasts 5 min" in reason
    guests.describe("web", never_drain=NeverDrain(reason="licence", until=until))
    assert "never drained until" in document("host", "ok-to-drain", "hv1", code=NOT_OK)["skipped"][0]["reason"]
    assert "licence" in drover("host", "headroom", "--selector", "host=hv1").stdout
