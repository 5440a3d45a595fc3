"""QEMU's options as its command line has them: how they are read, written and looked into. Nothing here decides.

Sets of option names stand here, each once, for all that look at command lines.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workers.qemu import json_text

Pairs = tuple[tuple[str | None, str], ...]
"""`key=value` pieces of an option string in order; the key is None where only a value stands."""


def words_of(text: str) -> frozenset[str]:
    """A set of words from one string."""
    return frozenset(text.split())


FLAGS = words_of(
    "h help audio-help version S s snapshot daemonize nographic nodefaults nodefconfig no-user-config no-reboot "
    "no-shutdown no-acpi no-hpet no-kvm no-fd-bootchk no-quit no-frame usb full-screen win2k-hack alt-grab "
    "ctrl-grab sdl curses portrait enable-kvm enable-hax enable-fips enable-sync-profile only-migratable "
    "mem-prealloc preconfig jitdump perfmap singlestep semihosting old-param xen-attach xen-domid-restrict"
)
"""Options that take no argument (qemu-options.def); the word after any other one is its value."""

DROPPED = words_of("S incoming daemonize")
"""Added anew (`-S -incoming`) or decided by the supervisor (`-daemonize`), so never copied."""

PLAIN = words_of("pidfile kernel initrd shim dtb bios L D mem-path")
"""Options whose whole argument is a file name: a comma in it is a comma."""

GUEST_TEXT = words_of("append name uuid cpu")
"""Options never relocated: what looks like a path in them is text for the guest."""

GUEST_KEYS = words_of(
    "serial string value id vendor product model version asset sku family manufacturer hostname bootfile"
)
"""Keys never relocated, for the same reason: a disk's serial number may begin with a slash."""

MONITORS = words_of("monitor qmp qmp-pretty")
SERIAL_PORTS = words_of("serial parallel debugcon")
CHANNELS = MONITORS | SERIAL_PORTS
"""Options whose argument is a character device as `-serial` takes it."""
CHANNELS_AND_GDB = CHANNELS | {"gdb"}
CHANNELS_AND_DISPLAYS = CHANNELS_AND_GDB | words_of("vnc display")
IMAGES = words_of("drive blockdev")
FILES = words_of("file host_device")
"""Drivers of the node that a format is put on, or none: a device on the bare file sees raw data."""
FILTERS = words_of("throttle copy-on-read")
"""Drivers of nodes through which a disk is seen as it is."""
FLOPPIES = words_of("floppy isa-fdc")
"""Drivers of floppy drives, and of their controller."""
NETWORKS = words_of("netdev nic net")
"""Options that make a network of the host or a card of the guest."""

IFUP, IFDOWN = "/etc/qemu-ifup", "/etc/qemu-ifdown"
"""What QEMU runs for a tap that names nothing else, at its beginning and at its end."""
BRIDGE_HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
"""What it runs for a bridge: where it is was decided when QEMU was built."""

_HARD_DISK = "index={},media=disk"
SHORTHANDS = {
    "": _HARD_DISK.format(0),
    **{f"hd{letter}": _HARD_DISK.format(index) for index, letter in enumerate("abcd")},
    "cdrom": "index=2,media=cdrom",
    "fda": "if=floppy,index=0",
    "fdb": "if=floppy,index=1",
    "pflash": "if=pflash",
    "mtdblock": "if=mtd",
    "sd": "if=sd",
}
"""What QEMU itself makes of these (`drive_add` in system/vl.c). Written out as `-drive`, because
only there can `file.drop-cache` be given; `-set drive.ide0-hd0...` does not find them."""


MEMORY_FOLDERS = ("/dev/hugepages", "/dev/shm")  # nosec B108 # noqa: S108 - guests' memory
"""Where a guest's memory may be on every host, and nothing else of it."""

STANDARD_STREAMS = ("/dev/stdout", "/dev/stderr")
"""Whoever started a guest reads them."""

