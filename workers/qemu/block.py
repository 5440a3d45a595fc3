"""Disks by QMP: mirrors on the source, exported nodes on the destination.

Names are made from the job's id, so that a later worker finds what an earlier one began.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from drover.errors import Transient
from models.plain import GRANULARITY
from workers.qemu import drives, qom
from workers.qemu.monitor import Monitor
from workers.qemu.nodes import key

Sync = Literal["full", "top", "none"]


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """One `blockdev-mirror` block job as QEMU shows it."""

    status: str
    copied_bytes: int
    total_bytes: int
    """Grows as the guest writes; 0 until QEMU has looked the disk through."""
    ready: bool
    healthy: bool
    """False: it stands with an I/O error and waits to be resumed."""
    no_room: bool
    """That error is ENOSPC, which crosses NBD: the destination's file system is full."""
    error: str | None

    @property
    def concluded(self) -> bool:
        """It does nothing more; `error` has the outcome."""
        return self.status == "concluded"

    @property
    def in_sync(self) -> bool:
        """Both sides are equal but for what is being sent just now."""
        return self.ready and self.healthy and not self.concluded


async def mirrors(monitor: Monitor, names: Sequence[str]) -> dict[str, Mirror]:
    """Those of the named mirrors that exist."""
    jobs, details = await asyncio.gather(monitor.query("query-jobs"), monitor.query("query-block-jobs"))
    detail = {job["device"]: job for job in details}
    return {job["id"]: _mirror(job, detail.get(job["id"], {})) for job in jobs if job["id"] in names}


def _mirror(job: dict[str, Any], detail: dict[str, Any]) -> Mirror:
    return Mirror(
        status=job["status"],
        copied_bytes=job["current-progress"],
        total_bytes=job["total-progress"],
        ready=bool(detail.get("ready", False)),
        healthy=detail.get("io-status", "ok") == "ok",
        no_room=detail.get("io-status") == "nospace",
        error=job.get("error"),
    )


STANDING = frozenset({"paused", "standby"})
"""States of a mirror that has nothing on its way any more."""
STANDS_S = 30.0
NO_PIECES: Mapping[str, int] = {}
CRAWL = 1
"""Bytes per second of a mirror that hardly copies."""


async def start_mirrors(
    monitor: Monitor, disks: Mapping[str, str], *, shallow: Collection[str] = (), pieces: Mapping[str, int] = NO_PIECES
) -> None:
    """Begin to copy disks to the targets of these names, {name: device}, and keep both sides equal from then on.

    Of those that are `shallow` only what lies above their backing files is copied. `pieces` has what is copied at once.

    All of them crawl until `set_speeds` says otherwise. While a mirror is started QEMU waits for all that the others
    have on its way, up to 16 MiB each, and neither answers nor serves the guest's disks meanwhile. Three disks, 10.0.2:
    a guest's write waited for 1.3 s where the others copied at 25 MB/s and 0.33 s at 100; 0.6 and 0.15 s where they
    crawled. 8.2.0 to 8.2.2 may even hang (B8 of `known_bugs`).
    """
    for name, device in disks.items():
        piece_bytes = pieces.get(name, GRANULARITY)
        await _start_mirror(monitor, name, device, "top" if name in shallow else "full", piece_bytes)


async def start_without_missing_a_write(monitor: Monitor, name: str, device: str) -> bool:
    """Begin a shallow mirror that hardly copies, where QEMU may miss what the guest writes while it looks the disk
    through (bug B1 of `known_bugs`).

    A dirty bitmap of ours records what is written from before the start until QEMU counts the mirror's progress, and
    from then on misses nothing. Nothing was recorded: nothing was missed. Else the mirror is not to be used; as long
    as the bitmap is there `unproven` names it.
    """
    await monitor.execute("block-dirty-bitmap-add", node=device, name=name, persistent=False)
    await _start_mirror(monitor, name, device, "top")
    while True:
        mirror = (await mirrors(monitor, [name]))[name]
        if mirror.total_bytes or mirror.ready or mirror.concluded:
            break
        await asyncio.sleep(0.001)
    if mirror.concluded or (await _bitmaps(monitor))[name][1]:
        return False
    await monitor.execute("block-dirty-bitmap-remove", node=device, name=name)
    return True


async def start_standing_mirror(monitor: Monitor, name: str, device: str) -> None:
    """A mirror that copies nothing but what is written from now on, and that only once `let_mirror_go_on` says so.

    Until then it is not to be used, and `unproven` names it: an empty bitmap of its name is there.

    Raises:
        Transient: it does not stand still.
    """
    await monitor.execute("block-dirty-bitmap-add", node=device, name=name, persistent=False, disabled=True)
    await _start_mirror(monitor, name, device, "none")
    await stand_still(monitor, name, STANDS_S)


