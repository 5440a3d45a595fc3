"""`drover plan`: a drain's plan as a file."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import delete, update

from drover.cli import backend
from drover.cli.exit_codes import ExitCode
from drover.settings import settings
from models.database import transaction
from models.documents import HostFacts
from models.drain import Drain, DrainGuest, SubmittedPlan
from models.guest import Guest
from tests import factories
from tests.cli.support import document, drover
from workflows.drain import dispatcher, reconciler

pytestmark = pytest.mark.usefixtures("database", "answers")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The plan of hv1, on which is one guest."""
    path = tmp_path / "plan.yaml"
    document("plan", "drain", "hv1", "--out", str(path), "--bandwidth", "100M/s")
    return path


def edit(path: Path, **move: Any) -> None:
    """As a person would, in the only move of the plan."""
    content = yaml.safe_load(path.read_text())
    content["moves"][0] |= move
    path.write_text(yaml.safe_dump(content))


def four_eyes() -> None:
    factories.limits(plan_approvals=1)


def refused(*words: str) -> str:
    result = drover(*words)
    assert result.exit_code == ExitCode.REFUSED, result.output
    return result.stderr


def test_a_plan_says_who_goes_where_why_and_how_long_it_takes(plan: Path) -> None:
    content = yaml.safe_load(plan.read_text())
    [move] = content["moves"]
    assert (content["version"], content["kind"], content["request"]["host"]) == (1, "drain", "hv1")
    assert (move["guest"], move["source"], move["to"]) == ("web", "hv1", "hv2")
    assert move["why"] == "it has the most memory left"
    assert move["estimate_s"] > 0
    assert content["made_by"] == backend.user()
    shown = drover("plan", "show", str(plan)).stdout
    assert "approved by nobody" in shown
    assert document("drain", "list", "--all") == {"drains": []}


def test_what_cannot_be_moved_stands_in_the_plan_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    document("plan", "drain", "hv1", "--out", str(path), "--exclude", "hv2")
    content = yaml.safe_load(path.read_text())
    assert content["moves"] == []
    assert [one["guest"] for one in content["left"]] == ["web"]
    assert "no host takes it" in content["left"][0]["why"]


def test_a_file_that_is_there_is_kept(plan: Path) -> None:
    before = plan.read_text()
    assert f"{plan} is there already" in refused("plan", "drain", "hv1", "--out", str(plan))
    assert plan.read_text() == before


def test_an_applied_plan_is_a_drain_that_moves_its_guests_to_their_targets_once(plan: Path) -> None:
    found = document("plan", "apply", str(plan))
    assert [(row["guest"], row["destination"], row["state"]) for row in found["guests"]] == [("web", "hv2", "waiting")]
    assert found["options"]["bandwidth_bytes_per_s"] == 100_000_000
    assert document("plan", "apply", str(plan))["id"] == found["id"], "applied again it is the same drain"


def test_a_plan_whose_request_contradicts_itself_begins_nothing(plan: Path) -> None:
    content = yaml.safe_load(plan.read_text())
    content["request"]["most_downtime_ms"] = 299
    plan.write_text(yaml.safe_dump(content))
    for way in ("apply", "submit"):
        assert "less than the target downtime of 300 ms" in refused("plan", way, str(plan))
    assert document("drain", "list", "--all")["drains"] == []


def test_a_guest_that_is_skipped_in_the_plan_is_not_moved(plan: Path) -> None:
    edit(plan, skip=True)
    [row] = document("plan", "apply", str(plan))["guests"]
    assert (row["state"], row["reason"]) == ("skipped", "the plan says so")


