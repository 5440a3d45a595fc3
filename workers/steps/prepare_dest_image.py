"""Step 1: empty images on the destination, exactly like the source's."""

import asyncio
import os
import stat
from pathlib import Path

from drover.errors import Fatal, Transient
from models.database import transaction
from models.guest import Guest
from models.job import Side
from models.plan import PlannedDisk
from workers import files, processes, started_as
from workers.images import links
from workers.images import manifest as images
from workers.images.manifest import Manifest
from workers.media import placing
from workers.step import Context, StepHandler
from workers.storage import room


class PrepareDestImage(StepHandler):
    """The destination has an empty image for every disk, with the source's exact size, format and layout."""

    name, side = "prepare_dest_image", Side.DESTINATION

    async def verify(self, ctx: Context) -> bool:
        manifest = ctx.directory.manifest
        looks = (asyncio.to_thread(_is_made, manifest, disk) for disk in ctx.plan.disks)
        return all(await asyncio.gather(*looks))

    async def do(self, ctx: Context) -> None:
        disks = ctx.plan.disks
        await asyncio.to_thread(_check_room, ctx)
        await asyncio.to_thread(placing.make_folders, ctx)
        for disk in disks:
            ctx.guard()
            ctx.directory.manifest.claim(files.below(ctx.settings.guest_root, disk.destination_path))
            links.make(disk.links)
        await asyncio.gather(*(asyncio.to_thread(_make, ctx, disk) for disk in disks))

    async def rollback(self, ctx: Context) -> None:
        ctx.guard()
        _nobody_uses(ctx)
        ctx.directory.manifest.delete_all()
        ctx.directory.files.delete_all()
        for disk in ctx.held.disks if ctx.held is not None else ():
            links.remove_dangling(disk.links)
        ctx.directory.remove()


def _check_room(ctx: Context) -> None:
    with transaction() as session:
        guest = session.get(Guest, ctx.job.guest)
    room.check(
        ctx.plan.disks,
        ctx.settings,
        needed_files=ctx.destination.files,
        thin_factor=ctx.job.options.thin_factor,
        allocated_bytes=guest.allocated_bytes if guest is not None else None,
        job_id=ctx.job.id,
    )


def _nobody_uses(ctx: Context) -> None:
    """Whatever the rows say of the steps that follow: images of a guest that may run here are not deleted."""
    if ctx.directory.may_run_here:
        raise Fatal(f"{ctx.job.guest} may be running on {ctx.job.destination} already: its images there stay")
    if roles := sorted({role for role, _ in processes.marked(ctx.directory.path)}):
        raise Transient(f"its images on {ctx.job.destination} are in use still by: {', '.join(roles)}")


def _is_made(manifest: Manifest, disk: PlannedDisk) -> bool:
    path = Path(disk.destination_path)
    made = manifest.owns(path) and images.virtual_size(path, disk.format) == disk.virtual_size_bytes
    return made and all(Path(link.path).is_symlink() for link in disk.links)


def _make(ctx: Context, disk: PlannedDisk) -> None:
    path = Path(disk.destination_path)
    backing = (disk.chain[0].path, disk.chain[0].format) if disk.chain else None
    images.create(path, disk.format, disk.virtual_size_bytes, disk.create_options, backing)
    _give_away(ctx, disk, path)


def _give_away(ctx: Context, disk: PlannedDisk, path: Path) -> None:
    """The image belongs to whom it belonged, by name: its QEMU opens it as that user."""
    source = next((one for one in ctx.source.disks if one.index == disk.index), None)
    if source is None or source.owner is None or source.group is None or source.mode is None:
        return
    owner = started_as.owner_here(ctx.source.started_as, (source.owner, source.group))
    descriptor = files.opened(path, os.O_RDONLY)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, source.mode)
    finally:
        os.close(descriptor)
