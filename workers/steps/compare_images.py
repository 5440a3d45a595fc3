"""Between steps 6 and 7, on request: before the source's images are let go, both sides are compared end to end.

The destination has a process answer what the guest's images hold there; the source compares. See `workers.proof`.
Where they differ the job stops and the source keeps all that it has. Where they cannot be compared, because the hosts
do not reach each other, the job ends without a proof: the guest runs at the destination whatever its images are found
to be, and its former ones stay until it has moved again.
"""

import asyncio

from drover.errors import Fatal, Transient
from drover.words import count, size
from models.documents import DiskProof, Proof, Range
from models.event_action import EventAction
from models.job import Side
from workers.disks.pace import RateLimiter
from workers.guest import incoming_qemu
from workers.proof import reading, supervisor
from workers.proof.comparing import Comparison, Peer
from workers.proof.protocol import BLOCK_BYTES
from workers.step import Context, StepHandler
from workers.streams import supervisor as streams
from workers.streams.parameters import PROOF
from workflows.migration.links import BeginAnew, Restart

NAMED = 5
"""Places in the sentence; the record has more."""


class CompareImagesDestination(StepHandler):
    """A process waits for questions about the guest's images here."""

    name, side, attempts = "compare_images", Side.DESTINATION, 10

    async def verify(self, ctx: Context) -> bool:
        if not ctx.job.options.verify:
            return True
        if incoming_qemu.running(ctx) is None:
            raise Fatal(_no_record(ctx))
        return supervisor.running(ctx) is not None and streams.running(ctx) is not None

    async def do(self, ctx: Context) -> None:
        await supervisor.start(ctx)
        await streams.serve(ctx, ctx.served_at.nonce)

    async def rollback(self, ctx: Context) -> None:
        await supervisor.stop(ctx)


class CompareImagesSource(StepHandler):
    """Both sides of all disks are equal, but for what the guest has written since its switchover."""

    name, side, attempts = "compare_images", Side.SOURCE, 8
    """About two minutes of a link that is cut."""

    async def verify(self, ctx: Context) -> bool:
        if not ctx.job.options.verify:
            return True
        found = ctx.job.proof
        return found is not None and (found.finished or found.not_proven is not None) and not found.bytes_different

    async def do(self, ctx: Context) -> None:
        ctx.note(proof=Proof())
        try:
            found = Proof(disks=await _compared(ctx), finished=True)
        except Transient as error:  # the process at the destination, or the way to it, may be gone
            if ctx.claim.attempt < self.attempts:
                raise BeginAnew(str(error), Restart.COMPARISON) from error
            _go_on_without(ctx, str(error))
            return
        unwell = ctx.job.health is not None and ctx.job.health.problems
        ctx.note(proof=found, progress_at=ctx.claim.now(), way_back_needed=bool(found.bytes_different or unwell))
        if found.bytes_different:
            raise Fatal(_alarm(ctx, found))
        ctx.tell(EventAction.VERIFIED, _sentence(found))

    async def rollback(self, ctx: Context) -> None:
        await reading.stop(ctx)


def _go_on_without(ctx: Context, why: str) -> None:
    ctx.note(proof=Proof(not_proven=why), way_back_needed=True)
    job = ctx.job
    sentence = (
        f"the copy of {job.guest} is not proven: {why}. It runs on {job.destination}, and {job.source} keeps its "
        "images of the instant of the switchover until it has moved again, or until `drover image purge --guest "
        f"{job.guest} --last-way-back` gives them up"
    )
    ctx.tell(EventAction.WARNING, sentence)


async def _compared(ctx: Context) -> tuple[DiskProof, ...]:
    await streams.connect(ctx)
    record = _Record(ctx)
    async with reading.images(ctx) as ours, Peer.reached(str(ctx.directory.socket(PROOF))) as peer:
        for disk in ctx.source.disks:
            comparison = Comparison(
                index=disk.index,
                size_bytes=disk.virtual_size_bytes,
                ours=ours[disk.index],
                theirs=peer,
                limiter=record.limiter,
                told=record.told,
            )
            record.done.append(await comparison.run())
    return tuple(record.done)


class _Record:
    """The disks that were compared, and how far the present one is."""

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.limiter = ctx, RateLimiter(ctx.job.options.verify_bytes_per_s)
        self.done = list[DiskProof]()

    async def told(self, now: DiskProof) -> None:
        await asyncio.to_thread(self._write, now)

    def _write(self, now: DiskProof) -> None:
        disks = self.ctx.source.disks
        total = sum(disk.virtual_size_bytes for disk in disks)
        compared = sum(disk.bytes_compared for disk in (*self.done, now))
        self.ctx.note(proof=Proof(disks=(*self.done, now)), progress_at=self.ctx.claim.now())
        self.ctx.announce(100 * compared // max(total, 1))


def _sentence(found: Proof) -> str:
    equal, left_out = (sum(disk.bytes_equal for disk in found.disks), sum(disk.bytes_left_out for disk in found.disks))
    return (
        f"both sides' images are equal, as digests of both hosts show: {size(equal)}; {size(left_out)} were left out "
        "because the guest has written them since its switchover"
    )


def _alarm(ctx: Context, found: Proof) -> str:
    job = ctx.job
    places = "; ".join(_places(ctx, disk) for disk in found.disks if disk.different)
    return (
        f"{job.guest}'s images on {job.destination} are not what they were on {job.source}: {places}. It runs on "
        f"{job.destination} with them, and {job.source} keeps its own, of the instant of the switchover. To go back to "
        f"them, without what the guest did since: end its QEMU on {job.destination}, then `drover job resolve {job.id} "
        f"--owner source`. To stay, and keep them all the same: `drover job resolve {job.id} --owner destination`"
    )


def _no_record(ctx: Context) -> str:
    job = ctx.job
    return (
        f"{job.guest}'s QEMU on {job.destination} has ended, and with it the record of what it wrote since its "
        f"switchover: its images cannot be compared any more. {job.source} keeps its own, of the instant of the "
        "switchover. To end the move without a proof, and keep them all the same: `drover job resolve "
        f"{job.id} --owner destination`, then `drover guest start {job.guest}`"
    )


def _places(ctx: Context, disk: DiskProof) -> str:
    cluster = ctx.source.disks[disk.index].cluster_size_bytes or BLOCK_BYTES
    named = ", ".join(_place(place, cluster) for place in disk.different[:NAMED])
    more = "" if len(disk.different) <= NAMED else " and more"
    return f"disk {disk.index} differs at {count(len(disk.different), 'place')}, {named}{more}"


def _place(place: Range, cluster: int) -> str:
    first, last = place.offset // cluster, (place.offset + place.length - 1) // cluster
    which = f"cluster {first}" if first == last else f"clusters {first} to {last}"
    return f"{place.length} bytes from {place.offset} on ({which})"
