"""What on a guest's command line this host's policy does not allow.

An option that is not known here is refused, and so is a path outside the policy's folders, a program that QEMU would
start, and a monitor that the network reaches: whoever has QEMU's monitor can have it start any program.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from workers.qemu.options import (
    BRIDGE_HELPERS,
    CHANNELS_AND_GDB,
    GUEST_KEYS,
    GUEST_TEXT,
    IFDOWN,
    IFUP,
    IMAGES,
    MEMORY_FOLDERS,
    MONITORS,
    NETWORKS,
    PLAIN,
    TRUE,
    Option,
    leaf,
    parse_command_line,
    parse_options,
    settled,
    words_of,
)


class Rules(Protocol):
    """What of a policy is asked here."""

    @property
    def name(self) -> str:
        """Where it stands, for people."""

    @property
    def options(self) -> Collection[str]:
        """Further options, at whose values nobody looks."""

    def may_write(self, path: str) -> bool:
        """A guest may have this to read and to write."""

    def may_read(self, path: str) -> bool:
        """A guest may be given this to read."""

    def may_start(self, program: str) -> bool:
        """QEMU may start this program."""

    def may_connect(self, path: str) -> bool:
        """A guest may speak with the program that listens there."""

    def may_name(self, user: str) -> bool:
        """QEMU may change to this user."""


KNOWN = words_of(
    "name uuid machine M accel cpu smp m numa nodefaults no-user-config nodefconfig enable-kvm no-kvm no-acpi no-hpet "
    "display vga nographic full-screen alt-grab ctrl-grab rtc boot no-fd-bootchk global set k msg no-reboot "
    "no-shutdown no-quit S incoming device overcommit mem-prealloc mem-path icount watchdog watchdog-action action "
    "sandbox usb iscsi append smbios fw_cfg pidfile kernel initrd shim dtb bios L drive blockdev chardev "
    "serial parallel debugcon monitor qmp qmp-pretty mon vnc spice netdev nic net object audiodev compat D d trace "
    "dfilter run-with runas acpitable option-rom iscsi tpmdev audio usbdevice gdb s echr only-migratable seed id "
    "win2k-hack enable-sync-profile"
)
"""`-id` is Proxmox's own: the number of the guest."""
NETWORK_KINDS = words_of("user tap bridge hubport socket stream dgram l2tpv3 none nic")
PROGRAM_KEYS = words_of("script downscript helper")
PROGRAMS_BY_DEFAULT: Mapping[str, Mapping[str, Sequence[str]]] = {
    "tap": {"script": [IFUP], "downscript": [IFDOWN]},
    "bridge": {"helper": BRIDGE_HELPERS},
}
"""{kind of network: {key: what QEMU starts where it is not given, the one that is there}}"""
SEVERAL_TIMES = words_of("hostfwd guestfwd dnssearch")
"""Keys of which QEMU takes every one."""
FIRST_KEYS = {
    "audiodev": "driver",
    "chardev": "backend",
    "display": "type",
    "mon": "chardev",
    "netdev": "type",
    "nic": "type",
    "vnc": "vnc",
}
"""{option: the key that its first word has}"""
INSTEAD_OF_SCRIPTS = words_of("helper fd fds")
FORBIDDEN_KEYS = {
    "smb": "it would start a file server",
    "dumpdtb": "it would write a file and end",
    "rootdir": "it would share a folder of the host with the guest",
    "tftp": "it would share a folder of the host with the guest",
    "input-path": "it would read a file of the host",
    "x-image": "it would open an image by a key for tests of QEMU's own",
    "x-raw": "it would open an image by a key for tests of QEMU's own",
}
PATH_KEYS = words_of(
    "file filename path logfile mem-path mem_path dir romfile firmware kernel initrd shim dtb db evdev vhostdev "
    "localpath sockpath chroot rendernode splash events x509-dir "
    "x509-cert-file x509-key-file x509-cacert-file x509-dh-key-file"
)
"""Keys whose value is a path however it begins; elsewhere a path begins with a slash."""
READ_BY_OPTION = words_of("kernel initrd shim dtb bios L smbios fw_cfg device acpitable option-rom")
READ_BY_OBJECT = ("secret", "tls-creds", "rng-random", "authz-")
READ_KEYS = words_of("romfile firmware kernel initrd shim dtb splash events rendernode")
LOOKED_UP = words_of("bios romfile firmware")
"""A name without a slash is looked for in QEMU's own folders."""
FORBIDDEN_OBJECTS = ("x-", "qtest", "vhost-user-", "pr-manager-")
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/hwrng", "/dev/net/tun")
DEBUGGERS = words_of("gdb s")
"""A debugger has QEMU's monitor as well (`monitor COMMAND`)."""
QUIET = words_of("none null pty ringbuf stdio file pipe /dev/null local")
"""What a monitor may be behind, besides a Unix socket: nobody reaches it from elsewhere."""
_PREFIX = re.compile(r"(?:[\w.+-]+[:=])+(?=/)")
_OF_NETWORK = words_of("tcp telnet websocket")
_LOOPBACK = re.compile(r"(127\.\d+\.\d+\.\d+|localhost|\[?::1\]?):")
_RELATIVE = re.compile(r"(?:mon:)?(?:unix|file|pipe):(?!/)")
GUEST_WORDS = (GUEST_KEYS | {"append"}) - {"value"}
"""Keys whose value only the guest sees. Of `-global` and `-set` the `value` may be anything."""


