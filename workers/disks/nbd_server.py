"""The NBD server: one `qemu-storage-daemon` per job on the destination, serving all its images over NBD.

It is a process apart from the incoming QEMU, so that RAM can be sent again without a new copy, and `cont` fails
closed while an image is still exported. Export names hold a nonce that changes with each start: a mirror can
never attach itself to a restarted NBD server, which may have lost writes that it had acknowledged.
"""

import asyncio
import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from models.job_folder import ClosedImages
from models.plan import PlannedDisk
from workers import files
from workers.disks import writeback
from workers.guest.qmp_ready import monitor_ready
from workers.process import processes
from workers.process.processes import Process
from workers.qemu import block
from workers.qemu.block import ExportedImage
from workers.qemu.known_bugs import Version, exporter_detect_zeroes
from workers.qemu.monitor import CommandRefused, MonitorLost
from workers.step import Context
from workers.storage import devices, making
from workers.streams import supervisor as streams
from workers.streams.parameters import NBD

log = logging.getLogger(__name__)

PROGRAM = "qemu-storage-daemon"
CLOSED_S = 60.0
"""What it holds in memory of images is little; slow storage may take long for it all the same."""
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""Keeps the memory of one request for the next. glibc would give it back to the kernel, which makes it anew and zeroes
it for each: a third of the NBD server's CPU with QEMU 10.0.2 (docs/explanation/performance.md). 32 MiB is the most."""


def images(ctx: Context, nonce: str) -> list[ExportedImage]:
    """The job's images under the names of this incarnation."""
    version = ctx.destination.qemu_version
    return [
        ExportedImage(
            index=disk.index,
            path=disk.destination_path,
            format=disk.format,
            device=disk.destination_device,
            size_bytes=disk.virtual_size_bytes,
            export=export_name(nonce, disk.index),
            **_space(disk, version),
            backing=tuple((level.path, level.format) for level in disk.chain),
            key_secret=disk.key_secret,
        )
        for disk in ctx.disks
    ]


def _space(disk: PlannedDisk, version: Version) -> dict[str, str]:
    """A thin image stays thin, one that has all its room keeps it."""
    if "preallocation" in disk.create_options:
        return {"discard": "ignore", "detect_zeroes": "off"}
    return {"discard": "unmap", "detect_zeroes": exporter_detect_zeroes(version, disk.format)}


def export_name(nonce: str, index: int) -> str:
    """A name that cannot be guessed, another one after each start. QEMU requires a letter first."""
    return f"drover-{nonce}-{index}"


def running(ctx: Context) -> Process | None:
    """The job's NBD server, if it lives."""
    return processes.one(ctx.directory.mark("exporter"))


async def serves(ctx: Context) -> bool:
    """The NBD server that the job's record names lives and offers every image."""
    if not ctx.job.nbd_server or running(ctx) is None:
        return False
    try:
        async with ctx.nbd_server() as monitor:
            offered = await block.exports(monitor)
    except MonitorLost:
        return False
    return offered == {image.export for image in images(ctx, ctx.job.nbd_server.nonce)}


def takes_streams(ctx: Context) -> bool:
    """It listens where `workers.streams` connects to it; one that Drover 0.1 started does not."""
    return ctx.directory.socket(NBD).exists()


def refuses(ctx: Context) -> bool:
    """Its host answers that nobody serves the images: it is dead. Silence proves nothing. Ask on the source."""
    return streams.probe(ctx) is False


def reachable(ctx: Context) -> bool:
    """It listens, and there is a way to it. Ask on the source."""
    return streams.probe(ctx) is True


async def start(ctx: Context, nonce: str) -> None:
    """Start the NBD server and offer all images to this host's end of the job's streams.

    Raises:
        Fatal: it cannot be started; the text holds the end of its log.
    """
    ctx.only_own_images()
    path, unix = ctx.directory.nbd_server_qmp, ctx.directory.socket(NBD)
    for left in (path, unix):
        left.unlink(missing_ok=True)
    ctx.directory.closed_images.remove()
    argv = [
        PROGRAM,
        *("--chardev", f"socket,id=monitor,path={path},server=on,wait=off"),
        *("--monitor", "chardev=monitor"),
        *_keys(ctx),
        *("--nbd-server", f"addr.type=unix,addr.path={unix},max-connections=0"),  # strangers never get there
    ]
    with ExitStack() as stack:
        served = [_opened(image, stack) for image in images(ctx, nonce)]
        started = processes.spawn(
            ctx.directory.mark("exporter"),
            argv,
            ctx.directory.log("exporter"),
            pass_fds=[number for _, numbers in served for number in numbers],
            environment=ALLOCATION,
        )
    writeback.keep_up(started, [str(_file(image)) for image in images(ctx, nonce)])
    await monitor_ready(started, path, ctx.directory.log("exporter"))
    async with ctx.nbd_server() as monitor:
        for image, _ in served:
            await block.export(monitor, image)


def _keys(ctx: Context) -> list[str]:
    """The secrets of encrypted disks; several may have the same."""
    found = (making.key(ctx.destination, disk) for disk in ctx.disks)
    return list(dict.fromkeys(word for key in found if key is not None for word in key.objects))


def _opened(image: ExportedImage, stack: ExitStack) -> tuple[ExportedImage, list[int]]:
    """The image as the NBD server is to open it, which inherits these descriptors: not by what is at a path by then."""
    numbers = [files.opened(_file(image), os.O_RDONLY)]
    stack.callback(os.close, numbers[0])
    backing = []
    for path, driver in image.backing:
        numbers.append(files.opened(files.followed(Path(path)), os.O_RDONLY))
        stack.callback(os.close, numbers[-1])
        backing.append((f"/proc/self/fd/{numbers[-1]}", driver))
    return replace(image, path=f"/proc/self/fd/{numbers[0]}", backing=tuple(backing)), numbers


def _file(image: ExportedImage) -> Path:
    return devices.real(Path(image.path)) if image.device else Path(image.path)


async def close(ctx: Context) -> None:
    """Have it close all images in good order, and write down of which copy they are. One that does not offer all of
    them any more is left as it is.
    """
    if not await serves(ctx):
        return
    nonce = ctx.served_at.nonce
    served = images(ctx, nonce)
    try:
        async with asyncio.timeout(CLOSED_S), ctx.nbd_server() as monitor:
            nodes = [node for image in served for node in image.nodes]
            await block.withdraw(monitor, [image.export for image in served], nodes)
    except (CommandRefused, MonitorLost, TimeoutError) as error:
        log.info("the NBD server did not close the images: %s", error)
        return
    ctx.directory.closed_images.write(ClosedImages(nonce=nonce))


async def stop(ctx: Context) -> None:
    """End it; its images stay. If it does not exist, nothing happens."""
    ctx.guard()
    for process in processes.find(ctx.directory.mark("exporter")):
        await process.end()
    for left in (ctx.directory.nbd_server_qmp, ctx.directory.socket(NBD)):
        left.unlink(missing_ok=True)
