"""The open descriptors that a command line names for its taps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.qemu.options import NETWORKS, Option, parse_command_line


@dataclass(frozen=True)
class TapOption:
    """A tap by descriptor."""

    option: Option
    queues: tuple[int, ...]
    vhost: tuple[int, ...]


def taps(argv: Sequence[str]) -> Iterator[TapOption]:
    """All of them. A descriptor by a name, which only a monitor can give, is none of a command line."""
    for option in parse_command_line(argv):
        if option.name in NETWORKS and option.driver == "tap":
            queues, vhost = _numbers(option, "fd", "fds"), _numbers(option, "vhostfd", "vhostfds")
            if queues:
                yield TapOption(option, queues, vhost)


def _numbers(option: Option, *keys: str) -> tuple[int, ...]:
    words = [word for key, value in option.leaves() if key in keys for word in value.split(":")]
    return tuple(map(int, words)) if all(word.isdecimal() for word in words) else ()
