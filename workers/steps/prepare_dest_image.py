"""Step 1: empty images on the destination, exactly like the source's."""

import asyncio
from pathlib import Path

from drover.errors import Fatal, PreconditionFailed, Transient
from models.database import transaction
from models.event_action import EventAction
from models.guest import Guest
from models.job import Side
from workers import hooks
from workers.disks import ownership
from workers.hooks import Point
from workers.images import links, manifest, retention, way_back
from workers.images.way_back import Choice
from workers.launcher import keep_out
from workers.media import placing
from workers.process import processes
from workers.step import Context, StepHandler
from workers.storage import making, room


class PrepareDestImage(StepHandler):
    """The destination has an empty image for every disk, with the source's exact size, format and layout."""

    name, side = "prepare_dest_image", Side.DESTINATION

    async def verify(self, ctx: Context) -> bool:
        if await asyncio.to_thread(placing.missing_folders, ctx):
            return False  # all that a guest without a disk needs here
        looks = (
            asyncio.to_thread(making.is_claimed if disk.key_secret else making.is_made, ctx.directory, disk)
            for disk in ctx.plan.disks
        )
        return all(await asyncio.gather(*looks))

    async def do(self, ctx: Context) -> None:
        await hooks.run(ctx, Point.BEFORE_COPY)
        disks = ctx.plan.disks
        choice = await asyncio.to_thread(way_back.chosen, ctx)
        if choice.way is None:
            await asyncio.to_thread(_have_room, ctx)
        await asyncio.to_thread(placing.make_folders, ctx)
        for disk in disks:
            ctx.guard()
            _may_be_an_image(ctx, Path(disk.destination_path))
        await _begin_images(ctx, choice)
        for disk in disks:
            links.make(disk.links)
        await asyncio.gather(*(asyncio.to_thread(ownership.give_away, ctx, disk) for disk in disks))

    async def rollback(self, ctx: Context) -> None:
        ctx.guard()
        _nobody_uses(ctx)
        await asyncio.to_thread(way_back.put_back, ctx)
        await asyncio.to_thread(way_back.keep_copy, ctx)
        await asyncio.to_thread(making.delete_all, ctx)
        await asyncio.to_thread(placing.take_back, ctx.directory, ctx.settings.directory)
        for disk in ctx.held.disks if ctx.held is not None else ():
            links.remove_dangling(disk.links)
        await hooks.run(ctx, Point.AFTER_ROLLBACK)
        ctx.directory.remove()


async def _begin_images(ctx: Context, choice: Choice) -> None:
    """With what the guest left behind here, or with empty images; encrypted ones are made in `start_nbd`."""
    if choice.way is not None:
        await asyncio.to_thread(way_back.take, ctx, choice.way)
        ctx.tell(
            EventAction.WAY_BACK, f"{ctx.job.destination} has images of it that job {choice.way.job} has left there"
        )
        return
    if choice.why is not None:
        ctx.tell(
            EventAction.WAY_BACK, f"all of its disks is copied, although images of it were left there: {choice.why}"
        )
    for disk in ctx.plan.disks:
        ctx.guard()
        await asyncio.to_thread(making.claim, ctx, disk)
    empty = [disk for disk in ctx.plan.disks if disk.key_secret is None]
    await asyncio.gather(*(asyncio.to_thread(making.fill, disk) for disk in empty))


def _may_be_an_image(ctx: Context, path: Path) -> None:
    """The guest comes back to where a folder keeps its former launcher out."""
    if left := keep_out.launcher_left(ctx.settings, path):
        raise Fatal(left)
    keep_out.clear(ctx.settings, path)


def _have_room(ctx: Context) -> None:
    """Copies of moves that were rolled back give way."""
    folders = {manifest.existing_parent(Path(disk.destination_path)) for disk in ctx.disks}
    while (lacking := _lacks_room(ctx)) is not None:
        ctx.guard()
        if not retention.drop_a_copy(ctx.settings, folders):
            raise lacking


def _lacks_room(ctx: Context) -> PreconditionFailed | None:
    try:
        room.check(
            ctx.plan.disks,
            ctx.settings,
            needed_files=ctx.destination.files,
            thin_factor=ctx.job.options.thin_factor,
            grown_bytes=_grown(ctx),
            job_id=ctx.job.id,
        )
    except PreconditionFailed as error:
        return error
    return None


def _grown(ctx: Context) -> int:
    """What the guest has written since the move was planned."""
    with transaction() as session:
        guest = session.get(Guest, ctx.job.guest)
    planned = [disk.allocated_bytes for disk in ctx.source.disks if not disk.block_device]
    if guest is None or guest.allocated_bytes is None or None in planned:
        return 0
    return max(guest.allocated_bytes - sum(filter(None, planned)), 0)


def _nobody_uses(ctx: Context) -> None:
    """Whatever the rows say of the steps that follow: images of a guest that may run here are not deleted."""
    if ctx.directory.may_run_here:
        raise Fatal(f"{ctx.job.guest} may be running on {ctx.job.destination} already: its images there stay")
    if roles := sorted({role for role, _ in processes.marked(ctx.directory.path)}):
        raise Transient(f"its images on {ctx.job.destination} are in use still by: {', '.join(roles)}")