def violations(
    argv: Sequence[str], rules: Rules, images: Collection[str], spoken_to: Collection[str] = ()
) -> list[str]:
    """What the policy does not allow of this command line, a sentence each; empty if it may be started.

    Args:
        argv: the whole of it, as it would be started here.
        rules: the policy.
        images: the disks that are made for the guest here: no other image may be opened for writing.
        spoken_to: sockets of programs that are started for the guest here.
    """
    words = parse_command_line(argv)
    if no_json := [option for option in words if not _is_understood(option)]:
        return [f"{option.text}: its JSON is not understood" for option in no_json]
    options = settled(words)
    found: dict[str, None] = {}
    for option in options:
        if option.name in rules.options:
            continue
        for check in (_option, _network, _programs, _paths, _user):
            found.update(dict.fromkeys(check(option, rules)))
        found.update(dict.fromkeys(_sockets(option, rules, spoken_to)))
        found.update(dict.fromkeys(_images(option, images)))
    found.update(dict.fromkeys(_monitors(options, rules)))
    return [f"{sentence}, see {rules.name} there" for sentence in found]


def _is_understood(option: Option) -> bool:
    try:
        tuple(option.leaves())
    except ValueError:
        return False  # no JSON
    return True


def _twice(option: Option) -> set[str]:
    """Keys of which nobody can be sure whether QEMU takes the first or the last: that differs by option."""
    named = [key or FIRST_KEYS.get(option.name) for key, _ in option.pairs()[:1]]
    named += [key for key, _ in option.pairs()[1:]]
    return {key for key, number in Counter(named).items() if number > 1 and key and key not in SEVERAL_TIMES}


def _option(option: Option, rules: Rules) -> Iterator[str]:
    """Options, kinds of objects and devices that nobody has looked at."""
    if option.name not in KNOWN:
        yield f"{option.text} is not among the options that its policy allows"
    for key in _twice(option):
        yield f"{option.text}: `{key}` is there twice"
    if option.name == "set":
        yield f"{option.text}: nothing on its command line has that name"
    if option.name == "incoming" and option.value != "defer":
        yield f"{option.text}: only a move brings a guest in"
    if option.name in {"object", "device"} and option.kind.startswith(FORBIDDEN_OBJECTS):
        yield f"{option.text} is not allowed by its policy"


def _network(option: Option, rules: Rules) -> Iterator[str]:
    if option.name not in NETWORKS:
        return
    kind, text = option.driver, option.text
    if kind and kind not in NETWORK_KINDS:
        yield f"{text}: this kind of network is not allowed by its policy"
    named = {key for key, _ in option.leaves()}
    if named & INSTEAD_OF_SCRIPTS:
        return
    for key, programs in PROGRAMS_BY_DEFAULT.get(kind, {}).items():
        if key not in named and not any(rules.may_start(program) for program in programs):
            yield f"{text}: it would start {' or '.join(programs)}, which its policy does not allow"


def _programs(option: Option, rules: Rules) -> Iterator[str]:
    """What QEMU would start."""
    for key, value in option.leaves():
        if key in PROGRAM_KEYS and value not in {"", "no"} and not rules.may_start(value):
            yield f"{option.text}: it would start {value}, which its policy does not allow"
        if key in FORBIDDEN_KEYS and option.name not in GUEST_TEXT:
            yield f"{option.text}: {FORBIDDEN_KEYS[key]}, which its policy does not allow"
    if any(text.startswith("cmd:") for text in option.forwarded_to):
        yield f"{option.text}: it would start a program, which its policy does not allow"


def _paths(option: Option, rules: Rules) -> Iterator[str]:
    for key, value in _values(option):
        path = _path(option, value)
        if path is not None and key not in PROGRAM_KEYS and not _allowed(path, option, key, rules):
            yield f"{option.text}: {path} is outside the folders that its policy allows"
        if path is None and (_RELATIVE.match(value) or (key in PATH_KEYS and not _is_no_path(option, key, value))):
            yield f"{option.text}: {value} is no absolute path"


