"""Hosts, guests, moving, worker and controller."""

import json
import os
import socket
from datetime import datetime
from typing import Any

import pytest
import typer

from drover.cli import options
from drover.errors import HostRefused
from models.database import transaction
from models.documents import Health
from models.guest import Guest
from models.job import Job, JobState
from models.launcher import Launcher, LauncherKind
from tests.cli.support import document, drover, end_job, insert_job
from workers.preflight import checks


def test_host_list(database: None) -> None:
    rows = {row["name"]: row for row in document("host", "list")["hosts"]}
    assert [rows[name]["alive"] for name in ("hv1", "hv2", "gone")] == [True, True, False]
    assert (rows["hv1"]["guests"], rows["hv2"]["guests"]) == (1, 0)
    assert rows["hv1"]["memory_bytes"] == 16 << 30
    told = drover("host", "list").stdout
    assert "alive" in told
    assert "silent since" in told


def test_guest_list_names_the_job(database: None) -> None:
    assert document("guest", "list")["guests"][0]["job_id"] is None
    number = insert_job(JobState.RUNNING)
    row = document("guest", "list")["guests"][0]
    assert (row["name"], row["host"], row["job_id"], row["moved_at"]) == ("web", "hv1", number, None)
    assert "web" in drover("guest", "list").stdout


def test_adopting(database: None, answers: dict[str, Any]) -> None:
    answers["inspect"]["refusals"] = ["it has a floppy"]
    result = drover("guest", "adopt", "db", "--host", "hv1", "--qmp", "/run/db.sock", "--json")
    assert result.exit_code == 0
    assert result.stderr == "adopted, but cannot be moved yet: it has a floppy\n"
    found = json.loads(result.stdout)
    assert (found["name"], found["movable"], found["inspection"]["refusals"]) == ("db", False, ["it has a floppy"])
    assert datetime.fromisoformat(found["adopted_at"]).tzinfo is not None


def test_showing_a_guest_keeps_its_command_line_secret(database: None, answers: dict[str, Any]) -> None:
    found = document("guest", "show", "web")
    assert found["movable"] is True
    assert found["inspection"]["qemu_version"] == "10.0.2"
    assert found["inspection"]["disks"][0]["path"] == "/g/web.qcow2"
    plain = drover("guest", "show", "web")
    assert "can be moved" in plain.stdout
    assert "hunter2" not in json.dumps(found) + plain.output


def test_a_guest_is_shown_with_the_unit_that_launched_it(database: None, answers: dict[str, Any]) -> None:
    unit = Launcher(kind=LauncherKind.UNIT, name="web.service", restart="always")
    answers["inspect"]["launcher"] = unit.json_object()
    assert "launched by web.service, Restart=always, started at boot" in drover("guest", "show", "web").stdout


def test_a_guest_whose_check_failed_is_shown_with_the_way_home(database: None, answers: dict[str, Any]) -> None:
    assert document("guest", "show", "web")["unwell"] is None
    with transaction() as session:
        session.get_one(Guest, "web").host = "hv2"
        moved = Job(guest="web", source="hv1", destination="hv2", state=JobState.DONE, way_back_needed=True)
        moved.health = Health(finished=True, problems=("its agent does not answer any more",))
        session.add(moved)
    shown = drover("guest", "show", "web").stdout
    assert "after its move to hv2 it was not well: its agent does not answer any more" in shown
    assert "drover migrate web --back" in shown
    assert document("guest", "show", "web")["unwell"]["job"] == moved.id


