"""Policies of moves: what they decide about a guest, and that every way of moving it follows them and says so."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from drover.cli.exit_codes import ExitCode
from drover.errors import PreconditionFailed
from drover.settings import settings
from models.database import transaction
from models.documents import MigrationOptions
from models.drain import Drain
from models.guest import Guest
from models.job import Job
from tests import factories
from tests.cli.support import document, drover
from workflows import policies, tasks
from workflows.drain import dispatcher, reconciler
from workflows.submissions import MigrationSubmission

pytestmark = pytest.mark.usefixtures("database", "answers")


@pytest.fixture(autouse=True)
def _tier(database: None) -> None:
    drover("guest", "set", "web", "--label", "tier=db")


def policy(name: str, *words: str, priority: int = 10, selector: str = "tier=db") -> dict[str, Any]:
    said = ("policy", "set", name, "--priority", str(priority), "--selector", selector, *words)
    return document(*said)


def refused(*words: str) -> str:
    result = drover(*words)
    assert result.exit_code == ExitCode.REFUSED, result.output
    return result.stderr


def moved(*words: str) -> MigrationOptions:
    """How web would be moved."""
    found = document("migrate", "web", "--to", "hv2", "--dry-run", *words)["options"]
    return MigrationOptions.model_validate(found | {"notice": None})


def newest() -> MigrationOptions:
    with transaction() as session:
        return session.query(Job).order_by(Job.id.desc()).first().options  # type: ignore[union-attr]


def test_a_policy_decides_what_the_move_was_not_asked_for() -> None:
    policy("db", "--max-downtime-ms", "50", "--verify", "--retention", "7d", "--bandwidth", "100M/s")
    how = moved("--bandwidth", "0")
    assert (how.max_downtime_ms, how.verify, how.retention_s) == (50, True, 7 * 86400)
    assert how.bandwidth_bytes_per_s == 0, "that was asked for, although it is the default"
    assert how.policies == {"max_downtime_ms": "db", "verify": "db", "retention_s": "db"}
    assert moved("--no-verify", "--max-downtime-ms", "300").policies.keys() == {"bandwidth_bytes_per_s", "retention_s"}


def test_each_value_is_that_of_the_policy_of_highest_priority_that_decides_it() -> None:
    policy("all", "--max-downtime-ms", "200", "--verify", priority=0, selector="")
    policy("db", "--max-downtime-ms", "50", priority=5)
    policy("web", "--max-downtime-ms", "10", priority=9, selector="tier=web")
    how = moved()
    assert (how.max_downtime_ms, how.verify) == (50, True)
    assert how.policies == {"max_downtime_ms": "db", "verify": "all"}


def test_a_second_policy_of_equal_priority_is_refused_and_the_first_one_stays() -> None:
    policy("db", "--max-downtime-ms", "50")
    said = refused("policy", "set", "other", "--priority", "10", "--verify")
    assert "the policy db has priority 10" in said
    policy("db", "--max-downtime-ms", "60")
    assert [row["name"] for row in document("policy", "list")["policies"]] == ["db"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a policy decides one or more of bandwidth, check"),
        (["--hooks", "../etc"], "hooks: a name that has 1 to 63 letters"),
        (["--hooks", "a\n"], "hooks: a name that has 1 to 63 letters"),
        (["--selector", "a b", "--verify"], "is not understood"),
        (["--bandwidth", "100"], "write 100M/s"),
        (["--bandwidth", "1B/s"], "too low"),
        (["--max-downtime-ms", "2000001"], "max-downtime-ms cannot be 2000001: allowed is 1 to 2000000"),
        (["--watch", "30"], "30 has no unit"),
        (["--most-downtime-ms", "299"], "is 299, less than the target downtime of 300 ms"),
        (["--most-downtime-ms", "9", "--max-downtime-ms", "10"], "is 9, less than the target downtime of 10 ms"),
        (["--no-verify", "--verify-rate", "9M/s"], "--verify-rate is how fast disks are compared"),
    ],
)
def test_what_makes_no_policy_is_refused(words: list[str], said: str) -> None:
    assert said in refused("policy", "set", "db", "--priority", "1", *words)
    assert document("policy", "list")["policies"] == []


def test_guests_dry_runs_and_jobs_say_which_policy_gave_which_value() -> None:
    policy("db", "--max-downtime-ms", "50", "--bandwidth", "100M/s")
    decided = {"bandwidth": "100.0 MB/s by policy db", "max-downtime-ms": "50 by policy db"}
    assert document("guest", "show", "web")["policies"] == decided
    assert "by policies its moves have bandwidth 100.0 MB/s by policy db" in drover("guest", "show", "web").stdout
    dry = drover("migrate", "web", "--to", "hv2", "--dry-run", "--max-downtime-ms", "70").stdout
    assert "How: bandwidth 100.0 MB/s by policy db, max-downtime-ms 70 as asked" in dry
    [move] = document("drain", "hv1", "--dry-run")["moves"]
    assert move["policies"] == decided
    assert "web: bandwidth 100.0 MB/s by policy db" in drover("drain", "hv1", "--dry-run").stdout
    number = document("migrate", "web", "--to", "hv2")["id"]
    assert (
        "how: bandwidth 100.0 MB/s by policy db, max-downtime-ms 50 by policy db"
        in drover("job", "show", str(number)).stdout
    )


def test_nobody_is_asked_before_a_move_that_no_drain_makes() -> None:
    policy("ask", "--notice", "may-move", "--max-downtime-ms", "50")
    asked = "may-move (up to 10 s, without an answer wait) by policy ask"
    assert document("guest", "show", "web")["policies"]["notice"] == asked
    found = document("migrate", "web", "--to", "hv2")["options"]
    assert (found["notice"], found["policies"]) == (None, {"max_downtime_ms": "ask"})


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        ("postcopy,ask", "neither host could go on alone"),
        ("ask,ask", "each once"),
        ("faster", "'faster' is not a list of slow-cpu, slow-writes, longer, ask, give-up"),
    ],
)
def test_a_ladder_of_other_measures_is_refused_wherever_it_is_said(ladder: str, said: str) -> None:
    assert said in " ".join(refused("policy", "set", "x", "--priority", "1", "--ladder", ladder).split())
    assert said in " ".join(refused("migrate", "web", "--to", "hv2", "--ladder", ladder).split())
    with pytest.raises(PreconditionFailed, match=r"ladder is a list of .* \(postcopy is none"):
        MigrationSubmission.read({"guest": "web", "to": "hv2", "ladder": ladder.split(",")})


def test_the_ladder_of_a_move_counts_before_that_of_a_policy() -> None:
    policy("db", "--ladder", "slow-writes,give-up", "--slowest-writes", "2M/s")
    how = moved()
    assert (how.ladder, how.slowest_writes_bytes_per_s) == (("slow-writes", "give-up"), 2_000_000)
    assert moved("--ladder", "ask").ladder == ("ask",)


def test_a_policy_shows_its_guests_and_what_others_decide_instead() -> None:
    policy("db", "--max-downtime-ms", "50", "--verify")
    policy("strict", "--max-downtime-ms", "5", priority=20)
    found = document("policy", "show", "db")
    assert found["decides"] == {"max-downtime-ms": "50", "verify": "yes"}
    assert found["guests"] == {"web": {"max-downtime-ms": "5 by policy strict"}}
    assert document("policy", "remove", "strict") == {"removed": "strict"}
    assert document("policy", "show", "db")["guests"] == {"web": {}}
    assert "there is no policy 'strict'" in refused("policy", "remove", "strict")


def test_a_submission_by_name_and_one_of_the_api_follow_policies_as_the_command_does() -> None:
    policy("db", "--max-downtime-ms", "50", "--verify")
    factories.limits(signed_submissions=False)
    tasks.submit(guest="web", to="hv2", idempotency_key="k", verify=False)
    assert (newest().max_downtime_ms, newest().verify, newest().policies) == (50, False, {"max_downtime_ms": "db"})
    asked = MigrationSubmission.model_validate({"guest": "web", "to": "hv2"}).options()
    assert asked.asked_for == frozenset()


def begun(*words: str) -> int:
    number = int(document("drain", "submit", "hv1", *words)["id"])
    with transaction() as session:
        reconciler.advance(session, session.get_one(Drain, number, with_for_update=True), settings())
    dispatcher.submit(number, "web")
    return number


def test_what_a_drain_was_asked_for_counts_before_policies_and_they_before_the_defaults() -> None:
    policy("db", "--max-downtime-ms", "50", "--verify")
    begun("--max-downtime-ms", "80")
    assert (newest().max_downtime_ms, newest().verify, newest().policies) == (80, True, {"verify": "db"})


def test_a_drain_of_the_version_before_keeps_what_it_was_asked_for() -> None:
    policy("db", "--max-downtime-ms", "50", "--verify")
    before = MigrationOptions.read({"version": 1, "max_downtime_ms": 80, "verify": False})
    with transaction() as session:
        guest = session.get_one(Guest, "web")
    how = policies.of(guest, before)
    assert (how.max_downtime_ms, how.verify, how.policies) == (80, True, {"verify": "db"})


def test_what_an_operator_changes_in_a_job_under_way_is_no_longer_by_a_policy() -> None:
    policy("db", "--max-downtime-ms", "50")
    number = document("migrate", "web", "--to", "hv2")["id"]
    found = document("job", "set", str(number), "--max-downtime-ms", "90")["options"]
    assert (found["max_downtime_ms"], found["policies"], found["given"]) == (90, {}, ["max_downtime_ms"])


def test_a_plan_holds_what_policies_decide_and_a_guest_is_left_if_that_has_changed(tmp_path: Path) -> None:
    policy("db", "--max-downtime-ms", "50")
    path = tmp_path / "plan.yaml"
    document("plan", "drain", "hv1", "--out", str(path))
    assert yaml.safe_load(path.read_text())["moves"][0]["policies"] == {"max-downtime-ms": "50 by policy db"}
    assert "max-downtime-ms 50 by policy db" in drover("plan", "show", str(path)).stdout
    number = int(document("plan", "apply", str(path))["id"])
    policy("db", "--max-downtime-ms", "500")
    with transaction() as session:
        reconciler.advance(session, session.get_one(Drain, number, with_for_update=True), settings())
    dispatcher.submit(number, "web")
    [row] = document("drain", "show", str(number))["guests"]
    assert row["state"] == "skipped"
    assert "policies decide max-downtime-ms 500 by policy db, by the plan max-downtime-ms 50" in row["reason"]


def test_a_limit_by_policy_counts_in_the_estimate_of_a_drain() -> None:
    with transaction() as session:
        session.get_one(Guest, "web").disk_bytes = 10**10
    [unlimited] = document("drain", "hv1", "--dry-run")["moves"]
    policy("db", "--bandwidth", "1M/s")
    [limited] = document("drain", "hv1", "--dry-run")["moves"]
    assert limited["estimate_s"] > 5 * unlimited["estimate_s"]