TRUE = frozenset({"on", "yes", "true", "y"})
"""As QEMU reads a switch (`qapi_bool_parse`)."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option with its argument, spelled as on the command line."""

    word: str
    """`-drive` or `--drive`; empty for a bare image name, which QEMU takes for `-hda`."""
    value: str | None = None

    @property
    def name(self) -> str:
        """Without its dashes."""
        return self.word.removeprefix("-").removeprefix("-")

    def words(self) -> list[str]:
        """As words of a command line."""
        return [part for part in (self.word or None, self.value) if part is not None]

    def without(self, *keys: str) -> "Option":
        """The same, with nothing under these top-level keys."""
        if self.is_json():
            tree = {key: value for key, value in self.tree().items() if key not in keys}
            return replace(self, value=json.dumps(tree))
        return replace(self, value=write_options(tuple(pair for pair in self.pairs() if pair[0] not in keys)))

    def having(self, key: str, value: str) -> "Option":
        """The same, with this besides."""
        if self.is_json():
            return replace(self, value=json.dumps({**self.tree(), key: value}))
        return replace(self, value=f"{self.value},{key}={escape(value)}")

    def is_json(self) -> bool:
        """Its argument is one JSON object."""
        return (self.value or "").startswith("{") and self.name not in GUEST_TEXT | PLAIN | SHORTHANDS.keys()

    def tree(self) -> dict[str, Any]:
        """The argument of a JSON option, as QEMU reads it."""
        found: dict[str, Any] = json_text.loads(self.value or "{}")
        return found

    def pairs(self) -> Pairs:
        """The argument's pieces; empty for JSON, flags and plain file names."""
        if self.value is None or self.is_json() or self.name in PLAIN:
            return ()
        return parse_options(self.value)

    def get(self, key: str) -> str | None:
        """The value of a top-level key, in either form; the last one wins, as in QEMU."""
        if self.is_json():
            value = self.tree().get(key)
            return None if value is None else str(value)
        return next((value for name, value in reversed(self.pairs()) if name == key), None)

    @property
    def text(self) -> str:
        """For people: as it was written."""
        return " ".join(self.words())

    @property
    def driver(self) -> str:
        """Of a device, network or character device: which one it is."""
        pairs = self.pairs()
        first = pairs[0][1] if pairs and pairs[0][0] is None else ""
        named = self.get("backend") if self.name == "chardev" else self.get("driver") or self.get("type")
        return named or first

    @property
    def kind(self) -> str:
        """Of an object: its type; of anything else its driver."""
        return self.get("qom-type") or self.driver

    def is_memory(self, key: str) -> bool:
        """What it has under this key is a file, or the folder of one without a name, that is the guest's memory."""
        return "mem-path" in {self.name, key}

    @property
    def read_only(self) -> bool:
        """Of a drive: the guest cannot write it."""
        return self.get("media") == "cdrom" or self.is_on("readonly") or self.is_on("read-only")

    def is_on(self, key: str) -> bool:
        """A switch, as `key=on` or, in the older form, as `key` alone."""
        return (self.get(key) or "").lower() in TRUE or (None, key) in self.pairs()

    def texts(self, key: str) -> list[str]:
        """All that is said under a key that may be there several times; in JSON that is a list of `{"str": ...}`."""
        if not self.is_json():
            return [value for name, value in self.pairs() if name == key]
        given = self.tree().get(key)
        return [str(each.get("str")) for each in given if isinstance(each, dict)] if isinstance(given, list) else []

    @property
    def forwarded_to(self) -> list[str]:
        """Of a user network: what each of its `guestfwd=` leads to, as `-serial` takes it, or `cmd:PROGRAM`."""
        return [text.partition("-")[2] for text in self.texts("guestfwd")]

    @property
    def listens(self) -> bool:
        """It is a server, as QEMU reads it: the last word counts; `server` is `server=on`, `noserver` the opposite."""
        if self.is_json():
            return self.get("server") == "True"
        said = [value for key, value in self.pairs() if key == "server"]
        bare = [value for key, value in self.pairs() if key is None]
        return "noserver" not in bare and all(value in TRUE for value in said) and bool(said or "server" in bare)

    def dotted(self) -> dict[str, str]:
        """All of it, by dotted keys: `local.path`."""
        if self.is_json():
            return {key: json_text.spelled(value) for key, value in json_text.flat(self.tree())}
        return {key: value for key, value in self.pairs() if key is not None}

    def leaves(self) -> Iterator[tuple[str, str]]:
        """Every (last part of the key, text value), however deeply nested."""
        if self.is_json():
            yield from _tree_leaves(json_text.loads(self.value or "null"), "")
            return
        for key, value in self.pairs():
            name = leaf(key) if key is not None else ("driver" if self.name == "blockdev" else "")
            if name == "path" and self.is_on("abstract"):
                continue  # a name of the kernel's, and no file
            if value.startswith("json:"):
                yield from _tree_leaves(json_text.loads(value.removeprefix("json:")), "")
            else:
                yield name, value