def test_a_refusal_of_the_host_is_passed_on(database: None, answers: dict[str, Any]) -> None:
    answers["plan_destination"] = "hv2 cannot take web: no room"
    result = drover("migrate", "web", "--to", "hv2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: hv2 cannot take web: no room\n"
    assert document("job", "list", "--all") == {"jobs": []}


def test_dry_run_changes_nothing(database: None, answers: dict[str, Any]) -> None:
    found = document("migrate", "web", "--to", "hv2", "--dry-run")
    assert (found["dry_run"], found["source"], found["destination"], found["ram"]) == (True, "hv1", "hv2", "live")
    assert found["disks"][0]["destination_path"] == "/h/web.qcow2"
    assert "nothing was changed" in drover("migrate", "web", "--to", "hv2", "--dry-run").stdout
    assert document("job", "list", "--all") == {"jobs": []}


def test_what_both_hosts_have_against_a_move_is_told_once(database: None, answers: dict[str, Any]) -> None:
    snapshot, policy = checks.disks.TEMPORARY_FILES.of("-snapshot"), checks.rules.POLICY.found("/x is outside")
    answers["inspect"] |= {"refusals": [snapshot.sentence], "checks": [snapshot.json_object()]}
    there = checks.at_destination([snapshot, policy])
    answers["plan_destination"] = HostRefused("hv2 cannot take web: all", host="hv2", checks=there)
    result = drover("migrate", "web", "--to", "hv2", "--dry-run")
    assert (result.exit_code, result.stderr.count("-snapshot")) == (2, 1)
    assert result.stderr.endswith("; hv2 cannot take web: /x is outside; " + checks.rules.POLICY.remedy + "\n")


def test_migrate_submits(database: None, answers: dict[str, Any]) -> None:
    words = ("migrate", "web", "--to", "hv2", "--bandwidth", "100M/s", "--max-downtime-ms", "50")
    found = document(*words, "--idempotency-key", "k1")
    assert (found["state"], found["idempotency_key"], found["warnings"]) == ("queued", "k1", ["the link is slow"])
    asked = found["options"]
    assert (asked["max_downtime_ms"], asked["bandwidth_bytes_per_s"], asked["thin_factor"]) == (50, 100_000_000, None)
    assert asked["layout"]["disks"] == []
    assert document(*words, "--idempotency-key", "k1")["id"] == found["id"]
    assert document("job", "show", "--key", "k1")["id"] == found["id"]
    again = drover("migrate", "web", "--to", "hv2")
    assert again.exit_code == 2
    assert "is being moved already" in again.stderr


def test_a_key_is_good_for_one_move_only(database: None, answers: dict[str, Any]) -> None:
    document("migrate", "web", "--to", "hv2", "--idempotency-key", "k1")
    result = drover("migrate", "web", "--to", "gone", "--idempotency-key", "k1")
    assert result.exit_code == 2
    assert "use another key" in result.stderr


def test_migrate_wait_ends_with_the_verdict(database: None, answers: dict[str, Any]) -> None:
    first = document("migrate", "web", "--to", "hv2", "--idempotency-key", "k2")
    ending = end_job(first["id"], JobState.DONE, 0.5)
    result = drover("migrate", "web", "--to", "hv2", "--idempotency-key", "k2", "--wait", "--json")
    ending.join()
    assert result.exit_code == 0
    assert json.loads(result.stdout)["state"] == "done"
    assert result.stderr.splitlines()[-1].startswith("done: web lives on hv2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100M/s", 10**8),
        ("1.5G", 1_500_000_000),
        ("64Mi/s", 64 << 20),
        ("512B", 512),
        ("512 b/s", 512),
        ("0", 0),
        ("10 kB/s", 10_000),
        ("2t", 2 * 10**12),
    ],
)
def test_rates(text: str, expected: int) -> None:
    assert options.rate(text) == expected


@pytest.mark.parametrize("text", ["", "fast", "-1M", "1M/h", "1Q", "100", "100/s"])
def test_wrong_rates(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.rate(text)


def test_worker_becomes_celery(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr("workers.celery_worker.main", done.append)
    monkeypatch.setenv("DROVER_HOST", "other")
    monkeypatch.setenv("DROVER_LOG_LEVEL", "info")  # so that it is put back
    monkeypatch.setenv("DROVER_LOG_FORMAT", "text")
    assert drover("worker", "--host", "hv1", "--log-level", "debug", "--log-format", "json").exit_code == 0
    assert os.environ["DROVER_HOST"] == "hv1"
    assert (os.environ["DROVER_LOG_LEVEL"], os.environ["DROVER_LOG_FORMAT"]) == ("debug", "json")
    assert " ".join(done[0]) == "-Q drover.hv1 -n hv1@%h"
    assert drover("controller").exit_code == 0
    assert "DROVER_HOST" not in os.environ
    assert " ".join(done[1]) == "-Q drover.control -n controller@%h -c 4"


def test_a_controller_says_at_once_that_its_metrics_address_is_taken(database: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = drover("controller", "--metrics", f"127.0.0.1:{other.getsockname()[1]}")
    assert result.exit_code == 2
    assert "set --metrics or DROVER_METRICS_ADDRESS" in result.stderr


@pytest.mark.parametrize("name", ["control", "a,b"])
def test_a_host_cannot_be_called_so(database: None, name: str) -> None:
    result = drover("worker", "--host", name)
    assert result.exit_code == 2
    assert f"a host cannot be called {name!r}: a host's name has 1 to 63 letters" in result.stderr


def test_worker_prints_its_document_before_it_begins(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr("workers.celery_worker.main", done.append)
    result = drover("worker", "--host", "hv1", "--json")
    assert json.loads(result.stdout) == {"pid": os.getpid(), "options": list(done[0])}


@pytest.mark.parametrize("words", [["--log-level", "loud"], ["--log-format", "xml"]])
def test_a_way_to_log_that_does_not_exist_is_refused(words: list[str]) -> None:
    result = drover("controller", *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr
