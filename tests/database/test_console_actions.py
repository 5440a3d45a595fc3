"""What can be changed through the API: by whom, what is refused, and who is named in its events."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from drover.console import access as console_access
from drover.console.access import LIMITER
from models.access import Action, ApiToken, Bounds, Scope
from models.database import transaction
from models.documents import RamProgress
from models.drain import Drain
from models.host import Host, HostState
from models.job import Event, Job, JobState
from models.roll import Roll, RollState
from tests import consoles, factories
from tests.cli.support import document, drover
from tests.guides import DOCS, scripts
from tests.helpers import until
from workflows import access
from workflows.drain import plans

pytestmark = pytest.mark.thorough

MIGRATION = {"guest": "web", "to": "b"}


def token(scope: Scope = Scope.OPERATE, user: str = "ada") -> dict[str, str]:
    """The header that proves somebody."""
    return {"Authorization": f"Bearer {access.add(user, scope, None)[1]}"}


@pytest.fixture
def api(database: None) -> Iterator[httpx.Client]:
    """A console with actions, and a held job of web, from a to b."""
    with consoles.serving(actions=True) as address, httpx.Client(base_url=f"{address}/api/v1", timeout=60) as client:
        factories.host("a")
        factories.host("b")
        factories.guest("web", "a")
        yield client


def held() -> int:
    return factories.job("web", "b", state=JobState.RUNNING, hold=True)


def refused(answer: httpx.Response, status: int) -> str:
    """What the answer says."""
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_a_job_is_released_and_its_story_says_by_whom(api: httpx.Client) -> None:
    number = held()
    answer = api.post(f"/jobs/{number}/release", headers=token(user="ada@example.org"))
    assert (answer.status_code, answer.json()["id"]) == (200, number)
    with transaction() as session:
        assert not session.get_one(Job, number).hold
        by = session.scalars(select(Event.by).where(Event.job_id == number, Event.action == "released")).one()
    assert by == "ada@example.org (API)"


def test_a_job_under_way_is_changed_and_what_is_left_out_stays(api: httpx.Client) -> None:
    number = held()
    assert api.post(f"/jobs/{number}/set", json={"priority": 5}, headers=token()).status_code == 200
    answer = api.post(f"/jobs/{number}/set", json={"bandwidth_bytes_per_s": 10**8}, headers=token())
    assert answer.status_code == 200
    with transaction() as session:
        job = session.get_one(Job, number)
        assert (job.priority, job.options.bandwidth_bytes_per_s) == (5, 10**8)


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({}, 401, "a token is needed"),
        ({"Authorization": "Bearer drover_guessed"}, 401, "the token is not valid"),
        ({"Authorization": "Basic YWRhOng="}, 401, "a token is needed"),
    ],
)
def test_nobody_changes_anything_without_a_token(
    api: httpx.Client, headers: dict[str, str], status: int, said: str
) -> None:
    number = held()
    answer = api.post(f"/jobs/{number}/cancel", headers=headers)
    assert said in refused(answer, status)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    with transaction() as session:
        assert not session.get_one(Job, number).cancel_requested


def test_each_scope_may_do_what_it_says_and_no_more(api: httpx.Client) -> None:
    number = held()
    with transaction() as session:
        session.execute(update(Job).values(state=JobState.NEEDS_OPERATOR))
    reader, operator, approver = token(Scope.READ), token(Scope.OPERATE), token(Scope.APPROVE)
    decided = {"owner": "source", "fenced": "b"}
    assert api.get("/jobs", headers=reader).status_code == 200
    assert "ada may read only" in refused(api.post(f"/jobs/{number}/retry", headers=reader), 403)
    assert "needs `approve`" in refused(api.post(f"/jobs/{number}/resolve", json=decided, headers=operator), 403)
    assert api.post(f"/jobs/{number}/retry", headers=approver).status_code == 200


def test_a_token_that_is_bound_does_what_it_is_for_and_nothing_else(api: httpx.Client) -> None:
    number = held()

    def bound(**bounds: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {access.add('night', Scope.OPERATE, None, Bounds(**bounds))[1]}"}

    here, there, ends = bound(hosts=("a", "b")), bound(hosts=("a", "c")), bound(actions=(Action.CANCEL,))
    for path, said in (("release", {}), ("set", {"priority": 5}), ("cancel", {})):
        assert "is about b as well" in refused(api.post(f"/jobs/{number}/{path}", json=said, headers=there), 403)
    assert "is about b as well" in refused(api.post("/migrations", json=MIGRATION, headers=there), 403)
    assert "is about b as well" in refused(api.post("/migrations/dry-run", json=MIGRATION, headers=there), 403)
    for path in ("drains", "drains/dry-run"):
        assert "name theirs (`to`)" in refused(api.post(f"/{path}", json={"host": "a"}, headers=there), 403)
    for path in ("hosts/a/cordon", "guests/web/forget", f"jobs/{number}/retry"):
        assert "the token of night is" in refused(api.post(f"/{path}", headers=there), 403)
    roll = {"hosts": ["a"], "hook": "upgrade"}
    assert "this needs one that is not" in refused(api.post("/rolls", json=roll, headers=here), 403)
    assert "is for cancel, and this is `submit`" in refused(api.post(f"/jobs/{number}/release", headers=ends), 403)
    assert api.get("/jobs", headers=there).status_code == 200
    assert api.post(f"/jobs/{number}/release", headers=here).status_code == 200
    assert api.post(f"/jobs/{number}/cancel", headers=ends).status_code == 200


def test_a_token_that_is_revoked_or_has_ended_is_refused_also_to_read(api: httpx.Client) -> None:
    made, text = access.add("ada", Scope.READ, timedelta(days=1))
    headers = {"Authorization": f"Bearer {text}"}
    assert api.get("/hosts", headers=headers).status_code == 200
    with transaction() as session:
        session.execute(update(ApiToken).values(ends_at=func.clock_timestamp()))
    assert api.get("/hosts", headers=headers).status_code == 401
    with transaction() as session:
        session.execute(update(ApiToken).values(ends_at=None))
    access.revoke(made.id)
    assert api.get("/hosts", headers=headers).status_code == 401


def test_what_was_begun_with_a_token_goes_on_when_that_is_renewed(api: httpx.Client) -> None:
    former, text = access.add("ada", Scope.OPERATE, timedelta(days=1))
    headers = {"Authorization": f"Bearer {text}"}
    job, drained = factories.job("web", "b", state=JobState.RUNNING, hold=True), consoles.fleet().drain
    assert api.post(f"/drains/{drained}/pause", headers=headers).status_code == 200
    renewed = token(user="ada")
    access.revoke(former.id)
    assert api.post(f"/jobs/{job}/release", headers=headers).status_code == 401
    assert api.post(f"/jobs/{job}/release", headers=renewed).json()["id"] == job
    assert api.post(f"/drains/{drained}/resume", headers=renewed).json()["state"] == "running"
    with transaction() as session:
        assert session.get_one(Job, job).state is JobState.RUNNING


def test_nothing_can_be_changed_where_actions_are_not_switched_on(database: None) -> None:
    factories.host("a")
    with consoles.serving() as address:
        answer = httpx.post(f"{address}/api/v1/hosts/a/cordon", headers=token(Scope.APPROVE))
    assert "without --actions" in refused(answer, 404)


@pytest.mark.parametrize("told", [True, False])
def test_a_body_without_end_is_refused_whoever_sends_it_before_all_of_it_has_come(
    api: httpx.Client, told: bool
) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(256):
            sent += 1 << 20
            yield b" " * (1 << 20)

    headers = {"Content-Length": str(256 << 20)} if told else {}
    try:
        answer = api.post("/migrations", content=body(), headers=headers)
        assert "more than 2097152 bytes" in refused(answer, 413)
    except httpx.TransportError:
        pass  # it was hung up on
    assert sent < 128 << 20


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"most_downtime_ms": 299}, "most_downtime_ms is 299, less than the target downtime of 300 ms"),
        ({"timezone": "Europe/Berlin"}, "Europe/Berlin is given, and no time in it"),
        ({"window_end": "rollback"}, "window_end is what follows at the end of a window"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(api: httpx.Client, wrong: dict[str, Any], said: str) -> None:
    operator = token()
    for path, wanted in (("migrations", MIGRATION), ("drains", {"host": "a"})):
        assert said in refused(api.post(f"/{path}", json={**wanted, **wrong}, headers=operator), 409)
    assert [api.get(f"/{of}", headers=operator).json()[of] for of in ("jobs", "drains")] == [[], []]


def test_what_cannot_be_done_is_refused_in_the_words_of_the_command(api: httpx.Client) -> None:
    number, operator = held(), token()
    assert "drover job list" in refused(api.post("/jobs/999999/cancel", headers=operator), 404)
    said = refused(api.post("/migrations", json=MIGRATION, headers=operator), 409)
    assert f"job {number}" in said
    assert "no_such" in refused(api.post("/migrations", json={**MIGRATION, "no_such": 1}, headers=operator), 400)
    name = refused(api.post("/migrations", json={**MIGRATION, "guest": "../../x"}, headers=operator), 400)
    assert name.startswith("guest: ")
    assert "JSON" in refused(api.post("/migrations", content=b"{", headers=operator), 400)
    assert "no host 'c'" in refused(api.post("/drains", json={"host": "c"}, headers=operator), 404)


def test_a_submission_with_a_key_that_was_used_returns_the_earlier_job(api: httpx.Client) -> None:
    number = factories.job("web", "b", idempotency_key="nightly-7")
    answer = api.post("/migrations", json={**MIGRATION, "idempotency_key": "nightly-7"}, headers=token())
    assert (answer.status_code, answer.json()["id"]) == (201, number)
    with transaction() as session:
        assert session.scalar(select(func.count(Job.id))) == 1


@pytest.mark.parametrize(("page", "told"), [("api", '"idempotency_key":"nightly-42"'), ("cli", "web")])
def test_what_the_documents_have_typed_asks_the_api(api: httpx.Client, page: str, told: str) -> None:
    factories.host("hv2")
    factories.job("web", "hv2", idempotency_key="nightly-42")
    made = access.add("ada", Scope.OPERATE, None)[1]
    [script] = scripts(DOCS / f"reference/{page}.md", "api")
    address = f"{api.base_url.scheme}://{api.base_url.netloc.decode()}"
    script = script.replace("https://drover.example.org", address).replace("drover_...", made)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["sh", "-e", "-c", script]
    done = subprocess.run(words, env=os.environ | {"PATH": path, "TOKEN": made}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


def test_drains_and_hosts_obey(api: httpx.Client) -> None:
    operator = token()
    assert api.post("/hosts/a/cordon", headers=operator).json()["state"] == "cordoned"
    assert api.post("/hosts/a/uncordon", headers=operator).json()["state"] == "active"
    with transaction() as session:
        assert session.get_one(Host, "a").state is HostState.ACTIVE
    assert refused(api.post("/hosts/nowhere/cordon", headers=operator), 404)
    drained = consoles.fleet().drain
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelling")):
        assert api.post(f"/drains/{drained}/{action}", headers=operator).json()["state"] == state


def test_a_roll_is_begun_paused_and_cancelled_through_the_api(api: httpx.Client) -> None:
    operator = token()
    asked = {"hosts": ["b", "a"], "hook": "upgrade --kernel 6.12"}
    answer = api.post("/rolls", json=asked, headers=operator)
    made = answer.json()
    assert (answer.status_code, made["hook"]) == (201, ["upgrade", "--kernel", "6.12"])
    assert [row["host"] for row in made["hosts"]] == ["b", "a"]
    assert "has a already" in refused(api.post("/rolls", json={"hosts": ["a"], "hook": "u"}, headers=operator), 409)
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelling")):
        assert api.post(f"/rolls/{made['id']}/{action}", headers=operator).json()["state"] == state
    assert refused(api.post("/rolls/999999/pause", headers=operator), 404)


def test_a_paused_roll_is_resumed_by_a_button(site: httpx.Client) -> None:
    number, ada = consoles.fleet().roll, {"X-User": "ada"}
    assert f'href="/rolls/{number}/resume"' in site.get("/inbox", headers=ada).text
    assert "tries again what has failed" in site.get(f"/rolls/{number}/resume", headers=ada).text
    answer = site.post(f"/rolls/{number}/resume", headers=ada)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/rolls/{number}")
    with transaction() as session:
        assert session.get_one(Roll, number).state is RollState.RUNNING


def test_progress_is_told_until_the_job_ends(api: httpx.Client) -> None:
    number = held()
    events: list[dict[str, object]] = []
    with api.stream("GET", f"/jobs/{number}/progress") as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                events.append(json.loads(line.removeprefix("data:")))
                if len(events) == 1:
                    with transaction() as session:
                        session.execute(update(Job).values(state=JobState.DONE, finished_at=func.now()))
    assert [event["state"] for event in events] == ["running", "done"]
    assert refused(api.get("/jobs/999999/progress"), 404)


def test_who_follows_events_leaves_connections_to_others(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    number = held()
    monkeypatch.setattr(console_access, "MOST_STREAMS", 2)
    ada, eve = token(Scope.READ), token(Scope.READ, user="eve")

    def follows(who: dict[str, str]) -> int:
        with api.stream("GET", f"/jobs/{number}/progress", headers=who) as stream:
            return stream.status_code

    with ExitStack() as open_still:
        for path in (f"/jobs/{number}/progress", "/live/jobs"):
            open_still.enter_context(api.stream("GET", path, headers=eve))
        assert (follows(eve), follows(ada)) == (429, 200)
    until("those that have ended do not count", lambda: follows(eve) == 200)


def test_who_guesses_tokens_is_slowed_down(api: httpx.Client) -> None:
    guesses = [api.get("/hosts", headers={"Authorization": f"Bearer {n}"}) for n in range(60)]
    assert {answer.status_code for answer in guesses} == {401, 429}
    assert guesses[-1].headers["Retry-After"] == "60"
    LIMITER.storage.reset()


@pytest.fixture
def site(database: None) -> Iterator[httpx.Client]:
    """A console behind a reverse proxy that says in X-User who asks; ada may operate, grace approve."""
    with (
        consoles.serving(actions=True, people_by="X-User") as address,
        httpx.Client(base_url=address, timeout=60, headers={"Sec-Fetch-Site": "same-origin"}) as client,
    ):
        for name in "ab":
            factories.host(name)
        factories.guest("web", "a")
        access.allow("ada", Scope.OPERATE)
        access.allow("grace", Scope.APPROVE)
        yield client


def test_a_button_shows_only_to_whom_it_obeys(site: httpx.Client) -> None:
    made = consoles.fleet()
    for user, may in (("eve", False), ("ada", True), ("grace", True)):
        shown = site.get("/inbox", headers={"X-User": user}).text
        assert (f'href="/jobs/{made.held}/release"' in shown) == may, user
        assert ("/resolve?owner=source" in shown) == (user == "grace")
        assert f"{user} may" in shown


def test_a_button_says_what_follows_and_does_it_in_the_name_of_the_person(site: httpx.Client) -> None:
    number = held()
    ada = {"X-User": "ada"}
    assert "the guest is moved" in site.get(f"/jobs/{number}/release", headers=ada).text
    with transaction() as session:
        assert session.get_one(Job, number).hold, "to look changes nothing"
    answer = site.post(f"/jobs/{number}/release", headers=ada)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/jobs/{number}")
    with transaction() as session:
        by = session.scalars(select(Event.by).where(Event.job_id == number, Event.action == "released")).one()
    assert by == "ada (console)"
    assert "Set-Cookie" not in answer.headers


def test_a_move_that_does_not_converge_is_completed_by_a_button_for_the_pause_that_its_page_tells(
    site: httpx.Client,
) -> None:
    sending = RamProgress(total=4_000_000_000, remaining=1_000_000_000, bytes_per_s=100_000_000, passes=9)
    number = factories.job("web", "b", state=JobState.RUNNING, ram=sending, cutover_begun_at=func.now())
    with transaction() as session:
        for disk in session.get_one(Job, number).disks:
            disk.bytes_copied, disk.ready_at = disk.bytes_total, func.now()
    ada, path = {"X-User": "ada"}, f"/jobs/{number}/complete-now"
    assert f'href="{path}"' in site.get(f"/jobs/{number}", headers=ada).text
    asked = site.get(path, headers=ada).headers["Location"]
    assert asked == f"{path}?pause_s=40"
    shown = site.get(asked, headers=ada).text
    assert "for up to 10" in shown
    assert site.post(asked, headers={"X-User": "eve"}).status_code == 403
    assert site.post(asked, headers=ada).status_code == 303
    with transaction() as session:
        assert session.get_one(Job, number).options.max_downtime_ms == 40_000
        assert "ada (console)" in session.scalars(select(Event.by).where(Event.job_id == number))


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-User": "ada", "Sec-Fetch-Site": "cross-site"}, "from another site"),
        ({"X-User": "ada", "Sec-Fetch-Site": "same-site"}, "from another site"),
        ({"X-User": ""}, "does not say who you are"),
        ({"X-User": "ada evil"}, "does not say who you are"),
        ({"X-User": "eve"}, "eve may read only"),
    ],
)
def test_a_button_obeys_nobody_else_and_no_other_site(site: httpx.Client, headers: dict[str, str], said: str) -> None:
    number = held()
    answer = site.post(f"/jobs/{number}/release", headers=headers)
    assert answer.status_code == 403
    assert said in answer.text
    with transaction() as session:
        assert session.get_one(Job, number).hold


def test_an_old_browser_is_known_by_the_origin_of_the_form(site: httpx.Client) -> None:
    number = held()
    del site.headers["Sec-Fetch-Site"]
    for origin, status in ((None, 403), ("https://evil.example.org", 403), (str(site.base_url).rstrip("/"), 303)):
        headers = {"X-User": "ada"} | ({"Origin": origin} if origin else {})
        assert site.post(f"/jobs/{number}/release", headers=headers).status_code == status


def test_who_owns_a_guest_is_decided_by_those_who_may_approve(site: httpx.Client) -> None:
    number = held()
    with transaction() as session:
        session.execute(update(Job).values(state=JobState.NEEDS_OPERATOR, error="nobody can tell"))
    path = f"/jobs/{number}/resolve?owner=source&fenced=b"
    assert site.post(path, headers={"X-User": "ada"}).status_code == 403
    assert "belongs to <b>a</b>" in site.get(path, headers={"X-User": "grace"}).text
    assert site.post(path, headers={"X-User": "grace"}).status_code == 303
    assert site.post(f"/jobs/{number}/resolve", headers={"X-User": "grace"}).status_code == 409


def test_a_plan_is_approved_by_a_button_of_who_may_and_applied_by_somebody_else(site: httpx.Client) -> None:
    factories.limits(plan_approvals=1)
    number = plans.submit(consoles.planned("web", "a", "b"), "ada")
    path, ada, grace = f"/plans/{number}", {"X-User": "ada"}, {"X-User": "grace"}
    for page in ("/inbox", path):
        assert f'href="{path}/approve"' not in site.get(page, headers=ada).text
        assert f'href="{path}/approve"' in site.get(page, headers=grace).text
    assert site.post(f"{path}/approve", headers=ada).status_code == 403
    assert "another one applies it" in site.get(f"{path}/approve", headers=grace).text
    assert site.post(f"{path}/approve", headers=grace).headers["Location"] == path
    assert "approved by grace" in site.get(path, headers=ada).text
    assert "needs 1 approval of another than grace" in site.post(f"{path}/apply", headers=grace).text
    assert f'href="{path}/apply"' in site.get("/inbox", headers=ada).text
    applied = site.post(f"{path}/apply", headers=ada)
    with transaction() as session:
        drain = session.scalars(select(Drain)).one()
        assert drain.follows_plan
    assert applied.headers["Location"] == f"/drains/{drain.id}"
    assert "approved by grace" in site.get(f"/drains/{drain.id}", headers=ada).text
    assert 'href="/plans/' not in site.get("/inbox", headers=ada).text


def test_only_who_may_approve_gives_up_the_last_way_back_or_approves_a_plan_by_the_api(api: httpx.Client) -> None:
    number, operator = plans.submit(consoles.planned("web", "a", "b"), "ada"), token(Scope.OPERATE)
    everything = {"everything": True, "last_way_back": True}
    assert "needs `approve`" in refused(api.post("/images/purge", json=everything, headers=operator), 403)
    assert api.post("/images/purge", json=everything, headers=token(Scope.APPROVE)).status_code == 200
    assert "name either some" in refused(api.post("/images/purge", json={}, headers=operator), 409)
    assert "needs `approve`" in refused(api.post(f"/plans/{number}/approve", headers=operator), 403)
    edited = consoles.planned("web", "a", "nowhere").json_object()
    assert "no host 'nowhere'" in refused(api.post("/plans", json=edited, headers=operator), 404)
    assert "tu" in refused(api.post("/plans", json=edited | {"tu": 1}, headers=operator), 400)


def test_who_looks_is_believed_only_behind_a_proxy(database: None) -> None:
    result = drover("console", "--people-by", "X-User", "--actions")
    assert result.exit_code == 2
    assert "--behind-proxy" in result.stderr


def test_a_token_is_shown_once_and_stored_nowhere(database: None) -> None:
    made = document("token", "add", "ada", "--scope", "operate", "--expires", "90d")
    with transaction() as session:
        stored = session.scalars(select(ApiToken)).one()
    assert made["token"].startswith("drover_")
    assert made["token"].encode() not in stored.digest
    (row,) = document("token", "list")["tokens"]
    assert (row["user"], row["scope"], row["valid"]) == ("ada", "operate", True)
    assert made["token"] not in drover("token", "list").output
    assert document("token", "revoke", str(made["id"]))["revoked"]
    assert not document("token", "list")["tokens"][0]["valid"]


def test_a_list_of_tokens_says_what_each_is_bound_to(database: None) -> None:
    made = drover(
        "token",
        "add",
        "night",
        *("--scope", "operate", "--only", "drain"),
        *("--host", "a", "--host", "b"),
        *("--selector", "tier=web"),
    )
    assert "night may operate, bound to drain alone; the hosts a, b; guests with tier=web" in made.output
    (row,) = document("token", "list")["tokens"]
    assert (row["only"], row["hosts"], row["selector"], row["signs_submissions"]) == (
        ["drain"],
        ["a", "b"],
        "tier=web",
        True,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [(["add", "a b"], "cannot be called 'a b'"), (["add", "ada", "--expires", "0"], "has ended already"),
     (["add", "ada", "--scope", "operate", "--only", "roll"], "--only is submit, cancel, drain, not roll"),
     (["add", "ada", "--only", "drain"], "may `operate`, no less and no more"),
     (["add", "ada", "--scope", "operate", "--host", "../x"], "cannot be called"),
     (["add", "ada", "--scope", "operate", "--selector", "=x"], "is not understood"),
     (["revoke", "7"], "there is no token 7")],
)  # fmt: skip
def test_a_token_that_makes_no_sense_is_refused(database: None, words: list[str], said: str) -> None:
    result = drover("token", *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_document_of_a_later_version_within_a_body_is_refused(api: httpx.Client) -> None:
    consoles.fleet()
    hours = [{"window": {"start": "01:00", "end": "02:00", "timezone": "UTC", "version": 99}, "bytes_per_s": 10**8}]
    answer = api.post("/hosts/hv1/set", json={"bandwidth_hours": {"hours": hours}}, headers=token())
    assert answer.status_code == 400
    assert "the document Window was written in version 99 by a newer Drover" in answer.json()["error"]["message"]


def test_every_action_is_described_as_it_answers(api: httpx.Client, tmp_path: Path) -> None:
    """Properties, tried by schemathesis: no error of the server, and only answers that are described."""
    consoles.fleet()
    words = ["--exclude-checks=positive_data_acceptance"]  # names and times mean more than OpenAPI can say
    words += ["--include-method=POST", f"--header=Authorization: {token(Scope.APPROVE)['Authorization']}"]
    told = consoles.tried(f"{api.base_url}openapi.json", tmp_path, "--phases=fuzzing", *words)
    assert told.returncode == 0, told.stdout
