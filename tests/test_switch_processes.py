"""What the worker knows of its switch processes, whatever became of the worker that started them."""

import sys
import time
from pathlib import Path

import pytest

from models.claims import Claim, Direction
from models.job import Job, Side
from models.settings import Settings
from workers import switches
from workers.step import Context
from workers.switch.orders import SourceOrder


def _context(folder: Path) -> Context:
    claim = Claim(
        job_id=1,
        seq=6,
        name="migrate_ram",
        side=Side.SOURCE,
        direction=Direction.DO,
        token=7,
        attempt=1,
        owner="here",
        deadline=time.monotonic() + 60,
    )
    return Context(job=Job(id=1), claim=claim, settings=Settings(database_url="", broker_url="", directory=folder))


def _order(folder: Path) -> SourceOrder:
    return SourceOrder(
        qmp=str(folder / "qmp"),
        key="00",
        images=[],
        journal=str(folder / "jobs" / "1" / "switch-source-7.jsonl"),
        address="127.0.0.1",
        port=1,
        mirrors=[],
        nodes=[],
        live=True,
        max_blackout_ms=1,
        bandwidth_bytes_per_s=0,
        deadline_s=1,
        devices=[],
    )


def test_one_that_has_not_said_a_word_yet_is_known_to_the_next_worker_and_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    context = _context(tmp_path)
    context.directory.path.mkdir(parents=True)
    started = switches.start(context, 7, _order(tmp_path))
    try:
        after = _context(tmp_path)
        assert switches.attempts(after) == [7]
        assert switches.running(after, 7) == started
        switches.kill_all(after)
        assert not started.alive
    finally:
        started.kill()
