"""Whatever a job or a drain waits for, every view tells it by the same sentence, with the command that changes it."""

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, update

from drover.console import live
from drover.controller import loop
from drover.metrics import gauges
from drover.settings import settings
from drover.views import documents, drain_documents, drain_queries, drain_sentences, queries, rolls, sentences
from models.database import transaction
from models.documents import FileCopy, Hook, MigrationOptions, Pace, RamProgress, Window
from models.drain import Drain, DrainKind
from models.host import Host, HostState
from models.job import Direction, Job, JobState, Side, StepState
from models.roll import Roll, RollHost, RollHostState
from models.transitions import JobEvent
from tests import consoles, factories, step_contexts
from tests.factories import MB, happens
from workers.convergence import Escalation
from workers.steps.copy_files import _Progress
from workflows import outages, wait_reasons
from workflows.drain import commands, reconciler
from workflows.drain.planner import DrainRequest
from workflows.migration import admission
from workflows.migration.links import StepName
from workflows.roll import commands as roll_commands
from workflows.roll import reconciler as roll_reconciler
from workflows.submit_options import SubmitOptions

GUESTS = ("db", "mail", "web")


@pytest.fixture
def console(database: None) -> Iterator[httpx.Client]:
    """Two hosts with guests on the first, a controller that leads, and a console."""
    for name in ("one", "two"):
        factories.host(name)
    for name in GUESTS:
        factories.guest(name, on="one", memory_bytes=MB)
    with transaction() as session:
        outages.controller_looks(session, "controller")
    with consoles.serving() as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def tonight() -> Window:
    """Hours that begin in two."""
    begins = datetime.now(UTC) + timedelta(hours=2)
    return Window(start=f"{begins:%H:%M}", end=f"{begins + timedelta(hours=1):%H:%M}", timezone="UTC")


def copying(*, before: str = "await_sync", **columns: object) -> int:
    """A job whose step of this name is at work."""
    number = factories.job("web", "two", state=JobState.RUNNING, **columns)
    with transaction() as session:
        made = session.get_one(Job, number)
        made.disks[0].bytes_first, made.disks[0].bytes_copied = made.disks[0].bytes_total, 9 * 10**9
        for step in made.steps:
            step.state = StepState.RUNNING if step.name == before else StepState.DONE
            if step.state is StepState.RUNNING:
                break
    return number


def without_a_slot() -> int:
    factories.limits(max_outgoing=1)
    factories.job("db", "two", state=JobState.RUNNING)
    number = factories.job("web", "two")
    admit()
    return number


def before_its_window() -> int:
    number = factories.job("web", "two", window=tonight())
    admit()
    return number


def admit() -> None:
    with transaction() as session:
        admission.admit(session, settings())


def while_redis_is_full() -> int:
    number = factories.job("web", "two")
    with transaction() as session:
        job = session.get_one(Job, number)
        happens(session, job, JobEvent.BEGIN)
        loop._publish(session, job, job.steps[0], "OOM command not allowed")
    return number


def outrun_by_the_guest() -> int:
    pace = Pace(copied_per_s=5.0 * MB, written_per_s=6.0 * MB, limit_per_s=5 * MB)
    return copying(pace=pace, options=MigrationOptions(bandwidth_bytes_per_s=5 * MB))


def with_ram_that_changes_too_fast() -> int:
    number = copying(before="migrate_ram")
    escalation = Escalation("web", number, 300, 300, asked_s=600.0)
    ram = RamProgress(total=8 * 10**9, remaining=10**9, bytes_per_s=10 * MB, expected_downtime_ms=900, passes=9)
    for at_s in (0.0, 1000.0):
        for passes in (3, 90):
            list(escalation.look(ram.model_copy(update={"passes": passes}), at_s))
    with transaction() as session:
        session.get_one(Job, number).wait_reason = escalation.asks
    return number


def to_a_silent_host() -> int:
    number = copying()
    with transaction() as session:
        heard = func.clock_timestamp() - timedelta(seconds=100)
        session.execute(update(Host).where(Host.name == "two").values(heartbeat_at=heard))
    return number


