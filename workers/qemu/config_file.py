"""What a file for `-readconfig` says, as the options that stand for it on a command line.

QEMU keeps both in the same lists (`qemu_parse_config_group` in system/vl.c), so the machine is the same, but for one
thing: a network on the command line takes the place of the card that QEMU makes by default, one in a file does not.
"""

import re
from collections.abc import Callable, Sequence

from workers.qemu.options import NETWORKS, Option, Pairs, parse_command_line, write_options

_GROUP = re.compile(r'\[\s*([\w-]+)(?:\s+"([^"]*)")?\s*\]')
_PAIR = re.compile(r'([\w.-]+)\s*=\s*"([^"]*)"')
_CALLED = {"memory": "m", "smp-opts": "smp", "boot-opts": "boot"}
"""Groups that are called otherwise on the command line."""
_FIRST = {"device": "driver", "chardev": "backend", "object": "qom-type", "netdev": "type", "machine": "type"}
"""The key of the word that a command line begins with."""
DEFAULT_CARD = ["-net", "nic", "-net", "user"]


class UnreadableConfig(ValueError):
    """QEMU would not take such a file either."""


def merged(argv: Sequence[str], read: Callable[[str], str]) -> list[str]:
    """The command line with what the files say in place of each `-readconfig`.

    Args:
        argv: the whole of it.
        read: answers the text of such a file.

    Raises:
        UnreadableConfig: a file is not understood.
    """
    written, words, of_files = parse_command_line(argv), list(argv[:1]), set[str]()
    for option in written:
        if option.name == "readconfig" and option.value:
            found = options_of(read(option.value))
            of_files |= {said.name for said in found}
            words += [word for said in found for word in said.words()]
        else:
            words += option.words()
    has_default_card = not {option.name for option in written} & {*NETWORKS, "nodefaults"}
    return words + DEFAULT_CARD if has_default_card and of_files & NETWORKS else words


def options_of(text: str) -> list[Option]:
    """What the file says, in its order.

    Raises:
        UnreadableConfig: a line is not understood.
    """
    groups: list[tuple[str, str | None, list[tuple[str | None, str]]]] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if group := _GROUP.fullmatch(line):
            groups.append((group[1], group[2], []))
        elif (pair := _PAIR.fullmatch(line)) and groups:
            groups[-1][2].append((pair[1], pair[2]))
        else:
            raise UnreadableConfig(f"its line {number} is not understood")
    return [_option(name, identifier, tuple(pairs)) for name, identifier, pairs in groups]


def _option(group: str, identifier: str | None, said: Pairs) -> Option:
    first = _FIRST.get(group)
    begin: Pairs = tuple((None, value) for key, value in said if key == first)
    named: Pairs = (("id", identifier),) if identifier else ()
    rest = tuple(pair for pair in said if pair[0] != first)
    return Option(word=f"-{_CALLED.get(group, group)}", value=write_options((*begin, *named, *rest)))
