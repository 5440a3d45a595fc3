"""What the console's pages show of rows, how it answers what is wrong, and where it refuses to listen."""

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from drover.console import serving
from drover.errors import PreconditionFailed
from drover.settings import settings
from drover.views import fleet, history, inbox, rolls, timeline
from drover.views.drain_queries import snapshot
from lab.fleet import free_port
from models.base import now
from models.database import transaction
from models.documents import Pace
from models.event_action import EventAction
from models.guest import Guest
from models.host import Host
from models.job import Job, JobState, record_event
from tests import consoles, factories
from tests.cli.support import NONCE, drover
from tests.factories import GB, MB
from workflows.drain import plans

pytestmark = pytest.mark.thorough

PAGES = ("/", "/hosts/hv1", "/jobs", "/jobs?all=1", "/drains", "/rolls", "/inbox", "/history")
INLINE = r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://"


@pytest.fixture
def console(database: None) -> Iterator[httpx.Client]:
    with consoles.serving() as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def test_every_page_answers_without_anything_inline_or_from_elsewhere(console: httpx.Client) -> None:
    made = consoles.fleet()
    jobs = (made.moved, made.copying, made.held, made.stuck, made.unwell)
    for path in (
        *PAGES,
        *(f"/{kind}s/{getattr(made, kind)}" for kind in ("drain", "roll", "plan")),
        *(f"/jobs/{number}" for number in jobs),
    ):
        answer = console.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in answer.headers
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://", answer.text), (
            path
        )


def test_pages_of_an_empty_database_say_what_to_do(console: httpx.Client) -> None:
    for path in ("/jobs", "/drains", "/rolls", "/inbox", "/history"):
        assert console.get(path).status_code == 200
    assert "drover worker --host NAME" in console.get("/").text
    assert "Nothing waits for you" in console.get("/inbox").text


def test_what_is_to_be_entered_stands_as_code_and_nothing_in_a_sentence_is_markup(console: httpx.Client) -> None:
    made = consoles.fleet()
    with transaction() as session:
        session.get_one(Job, made.stuck).error = "see `drover job <i>7`, not <b>this</b> nor a ` alone"
    shown = console.get("/inbox").text
    assert "see <code>drover job &lt;i&gt;7</code>, not &lt;b&gt;this&lt;/b&gt; nor a ` alone" in shown


def test_a_room_shows_what_is_used_and_promised_and_what_arrives_and_leaves(database: None) -> None:
    factories.host("a", guest_memory_bytes=8 * GB, guest_disk_bytes=100 * GB)
    factories.host("b")
    factories.guest("web", "a", memory_bytes=3 * GB)
    factories.guest("db", "b", memory_bytes=2 * GB)
    factories.job("db", "a", state=JobState.RUNNING)
    with transaction() as session:
        a, b = fleet.rooms(session, settings())
    assert (a.memory.used, a.memory.promised, a.memory.free) == (3 * GB, 2 * GB, 3 * GB)
    assert (a.disk.used, a.disk.promised, a.disk.free) == (10 * GB, 10 * GB, 80 * GB)
    assert [move.guest for move in a.arriving] == [move.guest for move in b.leaving] == ["db"]
    assert a.conditions == b.conditions == {"with moves"}


def test_the_fleet_is_filtered_by_text_and_by_state(console: httpx.Client) -> None:
    consoles.fleet()
    assert rooms(console, q="WEB03") == ["hv4"]  # it lives there
    assert rooms(console, q="web11") == ["hv3", "hv4"]  # it is on its way from one to the other
    assert rooms(console, condition="silent") == ["hv4"]
    assert "1 host silent</a>" in console.get("/").text
    assert rooms(console, condition="cordoned") == []
    assert rooms(console, q="hv") == ["hv1", "hv2", "hv3", "hv4"]
    with transaction() as session:
        session.get_one(Guest, "web02").labels = {"tier": "db"}
        session.get_one(Host, "hv1").labels = {"rack": "r1"}
    assert rooms(console, q="tier=db") == ["hv3"]
    assert rooms(console, q="rack=r") == ["hv1"]


def rooms(console: httpx.Client, **query: str) -> list[str]:
    return re.findall(r'id="host-(\w+)"', console.get("/", params=query).text)


def test_many_hosts_are_shown_page_by_page(console: httpx.Client) -> None:
    for number in range(101):
        factories.host(f"h{number:03}")
    assert len(rooms(console)) == 100
    assert rooms(console, page="2") == rooms(console, page="9") == ["h100"]


