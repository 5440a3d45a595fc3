"""The command line of a guest's next QEMU, changed so that it can be tried: it makes the same machine, no more.

Images and files are replaced by stand-ins, what QEMU makes lies in a folder of the trial's own, no network is joined,
no port is opened, no program is started and no memory is taken beforehand.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workers.qemu import json_text
from workers.qemu.options import (
    MEMORY_FOLDERS,
    MONITORS,
    NETWORKS,
    SERIAL_PORTS,
    Option,
    command_words,
    parse_command_line,
    words_of,
    write_options,
)
from workers.qemu.permissions import Made, written

LEFT_OUT = words_of("s vnc gdb daemonize pidfile D d trace mem-prealloc runas run-with display")
"""They open ports, write logs, take memory, or say as whom and where: no part of the machine."""
TAKEN_BEFOREHAND = {"prealloc": "off", "mem-lock": "off"}
_PREFIX = re.compile(r"((?:[\w.+-]+[:=])*)(/.*)", re.DOTALL)


@dataclass(frozen=True)
class TrialLine:
    """What is started instead."""

    argv: list[str]
    same_machine: bool
    """It makes the machine that the guest would get: the two can be compared."""
    qmp: str


@dataclass
class _Trial:
    folder: Path
    stand_ins: Mapping[str, str]
    """{path of an image or file: what is opened in its place}."""
    made: dict[str, str] = field(default_factory=dict)

    def path(self, text: str) -> str:
        """A path, also one behind `unix:` or `file:`, as the trial has it."""
        prefix, path = _split(text)
        if path in self.stand_ins:
            return prefix + self.stand_ins[path]
        return prefix + self.made[path] if path in self.made else text


def _split(text: str) -> tuple[str, str]:
    found = _PREFIX.fullmatch(text)
    return (found[1], found[2]) if found else ("", text)


def trial_line(argv: Sequence[str], *, stand_ins: Mapping[str, str], folder: Path) -> TrialLine:
    """The line that is tried, in a folder that is the trial's own."""
    trial = _Trial(folder, stand_ins)
    for number, each in enumerate(written(argv)):
        trial.made.setdefault(each.path, _place_of(each, folder / f"made{number}"))
    options = [made for option in parse_command_line(argv) if (made := _harmless(option, trial)) is not None]
    qmp = str(folder / "qmp")
    monitor = Option(word="-qmp", value=f"unix:{write_options(((None, qmp),))},server=on,wait=off")
    added = (Option(word="-display", value="none"), monitor)
    words = command_words((*options, *added))
    return TrialLine([argv[0], *words], same_machine=not any(map(_has_queues, parse_command_line(argv))), qmp=qmp)


def _place_of(made: Made, own: Path) -> str:
    """Memory stays in its folder, whose pages may be huge ones, and has no name there."""
    if not made.path.startswith(MEMORY_FOLDERS):
        return str(own)
    return made.path if Path(made.path).is_dir() else str(Path(made.path).parent)


def _has_queues(option: Option) -> bool:
    """A device with several queues is another one on a network with a single one."""
    return option.name in NETWORKS and any(option.get(key) for key in ("queues", "fds", "vhostfds"))


def _harmless(option: Option, trial: _Trial) -> Option | None:
    if option.name in LEFT_OUT:
        return None
    if option.name in MONITORS:
        return Option(word="-monitor", value="none")
    if (made := UNHEARD.get(option.name)) is not None:
        return made(option, trial)
    if option.value is None:
        return option
    if option.is_json():
        return replace(option, value=json.dumps(_harmless_tree(option.tree(), trial.path)))
    if not option.pairs():
        return replace(option, value=trial.path(option.value))
    return replace(option, value=write_options(tuple(_harmless_pairs(option, trial.path))))


def _harmless_pairs(option: Option, path: Callable[[str], str]) -> Iterator[tuple[str | None, str]]:
    for key, value in option.pairs():
        if (key or "").startswith("backing."):
            continue  # a stand-in holds all by itself
        if key in TAKEN_BEFOREHAND:
            yield key, TAKEN_BEFOREHAND[key]
        elif value.startswith("json:"):
            tree = _harmless_tree(json_text.loads(value.removeprefix("json:")), path)
            yield key, "json:" + json.dumps(tree)
        elif key is not None and key.endswith("driver"):
            yield key, _of_file(value)
        else:
            yield key, path(value)


def _harmless_tree(tree: Any, path: Callable[[str], str]) -> Any:
    if isinstance(tree, dict):
        kept = {key: _harmless_tree(value, path) for key, value in tree.items()}
        taken = {key: False for key in TAKEN_BEFOREHAND if key in kept}
        driver = {"driver": _of_file(kept["driver"])} if isinstance(kept.get("driver"), str) else {}
        return {**kept, **taken, **driver}
    if isinstance(tree, list):
        return [_harmless_tree(value, path) for value in tree]
    return path(tree) if isinstance(tree, str) else tree


def _of_file(driver: str) -> str:
    """The stand-in of a block device is a file."""
    return "file" if driver == "host_device" else driver


def _unconnected(option: Option, _trial: _Trial) -> Option:
    """The same card, on a network of its own that nobody else is on."""
    if option.driver in {"none", "hubport"} or (option.name, option.driver) == ("net", "nic"):
        return option
    if option.is_json():
        return replace(option, value=json.dumps({"type": "user", "id": option.get("id"), "restrict": True}))
    kept = words_of("id model mac addr")
    pairs = tuple((key, value) for key, value in option.pairs() if key in kept)
    return replace(option, value=write_options(((None, "user"), *pairs, ("restrict", "on"))))


def _unheard(option: Option, _trial: _Trial) -> Option:
    """A channel that nobody is behind; one that names a `-chardev` stays."""
    value = (option.value or "").removeprefix("mon:")
    return option if value.startswith("chardev:") or value in {"none", "null"} else replace(option, value="null")


def _unheard_chardev(option: Option, trial: _Trial) -> Option:
    if (path := option.get("path")) in trial.stand_ins:
        pairs = tuple((key, trial.path(value) if value == path else value) for key, value in option.pairs())
        return replace(option, value=write_options(pairs))
    kept = tuple((key, value) for key, value in option.pairs() if key in {"id", "mux"})
    return replace(option, value=write_options(((None, "null"), *kept)))


def _unseen(_option: Option, trial: _Trial) -> Option:
    """Graphics cards and sound may need SPICE; it listens in the trial's folder."""
    address = write_options((("addr", str(trial.folder / "spice")),))
    return Option(word="-spice", value=f"unix=on,{address},disable-ticketing=on")


UNHEARD: Mapping[str, Callable[[Option, _Trial], Option]] = {
    **dict.fromkeys(NETWORKS, _unconnected),
    **dict.fromkeys(SERIAL_PORTS, _unheard),
    "chardev": _unheard_chardev,
    "spice": _unseen,
}
"""What joins the guest with others."""