async def stand_still(monitor: Monitor, name: str, timeout_s: float) -> None:
    """Pause a mirror, until nothing of it is on its way.

    Raises:
        Transient: it goes on all the same.
    """
    await monitor.execute("block-job-pause", device=name)
    deadline = time.monotonic() + timeout_s
    while (mirror := (await mirrors(monitor, [name])).get(name)) is None or mirror.status not in STANDING:
        if mirror is None or mirror.concluded or time.monotonic() > deadline:
            raise Transient(f"mirror {name} cannot be paused")
        await asyncio.sleep(0.005)


async def let_mirror_go_on(monitor: Monitor, name: str, device: str) -> None:
    """Somebody else has made both sides equal but for what it has recorded: it goes on, and may be used."""
    await monitor.execute("block-job-resume", device=name)
    await monitor.execute("block-dirty-bitmap-remove", node=device, name=name)


async def unsent(monitor: Monitor, node: str) -> int | None:
    """Bytes of this node that its mirror is to send again, in whole pieces; None: QEMU does not tell.

    It keeps them in a bitmap without a name, on its own node above (10.0.2). What is on its way is in there no more.
    """
    chains = (await drives.chains(monitor)).values()
    above = next((chain for chain in chains if any(each["node-name"] == node for each in chain)), [])
    counts = [
        bitmap["count"]
        for each in above
        for bitmap in each.get("dirty-bitmaps", ())
        if each["drv"] == "mirror_top" and not bitmap.get("name")
    ]
    return sum(counts) if counts else None


async def unproven(monitor: Monitor) -> set[str]:
    """Mirrors that may have missed a write."""
    return set(await _bitmaps(monitor))


async def _bitmaps(monitor: Monitor) -> dict[str, tuple[str, int]]:
    """{name: (node, bytes that were written)}."""
    nodes = await monitor.query("query-named-block-nodes", flat=True)
    return {
        bitmap["name"]: (node["node-name"], bitmap["count"])
        for node in nodes
        for bitmap in node.get("dirty-bitmaps", ())
        if bitmap.get("name")
    }


async def _start_mirror(monitor: Monitor, name: str, device: str, sync: Sync, piece_bytes: int = GRANULARITY) -> None:
    """`auto-dismiss` false keeps the outcome for a later worker; `on-target-error` stop lets a break be healed
    without a new copy as long as it is the same NBD server, which its export name proves.
    """
    await monitor.execute(
        "blockdev-mirror",
        job_id=name,
        device=device,
        target=name,
        sync=sync,
        copy_mode="background",
        on_source_error="report",
        on_target_error="stop",
        auto_dismiss=False,
        granularity=piece_bytes,
        speed=CRAWL if sync != "none" else 0,
    )


async def cut(monitor: Monitor, names: Sequence[str]) -> None:
    """Cut the connections of these mirrors, even while QEMU answers nothing else; they never recover from that.

    Whatever changes QEMU's block nodes waits for the requests that are on their way through any of them, over a dead
    link until TCP gives up, and the guest's disks wait as well (bdrv_graph_wrlock, 10.0.2).
    """
    for name in names:
        await monitor.yank(**{"type": "block-node", "node-name": name})


async def drop_mirrors(monitor: Monitor, names: Sequence[str]) -> None:
    """End mirrors without making their sides equal, and dismiss them. If it does not exist, nothing happens."""
    await cut(monitor, names)
    for name in names:
        await monitor.execute_if_there("block-job-cancel", device=name, force=True)
        deadline = time.monotonic() + 30
        while (state := (await mirrors(monitor, [name])).get(name)) is not None:
            if state.concluded:
                await monitor.execute_if_there("job-dismiss", id=name)
            if time.monotonic() > deadline:
                raise Transient(f"mirror {name} does not end")
            await asyncio.sleep(0.02)
        await monitor.execute_if_there("blockdev-del", node_name=name)
    for name, (node, _) in (await _bitmaps(monitor)).items():
        if name in names:
            await monitor.execute_if_there("block-dirty-bitmap-remove", node=node, name=name)


async def set_speeds(monitor: Monitor, rates: Mapping[str, int]) -> None:
    """Limit the bulk copy of these mirrors, in bytes per second, 0 for no limit; once ready QEMU applies none."""
    await monitor.execute_each("block-job-set-speed", ({"device": name, "speed": rate} for name, rate in rates.items()))


async def resume_mirror(monitor: Monitor, name: str) -> None:
    """Resume a mirror that stopped with an error; only what is missing is sent."""
    await monitor.execute_if_there("job-resume", id=name)