@pytest.mark.parametrize(
    ("staged", "says"),
    [
        (without_a_slot, r"1 move leaves one already, 1 may at a time: `drover fleet set max-outgoing=2`"),
        (before_its_window, r"its window .* opens at .* UTC; `drover job set \d+ --window ''`"),
        (while_redis_is_full, r"Redis takes no messages: OOM command not allowed \(`drover doctor`"),
        (outrun_by_the_guest, r"the guest writes 6.0 MB/s and the copy is limited to 5.0 MB/s: `drover job set \d+"),
        (with_ram_that_changes_too_fast, r"the RAM of web changes as fast .* `drover job set \d+ --max-downtime-ms"),
        (to_a_silent_host, r"two is silent for 1:4\d .* start it there, or `drover job cancel \d+`"),
    ],
)
def test_a_job_says_in_every_view_what_it_waits_for(
    console: httpx.Client, staged: Callable[[], int], says: str
) -> None:
    number = staged()
    shot = queries.snapshot(number)
    [listed] = [one for one in documents.jobs(everything=False, guest="web", limit=9) if one["id"] == number]
    told = {
        "list": listed["wait_reason"],
        "show": documents.job(number)["wait_reason"],
        "explain": documents.explanation(number)["wait_reason"],
        "watch": sentences.standing(shot.job),
        "console": page(console, f"/jobs/{number}"),
        "console's list": page(console, "/jobs"),
    }
    for view, sentence in told.items():
        assert re.search(says, str(sentence)), (view, sentence)


def test_metrics_have_the_sentences_of_jobs_and_drains_without_their_numbers(console: httpx.Client) -> None:
    number = copying(pace=Pace(copied_per_s=10 * MB, limit_per_s=10 * MB))
    factories.job("db", "two")
    drain = drain_paused()
    with transaction() as session:
        now = datetime.now(UTC)
        metrics = [*gauges.of_jobs(session, now, settings()), *gauges.of_drains(session, now)]
    told = {sample.name: sample.labels for metric in metrics for sample in metric.samples}
    assert told["drover_job_waiting"]["job_id"] == str(number)
    assert told["drover_job_waiting"]["reason"].startswith("limited to # MB/s, # left: ")
    assert told["drover_queued_jobs"]["reason"] == wait_reasons.UNDECIDED
    assert told["drover_drain_waiting"]["drain"] == str(drain)
    assert told["drover_drain_waiting"]["reason"] == "paused: `drover drain resume #`"


@pytest.mark.usefixtures("database")
def test_a_move_says_that_it_waits_for_a_file_of_another_one_until_it_copies_that_itself(tmp_path: Path) -> None:
    ctx = step_contexts.claimed(tmp_path, (StepName.COPY_FILES, Side.SOURCE), Direction.DO)
    progress = _Progress(ctx, 0)
    asyncio.run(progress.busy())
    assert queries.snapshot(ctx.job.id).job.wait_reason == ctx.remark
    assert "another move is copying the same file there" in str(ctx.remark)
    asyncio.run(progress.copied(10))
    assert (queries.snapshot(ctx.job.id).job.wait_reason, ctx.remark) == (None, None)
    assert documents.explanation(ctx.job.id)["events"][-1]["sentence"] == "the move goes on"


@pytest.mark.usefixtures("database")
def test_files_that_are_copied_under_a_limit_say_so_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = step_contexts.claimed(tmp_path, (StepName.COPY_FILES, Side.SOURCE), Direction.DO)
    ctx.job.options = MigrationOptions(bandwidth_bytes_per_s=5 * MB)
    ctx.note(file_copy=FileCopy(missing=(0,), bytes_total=40 * MB), options=ctx.job.options)
    progress = _Progress(ctx, 0)
    for copied in (5 * MB, 10 * MB):
        progress.recording.next_at = 0.0
        asyncio.run(progress.copied(copied))
    told = queries.snapshot(ctx.job.id).job.wait_reason
    assert re.match(
        r"limited to 5.0 MB/s, .* of its files left: `drover job set \d+ --bandwidth 0` lifts it", str(told)
    )
    assert documents.job(ctx.job.id)["wait_reason"] == told == wait_reasons.of_step(ctx.job, "copy_files", None)


def test_an_outage_of_redis_that_a_job_outlived_is_in_its_story(console: httpx.Client) -> None:
    number = while_redis_is_full()
    told = documents.explanation(number)["events"], documents.report_of_job(number)["events"]
    for events in told:
        assert any("waits, the guest runs on: Redis takes no messages" in one["sentence"] for one in events)
    assert "Redis takes no messages" in page(console, f"/jobs/{number}")


def drained(**terms: object) -> int:
    return commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="one", terms=SubmitOptions(**terms))).id  # type: ignore[arg-type]


def advanced(number: int) -> int:
    with transaction() as session:
        reconciler.advance(session, session.get_one(Drain, number, with_for_update=True), settings())
    return number


def drain_paused() -> int:
    number = advanced(drained())
    commands.pause(number)
    return number


def drain_without_a_slot() -> int:
    factories.limits(max_outgoing=1)
    factories.job("db", "two", state=JobState.RUNNING)
    return advanced(drained())


