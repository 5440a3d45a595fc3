"""`--verify-rate` holds for what either host reads while both sides of a disk are compared."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from models.documents import MigrationOptions
from models.job import Direction, Side
from tests import factories
from tests.documents import inspection
from tests.helpers import MIB
from tests.step_contexts import claimed, done
from workers.proof import reading
from workers.proof.comparing import Peer
from workers.proof.digests import segment, with_data
from workers.proof.protocol import Answer, Question
from workers.qemu.nbd import Extent
from workers.step import Context
from workers.streams import supervisor as streams
from workers.trust import held_plan
from workflows.migration.links import StepName

pytestmark = pytest.mark.usefixtures("database")
SIZE, PER_S = 16 * MIB, 16 * MIB
SAVED_S = 0.1
"""What the rate lets through at once."""
ZERO = 0b10


class Disk:
    """An export of an image that reads as zeroes, whether these take room in it or not."""

    def __init__(self, *, hole: bool) -> None:
        self.flags = ZERO if hole else 0

    async def extents(self, context: str, offset: int, length: int) -> list[Extent]:
        return [Extent(offset, length, self.flags)]

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(length)


class There:
    """The other host."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    async def ask(self, asked: Question) -> Answer:
        if asked.about == "data":
            return Answer(data=tuple(await with_data(self.disk, asked.offset, asked.length)))  # type: ignore[arg-type]
        found = await segment(self.disk, asked.offset, asked.length, asked.block)  # type: ignore[arg-type]
        return Answer(digests=found.digests, read_bytes=found.read_bytes)


@pytest.mark.parametrize(("hole_here", "hole_there"), [(False, False), (False, True), (True, False)])
def test_no_host_reads_faster_than_it_was_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hole_here: bool, hole_there: bool
) -> None:
    ctx = claimed(
        tmp_path,
        (StepName.COMPARE_IMAGES, Side.SOURCE),
        Direction.DO,
        options=MigrationOptions(verify=True, verify_bytes_per_s=PER_S),
    )
    seen = inspection()
    small = seen.disks[0].model_copy(update={"virtual_size_bytes": SIZE})
    held_plan.hold(
        ctx.directory.path, ctx.plan.model_copy(update={"source": seen.model_copy(update={"disks": (small,)})})
    )
    ctx._held = None

    @asynccontextmanager
    async def here(ctx: Context) -> AsyncIterator[dict[int, Disk]]:
        yield {0: Disk(hole=hole_here)}

    @asynccontextmanager
    async def reached(path: str) -> AsyncIterator[There]:
        yield There(Disk(hole=hole_there))

    async def connect(ctx: Context) -> None: ...

    monkeypatch.setattr(reading, "images", here)
    monkeypatch.setattr(Peer, "reached", reached)
    monkeypatch.setattr(streams, "connect", connect)
    begun = time.monotonic()
    done(ctx)
    assert time.monotonic() - begun > SIZE / PER_S - SAVED_S
    proof = factories.load(ctx.job.id).proof
    assert proof is not None
    assert proof.disks[0].bytes_equal == SIZE
