"""What became of the moves."""

from datetime import datetime

import pytest

from drover.cli import backend
from drover.cli.exit_codes import ExitCode
from models.database import transaction
from models.documents import Estimate, Pace
from models.event_action import EventAction
from models.job import Job, JobState, record_event
from tests.cli.support import BEGUN, KEY, NONCE, document, drover, insert_job
from workflows.migration import links


@pytest.mark.parametrize("state", list(JobState))
def test_job_show_in_every_state(database: None, state: JobState) -> None:
    number = insert_job(state, idempotency_key="nightly")
    found = document("job", "show", str(number))
    assert (found["id"], found["guest"], found["source"], found["destination"]) == (number, "web", "hv1", "hv2")
    assert found["state"] == state.value
    assert [(step["name"], step["side"]) for step in found["steps"]] == [
        (name, side.value) for name, side in links.LINKS
    ]
    assert {"name", "host", "side", "state", "attempts", "started_at", "finished_at", "error"} <= set(found["steps"][0])
    assert found["disks"][1] | {"ready_at": None} == found["disks"][1]
    assert (found["disks"][1]["bytes_total"], found["disks"][1]["bytes_copied"]) == (2 << 30, 1 << 30)
    assert found["warnings"] == ["the link is slow"]
    for name in ("created_at", "started_at", "finished_at"):
        assert found[name] is None or datetime.fromisoformat(found[name]).utcoffset() is not None
    if state.settled:
        assert found["total_s"] == 12.5
    assert drover("job", "show", str(number)).exit_code == 0


def test_job_show_when_done(database: None) -> None:
    found = document("job", "show", str(insert_job(JobState.DONE)))
    assert (found["downtime_ms"], found["downtime_phases"]) == (43.21, {"stop": 1.5})
    assert found["ram"] == {
        "bytes_total": 1000, "bytes_transferred": 300, "bytes_remaining": 0, "bytes_per_s": 7, "passes": 3,
        "throttle_percent": 0, "downtime_limit_ms": None,
    }  # fmt: skip


@pytest.mark.parametrize("words", ["job show {}", "job watch {}", "job explain {}", "job list --all", "guest list"])
@pytest.mark.parametrize("state", [JobState.ROLLED_BACK, JobState.NEEDS_OPERATOR])
def test_secrets_are_not_printed(database: None, words: str, state: JobState) -> None:
    number = insert_job(state)
    with transaction() as session:
        record_event(session, number, by="test", action=EventAction.RETRY, sentence=f"no export {NONCE}-1 with {KEY}")
    for more in ([], ["--json"]):
        said = drover(*words.format(number).split(), *more).output
        assert said
        assert NONCE not in said
        assert KEY not in said


def test_job_list(database: None) -> None:
    done = insert_job(JobState.DONE)
    running = insert_job(JobState.RUNNING)
    assert [row["id"] for row in document("job", "list")["jobs"]] == [running]
    assert [row["id"] for row in document("job", "list", "--all")["jobs"]] == [running, done]
    assert [row["id"] for row in document("job", "list", "--all", "--limit", "1")["jobs"]] == [running]
    misspelt = drover("job", "list", "--all", "--guest", "wep")
    assert misspelt.exit_code == ExitCode.REFUSED
    assert "there is no guest 'wep': did you mean web?" in misspelt.stderr
    row = document("job", "list")["jobs"][0]
    assert (row["step"], row["bytes_total"], row["bytes_copied"]) == ("prepare_dest_image", 4 << 30, 2 << 30)
    assert "43 ms" in drover("job", "list", "--all").stdout


def test_what_is_left_of_a_move_that_shares_a_budget_by_now_is_told(database: None) -> None:
    alone = Estimate(
        copy_s=100, switch_s=30, ram_s=20, ram_bytes=200, copy_bytes=1000, link_bytes_per_s=10, limit_bytes_per_s=10
    )
    pace = Pace(copied_per_s=5, limit_per_s=5, copied_under_per_s=5)
    number = insert_job(JobState.RUNNING, estimate=alone, pace=pace, started_at=BEGUN)
    assert document("job", "show", str(number))["eta_s"] > 0
    assert [row["id"] for row in document("job", "list")["jobs"]] == [number]


def test_job_explain(database: None) -> None:
    number = insert_job(JobState.RUNNING)
    events = document("job", "explain", str(number))["events"]
    assert [line["sentence"] for line in events] == ["web is to move", "the link is slow"]
    assert datetime.fromisoformat(events[0]["at"]).tzinfo is not None
    assert "web is to move" in drover("job", "explain", str(number)).stdout


def test_cancel(database: None) -> None:
    number = insert_job(JobState.QUEUED)
    assert document("job", "cancel", str(number))["state"] == "rolled_back"
    assert f"cancellation requested by {backend.user()} (command line)" in [
        line["sentence"] for line in document("job", "explain", str(number))["events"]
    ]
    again = drover("job", "cancel", str(number))
    assert again.exit_code == 2
    assert "has ended" in again.stderr


def test_cancel_past_the_point_of_no_return(database: None) -> None:
    number = insert_job(JobState.RUNNING, committed_at=BEGUN)
    result = drover("job", "cancel", str(number))
    assert result.exit_code == 2
    assert "point of no return" in result.stderr


def test_retry(database: None) -> None:
    number = insert_job(JobState.NEEDS_OPERATOR)
    found = document("job", "retry", str(number))
    assert found["state"] == "running"
    assert drover("job", "retry", str(number)).exit_code == 2


def test_a_move_that_was_rolled_back_tells_no_times_of_parts_that_are_those_of_the_rollback(database: None) -> None:
    number = insert_job(JobState.ROLLED_BACK)
    with transaction() as session:
        job = session.get_one(Job, number)
        for step in job.steps:
            step.started_at = step.finished_at = BEGUN
        for disk in job.disks:
            disk.ready_at = BEGUN
    assert document("job", "show", str(number))["took"] == {"copy_s": None, "ram_s": None}