def _values(option: Option) -> Iterator[tuple[str, str]]:
    """Every value that QEMU may take for a path, with its key."""
    if option.name in GUEST_TEXT or option.value is None:
        return
    if option.name in PLAIN:
        yield option.name if option.name in LOOKED_UP else "file", option.value
    else:
        yield from ((key, value) for key, value in option.leaves() if key not in GUEST_WORDS)


def _path(option: Option, value: str) -> str | None:
    """The path in a value: `/x`, `unix:/x`, `mon:file:/x`; None if there is none that begins at the root."""
    text = _PREFIX.sub("", value, count=1)
    return text if text.startswith("/") else None


def _is_no_path(option: Option, key: str, value: str) -> bool:
    """Nothing, an abstract socket, the name of a node, a number, or a name that QEMU looks for in its own folders."""
    if not value or value.startswith("@"):
        return True
    elsewhere = (option.name, key) in {("blockdev", "file"), ("device", "events")}
    return "/" not in value and (key in LOOKED_UP or elsewhere)


def _allowed(path: str, option: Option, key: str, rules: Rules) -> bool:
    if ".." in Path(path).parts:
        return False
    places = (*DEVICES, *MEMORY_FOLDERS) if option.is_memory(key) else DEVICES
    if any(path == place or path.startswith(f"{place}/") for place in places):
        return True
    return rules.may_read(path) if _only_read(option, key) else rules.may_write(path)


def _only_read(option: Option, key: str) -> bool:
    if option.name in READ_BY_OPTION or key in READ_KEYS or key.startswith("x509-"):
        return True
    if option.name == "object":
        return option.kind.startswith(READ_BY_OBJECT)
    return option.name in IMAGES and _wholly_read_only(option)


def _wholly_read_only(option: Option) -> bool:
    """No part of it could be opened for writing under a name of its own."""
    if any(key is None and value.startswith("no") for key, value in option.pairs()):
        return False  # QEMU takes `noreadonly` for `readonly=off`
    parts = (value for key, value in option.leaves() if key in {"read-only", "readonly"})
    return option.read_only and all(value.lower() in TRUE for value in parts)


def _images(option: Option, images: Collection[str]) -> Iterator[str]:
    """An image that is opened for writing is one that is made for this guest."""
    if option.name not in IMAGES or _wholly_read_only(option):
        return
    below = _backing_files(option)
    for key, value in option.leaves():
        path = value.removeprefix("file:")
        if key in {"file", "filename"} and path.startswith("/") and path not in images and value not in below:
            yield f"{option.text}: {path} is none of the images that are moved with the guest"


def _backing_files(option: Option) -> set[str]:
    """What it names as backing files (`backing.file.filename`) and nowhere else: QEMU opens them to read."""
    said = {key: value for key, value in option.dotted().items() if "backing" in key.split(".")[:-1]}
    if any(leaf(key) in {"read-only", "readonly"} and value.lower() not in TRUE for key, value in said.items()):
        return set()
    everywhere = Counter(value for _, value in option.leaves())
    return {value for value, number in Counter(said.values()).items() if everywhere[value] == number}


def _monitors(options: Sequence[Option], rules: Rules) -> Iterator[str]:
    """A monitor, or a debugger, that somebody elsewhere may reach."""
    behind = {option.get("id"): option for option in options if option.name == "chardev"}
    seen_from_afar = any(_shows_consoles(option) for option in options)
    for option in options:
        for kind in _kinds(option, behind) if option.name not in rules.options else ():
            if kind in QUIET or kind == "unix" or (kind == "vc" and not seen_from_afar):
                continue
            what = "debugger" if option.name in DEBUGGERS else "monitor"
            yield f"{option.text}: the network may reach this {what}; use a unix socket"
    if seen_from_afar and not any(option.name in {"nodefaults", "mon", *MONITORS} for option in options):
        yield "its display shows QEMU's own monitor to whoever connects; start the guest with `-monitor none`"


def _kinds(option: Option, behind: dict[str | None, Option]) -> Iterator[str]:
    """What a monitor is behind; nothing for any other option."""
    value = option.value or ""
    if option.name == "s":
        yield "tcp"
    elif option.name in MONITORS | DEBUGGERS or (option.name in CHANNELS_AND_GDB and value.startswith("mon:")):
        yield _kind(value.removeprefix("mon:"), behind)
    elif option.name == "mon":
        name = option.get("chardev") or next((text for key, text in option.pairs() if key is None), "")
        yield _kind(f"chardev:{name}", behind)


