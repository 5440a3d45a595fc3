"""Which files of the host a QEMU needs besides its disks, by its command line and its block nodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from models.plan import BackingImage, FileKind
from workers.qemu.json_text import made_up
from workers.qemu.options import Option, parse_command_line
from workers.qemu.topology import Reply

_PLAIN = dict.fromkeys(("kernel", "initrd", "shim", "dtb"), FileKind.KERNEL) | {"bios": FileKind.FIRMWARE}
_KEYS = {
    "machine": {
        "kernel": FileKind.KERNEL,
        "initrd": FileKind.KERNEL,
        "shim": FileKind.KERNEL,
        "dtb": FileKind.KERNEL,
        "firmware": FileKind.FIRMWARE,
    },
    "fw_cfg": {"file": FileKind.DATA},
    "smbios": {"file": FileKind.DATA, "path": FileKind.DATA},
    "acpitable": {"file": FileKind.DATA, "data": FileKind.DATA},
    "boot": {"splash": FileKind.DATA},
    "device": {"romfile": FileKind.FIRMWARE, "file": FileKind.DATA},
    "net": {"romfile": FileKind.FIRMWARE},
    "global": {"romfile": FileKind.FIRMWARE},
    "trace": {"events": FileKind.DATA},
    "option-rom": {"": FileKind.FIRMWARE, "romfile": FileKind.FIRMWARE},
    "spice": {f"x509-{name}-file": FileKind.SECRET for name in ("key", "cert", "cacert", "dh-key")},
}
_KEYS["M"] = _KEYS["machine"]
_OPTIONAL = {"boot"}
"""A splash image that is not there is no obstacle to QEMU."""
_SECRET_OBJECTS = ("secret", "tls-creds-")


@dataclass(frozen=True)
class Named:
    """A file that the command line names."""

    kind: FileKind
    path: str
    folder: bool = False
    """All in it that QEMU reads: `tls-creds-*`."""
    optional: bool = False
    secret: str | None = None
    """The id of the object that reads it."""


def named_files(argv: Sequence[str]) -> Iterator[Named]:
    """What QEMU reads when it is started with this line, images aside. Names that it looks up itself are left out."""
    for option in parse_command_line(argv):
        for found in _of(option):
            if found.path.startswith("/") and not found.path.startswith("/dev/"):
                yield found


def _of(option: Option) -> Iterator[Named]:
    if option.name in _PLAIN and option.value:
        yield Named(_PLAIN[option.name], option.value)
    if option.name == "object":
        yield from _of_object(option)
    if option.name == "spice" and (folder := option.get("x509-dir")):
        yield Named(FileKind.SECRET, folder, folder=True)
    kinds = _KEYS.get(option.name, {})
    for key, value in option.leaves() if kinds else ():
        if key in kinds:
            parts = value.split(":") if option.name == "acpitable" else [value]
            yield from (Named(kinds[key], part, optional=option.name in _OPTIONAL) for part in parts if part)
    if option.name == "global" and option.get("property") == "romfile":
        yield Named(FileKind.FIRMWARE, option.get("value") or "")


def _of_object(option: Option) -> Iterator[Named]:
    kind = option.kind
    for key, value in option.leaves():
        if kind.startswith(_SECRET_OBJECTS) and key == "file":
            yield Named(FileKind.SECRET, value, secret=option.get("id"))
        if kind.startswith(_SECRET_OBJECTS) and key == "dir":
            yield Named(FileKind.SECRET, value, folder=True)
        if kind.startswith("authz-") and key == "filename":
            yield Named(FileKind.DATA, value)


def chain_of(image: Reply) -> tuple[BackingImage, ...]:
    """The backing files of an image, as QEMU has opened them: from the one right below it down to the base."""
    below = image.get("backing-image")
    if below is None:
        return ()
    encrypted = "encrypted " if below.get("encrypted") else ""  # it has no place in a chain that is kept
    return (BackingImage(path=file_of(below), format=f"{encrypted}{below['format']}"), *chain_of(below))


def file_of(image: Reply) -> str:
    """The file of an image. A node opened with unusual options shows `json:{...}` instead of a name."""
    name = str(image["filename"])
    return _filename(made_up(name)) or name


def _filename(tree: Any) -> str | None:
    if not isinstance(tree, dict):
        return None
    if tree.get("driver") == "file" and "filename" in tree:
        return str(tree["filename"])
    return _filename(tree.get("file"))
