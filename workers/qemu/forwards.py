"""Ports of the host that lead into a guest's user networks, as they are now.

`hostfwd_add` and `hostfwd_remove` change them while the guest runs; the command line says what they were at the start.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from workers.qemu.monitor import Monitor
from workers.qemu.options import NETWORKS, Option, command_words, parse_command_line, write_options

_SHOWN = re.compile(r"^\s+(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)\s", re.MULTILINE)
_NETWORK = re.compile(r"^Hub -?\d+ \((.*)\):$", re.MULTILINE)
_SAID = re.compile(r"(tcp|udp)?:[^:]*:(\d+)-[^:]*:(\d+)")

Ends = tuple[str, str, str]
"""TCP or UDP, the port of the host and the guest's: addresses may be said in several ways."""


class Forward(NamedTuple):
    """One port, as QEMU shows it."""

    ends: Ends
    text: str
    """As `hostfwd=` takes it."""


async def shown(monitor: Monitor) -> dict[str, list[Forward]]:
    """The ports of each user network, by its name."""
    parts = _NETWORK.split((await monitor.hmp("info usernet")).replace("\r", ""))
    return {name: list(_forwards(text)) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _forwards(text: str) -> Iterator[Forward]:
    for kind, at, port, to, there in _SHOWN.findall(text):
        said = kind.lower()
        yield Forward((said, port, there), f"{said}:{_any(at)}:{port}-{_any(to)}:{there}")


def _any(address: str) -> str:
    return "" if address in {"*", "0.0.0.0"} else address  # noqa: S104 # nosec B104 # how QEMU shows "any"


async def as_they_are_now(monitor: Monitor, argv: Sequence[str]) -> list[str]:
    """The command line with the ports that there are; a network whose ports are those of its start stays as it is."""
    options = parse_command_line(argv)
    if not any(map(_is_user, options)):
        return list(argv)
    present = await shown(monitor)
    return [*argv[:1], *command_words(_as_now(option, options, present) for option in options)]


def _is_user(option: Option) -> bool:
    return option.name in NETWORKS and option.driver == "user"


def _as_now(option: Option, options: Sequence[Option], present: Mapping[str, list[Forward]]) -> Option:
    if not _is_user(option) or (name := _name(option, options, present)) is None:
        return option
    said = option.texts("hostfwd")
    before = {(found[1] or "tcp", found[2], found[3]): text for text in said if (found := _SAID.match(text))}
    now = dict(present[name])
    if before.keys() == now.keys() or any(port == "0" for _, port, _ in before):
        return option  # the kernel chose a port, and does so again
    return _with(option, [before.get(ends, text) for ends, text in now.items()])


def _name(option: Option, options: Sequence[Option], present: Mapping[str, list[Forward]]) -> str | None:
    """What QEMU calls the network; it makes up a name for one that has none, which is known where there is only one."""
    if (name := option.get("id")) is not None:
        return name if name in present else None
    nameless = sum(_is_user(other) and other.get("id") is None for other in options)
    made_up = [name for name in present if name.startswith("#")]
    return made_up[0] if nameless == len(made_up) == 1 else None


def _with(option: Option, forwards: Sequence[str]) -> Option:
    if option.is_json():
        return replace(option, value=json.dumps({**option.tree(), "hostfwd": [{"str": text} for text in forwards]}))
    others = option.without("hostfwd").pairs()
    return replace(option, value=write_options((*others, *(("hostfwd", text) for text in forwards))))
