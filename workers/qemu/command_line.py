"""The command line of a guest's next QEMU, derived from that of its present one.

`/proc/PID/cmdline` is the only complete description of a plain QEMU guest, so the destination is
started from it. What may differ is what belongs to the host: the binary, the paths below the
host's root, and `-S -incoming defer`. Everything the guest can see stays as it was written, in
the order it was written: QEMU names implicit devices (`-hda`, `-drive if=virtio`) and assigns
PCI slots by that order, the same way every time.

Nothing here touches a host. Whether the derived line works is proven by starting it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workers.qemu import json_text

Pairs = tuple[tuple[str | None, str], ...]
"""`key=value` pieces of an option string in order; the key is None where only a value stands."""

Relocate = Callable[[str], str]


def words_of(text: str) -> frozenset[str]:
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

PLAIN = words_of("pidfile kernel initrd dtb bios L D mem-path")
"""Options whose whole argument is a file name: a comma in it is a comma."""

GUEST_TEXT = words_of("append name uuid cpu")
"""Options never relocated: what looks like a path in them is text for the guest."""

GUEST_KEYS = words_of("serial string value id vendor product model version asset sku family manufacturer hostname")
"""Keys never relocated, for the same reason: a disk's serial number may begin with a slash."""

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
        return self.word.removeprefix("-").removeprefix("-")

    def words(self) -> list[str]:
        return [part for part in (self.word or None, self.value) if part is not None]

    def is_json(self) -> bool:
        return (self.value or "").startswith("{")

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
    return ",".join(_escape(value) if key is None else f"{key}={_escape(value)}" for key, value in pairs)


def _escape(value: str) -> str:
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


def spelled_out(option: Option) -> Option:
    """A shorthand such as `-hda FILE` as the `-drive` it stands for; anything else unchanged."""
    if option.name not in SHORTHANDS or option.value is None:
        return option
    return Option(word="-drive", value=f"file={_escape(option.value)},{SHORTHANDS[option.name]}")


def destination_command_line(
    argv: Sequence[str],
    *,
    machine_type: str,
    source_root: str,
    destination_root: str,
    qemu: str,
    image_paths: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
) -> list[str]:
    """The argv that rebuilds the machine at the destination, waiting for its memory.

    A root of "/" at the source leaves every path as it is. `image_paths` (source path to
    destination path) overrides the roots for the images it names. `more` stands at its end.

    `-only-migratable` is left out on purpose: it would stay with the guest for good and refuse
    every later hot-plug of a device that cannot migrate; `blocked-reasons` lists such devices before the move.
    """
    relocate = _relocation(source_root, destination_root, image_paths or {})
    options = [spelled_out(option) for option in parse_command_line(argv) if option.name not in DROPPED]
    options = [_without_cache_drop(_relocated(option, relocate)) for option in options]
    options = _pinned(options, machine_type)
    if not any(option.name == "msg" and "timestamp" in (option.value or "") for option in options):
        options.append(Option(word="-msg", value="timestamp=on"))
    return [qemu, *(word for option in options for word in option.words()), *more, "-S", "-incoming", "defer"]


def _relocation(source_root: str, destination_root: str, image_paths: Mapping[str, str]) -> Relocate:
    """A path is recognised where it begins: not in the middle of another path or word."""
    root, new_root = source_root.rstrip("/"), destination_root.rstrip("/")
    begins = re.compile(rf"(?<![\w./-]){re.escape(root)}(?=/|$|[\s,:;\"'])")

    def relocate(text: str) -> str:
        bare = text.removeprefix("file:")
        if bare in image_paths:
            return text.removesuffix(bare) + image_paths[bare]
        return begins.sub(lambda _: new_root, text) if root else text

    return relocate


def _relocated(option: Option, relocate: Relocate) -> Option:
    if option.value is None or option.name in GUEST_TEXT:
        return option
    if option.name in PLAIN:
        return replace(option, value=relocate(option.value))
    if option.is_json():
        return _edit_json(option, lambda tree: _relocated_tree(tree, relocate))
    pairs = tuple((key, _relocated_value(key, value, relocate)) for key, value in option.pairs())
    return replace(option, value=write_options(pairs))


def _relocated_value(key: str | None, value: str, relocate: Relocate) -> str:
    if key is not None and leaf(key) in GUEST_KEYS:
        return value
    if value.startswith("json:"):
        return "json:" + json.dumps(_relocated_tree(json_text.loads(value.removeprefix("json:")), relocate))
    return relocate(value)


def _relocated_tree(tree: Any, relocate: Relocate) -> Any:
    if isinstance(tree, dict):
        return {key: value if key in GUEST_KEYS else _relocated_tree(value, relocate) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_relocated_tree(value, relocate) for value in tree]
    return relocate(tree) if isinstance(tree, str) else tree


