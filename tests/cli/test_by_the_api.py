"""Commands by the HTTP API: they print what they print by the database, and need neither database nor broker."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drover.settings import API_TOKEN, API_URL
from models.access import Scope
from models.database import transaction
from models.documents import Estimate, Health, Hook
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.event_action import EventAction
from models.guest import Guest
from models.host import Host
from models.job import Job, JobState, record_event
from models.roll import Roll, RollHost
from tests import consoles, factories
from tests.cli import support
from tests.cli.support import Result, document, drover
from workflows import access
from workflows.drain import plans

pytestmark = pytest.mark.thorough

AGO = re.compile(r"\d+ \w+ ago")
READING = (
    "host list",
    "host list --selector rack=r1",
    "guest list",
    "guest list --selector tier=db|web,!pinned",
    "job list --all --guest web",
    "job list --since 7d --guest web",
    "job list --all --guest web --limit 1",
    "job show DONE",
    "job show --key nightly-1",
    "job watch DONE",
    "job explain DONE",
    "job show QUEUED",
    "job complete-now RUNNING",
    "drain list --all",
    "drain show DRAIN",
    "drain watch DRAIN",
    "drain show --key kernel-1",
    "roll list --all",
    "roll show ROLL",
    "plan list",
    "plan show PLAN",
    "image list",
    "image purge --guest web --dry-run",
    "host headroom --selector host=hv1 --window 22:00-04:00",
)
REFUSED = (
    "job show 999999",
    "job show --key unknown",
    "job cancel DONE",
    "job release QUEUED",
    "job list --selector ==",
    "guest show nobody",
    "migrate web --to nowhere",
    "migrate web --to hv1 --dry-run",
    "drain nowhere --dry-run",
    "drain pause DRAIN",
    "drain set 999999 --priority 3",
    "host cordon nowhere",
    "host set nowhere --label rack=r1",
    "host trust nowhere",
    "guest adopt nobody --host nowhere --qmp /run/q",
    "guest scan --host nowhere",
    "guest forget nobody",
    "host set hv1 --bandwidth 1B/s",
    "host ok-to-drain nowhere",
    "guest set nobody --priority 1",
    "guest set web --never-drain licence",
    "roll show 999999",
    "roll pause 999999",
    "roll set 999999 --max-unavailable 2",
    "roll --host nowhere --hook upgrade",
    "plan show 999999",
    "plan approve 999999",
    "drain report 999999 --json",
    "drain overrule DRAIN web",
    "image list --host nowhere",
    "image purge --job QUEUED",
)


@pytest.fixture
def numbers(database: None) -> dict[str, str]:
    """Rows to show, and what a command may call them."""
    for name, labels in (("db", {"tier": "db"}), ("cache", {"tier": "web", "pinned": ""})):
        factories.guest(name, "hv1", labels=labels)
    with transaction() as session:
        session.get_one(Host, "hv1").labels = {"rack": "r1"}
    estimate = Estimate(copy_s=9.5, switch_s=3, copy_bytes=10**9, link_bytes_per_s=1e8, moves=3)
    health = Health(finished=True, runstate="running", seconds=3, reads=2)
    done = support.insert_job(JobState.DONE, idempotency_key="nightly-1", estimate=estimate, health=health)
    rolled_back = support.insert_job(JobState.ROLLED_BACK)
    queued, running = factories.job("web", "hv2"), factories.job("db", "hv2", state=JobState.RUNNING, hold=True)
    with transaction() as session:
        drain = Drain(kind=DrainKind.DRAIN, host="hv1", state=DrainState.INCOMPLETE, idempotency_key="kernel-1")
        drain.error = "1 guest is left"
        drain.started_at, drain.finished_at = support.BEGUN, support.BEGUN
        drain.guests = [
            DrainGuest(guest="web", position=0, source="hv1", destination="hv2", job_id=done, state=GuestState.MOVED),
            DrainGuest(guest="db", position=1, source="hv1", state=GuestState.SKIPPED, reason="it is too large"),
            DrainGuest(guest="x", position=2, source="hv1", destination="hv2", job_id=rolled_back, estimate_s=7.0),
        ]
        session.add(drain)
        record_event(session, queued, by="test", action=EventAction.SUBMITTED, sentence="web is to move")
        left_behind = session.get_one(Job, done).disks[0]
        left_behind.retired_path, left_behind.retired_until = "/s/0.drover-1", datetime(2099, 1, 1, tzinfo=UTC)
        left_behind.retired_bytes = 10**9
        roll = Roll(max_unavailable=1, hook=Hook(argv=("upgrade",)), back_within=timedelta(minutes=30))
        roll.hosts = [RollHost(host="hv1", position=1, reason="it waits for its turn")]
        session.add(roll)
        session.flush()
        named = {"DONE": done, "QUEUED": queued, "RUNNING": running, "DRAIN": drain.id, "ROLL": roll.id}
    named["PLAN"] = plans.submit(consoles.planned("db", "hv1", "hv2"), "bob")
    return {name: str(number) for name, number in named.items()}


@pytest.fixture
def api(numbers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator["Api"]:
    """A console that answers from this process, and the numbers of what it shows."""
    with consoles.serving(actions=True) as address:
        yield Api(numbers, {API_URL: address, API_TOKEN: access.add("ada", Scope.APPROVE, None)[1]}, monkeypatch)


class Api:
    """Runs commands by the database, and by the API."""

    def __init__(self, numbers: dict[str, str], by_api: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        self.numbers, self.by_api, self.patch = numbers, by_api, patch

    def words(self, command: str) -> list[str]:
        return [self.numbers.get(word, word) for word in command.split()]

    def direct(self, command: str, *more: str) -> Result:
        return drover(*self.words(command), *more)

    def by_http(self, command: str, *more: str) -> Result:
        with self.patch.context() as patch:
            for name, value in self.by_api.items():
                patch.setenv(name, value)
            return drover(*self.words(command), *more)


@pytest.mark.parametrize("command", READING)
def test_a_command_prints_the_same_by_the_database_and_by_the_api(api: Api, command: str) -> None:
    for more in ([], ["--json"]):
        direct, by_http = api.direct(command, *more), api.by_http(command, *more)
        told = [AGO.sub("a moment ago", one.stdout) for one in (by_http, direct)]
        assert (by_http.exit_code, told[0]) == (direct.exit_code, told[1]), by_http.stderr
        assert direct.stdout


@pytest.mark.parametrize("command", REFUSED)
def test_a_refusal_has_the_same_words_and_exit_code(api: Api, command: str) -> None:
    direct, by_http = api.direct(command, "--json"), api.by_http(command, "--json")
    assert (by_http.exit_code, by_http.output) == (direct.exit_code, direct.output)
    assert direct.exit_code == 2


def test_what_is_changed_by_the_api_is_changed_and_its_events_name_the_user(api: Api) -> None:
    for command in (
        "job set QUEUED --priority 5 --window 22:00-04:00 --timezone Europe/Berlin",
        "job release RUNNING",
        "job cancel QUEUED",
        "host cordon hv2",
        "drain resume DRAIN",
        "drain set DRAIN --bandwidth 50M/s",
        "host set hv1 --bandwidth 100M/s --bandwidth-at 08:00-20:00=20M/s --retention 7d --unlabel rack",
        "guest set web --priority 7 --label tier=web --never-drain licence --until 2099-01-01",
        "plan approve PLAN",
        "host trust hv2",
        "guest forget cache",
        "roll set ROLL --max-unavailable 2",
        "roll cancel ROLL",
    ):
        done = api.by_http(command)
        assert done.exit_code in (0, 3), (command, done.output)
    queued = document("job", "show", api.numbers["QUEUED"], code=0)
    assert (queued["priority"], queued["state"]) == (5, "rolled_back")
    assert queued["window"] == {"start": "22:00", "end": "04:00", "timezone": "Europe/Berlin"}
    events = document("job", "explain", api.numbers["RUNNING"])["events"]
    assert ("released", "ada (API)") in {(event["action"], event["by"]) for event in events}
    assert {host["name"]: host["state"] for host in document("host", "list")["hosts"]}["hv2"] == "cordoned"
    assert document("drain", "show", api.numbers["DRAIN"])["options"]["bandwidth_bytes_per_s"] == 50_000_000
    with transaction() as session:
        host, guest = session.get_one(Host, "hv1"), session.get_one(Guest, "web")
        assert (host.bandwidth_bytes_per_s, host.retention, host.labels) == (10**8, timedelta(days=7), {})
        assert host.bandwidth_hours is not None
        assert (guest.priority, guest.labels, guest.never_drain) == (7, {"tier": "web"}, "licence")
    assert [one["by"] for one in document("plan", "show", api.numbers["PLAN"])["approvals"]] == ["ada"]
    roll = document("roll", "show", api.numbers["ROLL"])
    assert (roll["state"], roll["max_unavailable"]) == ("cancelling", 2)
    assert api.by_http("host set hv1 --bandwidth 0 --retention 0").exit_code == 0
    assert api.by_http("host set hv1", "--retention", "").exit_code == 0
    with transaction() as session:
        host = session.get_one(Host, "hv1")
        assert (host.bandwidth_bytes_per_s, host.retention) == (0, None)


def test_a_plan_is_made_reviewed_and_applied_by_the_api_by_two_people(api: Api, tmp_path: Path) -> None:
    factories.limits(plan_approvals=1)
    path = str(tmp_path / "plan.yaml")
    made = api.by_http(f"plan drain hv2 --out {path}")
    assert made.exit_code == 0, made.output
    for command in (f"plan show {path}", f"plan submit {path}"):
        assert api.by_http(command).exit_code == 0
    number = max(row["id"] for row in document("plan", "list")["plans"])
    assert api.by_http(f"plan approve {number}").exit_code == 0
    refused = api.by_http(f"plan apply {path}")
    assert "needs 1 approval of another than ada" in refused.stderr
    applied = api.direct(f"plan apply {number}", "--json")
    assert json.loads(applied.stdout)["host"] == "hv2"


def test_a_roll_is_begun_by_the_api(api: Api) -> None:
    assert api.by_http("roll cancel ROLL").exit_code == 0
    begun = api.by_http("roll --host hv2 --hook upgrade-and-reboot")
    assert "drover roll watch" in begun.stdout, begun.output
    watched = api.by_http("roll watch ROLL --timeout 0")
    assert (watched.exit_code, "not ended after 0 s" in watched.stderr) == (5, True), watched.output
    tried = api.by_http("roll --host gone --hook upgrade --dry-run --json")
    assert json.loads(tried.stdout)["drains"][0]["host"] == "gone", tried.output


@pytest.mark.parametrize("kind", ["job", "drain"])
def test_a_report_is_the_same_by_the_api(api: Api, kind: str) -> None:
    number = {"job": "DONE", "drain": "DRAIN"}[kind]
    for form in ("--html", "--json"):
        direct, by_http = api.direct(f"{kind} report {number} {form}"), api.by_http(f"{kind} report {number} {form}")
        assert by_http.exit_code == 0, by_http.output
        assert without_time(by_http.stdout) == without_time(direct.stdout)


def without_time(text: str) -> str:
    return re.sub(r"\d+", "", text)


def test_a_job_that_needs_an_operator_is_resolved_by_the_api(api: Api) -> None:
    with transaction() as session:
        session.get_one(Job, int(api.numbers["RUNNING"])).state = JobState.NEEDS_OPERATOR
    answer = api.by_http("job resolve RUNNING --owner source --fenced hv2", "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["state"] == "rolled_back"


LAPTOP = """
import json, sys
from contextlib import redirect_stdout
from io import StringIO
from drover.cli import main
for words in json.load(sys.stdin):
    with redirect_stdout(StringIO()) as said:
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, said.getvalue()]))
"""


def test_a_laptop_needs_no_database_and_is_told_what_the_api_does_not_do(api: Api) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("DROVER_")}
    commands = [api.words(f"{command} --json") for command in (*READING, "gc", "fleet show", "guest start web")]
    done = subprocess.run(
        [sys.executable, "-c", LAPTOP],
        env=bare | api.by_api,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    codes = dict(zip(READING, (code for code, _ in answers), strict=False))
    assert {command: code for command, code in codes.items() if code} == {"drain watch DRAIN": 3}, done.stderr
    for code, said in answers[len(READING) :]:
        told = json.loads(said)["error"]["message"]
        assert (code, "is not done by the API" in told, "control node" in told) == (2, True, True), told


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("drover.example.org", "write it as https://"),
        ("http://10.0.0.1:9465", "could read the token"),
        ("http://127.0.0.1:1", "cannot be reached (Connection refused):"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    monkeypatch.setenv(API_URL, url)
    monkeypatch.setenv(API_TOKEN, "drover_x")
    result = drover("host", "list")
    assert told in result.stderr
    assert result.exit_code == (1 if "reached" in told else 2)


def test_names_are_completed_by_the_api(api: Api) -> None:
    asked = {"_DROVER_COMPLETE": "complete_bash", "COMP_WORDS": "drover job list --guest w", "COMP_CWORD": "4"}
    bare = {name: value for name, value in os.environ.items() if not name.startswith("DROVER_")}
    done = subprocess.run([support.DROVER], env=bare | asked | api.by_api, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["web"]
