"""`drover roll`: what is asked for, what is refused, and what is shown."""

from typing import Any

import pytest
from sqlalchemy import update

from drover.cli.exit_codes import ExitCode
from models.database import transaction
from models.host import Host
from models.roll import Roll, RollHost, RollHostState, RollState
from tests.cli.support import document, drover

pytestmark = pytest.mark.usefixtures("database", "answers")


def roll(*words: str, code: int = 0) -> dict[str, Any]:
    return document("roll", *words, "--hook", "upgrade", code=code)


def states(found: dict[str, Any]) -> dict[str, str]:
    return {row["host"]: row["state"] for row in found["hosts"]}


def fails(number: int, why: str) -> None:
    """As the controller would have it."""
    with transaction() as session:
        found = session.get_one(Roll, number)
        found.hosts[0].move(RollHostState.DRAINING)
        found.hosts[0].error = why
        found.error = f"{found.hosts[0].host}: {why}"
        found.move(session, RollState.PAUSED)


def test_a_roll_goes_through_the_hosts_in_the_order_given() -> None:
    found = roll("--host", "hv2", "--host", "hv1")
    assert list(states(found)) == ["hv2", "hv1"]
    assert (found["state"], found["done"], found["total"], found["hook"]) == ("running", 0, 2, ["upgrade"])
    assert document("roll", "list")["rolls"][0]["id"] == found["id"]
    assert f"roll {found['id']}: running, 0 of 2 hosts done" in drover("roll", "show", str(found["id"])).stdout


def test_the_hosts_may_be_named_by_their_labels() -> None:
    with transaction() as session:
        session.execute(update(Host).where(Host.name != "gone").values(labels={"rack": "r1"}))
    number = roll("--hosts", "rack=r1")["id"]
    assert list(states(document("roll", "show", str(number)))) == ["hv1", "hv2"]
    for selector, listed in (("rack=r1", [number]), ("host=hv2,rack", [number]), ("host=gone", []), ("rack=r2", [])):
        for more in ((), ("--since", "1h")):
            found = document("roll", "list", "--selector", selector, *more)["rolls"]
            assert [row["id"] for row in found] == listed, selector


def test_a_dry_run_says_for_each_host_who_would_go_where_and_begins_nothing() -> None:
    found = roll("--host", "hv1", "--host", "hv2", "--dry-run")
    assert [(one["host"], len(one["moves"])) for one in found["drains"]] == [("hv1", 1), ("hv2", 0)]
    assert document("roll", "list", "--all") == {"rolls": []}


def test_watching_ends_when_something_has_failed_and_says_what_to_do() -> None:
    number = roll("--host", "hv1")["id"]
    fails(number, "drain 7 is incomplete")
    watched = drover("roll", "watch", str(number))
    assert watched.exit_code == ExitCode.NEEDS_OPERATOR
    assert f"`drover roll resume {number}` tries that again" in watched.stdout
    assert document("roll", "resume", str(number))["error"] is None


def test_a_paused_roll_goes_on_when_it_is_resumed_and_a_cancelled_one_ends() -> None:
    number = str(roll("--host", "hv1")["id"])
    assert document("roll", "pause", number)["wait_reason"] == f"paused: `drover roll resume {number}`"
    assert document("roll", "resume", number)["state"] == "running"
    assert document("roll", "cancel", number)["state"] == "cancelling"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hook", "upgrade"], "name the hosts either by `--host H`"),
        (["--host", "hv1", "--hosts", "rack=r1", "--hook", "u"], "name the hosts either by `--host H`"),
        (["--hosts", "rack=r9", "--hook", "u"], "no host has the labels 'rack=r9'"),
        (["--host", "nowhere", "--hook", "u"], "there is no host 'nowhere'"),
        (["--host", "hv1", "--hook", "./u"], "'./u' is no name of a hook"),
        (["--host", "hv1", "--hook", "u 'x"], "cannot be split into words"),
        (["--host", "hv1", "--hook", ""], "hook is the name of a hook, and empty"),
        (["--host", "hv1", "--hook", "u", "--hook-timeout", "0"], "--hook-timeout is a number of seconds above 0"),
        (["--host", "hv1", "--hook", "u", "--to", "nowhere"], "there is no host 'nowhere'"),
        (
            ["--host", "hv1", "--host", "hv2", "--hook", "u", "--to", "hv2"],
            "no destination is left: each of hv2",
        ),
        (["show", "4711"], "there is no roll 4711"),
        (["pause", "4711"], "there is no roll 4711"),
    ],
)
def test_what_is_wrong_is_refused_in_one_sentence_and_nothing_begins(words: list[str], said: str) -> None:
    refused = drover("roll", *words)
    assert refused.exit_code == ExitCode.REFUSED
    assert said in refused.stderr
    with transaction() as session:
        assert session.query(RollHost).count() == 0
