"""Between steps 1 and 2: what the guest needs besides its writable disks is at the destination.

The destination looks what is missing there and is ready to take it; the source sends that. See `workers.media`.
"""

import asyncio
import secrets

from drover.errors import Fatal
from models.documents import FileCopy
from models.job import Side
from workers.disks import mirrors
from workers.disks.held_up import Remarks
from workers.disks.pace import Meter, Recording
from workers.media import placing, sender
from workers.media.sender import Gone, Way
from workers.preflight import live_command_line
from workers.qemu import inline_secrets
from workers.step import Context, StepHandler
from workers.streams import supervisor as streams
from workers.streams.parameters import FILES
from workflows.migration.links import BeginAnew, Restart


class CopyFilesDestination(StepHandler):
    """Every file is there, or a process waits for those that are missing."""

    name, side = "copy_files", Side.DESTINATION

    async def verify(self, ctx: Context) -> bool:
        missing = await asyncio.to_thread(placing.missing, ctx)
        known = ctx.job.file_copy.missing if ctx.job.file_copy is not None else ()
        if missing != known:
            return False
        return not missing or (placing.running(ctx) is not None and streams.running(ctx) is not None)

    async def do(self, ctx: Context) -> None:
        missing = await asyncio.to_thread(placing.missing, ctx)
        if missing:
            await placing.start(ctx)
            await streams.serve(ctx, ctx.job.nbd_server.nonce if ctx.job.nbd_server else secrets.token_hex(12))
        total = sum(ctx.destination.files[place].size_bytes for place in missing)
        ctx.note(file_copy=FileCopy(missing=missing, bytes_total=total))

    async def rollback(self, ctx: Context) -> None:
        await placing.stop(ctx)
        await streams.stop(ctx)
        await asyncio.to_thread(placing.take_back, ctx.directory, ctx.settings.directory)


class CopyFilesSource(StepHandler):
    """The destination has every file."""

    name, side, attempts = "copy_files", Side.SOURCE, 10

    async def verify(self, ctx: Context) -> bool:
        return ctx.job.file_copy is None or not ctx.job.file_copy.missing

    async def do(self, ctx: Context) -> None:
        await streams.connect(ctx)
        copy = ctx.job.file_copy or FileCopy()
        done = 0
        for place in copy.missing:
            file = ctx.destination.files[place]
            progress = _Progress(ctx, done)
            try:
                await sender.send(place, file, progress.way())
            except Gone as error:
                raise BeginAnew(str(error), Restart.FILES) from error
            await asyncio.to_thread(progress.remarks.tell, None)
            done += file.size_bytes
        ctx.note(file_copy=copy.model_copy(update={"missing": (), "bytes_copied": copy.bytes_total}), pace=None)

    async def rollback(self, ctx: Context) -> None:
        await streams.stop(ctx)
        ctx.directory.remove()


class _Progress:
    """Records at most once a second how far the copy is, and what it waits for."""

    def __init__(self, ctx: Context, before: int) -> None:
        self.ctx, self.before = ctx, before
        self.recording, self.meter, self.allowed = Recording(), Meter(), 0
        self.remarks = Remarks(ctx)

    def way(self) -> Way:
        return Way(
            socket=self.ctx.directory.socket(FILES),
            rate=self.rate,
            copied=self.copied,
            busy=self.busy,
            secret=self.secret,
        )

    def secret(self, name: str) -> bytes:
        if not self.ctx.source_alive:
            raise Fatal(f"{self.ctx.job.guest}'s QEMU is gone: powered off or crashed")
        content = inline_secrets.contents(live_command_line.read(self.ctx.source_process).argv).get(name)
        if content is None:
            raise Fatal(f"the command line of {self.ctx.job.guest} has no secret {name}: nothing was sent for it")
        return content

    async def rate(self) -> int:
        return self.allowed

    async def busy(self) -> None:
        told = "another move is copying the same file there, it is waited for: see `drover job list`"
        await asyncio.to_thread(self.remarks.tell, told)

    async def copied(self, of_this: int) -> None:
        if self.recording.due():
            await asyncio.to_thread(self._record, self.before + of_this)

    def _record(self, copied: int) -> None:
        self.allowed = mirrors.budget(self.ctx)
        copy = self.ctx.job.file_copy or FileCopy()
        self.remarks.tell(None)
        pace = self.meter.look(copied, copy.bytes_total, self.allowed)
        self.ctx.note(
            file_copy=copy.model_copy(update={"bytes_copied": copied}),
            pace=pace.model_copy(update={"files_left": copy.bytes_total - copied}),
            progress_at=self.ctx.claim.now(),
        )
        self.ctx.announce(100 * copied // max(copy.bytes_total, 1))