def test_four_eyes_want_the_approval_of_another_user_than_the_one_who_applies_the_plan(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_eyes()
    assert "needs 1 approval" in refused("plan", "apply", str(plan))
    document("plan", "approve", str(plan))
    assert "has 0" in refused("plan", "apply", str(plan)), "one's own approval does not count"
    monkeypatch.setattr(backend, "user", lambda: "alice")
    assert [one["by"] for one in document("plan", "approve", str(plan))["approvals"]][-1] == "alice"


def test_an_edited_plan_needs_another_approval(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four_eyes()
    with monkeypatch.context() as patch:
        patch.setattr(backend, "user", lambda: "alice")
        document("plan", "approve", str(plan))
    edit(plan, skip=True)
    assert "an edited plan is another one" in refused("plan", "apply", str(plan))
    edit(plan, skip=False)
    assert document("plan", "apply", str(plan))["state"] == "queued"


def test_words_for_people_may_be_edited_without_another_approval(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four_eyes()
    with monkeypatch.context() as patch:
        patch.setattr(backend, "user", lambda: "alice")
        document("plan", "approve", str(plan))
    edit(plan, why="Bob wants it there")
    document("plan", "apply", str(plan))


def test_a_submitted_plan_is_approved_and_applied_by_its_number_and_keeps_it(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_eyes()
    number = str(document("plan", "submit", str(plan))["id"])
    assert document("plan", "submit", str(plan))["id"] == int(number)
    assert "needs 1 approval" in refused("plan", "apply", number)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "user", lambda: "alice")
        assert "approved by alice" in drover("plan", "approve", number).stdout
    [row] = document("plan", "list", "--selector", "host=hv1")["plans"]
    assert document("plan", "list", "--selector", "host=hv2", "--since", "1h") == {"plans": []}
    assert (row["id"], row["state"], row["approved"], row["approvals_wanted"]) == (int(number), "waiting", 1, 1)
    assert row["wait_reason"].endswith(f"and has 1: `drover plan apply {number}` begins it")
    drain = document("plan", "apply", number)["id"]
    assert document("plan", "apply", str(plan))["id"] == drain, "by its file it is the same"
    assert document("plan", "list") == {"plans": []}
    told = drover("drain", "show", str(drain)).stdout
    assert f"it follows plan {number}: approved by alice, applied by {backend.user()}" in told
    shown = document("plan", "show", number)
    assert (shown["state"], shown["drain"], shown["applied_by"]) == ("applied", drain, backend.user())
    assert f"plan {number} was applied" in refused("plan", "approve", number)
    assert f"it is drain {drain}" in refused("plan", "withdraw", number)


def test_who_has_approved_a_plan_may_not_apply_it_and_is_told_that_another_user_may(plan: Path) -> None:
    four_eyes()
    number = str(document("plan", "submit", str(plan))["id"])
    assert "`drover plan submit FILE` puts it into the inbox" in refused("plan", "apply", number)
    document("plan", "approve", number)
    told = refused("plan", "apply", number)
    assert f"has 0: that of {backend.user()} lets another user apply it" in told


def test_a_plan_that_is_refused_when_it_is_applied_from_its_file_does_not_stand_in_the_inbox(plan: Path) -> None:
    four_eyes()
    assert "needs 1 approval" in refused("plan", "apply", str(plan))
    assert document("plan", "list", "--all") == {"plans": []}


def test_a_withdrawn_plan_is_applied_by_nobody_and_submitted_again_needs_other_approvals(plan: Path) -> None:
    number = str(document("plan", "submit", str(plan))["id"])
    document("plan", "approve", number)
    document("plan", "withdraw", number)
    for action in ("approve", "apply"):
        assert f"was withdrawn by {backend.user()}" in refused("plan", action, number)
    again = document("plan", "submit", str(plan))
    assert (str(again["id"]), again["state"], again["approvals"]) == (number, "waiting", [])


def test_a_plan_that_a_version_before_has_applied_answers_its_drain(plan: Path) -> None:
    number = document("plan", "submit", str(plan))["id"]
    drain = document("plan", "apply", str(plan))["id"]
    with transaction() as session:
        session.execute(delete(SubmittedPlan).where(SubmittedPlan.id == number))
    assert document("plan", "apply", str(plan))["id"] == drain


def test_what_is_no_number_of_a_plan_is_told() -> None:
    for action in ("show", "approve", "apply", "withdraw"):
        assert "there is no plan 77: see `drover plan list --all`" in refused("plan", action, "77")


def test_a_dry_run_says_which_guests_are_no_longer_as_the_plan_says(plan: Path) -> None:
    assert document("plan", "apply", str(plan), "--dry-run")["differences"] == {}
    with transaction() as session:
        session.execute(update(Guest).where(Guest.name == "web").values(uuid="another"))
    edit(plan, uuid="the former")
    found = document("plan", "apply", str(plan), "--dry-run", code=ExitCode.ROLLED_BACK)
    assert "by the plan the former" in found["differences"]["web"]
    with transaction() as session:
        assert session.query(Drain).count() == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"to": "nowhere"}, "there is no host 'nowhere'"),
        ({"guest": "nobody"}, "there is no guest 'nobody' (any more)"),
        ({"tu": "hv2"}, "moves.0.tu"),
        ({"skip": "perhaps"}, "moves.0.skip"),
        ({"to": "../etc"}, "moves.0.to"),
        ({"estimate_s": -1.0}, "moves.0.estimate_s"),
        ({"estimate_s": float("inf")}, "moves.0.estimate_s"),
        ({"uuid": "a\0b"}, "moves.0.uuid"),
    ],
)
def test_a_mistake_in_an_edited_plan_is_named_before_anything_is_changed(
    plan: Path, change: dict[str, Any], said: str
) -> None:
    edit(plan, **change)
    assert said in refused("plan", "apply", str(plan))
    with transaction() as session:
        assert session.query(Drain).count() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("moves: [", "is no YAML"),
        ("[1, 2]", "is no plan that can be used"),
        ("version: 99", "was written in version 99 by a newer Drover"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
        ("", "is empty; `drover plan drain HOST --out FILE` writes one"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert said in refused("plan", "show", str(path))


def test_a_guest_named_twice_is_refused(plan: Path) -> None:
    content = yaml.safe_load(plan.read_text())
    content["moves"] *= 2
    plan.write_text(yaml.safe_dump(content))
    assert "named more than once: web" in refused("plan", "show", str(plan))


def begun(plan: Path) -> int:
    """The drain of a plan once a controller has chosen its guests."""
    number = int(document("plan", "apply", str(plan))["id"])
    with transaction() as session:
        reconciler.advance(session, session.get_one(Drain, number, with_for_update=True), settings())
    return number


def guests(number: int) -> dict[str, tuple[str, str | None]]:
    return {row["guest"]: (row["state"], row["reason"]) for row in document("drain", "show", str(number))["guests"]}


def test_each_guest_is_compared_right_before_its_turn_and_one_that_differs_is_left_with_the_difference(
    plan: Path,
) -> None:
    number = begun(plan)
    with transaction() as session:
        row = session.get_one(DrainGuest, (number, "web"))
        assert row.planned is not None
        row.planned = row.planned.model_copy(update={"memory_bytes": row.planned.memory_bytes + 1})
    dispatcher.submit(number, "web")
    state, why = guests(number)["web"]
    assert state == "skipped"
    assert "web is not as the plan says: its memory_bytes is" in str(why)
    assert document("job", "list", "--all") == {"jobs": []}


def test_a_guest_that_is_as_planned_gets_its_job(plan: Path) -> None:
    dispatcher.submit(begun(plan), "web")
    [found] = document("job", "list", "--all")["jobs"]
    assert (found["guest"], found["destination"]) == ("web", "hv2")


def test_a_guest_that_is_not_in_the_plan_is_not_moved(plan: Path) -> None:
    factories.guest("late", "hv1")
    assert guests(begun(plan))["late"] == ("skipped", "it is not in the plan that the drain follows")


def test_no_guest_of_a_plan_is_sent_elsewhere_when_its_target_refuses_it(plan: Path) -> None:
    factories.host("hv3", facts=HostFacts())
    number = begun(plan)
    with transaction() as session:
        row = session.get_one(DrainGuest, (number, "web"))
        row.refused_by, row.asked_at = {"hv2": "hv2 has no bridge br0"}, None
        reconciler.advance(session, session.get_one(Drain, number, with_for_update=True), settings())
    assert guests(number)["web"] == ("skipped", "by the plan it goes to hv2 or nowhere: hv2 has no bridge br0")


def test_resuming_tries_what_was_left_but_not_what_the_plan_skips(plan: Path) -> None:
    edit(plan, skip=True)
    number = begun(plan)
    assert document("drain", "show", str(number))["state"] == "incomplete"
    document("drain", "resume", str(number))
    assert guests(number)["web"] == ("skipped", "the plan says so")