def test_names_and_sentences_are_shown_as_text_and_without_secrets(console: httpx.Client) -> None:
    factories.host("a")
    factories.host("b")
    factories.guest("web", "a")
    job_id = factories.job("web", "b", state=JobState.RUNNING)
    told = f"<script>alert(1)</script> \u202e export {NONCE}\nsecond line"
    with transaction() as session:
        record_event(session, job_id, by="test", action=EventAction.WARNING, sentence=told)
    shown = console.get(f"/jobs/{job_id}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\u202e export &lt;secret&gt;\\nsecond line" in shown
    assert NONCE not in shown


def test_the_page_of_a_job_tells_its_events_its_downtime_and_estimate(console: httpx.Client) -> None:
    made = consoles.fleet()
    shown = console.get(f"/jobs/{made.moved}").text
    for words in ("web04 lives on hv2", "paused for 48 ms", "device state", "the controller admits it", "4:00"):
        assert words in shown
    assert "drover job cancel" not in shown
    under_way = console.get(f"/jobs/{made.copying}").text
    assert f"drover job cancel {made.copying}" in under_way
    assert "<dt>Took</dt>" in shown
    assert "<dt>So far</dt>" in under_way


def test_the_page_of_a_job_has_curves_of_its_rates_once_there_are_samples(console: httpx.Client) -> None:
    made = consoles.fleet()
    shown = console.get(f"/jobs/{made.moved}").text
    for said in (
        "Rates of its disks over time: copied, at most 116.0 MB/s; written anew by the guest, at most 6.0 MB/s",
        "Rates of its RAM over time: sent, at most 100.0 MB/s; changed by the guest, at most 6.0 MB/s",
    ):
        assert said in shown
    assert shown.count("<polyline") == 4
    assert "Rates of its" not in console.get(f"/jobs/{made.copying}").text


def test_a_drain_has_a_line_for_each_guest_and_expects_those_that_wait_one_after_the_other(database: None) -> None:
    shown = timeline.of_drain(snapshot(consoles.fleet().drain))
    parts = {row.guest.guest: [str(bar.part) for bar in line.bars] for row, line, _ in shown.lines}
    assert parts["web04"] == ["preparation", "copy", "in sync", "RAM", "rest"]
    moved = next(line for row, line, _ in shown.lines if row.guest.guest == "web04")
    assert moved.bars[-2].ended == moved.paused_at, "RAM is sent until the guest is paused"
    assert parts["web08"][-1] == "copy"
    assert parts["web16"] == []
    expected = [span for _, _, span in shown.lines]
    assert expected[0] is None
    [second, third, fourth, fifth] = [span for span in expected if span is not None]
    assert second[0] == third[0] == shown.now
    assert {fourth[0], fifth[0]} == {second[1], third[1]}
    assert shown.ends == max(fourth[1], fifth[1])
    assert len(shown.windows) == 1


def test_what_is_copied_stands_beside_what_may_be(console: httpx.Client) -> None:
    made = consoles.fleet()
    pages = f"/jobs/{made.copying}", f"/drains/{made.drain}"
    assert all("on average</dd>" in console.get(page).text for page in pages)
    with transaction() as session:
        of_drain = (Job.drain_id == made.drain, Job.state == JobState.RUNNING)
        session.execute(update(Job).where(*of_drain).values(pace=Pace(limit_per_s=10 * MB)))
    job, drain = (console.get(page).text for page in pages)
    assert "on average (at most 10.0 MB/s)</dd>" in job
    assert "on average (at most 20.0 MB/s)</dd>" in drain, "two are under way"


def test_a_roll_has_a_line_for_each_host_with_what_was_done_when_and_what_it_waits_for(console: httpx.Client) -> None:
    number = consoles.fleet().roll
    shown = timeline.of_roll(rolls.snapshot(number))
    parts = {row.host.host: [str(bar.part) for bar in line.bars] for row, line, _ in shown.lines}
    assert parts == {"hv3": [], "hv2": ["hook", "coming back"], "hv4": []}
    page = console.get(f"/rolls/{number}").text
    for told in (
        "1 of 3 hosts",
        "So far",
        "hv2 has no QEMU: install it",
        f"drover roll resume {number}",
        '<pre tabindex="0">&lt;b&gt;upgrades\nkernel 6.12 is installed</pre>',
    ):
        assert told in page
    assert f'href="/rolls/{number}"' in console.get("/rolls").text


def test_the_inbox_has_all_that_waits_for_a_person_the_oldest_first_with_commands(console: httpx.Client) -> None:
    made = consoles.fleet()
    with transaction() as session:
        session.execute(update(Guest).where(Guest.name == "web20").values(gone_at=now(session)))
        session.execute(update(Guest).where(Guest.name == "web19").values(twin="pid 7 on hv2 has its UUID"))
        session.execute(update(Host).where(Host.name == "hv2").values(trusted_key="another"))
        items = inbox.items(session, settings())
    assert [item.since for item in items] == sorted(item.since for item in items)
    wants = {(item.want.value, item.about) for item in items}
    assert wants == {
        ("release", f"web06: job {made.held}"),
        ("decide", f"web11: job {made.stuck}"),
        ("host", "hv4"),
        ("host", "hv2"),
        ("guest", "web20"),
        ("guest", "web19"),
        ("approve", f"hv3: plan {made.plan}"),
        ("check", f"web09: job {made.unwell}"),
        ("resume", f"roll {made.roll}"),
    }
    shown = console.get("/inbox").text
    for command in (
        f"drover job release {made.held}",
        "drover reconcile web11",
        f"drover job resolve {made.stuck} --owner source",
        f"drover roll resume {made.roll}",
        f"drover plan approve {made.plan}",
        "drover migrate web09 --back",
    ):
        assert command in shown
    assert "drover host trust hv2" in shown


def test_history_has_the_same_figures_as_page_csv_and_json(console: httpx.Client) -> None:
    factories.host("a")
    factories.host("b")
    factories.guest("web", "a")
    with transaction() as session:
        at = now(session)
    for downtime_ms in (20.0, 40.0, 100.0):
        consoles.moved("web", "b", at - timedelta(hours=1), took_s=100, downtime_ms=downtime_ms)
    failed = consoles.moved("web", "b", at - timedelta(hours=1), took_s=10, downtime_ms=0)
    with transaction() as session:
        session.execute(update(Job).where(Job.id == failed).values(state="rolled_back", downtime=None))
    [group] = console.get("/history.json", params={"by": "guest"}).json()["groups"]
    assert (group["key"], group["done"], group["rolled_back"], group["success"]) == ("web", 3, 1, 0.75)
    assert (group["downtime_ms_median"], group["downtime_ms_p95"]) == (40.0, 94.0)
    assert (group["total_s_median"], group["bytes_moved"], group["bytes_per_s"]) == (100.0, 30 * GB, 10**8)
    [line] = csv.DictReader(io.StringIO(console.get("/history.csv", params={"by": "guest"}).text))
    assert {name: str(value) for name, value in group.items()} == line
    assert "75 %" in console.get("/history?by=guest").text
    assert console.get("/history.json?host=a").json()["groups"] == console.get("/history.json").json()["groups"]
    assert console.get("/history.json?host=c").json()["groups"] == []
    assert set(group) == set(history.FIELDS)
    assert console.get("/history.json?by=label").json()["groups"] == []
    with transaction() as session:
        session.get_one(Guest, "web").labels = {"tier": "db", "pinned": ""}
    assert console.get("/history.json?by=label").json()["groups"] == [
        group | {"key": key} for key in ("pinned", "tier=db")
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs/7", 404),
        ("/drains/7", 404),
        ("/hosts/nobody", 404),
        ("/nowhere", 404),
        ("/live/nothing", 400),
        ("/jobs/web", 400),
        ("/?page=0", 400),
        ("/jobs?guest=%00", 400),
        ("/history?days=0", 400),
        ("/history?by=colour", 400),
    ],
)
def test_what_is_not_there_or_not_understood_is_told_on_a_page(console: httpx.Client, path: str, status: int) -> None:
    answer = console.get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert "Content-Security-Policy" in answer.headers
    assert "`" not in answer.text, "a command is shown as one"


