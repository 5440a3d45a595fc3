"""What a person, or a program, reads in the logs: one line for each thing, with its job, and never a secret."""

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DataError

from drover import logs
from drover.controller import loop
from drover.settings import settings
from lab import services
from lab.directory import Lab
from models import decision_log
from models.database import transaction
from models.event_action import EventAction
from models.host import Host
from models.job import Job, JobState, record_event
from tests import factories, labs
from tests.helpers import Moves, until
from workers.process import processes
from workers.qemu import monitor
from workflows import leader_election
from workflows.migration.links import LINKS

NONCE, KEY = "0123456789abcdef01234567", "89abcdef" * 8


@pytest.fixture
def written() -> Iterator[list[logging.LogRecord]]:
    """What a logger of ours is given, in a process that has a log."""
    kept: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.shown = dict(_Shown().fields(record))
            kept.append(record)

    before = logs._process.copy()
    handler = Keep()
    logger = logging.getLogger("drover")
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.DEBUG
    logs._process.update(host="host-a")
    yield kept
    logs._process.clear()
    logs._process.update(before)
    logger.removeHandler(handler)
    logger.setLevel(level)


class _Shown(logs.JsonLines):
    pass


log = logging.getLogger("drover.tests")


def record(message: str, *arguments: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("drover.x").makeRecord(
        "drover.x", level, __file__, 1, message, arguments, None, extra=extra
    )
    made.created = 1767225600.25
    return made


def _record(message: str, at: float) -> logging.LogRecord:
    made = logging.LogRecord("drover", logging.ERROR, "", 0, "%s", (message,), None)
    made.created = at
    return made


def test_lines_that_anybody_can_cause_are_one_a_second_in_the_end_and_tell_what_is_left_out() -> None:
    seldom, records = logs.Seldom(), [_record(f"garbage {number}%", 1000 + number / 100) for number in range(1000)]
    said = [record.getMessage() for record in records if seldom.filter(record)]
    assert said[:100] == [f"garbage {number}%" for number in range(100)]
    assert 109 <= len(said) <= 111, "ten seconds"
    assert said[-1].endswith("% (99 lines before it were left out)")
    assert seldom.filter(_record("later", 2000))


@pytest.mark.parametrize("kind", [logs.TextLines, logs.JsonLines])
def test_a_line_is_bounded_whatever_is_in_it(kind: type[logging.Formatter]) -> None:
    try:
        raise ValueError("y" * 1_000_000)
    except ValueError:
        record = _record("x" * 1_000_000, 0)
        record.exc_info = sys.exc_info()
    assert 2 * logs.LONGEST < len(kind().format(record)) < 2 * logs.LONGEST + 1000


def test_a_text_line_says_when_how_serious_where_about_what_and_what() -> None:
    with logs.about(job=7, guest="web", step="mirror_disks", attempt=12):
        line = logs.TextLines().format(record("the copy %s", "begins", host="host-a"))
    assert line == (
        "2026-01-01T00:00:00.250Z INFO    host-a [job=7 guest=web step=mirror_disks attempt=12] the copy begins"
    )


def test_a_line_of_nothing_in_particular_has_no_brackets() -> None:
    assert logs.TextLines().format(record("leads", host="control")).endswith("INFO    control leads")


def test_a_line_break_in_a_message_does_not_look_like_another_line() -> None:
    line = logs.TextLines().format(record("%s", "no\n2026-01-01T00:00:00.250Z INFO host-a forged"))
    assert len(line.splitlines()) == 1


def test_a_json_line_is_one_object_with_its_traceback_inside() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made = record("failed", outcome="failed", seconds=1.5)
        made.exc_info = sys.exc_info()
    text = logs.JsonLines().format(made)
    assert "\n" not in text
    line = json.loads(text)
    assert line["time"] == "2026-01-01T00:00:00.250Z"
    assert line["level"] == "info"
    assert [line[name] for name in ("job", "guest", "step", "attempt")] == [None] * 4
    assert (line["outcome"], line["seconds"]) == ("failed", 1.5)
    assert line["error"].startswith("Traceback")
    assert "two\nlines" in line["error"]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("cannot reach postgresql+psycopg://drover:hunter2@db/drover", "hunter2"),
        ("cannot reach redis://:p@ss/word@cache:6379/0", "p@ss/word"),
        ("cannot reach sentinel://:hunter2@a:26379;sentinel://:hunter2@b:26379", "hunter2"),
        ("connection to host=db password=hunter2 failed", "hunter2"),
        ("""{"user": "x", "password": "hunter two"}""", "hunter two"),
        (f"Requested export 'drover-{NONCE}-0' not available", NONCE),
        (f"the key {KEY} was refused", KEY),
        ("qemu -object secret,id=sec0,data=hunter2,format=raw", "hunter2"),
    ],
)
def test_passwords_keys_and_nonces_are_in_no_line(text: str, secret: str) -> None:
    made = record("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        made.exc_info = sys.exc_info()
    for lines in (logs.TextLines(), logs.JsonLines()):
        line = lines.format(made)
        assert logs.SECRET in line
        assert secret not in line


def test_what_is_no_secret_stays_readable() -> None:
    said_so = "mirror drover-7-0 to http://10.0.0.5:8080/x of task 7c983bff-b4f4-464d-b520-34dc4743e1c8 is ready"
    assert logs.masked(said_so) == said_so


def test_qmp_is_shown_without_the_secrets_in_its_arguments() -> None:
    adds = {"execute": "object-add", "arguments": {"qom-type": "secret", "id": "sec0", "data": "hunter2"}}
    sets = {"execute": "set_password", "arguments": {"protocol": "vnc", "password": "hunter2"}}
    for message in (adds, sets):
        assert "hunter2" not in monitor._shown(message)  # type: ignore[arg-type]
    happened = {"event": "MIGRATION", "data": {"status": "completed"}}
    assert "completed" in monitor._shown(happened)  # type: ignore[arg-type]


def test_fields_are_kept_by_asyncio_tasks_and_by_threads_that_are_given_them(written: list[Any]) -> None:
    async def beside() -> None:
        await asyncio.create_task(later())

    async def later() -> None:
        log.info("task")

    with logs.about(job=7), logs.about(step="await_sync"):
        asyncio.run(beside())
        with_fields = threading.Thread(target=logs.carrying(log.info), args=("thread",))
        without = threading.Thread(target=log.info, args=("other thread",))
    for thread in (with_fields, without):
        thread.start()
        thread.join()
    log.info("after")
    ours = {"host": "host-a", "job": 7, "step": "await_sync"}
    shown = {line.msg: line.shown for line in written}
    assert shown == {"task": ours, "thread": ours, "other thread": {"host": "host-a"}, "after": {"host": "host-a"}}


def test_every_field_is_explained_in_the_documents() -> None:
    table = (Path(__file__).parents[2] / "docs/reference/logging.md").read_text()
    assert [name for name in logs.FIELDS if f"| `{name}` |" not in table] == []


SPEAKS = """
import logging, threading, warnings
from drover import logs
logs.configure("host-a")
logging.getLogger("workers.x").debug("debug of ours")
logging.getLogger("workers.x").info("info of ours")
logging.getLogger("httpx").info("HTTP Request: POST http://x")
logging.getLogger("celery.app.trace").info("Task x succeeded")
warnings.warn("take care")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
1 / 0
"""


def speaks(**environment: str) -> str:
    done = subprocess.run([sys.executable, "-c", SPEAKS], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_even_an_error_that_nobody_caught_is_one_json_line() -> None:
    lines = [json.loads(line) for line in speaks(DROVER_LOG_FORMAT="json").splitlines()]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "critical"]
    assert [line["host"] for line in lines] == ["host-a"] * 4
    assert all("ZeroDivisionError" in line["error"] for line in lines[2:])


def test_the_level_is_for_what_we_say_and_others_are_heard_from_warning_on() -> None:
    assert "debug of ours" in speaks(DROVER_LOG_LEVEL="debug")
    assert "HTTP Request" not in speaks(DROVER_LOG_LEVEL="debug")
    assert "info of ours" not in speaks(DROVER_LOG_LEVEL="warning")
    assert "Task x succeeded" not in speaks()


def test_a_process_that_is_started_logs_in_the_same_way_with_the_fields_of_then() -> None:
    started = "import logging; from drover import logs; logs.configure_as_told(); logging.getLogger('drover').info('x')"
    handing_on = f"""
import subprocess, sys
from drover import logs
logs.configure("host-a")
with logs.about(job=7, guest="web", step="start_nbd"):
    subprocess.run([sys.executable, "-c", {started!r}], env=logs.handed_on(step="switchover"), check=True)
"""
    environment = {"DROVER_LOG_FORMAT": "json"}
    done = subprocess.run([sys.executable, "-c", handing_on], env=environment, capture_output=True, text=True)
    line = json.loads(done.stderr)
    assert (line["host"], line["job"], line["guest"], line["step"]) == ("host-a", 7, "web", "switchover")


def a_job() -> int:
    factories.host("host-a")
    factories.host("host-b")
    factories.guest("g1", "host-a")
    return factories.job("g1", "host-b")


class TestWhatWasDecided:
    """With a database."""

    pytestmark = pytest.mark.usefixtures("database")

    def test_is_logged_once_it_is_committed_with_its_job(
        self, caplog: pytest.LogCaptureFixture, written: object
    ) -> None:
        caplog.set_level(logging.INFO)
        job = a_job()
        with transaction() as session:
            locked = session.get_one(Job, job)
            record_event(session, locked.id, by="controller", action=EventAction.RETRY, sentence="it is tried again")
            assert [line for line in caplog.records if line.name == decision_log.__name__] == []
        [line] = [line for line in caplog.records if line.name == decision_log.__name__]
        assert line.getMessage() == "it is tried again"
        assert (line.job, line.guest, line.action) == (job, "g1", "retry")  # type: ignore[attr-defined]

    def test_is_not_logged_where_it_was_rolled_back(self, caplog: pytest.LogCaptureFixture, written: object) -> None:
        caplog.set_level(logging.INFO)
        job = a_job()
        with transaction() as session:
            with suppress(ValueError), session.begin_nested():
                record_event(session, job, by="controller", action=EventAction.RELEASED, sentence="in the savepoint")
                raise ValueError
            record_event(session, job, by="controller", action=EventAction.RELEASED, sentence="outside")
        with suppress(ValueError), transaction() as session:
            record_event(session, job, by="controller", action=EventAction.RELEASED, sentence="not at all")
            raise ValueError
        assert [line.getMessage() for line in caplog.records if line.name == decision_log.__name__] == ["outside"]

    def test_is_a_row_of_a_command_until_the_controller_that_leads_logs_it(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO)
        with monkeypatch.context() as command:
            command.setattr(logs, "configured", lambda: False)
            with suppress(ValueError), transaction() as session:
                decision_log.add(session, "not at all")
                raise ValueError
            with transaction() as session:
                decision_log.add(session, "an operator did it", drain=4)
        monkeypatch.setattr(logs, "configured", lambda: True)
        for _ in range(2):
            loop._log_what_commands_said(settings())
        [line] = [line for line in caplog.records if line.name == decision_log.__name__]
        assert (line.getMessage(), line.drain) == ("an operator did it", 4)  # type: ignore[attr-defined]

    def test_an_error_of_the_database_shows_no_value_of_a_statement(self) -> None:
        with pytest.raises(DataError) as caught, transaction() as session:
            session.execute(text("SELECT 1 / 0 WHERE :key <> ''"), {"key": KEY})
        assert KEY not in str(caught.value)


@pytest.fixture(scope="module")
def talkative() -> Iterator[Lab]:
    """A lab whose processes log all that they can, as JSON."""
    chatty = {"DROVER_LOG_FORMAT": "json", "DROVER_LOG_LEVEL": "debug"}
    with labs.temporary(settings={**labs.BRISK, **chatty}, prefix="dj") as made:
        yield made


ROLES = ("host-a", "host-b", "controller")
OUTAGE_S = 25.0


def lines_of(lab: Lab, role: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (lab.logs / f"{role}.log").read_text().splitlines()]


def beats(count: int) -> None:
    """Wait for some heartbeats of both hosts."""

    def last() -> list[Any]:
        with transaction() as session:
            return list(session.scalars(select(Host.heartbeat_at).order_by(Host.name)))

    for _ in range(count):
        before = last()
        until("both hosts have had a heartbeat", lambda: all(a < b for a, b in zip(before, last(), strict=True)))  # noqa: B023


@pytest.mark.thorough
@pytest.mark.guests
@pytest.mark.xdist_group("test_logs")
class TestARealMove:
    def test_every_line_of_a_real_move_is_json_with_its_fields_and_no_secret(self, talkative: Lab) -> None:
        moves = Moves(talkative)
        try:
            guest = moves.boot()
            job = moves.submit(guest, "host-b")
            secrets = set[str]()
            until("it has ended", lambda: self._look(moves, job.id, secrets), 120, every_s=0.01)
            moves.done(moves.job(job.id))
        finally:
            moves.end()
        assert len(secrets) == 2, "the nonce of the exports and the key of the switchover"
        for role in ROLES:
            text = (talkative.logs / f"{role}.log").read_text()
            assert not any(secret in text for secret in secrets)
            for line in lines_of(talkative, role):
                assert {*logs.ALWAYS, "time", "level", "message", "logger"} <= line.keys()
                assert line["host"] == ("control" if role == "controller" else role)
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        self._says_it_all(talkative, job)

    def _look(self, moves: Moves, job_id: int, secrets: set[str]) -> bool:
        job = moves.job(job_id)
        secrets |= {job.nbd_server.nonce} if job.nbd_server is not None else set()
        secrets |= {job.nbd_server.sealed} if job.nbd_server is not None and job.nbd_server.sealed else set()
        return job.state.settled

    def _says_it_all(self, lab: Lab, job: Job) -> None:
        lines = [line for role in ROLES for line in lines_of(lab, role) if line["job"] == job.id]
        assert {line["guest"] for line in lines} == {job.guest}
        ends = [line for line in lines if line.get("outcome")]
        assert sorted(line["attempt"] for line in ends) == list(range(1, len(LINKS) + 1))
        assert all(line["outcome"] == "done" and line["seconds"] >= 0 and line["step"] for line in ends)
        begins = [line for line in lines if line["message"].startswith("begins")]
        assert [line["attempt"] for line in begins] == [line["attempt"] for line in ends]
        assert any(line.get("downtime_ms", 0) > 0 for line in lines)
        started = {line["message"]: line["pid"] for line in lines if line["message"].startswith("started")}
        assert len(started) == 5, "NBD server, incoming QEMU, the streams, two switchover processes"
        assert any(line["message"].startswith("QMP >") and line["level"] == "debug" and line["step"] for line in lines)
        decided = {line["action"] for line in lines if line.get("action")}
        assert {"submitted", JobState.RUNNING, JobState.DONE} <= decided

    def test_an_idle_fleet_says_nothing(self, talkative: Lab) -> None:
        until("all are ready", lambda: all(self._ready(talkative, role) for role in ROLES))
        beats(2)
        before = {role: len(lines_of(talkative, role)) for role in ROLES}
        beats(3)
        more = [line for role in ROLES for line in lines_of(talkative, role)[before[role] :]]
        assert [line["message"] for line in more if line["level"] != "debug"] == []

    def _ready(self, lab: Lab, role: str) -> bool:
        return any(line["message"].endswith(" ready.") for line in lines_of(lab, role))

    @pytest.mark.parametrize("service", ["redis", "postgres"])
    def test_an_outage_is_a_line_or_two_however_long_it_lasts(self, talkative: Lab, service: str) -> None:
        until("all are ready", lambda: all(self._ready(talkative, role) for role in ROLES))
        before = {role: len(lines_of(talkative, role)) for role in ROLES}
        if service == "redis":
            for process in processes.find(talkative.mark("redis")):
                process.kill()
        else:
            services.stop_postgres(talkative)
        time.sleep(OUTAGE_S)  # repeated lines come every few seconds
        (services.start_redis if service == "redis" else services.start_postgres)(talkative)
        beats(3)
        for role in ROLES:
            more = [line for line in lines_of(talkative, role)[before[role] :] if line["level"] != "debug"]
            during = [line["message"] for line in more if not line["message"].startswith(("leads", "takes messages"))]
            assert 1 <= len(during) <= 2, (role, during)
            assert len(more) <= 4, (role, [line["message"] for line in more])

    def test_what_an_operator_does_is_in_the_log_of_the_controller(self, talkative: Lab) -> None:
        cordon = [str(Path(sys.executable).with_name("drover")), "host", "cordon", "host-b"]
        until("a controller acts again after the outages", _somebody_acts)
        done = subprocess.run(cordon, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "an operator cordoned" not in done.stderr
        said_so = "an operator cordoned host-b: it takes no guest"
        until(
            "the controller says so",
            lambda: any(line["message"] == said_so for line in lines_of(talkative, "controller")),
        )
        subprocess.run([*cordon[:2], "uncordon", "host-b"], check=True, capture_output=True)


def _somebody_acts() -> bool:
    with transaction() as session:
        return leader_election.anybody_acts(session)
