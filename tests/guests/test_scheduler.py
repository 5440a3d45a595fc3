"""Others submit by task name, with plain Celery and nothing of ours imported."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import select

from lab import fleet
from models.database import transaction
from models.job import Job, JobState
from tests.helpers import Moves, next_heartbeat, stop, until
from tests.tokens import Token

pytestmark = pytest.mark.guests

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/scheduler.md").read_text()
NOTHING_OF_OURS = """
import sys
assert not {"drover", "models", "workers", "workflows"} & set(sys.modules)
"""


def _send(moves: Moves, guest: str, to: str, key: str) -> None:
    """As the page for schedulers has it."""
    token, [script] = Token(), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    ours = {
        "redis://control": moves.lab.environment["DROVER_BROKER_URL"],
        "web": guest,
        "hv2": to,
        "nightly-42": key,
        "token=3": f"token={token.number}",
    }
    for theirs, own in ours.items():
        assert script.count(theirs) == 1
        script = script.replace(theirs, own)
    with TemporaryDirectory() as folder:
        Path(folder, "token").write_text(token.secret)
        shutil.copy(ROOT / "examples/celery/signing.py", folder)
        subprocess.run([sys.executable, "-c", script + NOTHING_OF_OURS], check=True, cwd=folder)


def _job(key: str) -> Job | None:
    with transaction() as session:
        return session.scalar(select(Job).where(Job.idempotency_key == key))


def test_a_scheduler_submits_by_task_name_and_a_repeated_message_makes_no_second_job(moves: Moves) -> None:
    guest = moves.boot()
    for _ in range(3):
        _send(moves, guest, "host-b", "nightly")
    job = until("the job exists", lambda: _job("nightly"))
    moves.done(moves.ended(job.id))
    with transaction() as session:
        assert len(session.scalars(select(Job).where(Job.guest == guest)).all()) == 1
    moves.intact(guest, "host-b")


def test_a_refused_submission_is_on_record_and_its_key_can_be_used_again(moves: Moves) -> None:
    guest = moves.boot()
    _send(moves, guest, "host-a", "to where it is")
    refused = until("the refusal is recorded", lambda: _job("to where it is"))
    assert refused.state is JobState.ROLLED_BACK
    assert "is on host-a already" in refused.error
    _send(moves, guest, "host-b", "to where it is")
    job = until("the job exists", lambda: (job := _job("to where it is")) and not job.refused and job)
    moves.done(moves.ended(job.id))


def test_the_standard_celery_command_serves_a_host(moves: Moves) -> None:
    from workers.process import processes

    [worker, *_] = processes.find(moves.lab.mark("worker-host-b"))
    stop(worker)
    environment = os.environ | moves.lab.host_environment(moves.lab.host("host-b"))
    del environment["DROVER_HOST"]  # the queue's name says which host it is
    argv = [fleet._program("celery"), "-A", "drover.broker.app", "worker", "-Q", "drover.host-b", "-n", "host-b@%h"]
    plain = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        next_heartbeat("host-b")
        guest = moves.boot()
        moves.done(moves.move(guest, "host-b"))
    finally:
        plain.terminate()
        plain.wait(20)
        fleet.start_worker(moves.lab, moves.lab.host("host-b"))
        next_heartbeat("host-b")


def test_a_second_worker_for_a_host_is_refused(moves: Moves) -> None:
    argv = [fleet._program("drover"), "worker", "--host", "host-a"]
    environment = os.environ | moves.lab.host_environment(moves.lab.host("host-a"))
    second = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode != 0
    assert "another worker serves host-a already" in second.stdout + second.stderr
