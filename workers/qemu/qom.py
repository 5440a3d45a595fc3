"""The objects of a QEMU by their paths (QOM): devices, and what was made by `-object`."""

from collections.abc import Iterable, Mapping
from typing import Any

from workers.qemu.monitor import CommandRefused, Monitor

PERIPHERAL = "/machine/peripheral"
"""Devices with an id; hot-plug changes them."""
ANONYMOUS = "/machine/peripheral-anon"
"""Devices without one."""
OBJECTS = "/objects"


def named(reply: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """{name: type} of the children in an answer to `qom-list`, which shows properties as well."""
    return {each["name"]: each["type"][6:-1] for each in reply if each["type"].startswith("child<")}


async def children(monitor: Monitor, path: str) -> dict[str, str]:
    """{name: type} of what is there. A container is made with its first device: without it there are none."""
    try:
        return named(await monitor.query("qom-list", path=path))
    except CommandRefused:
        return {}


async def value(monitor: Monitor, path: str, name: str) -> Any:
    """A property; None: there is no such object or property."""
    try:
        return await monitor.query("qom-get", path=path, property=name)
    except CommandRefused:
        return None
