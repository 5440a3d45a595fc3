"""What a worker starts does not get the worker's environment: no address or password of database and broker."""

import os
import sys
from pathlib import Path

import pytest

from tests.helpers import MIB, Moves, until
from workers.process import processes

CREDENTIALS = ("DROVER_DATABASE_URL", "DROVER_BROKER_URL")


def test_a_program_gets_only_what_is_on_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CREDENTIALS, "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "A_WORKERS_OWN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    log, show = tmp_path / "log", "import os; print(dict(os.environ), flush=True)"
    program = processes.spawn(f"{tmp_path}/mark", [sys.executable, "-c", show], log, environment={"MALLOC_X": "1"})
    assert program.wait(30)
    said = log.read_text()
    assert "secret" not in said
    assert "'LC_ALL': 'C.UTF-8'" in said
    assert "'MALLOC_X': '1'" in said
    assert f"'PATH': '{os.environ['PATH']}'" in said


@pytest.mark.guests
def test_nothing_that_belongs_to_a_move_carries_the_workers_credentials(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    said = lambda: any(line["event"] == "migrating" for line in moves.journal(job, "host-a", "source"))  # noqa: E731
    until("RAM is being sent", said, 120, every_s=0.002)
    carried = [
        Path(f"/proc/{process.pid}/environ").read_bytes()
        for host in ("host-a", "host-b")
        for process in moves.processes_of(job, host)
    ]
    assert len(carried) >= 4, "NBD server, incoming QEMU, two switchover processes"
    for environment in carried:
        assert not any(name.encode() in environment for name in CREDENTIALS)
    moves.done(moves.ended(job.id))
