"""Running `drover` in this process, and jobs as rows."""

import json
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from drover.cli import main
from drover.settings import settings
from drover.settings import variables as all_variables
from models.database import transaction
from models.documents import Downtime, NbdServer, RamProgress, Switchover
from models.event_action import EventAction
from models.job import Disk, Job, JobState, StepState, record_event
from tests.documents import plan
from workflows.migration import links

NONCE = "0123456789abcdef01234567"
KEY = "fedcba9876543210" * 4
BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)
NO_BROKER = "redis://:hunter2@127.0.0.1:1/0"
DROVER = str(Path(sys.executable).with_name("drover"))


def point_at(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Have this process use these variables, and nothing that it cached before."""
    for name in all_variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All of it."""
        return self.stdout + self.stderr


def drover(*words: str) -> Result:
    """The command in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(words)
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def document(*words: str, code: int = 0) -> dict[str, Any]:
    """The only thing on stdout."""
    result = drover(*words, "--json")
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def insert_job(state: JobState, **columns: Any) -> int:
    """A job as rows, its steps as they would be in that state."""
    job = Job(
        guest="web", source="hv1", destination="hv2", state=state, plan=plan(),
        nbd_server=NbdServer(nonce=NONCE, address="10.0.0.2", port=4711, sealed=KEY),
        switchover=Switchover(attempt=3),
        steps=links.steps("hv1", "hv2"),
        disks=[Disk(index=i, device=f"d{i}", format="raw", source_path=f"/s/{i}", destination_path=f"/d/{i}",
                    bytes_total=2 << 30, bytes_copied=1 << 30) for i in range(2)],
    )  # fmt: skip
    for name, value in columns.items():
        setattr(job, name, value)
    _act(job)
    with transaction() as session:
        session.add(job)
        session.flush()
        record_event(session, job.id, by="test", action=EventAction.SUBMITTED, sentence="web is to move")
        record_event(session, job.id, by="test", action=EventAction.WARNING, sentence="the link is slow")
    return job.id


def _act(job: Job) -> None:
    """Steps, times and outcome that go with the state."""
    if job.state is JobState.QUEUED:
        return
    job.started_at = job.started_at or BEGUN
    if job.state is JobState.RUNNING:
        job.progress_at = datetime.now(UTC)
    first = job.steps[0]
    first.attempts, first.started_at = 1, BEGUN
    first.state = {
        JobState.RUNNING: StepState.RUNNING, JobState.DONE: StepState.DONE,
        JobState.ROLLING_BACK: StepState.ROLLING_BACK,
        JobState.ROLLED_BACK: StepState.ROLLED_BACK, JobState.NEEDS_OPERATOR: StepState.FAILED,
    }[job.state]  # fmt: skip
    if job.state.settled:
        job.finished_at = first.finished_at = BEGUN + timedelta(seconds=12.5)
    if job.state is JobState.DONE:
        for step in job.steps:
            step.state = StepState.DONE
        job.downtime = Downtime(ms=43.21, phases={"stop": 1.5})
        job.ram = RamProgress(transferred=300, remaining=0, total=1000, bytes_per_s=7, passes=3)
    elif job.state is not JobState.RUNNING:
        job.error = first.error = f"no export named '{NONCE}-0', key {KEY}"


def end_job(job_id: int, state: JobState, after_s: float) -> threading.Thread:
    """Change a job's state in a while, as a worker would."""

    def later() -> None:
        time.sleep(after_s)
        with transaction() as session:
            session.execute(text("UPDATE job SET state = :s WHERE id = :i"), {"s": state.value, "i": job_id})

    thread = threading.Thread(target=later)
    thread.start()
    return thread