def drain_before_its_window() -> int:
    return advanced(drained(window=tonight()))


def drain_before_its_time() -> int:
    return advanced(drained(not_before=datetime.now(UTC) + timedelta(hours=1)))


@pytest.mark.parametrize(
    ("staged", "says", "guest_says"),
    [
        (drain_paused, r"paused: `drover drain resume \d+`", r"its drain is paused: `drover drain resume \d+`"),
        (drain_without_a_slot, *2 * [r"1 may at a time: `drover fleet set max-outgoing=2` lets another begin"]),
        (drain_before_its_window, r"opens at .* UTC; `drover drain set \d+ --window ''`", None),
        (drain_before_its_time, r"it begins at .* UTC; `drover drain cancel \d+` withdraws it", None),
    ],
)
def test_a_drain_says_in_every_view_what_it_and_its_guests_wait_for(
    console: httpx.Client, staged: Callable[[], int], says: str, guest_says: str | None
) -> None:
    number = staged()
    shot = drain_queries.snapshot(number)
    shown = drain_documents.drain_document(shot)
    told = {
        "list": documents.drains(everything=False, limit=9)[0]["wait_reason"],
        "show": shown["wait_reason"],
        "watch": drain_sentences.headline(shot),
        "console": page(console, f"/drains/{number}"),
        "console's list": page(console, "/drains"),
    }
    for view, sentence in told.items():
        assert re.search(says, str(sentence)), (view, sentence)
    if guest_says is None:
        return
    web = next(one for one in shown["guests"] if one["guest"] == "web")
    assert re.search(guest_says, web["reason"])
    assert re.search(guest_says, page(console, f"/drains/{number}"))


def test_a_roll_says_in_every_view_what_a_host_waits_for(console: httpx.Client) -> None:
    with transaction() as session:
        session.get_one(Host, "one").state = HostState.CORDONED
        roll = Roll(max_unavailable=1, hook=Hook(argv=("upgrade",)), back_within=timedelta(minutes=30))
        roll.hosts = [RollHost(host="two", position=1), RollHost(host="one", position=2)]
        session.add(roll)
        session.flush()
        roll_reconciler.advance(session, roll, settings())
    says = rf"two: it waits for one: no more than 1 host .* `drover roll set {roll.id} --max-unavailable 2`"
    shot = rolls.snapshot(roll.id)
    told = {
        "list": documents.rolls(everything=False, limit=9)[0]["wait_reason"],
        "show": documents.roll(roll.id)["wait_reason"],
        "watch": rolls.headline(shot),
        "console": page(console, f"/rolls/{roll.id}"),
        "console's list": page(console, "/rolls"),
    }
    for view, sentence in told.items():
        assert re.search(says, str(sentence)), (view, sentence)
    roll_commands.change(roll.id, 2)
    with transaction() as session:
        again = session.get_one(Roll, roll.id, with_for_update=True)
        roll_reconciler.advance(session, again, settings())
        assert again.error == "two: " + str(again.hosts[0].error), "its turn has come, and there is no such hook"


def test_a_roll_says_in_every_view_what_the_drain_of_its_host_waits_for(console: httpx.Client) -> None:
    drain = drain_paused()
    with transaction() as session:
        roll = Roll(max_unavailable=1, hook=Hook(argv=("upgrade",)), back_within=timedelta(minutes=30))
        roll.hosts = [RollHost(host="one", position=1, state=RollHostState.DRAINING, drain_id=drain)]
        session.add(roll)
        session.flush()
        roll_reconciler.advance(session, roll, settings())
    says = rf"drain {drain} is paused, 0 of 3 guests moved; paused: `drover drain resume {drain}`"
    shot = rolls.snapshot(roll.id)
    with transaction() as session:
        [waiting] = [one for one in gauges.of_rolls(session) if one.name == "drover_roll_waiting"]
    told = {
        "list": documents.rolls(everything=False, limit=9)[0]["wait_reason"],
        "show": documents.roll(roll.id)["hosts"][0]["reason"],
        "watch": rolls.headline(shot),
        "console": page(console, f"/rolls/{roll.id}"),
        "console's list": page(console, "/rolls"),
    }
    for view, sentence in told.items():
        assert says in str(sentence), (view, sentence)
    assert "paused: `drover drain resume #`" in waiting.samples[0].labels["reason"]


def page(console: httpx.Client, path: str) -> str:
    """A page's text, with commands as they are written in sentences."""
    live.VERSIONS.known.clear()
    answer = console.get(path)
    assert answer.status_code == 200, path
    return unescape(answer.text).replace("<code>", "`").replace("</code>", "`")
