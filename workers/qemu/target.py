"""The target of a mirror: an NBD export. How it is opened decides what becomes of a disk's holes and zeroes.

Where the node's `discard` is `unmap`, a mirror asks the other side for a hole where the source has one, sends nothing
for it, and does not charge it to its bandwidth limit. Where it is `ignore`, it charges it: a disk of 1 GiB with 47 MiB
of data took 51 s at 20 MiB/s, and 3 s otherwise (10.0.2). Zeroes that the source has allocated, such as all that
preallocation=metadata laid out, are charged in either case, but not sent where `detect-zeroes` is `unmap`.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from workers.qemu import block
from workers.qemu.monitor import CommandRefused, Monitor

BEGUN_S = 5.0
"""How long mirrors may take until they stand still. What is lost otherwise is time of the copy."""
STILL_S = 0.1


async def connect(monitor: Monitor, name: str, server: Mapping[str, str], *, discard: str, zeroes: str) -> None:
    """Open an NBD export under this name. `server` is {"path", "export"}, `zeroes` is for `detect-zeroes`."""
    await monitor.execute("blockdev-add", **_options(name, server, discard, zeroes))


async def spare_holes(monitor: Monitor, servers: Mapping[str, Mapping[str, str]], zeroes: Mapping[str, str]) -> None:
    """From now on these mirrors, {name: server}, leave holes out although they began with `discard=ignore`.

    They had to begin so (B1 of `known_bugs`): the whole disk is marked first, and no write of the guest is missed. Once
    it is marked nothing speaks against `unmap` any more. Call it while they crawl: QEMU, and the guest with it, waits
    for what is on its way, so what each sends at first, up to 16 MiB, is waited for before (10.0.2). Where QEMU does
    not take it the copy takes longer, and is as good.
    """
    if not servers or not await _stand_still(monitor, list(servers)):
        return
    for name, server in servers.items():
        try:
            options = {
                key.replace("_", "-"): value for key, value in _options(name, server, "unmap", zeroes[name]).items()
            }
            await monitor.execute("blockdev-reopen", options=[options])
        except CommandRefused:
            return


async def _stand_still(monitor: Monitor, names: list[str]) -> bool:
    """All have marked what they are to copy (QEMU counts nothing before), and have nothing on its way any more."""
    deadline, since, before = time.monotonic() + BEGUN_S, time.monotonic(), list[int]()
    while time.monotonic() < deadline:
        states = (await block.mirrors(monitor, names)).values()
        now = [mirror.copied_bytes for mirror in states if mirror.total_bytes]
        if now != before:
            since, before = time.monotonic(), now
        elif len(now) == len(names) and time.monotonic() - since > STILL_S:
            return True
        await asyncio.sleep(STILL_S / 5)
    return False


def _options(name: str, server: Mapping[str, str], discard: str, zeroes: str) -> dict[str, Any]:
    """`reconnect-delay` 0 makes every break visible. QEMU takes `unmap` for zeroes only together with that of holes."""
    late = "off" if zeroes == "off" else "on"
    return {
        "driver": "nbd",
        "node_name": name,
        "server": {"type": "unix", "path": server["path"]},
        "export": server["export"],
        "reconnect_delay": 0,
        "discard": discard,
        "detect_zeroes": zeroes if discard == "unmap" else late,
    }