def _kind(value: str, behind: dict[str | None, Option]) -> str:
    kind, _, rest = value.partition(":")
    if {"backend", "host"} & {key for key, _ in parse_options(value)}:
        return "tcp"  # that counts, and not what it begins with
    if kind != "chardev":
        return "local" if kind in _OF_NETWORK and _LOOPBACK.match(rest) else re.split("[,:]", value, maxsplit=1)[0]
    chardev = behind.get(rest.partition(",")[0])
    if chardev is None:
        return "unknown"
    if chardev.driver == "socket":
        return "unix" if chardev.get("path") else "local" if _LOOPBACK.match(f"{chardev.get('host')}:") else "tcp"
    return chardev.driver


def _shows_consoles(option: Option) -> bool:
    """A display in which somebody elsewhere may choose QEMU's own consoles, the monitor among them."""
    value = option.value or ""
    if option.name == "vnc":
        return not (option.get("vnc") or value).startswith(("unix:", "none"))
    shown = value.startswith("vnc") or option.driver.startswith(("spice", "dbus"))
    return option.name == "spice" or (option.name == "display" and shown)


def _sockets(option: Option, rules: Rules, spoken_to: Collection[str]) -> Iterator[str]:
    """Programs of the host that the guest would speak with: another guest's monitor may be among them."""
    for path in _connected(option):
        if path not in spoken_to and not rules.may_connect(path):
            yield f"{option.text}: it would connect to {path}, which its policy does not list under `sockets`"


def _connected(option: Option) -> Iterator[str]:
    """The Unix sockets at which it does not listen itself."""
    if option.listens:
        return
    kind, said = option.driver, option.dotted()
    yield from (text.removeprefix("unix:") for text in option.forwarded_to if text.startswith("unix:"))
    if option.name in NETWORKS and kind in {"stream", "dgram"}:
        yield from (said[key] for key in ("addr.path", "remote.path") if key in said)
    elif option.name == "chardev" and kind == "socket":
        yield from (value for key, value in option.leaves() if key == "path")
    elif option.name in CHANNELS_AND_GDB and (option.value or "").removeprefix("mon:").startswith("unix:"):
        yield str(_path(option, option.pairs()[0][1]))
        yield from (value for key, value in option.pairs() if key == "path")
    elif option.name in IMAGES:
        yield from (value for key, value in option.leaves() if key == "path")
    elif (option.name == "display" and kind == "dbus") or option.kind == "dbus-vmstate":
        yield from (value.removeprefix("unix:path=") for key, value in option.leaves() if key == "addr")
    elif option.name == "audiodev" and kind == "pa":
        yield from (value.removeprefix("unix:") for key, value in option.leaves() if key == "server" and "/" in value)


class Made(NamedTuple):
    """Something that QEMU makes, or writes to."""

    path: str
    text: bool
    """A text may be there already: it is a log."""
    folder: bool = False
    """A folder may be there already: memory is made in it."""
    read: bool = False
    """A file that is there already is only read: memory that is not shared."""
    own: bool = False
    """A file there is this QEMU's alone, and nothing that others read: its memory, what a channel or filter writes."""


def written(argv: Sequence[str]) -> Iterator[Made]:
    """All besides images.

    QEMU deletes what is where it is to listen, and maps what is where a guest's memory is to be.
    """
    for option in settled(parse_command_line(argv)):
        if option.name in {"drive", "blockdev", "global"}:
            continue
        connected = set(_connected(option))
        for key, value in _values(option):
            path = _path(option, value)
            if path in connected:
                continue  # somebody else listens there
            if path is None or path.startswith(DEVICES) or key in PROGRAM_KEYS or _only_read(option, key):
                continue
            made_anew = option.listens or option.name in {"vnc", "spice", "display", "mem-path", "netdev"}
            memory = option.is_memory(key)
            text = not (made_anew or memory or key == "localpath" or option.driver == "pipe")
            yield Made(path, text, folder=memory, read=memory and not _shares(option), own=_is_own(option))


def _shares(option: Option) -> bool:
    shared, readonly = (str(option.get(key)).lower() in TRUE for key in ("share", "readonly"))
    return shared and not readonly


def _is_own(option: Option) -> bool:
    """Memory that is not shared may be read from a template."""
    if option.name == "object":
        return option.kind == "filter-dump" or (option.kind.startswith("memory-backend-") and _shares(option))
    return option.name in {"audiodev", "chardev", *CHANNELS_AND_GDB}


def _user(option: Option, rules: Rules) -> Iterator[str]:
    named = option.value if option.name == "runas" else option.get("user") if option.name == "run-with" else None
    if named and not rules.may_name(named.partition(":")[0]):
        yield f"{option.text}: its policy does not allow that user"
