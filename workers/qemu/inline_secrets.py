"""Secrets that stand on a guest's command line itself (`-object secret,id=key,data=...`).

Whoever may look at a process, a row, a log or a plan would read them. So the command line that is told to others names
a file of mode 0600 instead. At the source there is no such file: what belongs in it is read from the process, and goes
over the encrypted stream like every secret. At the destination QEMU reads the file.

A secret with a `keyid` is encrypted already, by another secret, and stays as it is.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from workers.qemu.options import Option, parse_command_line, write_options

MODE = 0o600


def file_of(place: str, name: str) -> str:
    """Where the secret of this id is at the destination; `place` is a path that is the guest's alone."""
    return f"{place}.{name}.secret"


def in_files(argv: Sequence[str], place: str) -> list[str]:
    """The command line with each of them in its file."""
    words = [argv[0]]
    for option in parse_command_line(argv):
        name = _name(option)
        words += (option if name is None else _in_file(option, file_of(place, name))).words()
    return words


def contents(argv: Sequence[str]) -> dict[str, bytes]:
    """{id: what its file holds}."""
    found = ((_name(option), option.get("data")) for option in parse_command_line(argv))
    return {name: data.encode() for name, data in found if name is not None and data is not None}


def objects(argv: Sequence[str], name: str) -> list[str]:
    """For `qemu-img` and its like: the words that make the secret of this id, and the one that it is encrypted by."""
    by_id = {option.get("id"): option for option in parse_command_line(argv) if _is_secret(option)}
    return [f"--object={by_id[each].value}" for each in _chain(by_id, name)]


def _chain(by_id: dict[str | None, Option], name: str) -> Iterator[str]:
    """Each after the one that it needs."""
    if name in by_id:
        if (key := by_id[name].get("keyid")) is not None and key != name:
            yield from _chain({one: option for one, option in by_id.items() if one != name}, key)
        yield name


def _is_secret(option: Option) -> bool:
    return option.name == "object" and option.kind == "secret"


def _name(option: Option) -> str | None:
    """The id of a secret in plain text."""
    if not _is_secret(option) or option.get("data") is None or option.get("keyid") is not None:
        return None
    return option.get("id")


def _in_file(option: Option, path: str) -> Option:
    others = option.without("data")
    if option.is_json():
        return replace(option, value=json.dumps({**others.tree(), "file": path}))
    return replace(option, value=write_options((*others.pairs(), ("file", path))))
