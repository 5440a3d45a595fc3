"""The source's images are read through a storage daemon, which knows their formats. Nobody writes to them any more."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from models.plan import SourceDisk
from workers import files
from workers.disks.nbd_server import PROGRAM
from workers.guest.qmp_ready import monitor_ready
from workers.images import retention
from workers.preflight import live_command_line
from workers.process import processes
from workers.qemu import inline_secrets, nbd, nodes
from workers.qemu.nbd import ALLOCATION, Export
from workers.step import Context
from workers.storage import devices

ROLE = "reader"
"""The name under which it is found again."""
IN_NOBODYS_WAY = ("nice", "-n", "19", "ionice", "-c", "3")
"""Other guests' work goes first, on the CPU and at the disk."""


@asynccontextmanager
async def images(ctx: Context) -> AsyncIterator[dict[int, Export]]:
    """The guest's images at the source, by their disks, for the time of a `with` block.

    Raises:
        Fatal: the storage daemon does not start; the text holds the end of its log.
        NbdLost: it ended.
    """
    await stop(ctx)
    unix, monitor = ctx.directory.path / "reader.nbd", ctx.directory.path / "reader.qmp"
    argv = [
        *IN_NOBODYS_WAY,
        PROGRAM,
        *("--chardev", f"socket,id=monitor,path={monitor},server=on,wait=off"),
        *("--monitor", "chardev=monitor"),
        *("--nbd-server", f"addr.type=unix,addr.path={unix},max-connections=0"),
    ]
    try:
        with ExitStack() as opened:
            numbers = list[int]()
            argv += await asyncio.to_thread(_keys, ctx)
            for disk in ctx.source.disks:
                argv += _offered(ctx, disk, opened, numbers)
            ctx.guard()
            log = ctx.directory.log(ROLE)
            started = processes.spawn(ctx.directory.mark(ROLE), argv, log, pass_fds=numbers)
        await monitor_ready(started, monitor, log)
        async with AsyncExitStack() as exports:
            yield {
                disk.index: await exports.enter_async_context(nbd.connect(unix, _name(disk), [ALLOCATION]))
                for disk in ctx.source.disks
            }
    finally:
        await stop(ctx)


async def stop(ctx: Context) -> None:
    """End it. Not there: fine."""
    await processes.end_all(ctx.directory.mark(ROLE))  # it holds nothing
    for left in ctx.directory.path.glob("reader.*"):
        if left.name in {"reader.nbd", "reader.qmp"} or left.suffix == ".secret":
            left.unlink(missing_ok=True)


def _keys(ctx: Context) -> list[str]:
    """The options for the secrets that open encrypted disks. What stands on the guest's command line itself, which is
    known as long as its QEMU is there, is in files for this time.
    """
    argv = list(ctx.source.argv)
    if ctx.source_alive:
        live, place = live_command_line.read(ctx.source_process).argv, str(ctx.directory.path / ROLE)
        argv = inline_secrets.in_files(live, place)
        for name, content in inline_secrets.contents(live).items():
            with os.fdopen(files.private(Path(inline_secrets.file_of(place, name)), os.O_WRONLY), "wb") as file:
                file.write(content)
    needed = [disk.key_secret for disk in ctx.source.disks if disk.key_secret is not None]
    return list(dict.fromkeys(word for name in needed for word in inline_secrets.objects(argv, name)))


def _name(disk: SourceDisk) -> str:
    return f"disk{disk.index}"


def _offered(ctx: Context, disk: SourceDisk, opened: ExitStack, numbers: list[int]) -> list[str]:
    """The options for one disk; the daemon inherits its files open, so that nothing else at their paths is read."""
    node = _node(ctx, disk, opened, numbers)
    return [
        *("--blockdev", json.dumps({"node-name": _name(disk), "read-only": True, **node})),
        *("--export", f"type=nbd,id={_name(disk)},node-name={_name(disk)},name={_name(disk)}"),
    ]


def _node(ctx: Context, disk: SourceDisk, opened: ExitStack, numbers: list[int]) -> dict[str, Any]:
    below: dict[str, Any] | None = None
    for level in reversed(disk.chain):
        below = _format(level.format, files.followed(Path(level.path)), below, opened, numbers)
    kept = retention.now_at(ctx, Path(disk.path))
    path = devices.real(Path(disk.path)) if disk.block_device else files.followed(kept)
    node = _format(disk.format, path, below, opened, numbers)
    if disk.block_device:
        node["file"]["driver"] = "host_device"
        if disk.format == "raw":
            node["size"] = disk.virtual_size_bytes
    return node | nodes.key(disk.format, disk.key_secret)


def _format(
    driver: str, path: Path, below: dict[str, Any] | None, opened: ExitStack, numbers: list[int]
) -> dict[str, Any]:
    """The guest's QEMU keeps its locks of an image that it was handed open until it ends."""
    number = files.opened(path, os.O_RDONLY)
    opened.callback(os.close, number)
    numbers.append(number)
    file = {"driver": "file", "filename": f"/proc/self/fd/{number}", "locking": "off"}
    node: dict[str, Any] = {"driver": driver, "file": file}
    return {**node, "backing": below} if driver == "qcow2" else node