def _edit_json(option: Option, edit: Callable[[Any], Any]) -> Option:
    """Rewrite only when something changed, so that an untouched option stays as it was written."""
    before = json_text.loads(option.value or "null")
    after = edit(before)
    return option if after == before else replace(option, value=json.dumps(after))


def leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _without_cache_drop(option: Option) -> Option:
    """Set `drop-cache=off` on every host file of a `-drive` or `-blockdev`.

    The NBD server that wrote the image and this QEMU share one host's page cache, so throwing it
    away at activation protects nothing and costs 26 ms of downtime (measured on 10.0.2).
    """
    if option.name not in {"drive", "blockdev"} or option.value is None:
        return option
    if option.is_json():
        return _edit_json(option, _keep_cache_in_tree)
    pairs = option.pairs()
    for prefix in _file_nodes(option):
        key = f"{prefix}.drop-cache" if prefix else "drop-cache"
        pairs = (*(pair for pair in pairs if pair[0] != key), (key, "off"))
    if option.name == "drive":
        pairs = tuple((key, _keep_cache_in_json_name(value)) for key, value in pairs)
    return replace(option, value=write_options(pairs))


def _file_nodes(option: Option) -> list[str]:
    """Prefixes of the nodes whose driver is `file`: "" for the top, "file" for `file.driver=file`.

    `-drive` may leave the driver out: a file name alone means `file` for the node below.
    """
    named = {key if key is not None else "driver": value for key, value in option.pairs()}
    drivers = [key for key, value in named.items() if leaf(key) == "driver" and value == "file"]
    prefixes = {key.rpartition(".")[0] for key in drivers}
    if option.name == "drive" and "" not in prefixes and "file.driver" not in named:
        bare = named.get("file", "")
        if (bare and not bare.startswith("json:")) or "file.filename" in named:
            prefixes.add("file")
    return sorted(prefixes)


def _keep_cache_in_tree(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    tree = {key: _keep_cache_in_tree(value) for key, value in tree.items()}
    return {**tree, "drop-cache": False} if tree.get("driver") == "file" else tree


def _keep_cache_in_json_name(value: str) -> str:
    if not value.startswith("json:"):
        return value
    return "json:" + json.dumps(_keep_cache_in_tree(json_text.loads(value.removeprefix("json:"))))


def _pinned(options: Sequence[Option], machine_type: str) -> list[Option]:
    """The resolved machine type in place of an alias (`q35`), which every QEMU reads differently."""
    pinned = [_pinned_option(option, machine_type) for option in options]
    if any(_names_a_type(option) for option in pinned):
        return pinned
    return [Option(word="-machine", value=machine_type), *pinned]


def _names_a_type(option: Option) -> bool:
    if option.name not in {"machine", "M"}:
        return False
    pairs = option.pairs()
    return any(key == "type" for key, _ in pairs) or (bool(pairs) and pairs[0][0] is None)


def _pinned_option(option: Option, machine_type: str) -> Option:
    if not _names_a_type(option):
        return option
    pairs = tuple(
        (key, machine_type if key == "type" or (key is None and index == 0) else value)
        for index, (key, value) in enumerate(option.pairs())
    )
    return replace(option, value=write_options(pairs))


def listening_sockets(argv: Sequence[str]) -> list[str]:
    """Unix sockets that a QEMU with this command line makes and listens on."""
    return [path for option in parse_command_line(argv) if (path := _socket(option)) and listens(option)]


def _socket(option: Option) -> str | None:
    """`-qmp unix:PATH,...` and the like, or `-chardev socket,path=PATH,...`."""
    first = next(iter(option.pairs()), (None, ""))[1]
    if first.startswith("unix:"):
        return first.removeprefix("unix:")
    return option.get("path") if (option.name, first) == ("chardev", "socket") else None


def listens(option: Option) -> bool:
    """It is a server, as QEMU reads it: the last word counts; `server` is `server=on`, `noserver` the opposite."""
    if option.is_json():
        return option.get("server") == "True"
    said = [value for key, value in option.pairs() if key == "server"]
    bare = [value for key, value in option.pairs() if key is None]
    return "noserver" not in bare and all(value in TRUE for value in said) and bool(said or "server" in bare)


def device_ids(argv: Sequence[str]) -> set[str]:
    """The ids given to `-device`, and the one that QEMU itself gives to a device that it makes for an option."""
    options = parse_command_line(argv)
    found = {option.get("id") for option in options if option.name == "device"}
    made = {option.name for option in options if option.name == "debugcon"}
    return made | {identifier for identifier in found if identifier}


def anonymous_devices(argv: Sequence[str]) -> int:
    """How many children `/machine/peripheral-anon` has right after the start with this line.

    `-device` without an id, and the virtio-blk that QEMU adds for `-drive if=virtio`.
    """
    options = parse_command_line(argv)
    devices = sum(option.name == "device" and not option.get("id") for option in options)
    return devices + sum(option.name == "drive" and option.get("if") == "virtio" for option in options)