def parse_options(text: str) -> Pairs:
    """Split an option string as QEMU does (`get_opt_name_value`): a doubled comma is a comma."""
    pairs: list[tuple[str | None, str]] = []
    position = 0
    while position <= len(text):
        key, position = _key_at(text, position)
        value, position = _value_at(text, position)
        pairs.append((key, value))
    return tuple(pairs)


def _key_at(text: str, position: int) -> tuple[str | None, int]:
    found = re.compile("[=,]").search(text, position)
    if found is None or found[0] == ",":
        return None, position
    return text[position : found.start()], found.end()


def _value_at(text: str, position: int) -> tuple[str, int]:
    found = re.compile("(?:[^,]|,,)*").match(text, position)
    assert found is not None  # the pattern matches the empty string
    return found[0].replace(",,", ","), found.end() + 1


def write_options(pairs: Pairs) -> str:
    """The inverse of `parse_options`, to the letter."""
    return ",".join(escape(value) if key is None else f"{key}={escape(value)}" for key, value in pairs)


def escape(value: str) -> str:
    """A value as an option string has it."""
    return value.replace(",", ",,")


def parse_command_line(argv: Sequence[str]) -> tuple[Option, ...]:
    """The options after argv[0]. `/proc/PID/cmdline` split at NUL ends in one empty word: ignored."""
    words = list(argv[1:])
    if words and not words[-1]:
        words.pop()
    options: list[Option] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            options.append(Option(word="", value=word))
        elif word.lstrip("-") in FLAGS:
            options.append(Option(word=word))
        else:
            options.append(Option(word=word, value=next(rest, None)))
    return tuple(options)


def settled(options: Sequence[Option]) -> tuple[Option, ...]:
    """With what each `-set GROUP.ID.KEY=VALUE` changes of them; one that changes none of these stays as it is."""
    left = dict(enumerate(options))
    for place, option in enumerate(options):
        if option.name == "set" and (changed := _changed(option, left)) is not None:
            which, key, value = changed
            left[which] = left[which].without(key).having(key, value)
            del left[place]
    return tuple(left.values())


def _changed(option: Option, options: Mapping[int, Option]) -> tuple[int, str, str] | None:
    """Which of these a `-set` is about, the key that it sets there, and its value."""
    group, _, rest = (option.value or "").partition(".")
    name, _, word = rest.partition(".")
    key, _, value = word.partition("=")
    named = (place for place, one in options.items() if one.name == group and one.get("id") == name)
    return next(((place, key, value) for place in named), None)


def command_words(options: Iterable[Option]) -> list[str]:
    """All of them, as words of a command line."""
    return [word for option in options for word in option.words()]


def spelled_out(option: Option) -> Option:
    """A shorthand such as `-hda FILE` as the `-drive` it stands for; anything else unchanged."""
    if option.name not in SHORTHANDS or option.value is None:
        return option
    return Option(word="-drive", value=f"file={escape(option.value)},{SHORTHANDS[option.name]}")


def leaf(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]


def _tree_leaves(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _tree_leaves(value, leaf(name))
    elif isinstance(tree, list):
        for value in tree:
            yield from _tree_leaves(value, key)
    elif isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, bool):
        yield key, "on" if tree else "off"
