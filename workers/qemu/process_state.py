"""What lives in a guest's QEMU process alone: in no image, on no command line, and in no state of a device.

Limits and dirty bitmaps have modules of their own. A link that is down goes with the RAM: QEMU tells it nowhere, but
the cards keep it in their registers (e1000, virtio-net: 10.0.2). What QEMU does not tell at all is warned of.
"""

from collections.abc import Iterator, Sequence

from models.preflight import Check
from workers.preflight import checks
from workers.qemu.monitor import CommandRefused, Monitor
from workers.qemu.options import MONITORS, Option, parse_command_line

WATCHDOGS = frozenset({"i6300esb", "ib700", "diag288"})


def untold(argv: Sequence[str]) -> Iterator[Check]:
    """What may have been set while the guest ran and cannot be read."""
    for option in parse_command_line(argv):
        if option.name in MONITORS and option.value == "stdio":
            yield checks.process.MONITOR_STDIO.of(option.text)
        if _has_password_from_a_monitor(option):
            yield checks.process.DISPLAY_PASSWORD.of(option.text)
        if option.name == "device" and option.driver in WATCHDOGS:
            yield checks.machine.WATCHDOG_ACTION.of(option.text)


async def exports(monitor: Monitor) -> list[Check]:
    """The disks that the guest's QEMU offers to others."""
    try:
        found = await monitor.query("query-block-exports")
    except CommandRefused:  # before 5.2
        return []
    return [checks.disks.BLOCK_EXPORT.of(f"the export {entry['id']} of {entry['node-name']}") for entry in found]


def _has_password_from_a_monitor(option: Option) -> bool:
    said = dict(option.leaves())
    if option.name not in {"vnc", "spice"} or "password-secret" in said:
        return False
    if option.name == "vnc":
        return option.is_on("password")
    return "password" not in said and not option.is_on("disable-ticketing")