def test_nothing_can_be_changed_through_it(console: httpx.Client) -> None:
    for path in PAGES:
        assert console.post(path).status_code == 405


def test_a_page_of_somebody_else_that_points_a_name_at_this_machine_gets_nothing(console: httpx.Client) -> None:
    assert console.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_a_page_says_that_the_database_does_not_answer_until_it_does(console: httpx.Client) -> None:
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setenv("DROVER_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
        settings.cache_clear()
        answer = console.get("/", timeout=30)
        assert answer.status_code == 503
        assert "Postgres does not answer" in answer.text
    settings.cache_clear()
    assert console.get("/").status_code == 200


def test_it_listens_beyond_this_machine_only_behind_a_proxy() -> None:
    port = free_port()
    with pytest.raises(PreconditionFailed, match="--behind-proxy"):
        serving.check(f"0.0.0.0:{port}", behind_proxy=False)
    serving.check(f"0.0.0.0:{port}", behind_proxy=True)
    serving.check(f"127.0.0.1:{port}", behind_proxy=False)


def test_the_command_refuses_an_address_that_is_none_before_it_starts() -> None:
    result = drover("console", "--listen", "nowhere")
    assert result.exit_code == 2
    assert "no console can be served at 'nowhere'" in result.stderr


def test_a_report_is_one_page_that_fetches_nothing_and_has_all_of_the_page(database: None) -> None:
    made = consoles.fleet()
    for words in (("job", made.moved), ("job", made.stuck), ("drain", made.drain)):
        result = drover(words[0], "report", str(words[1]), "--html")
        assert result.exit_code == 0, result.stderr
        assert not re.search(r"<script|<link|<img|\ssrc=|\shref=|https?://", result.stdout)
        assert "default-src 'none'" in result.stdout
    assert "web20" in result.stdout
    told = drover("job", "report", str(made.moved), "--html").stdout
    for said in (
        "web04 lives on hv2",
        "device state",
        "the controller admits it",
        "4:00 (when its drain",
        "copied, at most 116.0 MB/s",
        "<polyline",
    ):
        assert said in told


def test_a_page_has_its_report_as_a_file_to_be_kept(console: httpx.Client) -> None:
    made = consoles.fleet()
    for path, name in (
        (f"/jobs/{made.unwell}", f"job-{made.unwell}"),
        (f"/drains/{made.drain}", f"drain-{made.drain}"),
    ):
        assert f'href="{path}/report.html"' in console.get(path).text
        for root in ("", "/api/v1"):
            kept = console.get(f"{root}{path}/report.html")
            assert kept.headers["Content-Disposition"] == f'attachment; filename="drover-{name}.html"'
            assert "<style>" in kept.text
    assert "its agent does not answer any more" in console.get(f"/jobs/{made.unwell}/report.html").text


def test_the_page_of_a_guest_that_was_not_well_says_how_it_goes_home_until_it_has(console: httpx.Client) -> None:
    made = consoles.fleet()
    shown = console.get(f"/jobs/{made.unwell}").text
    assert "drover migrate web09 --back" in shown
    assert "but it was not well: its agent does not answer any more" in shown
    assert "not well: its agent does not answer any more" in console.get("/jobs?all=1").text
    with transaction() as session:
        session.execute(update(Guest).where(Guest.name == "web09").values(host="hv2"))
    assert "drover migrate web09 --back" not in console.get(f"/jobs/{made.unwell}").text


def test_a_plan_shows_who_goes_where_what_differs_by_now_and_what_became_of_it(console: httpx.Client) -> None:
    made = consoles.fleet()
    with transaction() as session:
        session.execute(update(Guest).where(Guest.name == "web10").values(memory_bytes=2 * GB))
    shown = console.get(f"/plans/{made.plan}").text
    for said in (
        "web10",
        "it has the most memory left",
        "its memory_bytes is",
        "approved by nobody",
        "submitted by ada",
    ):
        assert said in shown
    plans.approve(made.plan, "grace")
    drain = plans.apply_submitted(made.plan, "ada").id
    applied = console.get(f"/plans/{made.plan}").text
    assert f'href="/drains/{drain}"' in applied
    assert "drover plan" not in applied, "nothing is left to do"
    followed = console.get(f"/drains/{drain}").text
    assert f'href="/plans/{made.plan}"' in followed
    assert "approved by grace" in followed
    assert "applied by ada" in followed
    assert console.get("/plans/999999").status_code == 404


def test_a_report_as_json_has_the_document_with_story_parts_and_estimate(database: None) -> None:
    made = consoles.fleet()
    job = json.loads(drover("job", "report", str(made.moved), "--json").stdout)
    assert (job["state"], job["downtime_ms"], job["estimate_s"]) == ("done", 48.0, 240.0)
    assert [part["part"] for part in job["parts"]] == ["preparation", "copy", "in sync", "RAM", "rest"]
    assert job["events"][0]["sentence"] == "the controller admits it"
    assert len(job["samples"]) == 50
    assert {name: job["samples"][0][name] for name in ("of", "sent_bytes_per_s", "changed_bytes_per_s")} == {
        "of": "disks", "sent_bytes_per_s": 110 * MB, "changed_bytes_per_s": 0
    }  # fmt: skip
    drain = json.loads(drover("drain", "report", str(made.drain), "--json").stdout)
    assert [each["guest"] for each in drain["jobs"]] == ["web04", "web08", "web12"]
    assert drover("job", "report", "1", "--json", "--html").exit_code == 2
    assert drover("job", "report", "999999").exit_code == 2


def test_the_api_answers_with_the_documents_of_the_command_line(console: httpx.Client) -> None:
    made = consoles.fleet()
    same = {
        "/hosts": ("host", "list"),
        "/guests": ("guest", "list"),
        "/jobs?all=1": ("job", "list", "--all"),
        f"/jobs/{made.moved}": ("job", "show", str(made.moved)),
        f"/jobs/{made.stuck}/events": ("job", "explain", str(made.stuck)),
        "/drains": ("drain", "list"),
        "/rolls": ("roll", "list"),
        f"/rolls/{made.roll}": ("roll", "show", str(made.roll)),
        f"/jobs/{made.moved}/report": ("job", "report", str(made.moved)),
        "/plans": ("plan", "list"),
        f"/plans/{made.plan}": ("plan", "show", str(made.plan)),
        "/images": ("image", "list"),
        "/headroom?selector=host=hv1": ("host", "headroom", "--selector", "host=hv1"),
    }
    for path, words in same.items():
        answer = console.get(f"/api/v1{path}")
        assert answer.status_code == 200, path
        assert without_time(answer.json()) == without_time(json.loads(drover(*words, "--json").stdout)), path
    assert len(console.get(f"/api/v1/drains/{made.drain}").json()["guests"]) == 5
    [oldest, *_] = console.get("/api/v1/inbox").json()["items"]
    assert oldest["commands"][0]["text"] == f"drover job release {made.held}"


def without_time(document: Any) -> Any:
    """What grows while one looks is left out."""
    if isinstance(document, dict):
        return {name: without_time(value) for name, value in document.items() if name not in {"total_s", "eta_s", "at"}}
    return [without_time(each) for each in document] if isinstance(document, list) else document


def test_the_api_says_what_is_wrong_as_json_and_changes_nothing(console: httpx.Client) -> None:
    for path, status, code in (
        ("/jobs/7", 404, "not_found"),
        ("/drains/7", 404, "not_found"),
        ("/rolls/7", 404, "not_found"),
        ("/nothing", 404, "not_found"),
        ("/jobs/web", 400, "not_understood"),
        ("/jobs?limit=0", 400, "not_understood"),
        ("/jobs?guest=%00", 400, "not_understood"),
        ("/jobs?gest=web", 400, "not_understood"),
        ("/inbox?all=1", 400, "not_understood"),
        ("/../v2/jobs", 404, "not_found"),
    ):
        answer = console.get(f"/api/v1{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), path
    for path, said in (
        ("/jobs/web", "number: a whole number is wanted, not 'web'"),
        ("/jobs?limit=0", "limit: 1 or more is wanted, not '0'"),
        ("/jobs?guest=%00", "guest: a text without NUL is wanted, not '\\x00'"),
        (
            "/plans?al=1&limit=1",
            "there is no parameter 'al' here: did you mean all? it takes all, guest, selector, since_s, limit",
        ),
        ("/inbox?all=1", "there is no parameter 'all' here: it takes none"),
    ):
        assert console.get(f"/api/v1{path}").json()["error"]["message"] == said
    assert console.post("/api/v1/jobs").json()["error"]["code"] == "not_allowed"
    described = console.get("/api/v1/openapi.json").json()
    assert "/api/v1/jobs/{number}" in described["paths"]
    assert all(set(methods) == {"get"} for methods in described["paths"].values())


def test_the_api_does_what_its_description_says_whatever_it_is_asked(console: httpx.Client, tmp_path: Path) -> None:
    """Properties, tried by schemathesis: no error of the server, and only answers that are described."""
    consoles.fleet()
    told = consoles.tried(f"{console.base_url}/api/v1/openapi.json", tmp_path, "--phases=coverage,fuzzing")
    assert told.returncode == 0, told.stdout
