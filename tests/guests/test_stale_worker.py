"""A worker that was frozen and whose step somebody else took over changes nothing on its host any more.

Frozen for real, by SIGSTOP: whatever it found out before, it goes on with later.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.database import transaction
from models.job import Attempt
from tests.helpers import MIB, Moves, until
from tests.qmp_guest import QEMU
from workers.process import processes
from workers.qemu.monitor import MonitorLost, connect
from workers.step import fence

pytestmark = pytest.mark.guests

WORKER = """
import asyncio, sys, time
from pathlib import Path
from workflows.migration.claims import Claim
from drover.errors import LeaseLost
from models.job import Direction, Job, Side
from drover.settings import Settings
from workers.qemu.monitor import connect
from workers.step import Context

async def main(folder, lease_s):
    claim = Claim(job=Job(id=1), seq=1, name="await_sync", side=Side.SOURCE, direction=Direction.DO, token=7, attempt=1,
                  owner="frozen", deadline=time.monotonic() + lease_s)
    settings = Settings(database_url="postgresql+psycopg://x@x/x", broker_url="redis://x", directory=folder)
    context = Context(claim=claim, settings=settings)
    async with connect(folder / "qmp", context.guard) as monitor:
        context.guard()
        print("may act", flush=True)
        sys.stdin.readline()
        try:
            await monitor.execute("stop")
        except LeaseLost as refused:
            print("refused:", refused, flush=True)
        else:
            print("stopped", flush=True)

asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
"""


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Path]:
    """A QEMU with two monitors in this folder."""
    sockets = [word for name in ("qmp", "watch") for word in ("-qmp", f"unix:{tmp_path}/{name},server=on,wait=off")]
    running = subprocess.Popen([QEMU, "-display", "none", "-nodefaults", "-accel", "tcg", *sockets])
    until("QEMU listens", (tmp_path / "watch").exists)
    yield tmp_path
    running.kill()
    running.wait()


@pytest.fixture
def frozen(qemu: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A worker that was frozen right after it made sure that it may act."""
    argv = [sys.executable, "-c", WORKER, str(qemu), str(request.param)]
    worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == "may act\n"
    worker.send_signal(signal.SIGSTOP)
    worker.stdin.write("\n")
    worker.stdin.flush()
    yield worker
    worker.kill()
    worker.communicate()


def _thawed(worker: "subprocess.Popen[str]") -> str:
    """Its log lines once it goes on."""
    assert worker.stdout is not None
    worker.send_signal(signal.SIGCONT)
    return worker.stdout.readline()


def _runstate(folder: Path) -> str:
    async def ask() -> str:
        async with connect(folder / "watch") as monitor:
            return str((await monitor.query("query-status"))["status"])

    return asyncio.run(ask())


@pytest.mark.parametrize("frozen", [3600], indirect=True)
def test_a_frozen_worker_that_nobody_took_over_goes_on(qemu: Path, frozen: "subprocess.Popen[str]") -> None:
    assert _thawed(frozen) == "stopped\n"
    assert _runstate(qemu) == "paused"


@pytest.mark.parametrize("frozen", [3600], indirect=True)
def test_a_command_with_a_stale_token_is_refused_on_the_host(qemu: Path, frozen: "subprocess.Popen[str]") -> None:
    fence(qemu / "jobs" / "1" / "fence", 8)  # whoever took over acts
    assert _thawed(frozen) == "refused: token 7 is stale: 8 was seen on this host\n"
    assert _runstate(qemu) == "running"


@pytest.mark.parametrize("frozen", [4], indirect=True)
def test_a_command_after_the_lease_ran_out_is_refused_though_nobody_took_over(
    qemu: Path, frozen: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        frozen.wait(4.2)
    assert _thawed(frozen) == "refused: the lease on await_sync of job 1 has run out\n"
    assert _runstate(qemu) == "running"


@pytest.mark.parametrize("frozen", [3600], indirect=True)
def test_nobody_gets_to_a_qemu_while_a_frozen_worker_holds_its_monitor(
    qemu: Path, frozen: "subprocess.Popen[str]"
) -> None:
    """So a command that was already on its way when its worker was frozen comes before all that others do."""

    async def reach() -> None:
        async with connect(qemu / "qmp", timeout_s=1):
            pass

    with pytest.raises(MonitorLost):
        asyncio.run(reach())
    frozen.kill()
    frozen.wait()
    asyncio.run(reach())


def test_a_real_worker_that_thaws_after_its_step_was_taken_away_leaves_it_to_the_next_claim(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=8 * MIB)
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    stale = next(step.token for step in moves.job(job.id).steps if step.name == "await_sync")
    assert stale is not None
    [worker] = processes.find(moves.lab.mark("worker-host-a"))
    worker.signal(signal.SIGSTOP)
    try:
        until("its claim is taken away", lambda: moves.step_is(job.id, "await_sync", "pending"))
    finally:
        worker.signal(signal.SIGCONT)
    until("its next claim acts", lambda: _fence(moves, job.id) > stale)
    log = moves.lab.logs / "host-a.log"
    until("its old claim gave up", lambda: f"attempt={stale}] stops, another claim goes on" in log.read_text())
    with transaction() as session:
        assert session.get_one(Attempt, (job.id, stale)).outcome == "expired"
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")


def _fence(moves: Moves, job_id: int) -> int:
    return int((moves.lab.host("host-a").folder / "drover" / "jobs" / str(job_id) / "fence").read_text() or 0)
