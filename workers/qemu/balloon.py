"""How often a balloon asks its guest for statistics: set by a monitor, and in no device's state."""

from collections.abc import Mapping

from workers.qemu import qom
from workers.qemu.monitor import Monitor

INTERVAL = "guest-stats-polling-interval"


async def intervals(monitor: Monitor) -> dict[str, int]:
    """{device: seconds} of those that ask; the names are the same in two QEMUs of one command line."""
    found = {path: await monitor.query("qom-get", path=path, property=INTERVAL) for path in await _balloons(monitor)}
    return {path: seconds for path, seconds in found.items() if seconds}


async def set_intervals(monitor: Monitor, wanted: Mapping[str, int]) -> None:
    """Have them ask as often. Raises `CommandRefused` where there is no such balloon."""
    for path, seconds in wanted.items():
        await monitor.execute("qom-set", path=path, property=INTERVAL, value=seconds)


async def _balloons(monitor: Monitor) -> list[str]:
    devices = {path: await qom.children(monitor, path) for path in (qom.PERIPHERAL, qom.ANONYMOUS)}
    return [
        f"{path}/{name}"
        for path, found in devices.items()
        for name, kind in found.items()
        if kind.startswith("virtio-balloon")
    ]
