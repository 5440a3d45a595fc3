"""Watching a job until it ends."""

import io
import json
import re
import signal
import subprocess
from datetime import datetime, timedelta
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import event

from drover.cli import live_view
from drover.cli.line_view import PlainLines
from drover.views import progress, queries
from models.database import engine
from models.documents import RamProgress
from models.job import Disk, Job, JobState
from tests.cli.support import BEGUN, DROVER, drover, end_job, insert_job


@pytest.mark.parametrize(
    ("state", "code", "verdict"),
    [
        (JobState.DONE, 0, "done: web lives on hv2; 4.3 GB of disks in 12.5 s, guest paused for 43 ms"),
        (JobState.ROLLED_BACK, 3, "rolled back: web stays on hv1; no export named"),
        (JobState.NEEDS_OPERATOR, 4, "needs an operator: no export named"),
    ],
)
def test_watching_an_ended_job(database: None, state: JobState, code: int, verdict: str) -> None:
    number = insert_job(state)
    result = drover("job", "watch", str(number))
    assert result.exit_code == code
    assert result.stdout.startswith(verdict)
    as_json = drover("job", "watch", str(number), "--json")
    assert as_json.exit_code == code
    assert json.loads(as_json.stdout)["state"] == state.value
    assert verdict in as_json.stderr


def test_watching_says_if_no_controller_acts(without_controller: None) -> None:
    number = insert_job(JobState.RUNNING)
    result = drover("job", "watch", str(number), "--timeout", "0")
    assert result.stderr.startswith("no controller is active: nothing begins until `drover controller` runs")


def test_watching_until_the_end(database: None) -> None:
    number = insert_job(JobState.RUNNING)
    ending = end_job(number, JobState.DONE, 0.6)
    result = drover("job", "watch", str(number))
    ending.join()
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"job {number}: web from hv1 to hv2: running; prepare_dest_image on hv2 running")
    assert "disk 0: 50 % of 2.1 GB" in lines[0]
    assert len(lines) == 2


def test_the_job_goes_on_after_a_timeout(database: None) -> None:
    number = insert_job(JobState.RUNNING)
    result = drover("job", "watch", str(number), "--timeout", "0.3", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["state"] == "running"
    assert f"job {number} goes on" in result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_leaves_the_job_running(database: None, as_json: bool) -> None:
    number = insert_job(JobState.RUNNING)
    words = [DROVER, "job", "watch", str(number), *(["--json"] if as_json else [])]
    words = ["env", "--default-signal=INT", *words]  # a suite that runs in the background has it ignored
    watching = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stderr is not None
    assert "running" in watching.stderr.readline()
    watching.send_signal(signal.SIGINT)
    stdout, stderr = watching.communicate(timeout=20)
    assert watching.returncode == 5
    assert f"interrupted: job {number} goes on" in stderr
    assert (json.loads(stdout)["state"] == "running") if as_json else stdout == ""


def test_watching_takes_one_query_a_look(database: None) -> None:
    number = insert_job(JobState.RUNNING)
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine(), "before_cursor_execute", note)
    queries.snapshot(number)
    assert len(seen) == 1
    for secret in ("nbd_server", "switchover", "plan"):
        assert f"job.{secret}" not in seen[0]


def test_a_terminal_shows_bars_and_steps(database: None) -> None:
    number = insert_job(JobState.RUNNING)
    console = Console(file=io.StringIO(), record=True, force_terminal=True, width=120)
    with live_view.Screen(console) as shown:
        shown.show(queries.snapshot(number))
    told = console.export_text()
    assert "prepare_dest_image" in told
    assert re.search(r"disk 0 .* 50 % +1\.1 GB of 2\.1 GB", told)
    assert told.count("migrate_ram  ") >= 2  # both links


@pytest.mark.parametrize("width", [60, 80])
def test_an_amount_stands_in_one_line_however_narrow_the_terminal_is(database: None, width: int) -> None:
    number = insert_job(JobState.RUNNING)
    console = Console(file=io.StringIO(), record=True, force_terminal=True, width=width)
    with live_view.Screen(console) as shown:
        shown.show(queries.snapshot(number))
    told = console.export_text()
    assert told.count("1.1 GB of 2.1 GB") == told.count("disk ") > 0


def shot(bytes_copied: int, at: datetime, state: JobState = JobState.RUNNING, **columns: Any) -> queries.Snapshot:
    """A job as if it had been read."""
    disk = Disk(index=0, device="d", format="raw", source_path="/s", destination_path="/d", bytes_total=1000)
    disk.bytes_copied, disk.ready_at = bytes_copied, None
    job = Job(id=7, guest="web", source="hv1", destination="hv2", state=state, disks=[disk], **columns)
    return queries.Snapshot(job=job, at=at)


def test_rate_and_remaining_time() -> None:
    seen = progress.Progress()
    seen.bars(shot(100, BEGUN))
    (bar,) = seen.bars(shot(300, BEGUN + timedelta(seconds=2)))
    assert (bar.percent, bar.bytes_per_s, bar.eta_s) == (30, 100.0, 7.0)
    (anew,) = seen.bars(shot(0, BEGUN + timedelta(seconds=3)))
    assert (anew.bytes_per_s, anew.eta_s) == (0.0, None)


def test_nothing_is_said_to_be_left_of_a_copy_that_is_rolled_back(capsys: pytest.CaptureFixture[str]) -> None:
    seen, lines = progress.Progress(), PlainLines()
    seen.bars(shot(100, BEGUN))
    (bar,) = seen.bars(shot(300, BEGUN + timedelta(seconds=2), JobState.ROLLING_BACK))
    assert (bar.ended, bar.percent, bar.eta_s) == (True, 30, None)
    lines.show(shot(300, BEGUN, JobState.ROLLING_BACK))
    assert "disk 0: 30 % of 1.0 kB" in (said := capsys.readouterr().err)
    assert "bytes/s" not in said


def test_the_rate_forgets_what_is_long_ago() -> None:
    meter = progress.Meter()
    for second in range(40):
        rate = meter.rate(float(second), 1000)
    assert rate == 0
    assert len(meter.samples) <= 12


def test_ram_is_complete_only_after_the_switchover() -> None:
    ram = RamProgress(total=1000, remaining=0, transferred=1000, bytes_per_s=50, passes=2)
    running = progress.Progress().bars(shot(1000, BEGUN, ram=ram))[-1]
    assert (running.label, running.percent, running.note) == ("RAM", 99, "pass 2")
    after_the_switchover = progress.Progress().bars(shot(1000, BEGUN, ram=ram, committed_at=BEGUN))[-1]
    assert after_the_switchover.percent == 100


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("drover.cli.line_view.time.monotonic", lambda: now[0])
    lines = PlainLines()
    for tick in range(50):  # ten seconds of five looks each
        now[0] = 100 + tick / 5
        lines.show(shot(10 * tick, BEGUN + timedelta(seconds=tick / 5)))
    lines.show(shot(1000, BEGUN + timedelta(seconds=10), JobState.DONE))
    said = capsys.readouterr().err.splitlines()
    assert 9 <= len(said) <= 12
    assert "disk 0: 5 % of 1.0 kB (50 bytes/s, 19.0 s left)" in said[1]
    assert said[-1] == "job 7: web from hv1 to hv2: done; disk 0: 1.0 kB copied"