async def end_mirrors(monitor: Monitor, names: Sequence[str], timeout_s: float, check: Callable[[], None]) -> None:
    """Make both sides of ready mirrors equal for good; the guest must be paused.

    `block-job-cancel force=false` does that for a mirror which is ready; `job-cancel` would always force.

    Raises:
        Transient: a mirror did not end well; the destination's images are not to be used.
    """
    deadline = time.monotonic() + timeout_s
    await monitor.execute_each("block-job-cancel", ({"device": name, "force": False} for name in names))
    while True:
        check()
        states = await mirrors(monitor, names)
        if len(states) != len(names):
            raise Transient("a mirror vanished during the switchover")
        if all(state.concluded for state in states.values()):
            break
        if time.monotonic() > deadline or not all(state.healthy for state in states.values()):
            raise Transient("a mirror could not be ended")
        await asyncio.sleep(0.0005)
    failed = {name: state.error for name, state in states.items() if state.error}
    if failed:
        raise Transient(f"mirrors ended with errors: {failed}")


async def device_names(monitor: Monitor) -> list[str]:
    """The guest's devices as QOM names them; hot-plug changes this list."""
    return sorted([*await qom.children(monitor, qom.PERIPHERAL), *await qom.children(monitor, qom.ANONYMOUS)])


@dataclass(frozen=True, kw_only=True)
class ExportedImage:
    """An image on the destination and the names under which the NBD server serves it."""

    index: int
    path: str
    format: str
    export: str
    detect_zeroes: str
    discard: str = "unmap"
    """`ignore` keeps what the image has allocated."""
    device: bool = False
    """It lies on a block device."""
    size_bytes: int = 0
    """Of the guest's disk; a raw block device may be larger."""
    backing: tuple[tuple[str, str], ...] = ()
    """(path, format) from the file right below it down to the base."""
    key_secret: str | None = None
    """Id of the secret that opens it."""

    @property
    def nodes(self) -> list[str]:
        """Its block nodes, in the order in which they can be removed."""
        return [node for level in range(len(self.backing) + 1) for node in self.of_level(level)]

    def of_level(self, level: int) -> tuple[str, str]:
        """The nodes of the image (0) or of a backing file: its format's and its file's."""
        name = f"disk{self.index}" if level == 0 else f"disk{self.index}-below{level}"
        return name, f"{name}-file"


async def export(monitor: Monitor, image: ExportedImage) -> None:
    """Open an image in the NBD server and offer it for writing."""
    below: dict[str, Any] = {}
    for level in range(len(image.backing), 0, -1):
        below = {"backing": await _add_backing(monitor, image, level, below)}
    format_node, file_node = image.of_level(0)
    driver = "host_device" if image.device else "file"
    await monitor.execute(
        "blockdev-add", driver=driver, node_name=file_node, filename=image.path, discard=image.discard
    )
    if image.device and image.format == "raw":
        below["size"] = image.size_bytes
    below |= key(image.format, image.key_secret)
    await monitor.execute(
        "blockdev-add",
        driver=image.format,
        node_name=format_node,
        file=file_node,
        discard=image.discard,
        detect_zeroes=image.detect_zeroes,
        **below,
    )
    await monitor.execute(
        "block-export-add",
        type="nbd",
        id=image.export,
        node_name=format_node,
        name=image.export,
        writable=True,
    )


async def _add_backing(monitor: Monitor, image: ExportedImage, level: int, below: dict[str, Any]) -> str:
    """Open a backing file: nothing is ever written to it."""
    (path, driver), (format_node, file_node) = image.backing[level - 1], image.of_level(level)
    await monitor.execute("blockdev-add", driver="file", node_name=file_node, filename=path, read_only=True)
    ends: dict[str, Any] = {} if driver == "raw" else {"backing": None}
    await monitor.execute(
        "blockdev-add", driver=driver, node_name=format_node, file=file_node, read_only=True, **{**ends, **below}
    )
    return format_node


async def withdraw(monitor: Monitor, exports: Sequence[str], nodes: Sequence[str]) -> None:
    """Close images that are offered: what was written to them is in their files then."""
    await monitor.execute_each("block-export-del", ({"id": export, "mode": "hard"} for export in exports))
    while await monitor.query("query-block-exports"):
        await asyncio.sleep(0.0005)  # gone as soon as the last request is done
    await monitor.execute_each("blockdev-del", ({"node_name": node} for node in nodes))


async def exports(monitor: Monitor) -> set[str]:
    """The names under which images are offered."""
    return {entry["id"] for entry in await monitor.query("query-block-exports")}
