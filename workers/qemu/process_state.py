"""What lives in a guest's QEMU process alone: in no image, on no command line, and in no state of a device.

Limits and dirty bitmaps have modules of their own. A link that is down goes with the RAM: QEMU tells it nowhere, but
the cards keep it in their registers (e1000, virtio-net: 10.0.2). What QEMU does not tell at all is warned of.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence

from models.preflight import Check
from workers.preflight import checks
from workers.qemu import ports
from workers.qemu.monitor import CommandRefused, Monitor
from workers.qemu.options import MONITORS, Option, parse_command_line

WATCHDOGS = frozenset({"i6300esb", "ib700", "diag288"})
_VNC_SOCKET = re.compile(r"(?:vnc=)?unix:([^,]+)")


def untold(argv: Sequence[str]) -> Iterator[Check]:
    """What may have been set while the guest ran and cannot be read."""
    for option in parse_command_line(argv):
        if option.name in MONITORS and option.value == "stdio":
            yield checks.process.MONITOR_STDIO.of(option.text)
        if _has_password_from_a_monitor(option):
            yield checks.process.DISPLAY_PASSWORD.of(option.text)
        if option.name == "device" and option.driver in WATCHDOGS:
            yield checks.machine.WATCHDOG_ACTION.of(option.text)


async def told(monitor: Monitor, argv: Sequence[str]) -> list[Check]:
    """What was set while the guest ran, as QEMU tells it, and does not go along."""
    return [*await exports(monitor), *await displays(monitor, argv)]


async def exports(monitor: Monitor) -> list[Check]:
    """The disks that the guest's QEMU offers to others."""
    try:
        found = await monitor.query("query-block-exports")
    except CommandRefused:  # before 5.2
        return []
    return [checks.disks.BLOCK_EXPORT.of(f"the export {entry['id']} of {entry['node-name']}") for entry in found]


async def displays(monitor: Monitor, argv: Sequence[str]) -> list[Check]:
    """VNC servers that `display-update` put elsewhere than the command line says, where the next QEMU listens."""
    options = [option for option in parse_command_line(argv) if option.name in {"vnc", "display"}]
    if any(option.get("to") is not None or option.is_on("reverse") for option in options):
        return []  # the next free port was taken, or it is connected to a viewer
    said = [place for option in options if (place := _vnc_place(option)) is not None]
    try:
        servers = [server for each in await monitor.query("query-vnc-servers") for server in each.get("server", ())]
    except CommandRefused:  # built without VNC
        return []
    heard = [(server["host"], server["service"]) for server in servers if not server["websocket"]]
    moved = [place for place in heard if not any(_covers(each, place) for each in said)]
    return [checks.process.DISPLAY_ADDRESS.of(f"VNC at {host}:{service}") for host, service in moved]


def _vnc_place(option: Option) -> tuple[str, str] | None:
    """(host, port), or ("", path): as `query-vnc-servers` names them. A host may be a name, or empty for every one."""
    if found := _VNC_SOCKET.match(option.value or ""):
        return "", found[1]
    port = ports.vnc(option)
    return None if port is None else (port.host, str(port.number))


def _covers(said: tuple[str, str], heard: tuple[str, str]) -> bool:
    """Whether QEMU, told the former, listens at the latter."""
    (host, service), (address, number) = said, heard
    if service != number:
        return False
    if not host:
        return not address or ipaddress.ip_address(address).is_unspecified
    return host == address or _is_name(host)


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(host)
    return False


def _has_password_from_a_monitor(option: Option) -> bool:
    said = dict(option.leaves())
    if option.name not in {"vnc", "spice"} or "password-secret" in said:
        return False
    if option.name == "vnc":
        return option.is_on("password")
    return "password" not in said and not option.is_on("disable-ticketing")
