"""The threads of vCPUs are pinned right before the RAM comes, whichever worker has started their QEMU."""

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from drover.errors import Transient
from models.documents import NbdServer
from models.job import Direction, Side
from tests.step_contexts import claimed, done
from workers.disks import nbd_server
from workers.guest import incoming_qemu, size_watch
from workers.process import execution
from workers.qemu import written
from workers.step import Context
from workers.streams import supervisor as streams
from workers.switchover import supervisor
from workers.trust import held_plan
from workflows.migration.links import StepName

pytestmark = pytest.mark.usefixtures("database")
CPU = max(os.sched_getaffinity(0))


@dataclass
class Waiting:
    """The monitor of a QEMU with one vCPU."""

    thread: int

    async def query(self, command: str) -> list[dict[str, int]]:
        assert command == "query-cpus-fast"
        return [{"cpu-index": 0, "thread-id": self.thread}]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU is all there is")
def test_a_worker_that_died_right_after_it_had_started_the_qemu_is_followed_by_one_that_pins_its_vcpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = (StepName.MIGRATE_RAM, Side.DESTINATION)
    ctx = claimed(tmp_path, link, Direction.DO, nbd_server=NbdServer(nonce="n", address="::1", port=1))
    started_as = execution.plainly().model_copy(update={"vcpus": ((CPU,),)})
    plan = ctx.plan.model_copy(update={"source": ctx.source.model_copy(update={"started_as": started_as})})
    held_plan.hold(ctx.directory.path, plan)
    ctx._held = None

    async def yes(ctx: Context) -> bool:
        return True

    async def nothing(*_: Any, **__: Any) -> dict[int, str]:
        return {}

    async def far_enough(*_: Any) -> NoReturn:
        raise Transient("here the RAM would come")

    @asynccontextmanager
    async def guest(ctx: Context) -> AsyncIterator[Waiting]:
        yield Waiting(thread.pid)

    with subprocess.Popen(["sleep", "100"]) as thread:
        monkeypatch.setattr(supervisor, "kill_all", nothing)
        monkeypatch.setattr(nbd_server, "serves", yes)
        monkeypatch.setattr(incoming_qemu, "waits", yes)  # the one that the worker had started before it died
        monkeypatch.setattr(Context, "guest", guest)
        monkeypatch.setattr(written, "record", nothing)
        monkeypatch.setattr(size_watch, "begin", nothing)
        monkeypatch.setattr(streams, "serve", far_enough)
        try:
            with pytest.raises(Transient, match="here the RAM would come"):
                done(ctx)
            assert os.sched_getaffinity(thread.pid) == {CPU}
        finally:
            thread.kill()
