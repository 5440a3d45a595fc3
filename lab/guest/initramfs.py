"""The guest's only file system: a cpio archive (newc) the kernel unpacks into memory."""

from dataclasses import dataclass

DIRECTORY, PROGRAM, FILE = 0o040755, 0o100755, 0o100644


@dataclass(frozen=True)
class Entry:
    name: str
    mode: int
    content: bytes = b""


def archive(entries: list[Entry]) -> bytes:
    """Not compressed: an emulated processor takes longer to decompress it than QEMU takes to read it."""
    everything = [*entries, Entry("TRAILER!!!", 0)]
    return b"".join(_record(number, entry) for number, entry in enumerate(everything, start=1))


def _record(number: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if entry.mode == DIRECTORY else 1
    # inode, mode, uid, gid, links, mtime, size, device (4 fields), length of the name, unused checksum
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
