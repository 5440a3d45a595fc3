"""By which two hosts tell whether they have the same file.

    sha256:HEX          as `sha256sum` prints it
    qcow2:HEX           of an image that lies on another one, whose path differs between hosts: SHA-256 over the fields
                        of its header but for that path, and all behind its first cluster
    scrypt:SALT:HEX     of a secret, which the database must not give away

A file that has not changed is read once: the digest is kept by device, inode, size and times of change.
"""

import hashlib
import os
import secrets
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from drover import words
from drover.errors import Fatal, Unavailable
from workers import files

PLAIN, OVERLAY, SECRET = "sha256", "qcow2", "scrypt"  # pragma: allowlist secret
CHUNK_BYTES = 1 << 20
LARGEST_SECRET_BYTES = 1 << 20
SETTLED_S = 0.05
"""A file that changed more recently may change again within the same tick of its clock: its digest is not kept."""
_QCOW2 = struct.Struct(">4sIQIIQIIQQIIQQQQII")
"""The fixed part of the header (docs/interop/qcow2.rst of QEMU); nothing but the header lies in the first cluster."""
_OF_VERSION_2 = 13
_MAGIC = b"QFI\xfb"


class StillRead(Unavailable):
    """A file is so large that its digest is not known yet."""


@dataclass(frozen=True)
class Identity:
    """One state of one file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Identity":
        """As the kernel reports it."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def of(path: Path, wanted: str, kept_in: Path, wait_s: float | None = None) -> str:
    """The digest of a file, in one of the forms; those that are known are kept in the worker's folder.

    Raises:
        StillRead: it takes longer than `wait_s`; it goes on, so that a later question finds it.
        Fatal: it changes while it is read, or is no plain file.
        OSError: it cannot be read.
    """
    with opened(path) as (descriptor, found):
        if wanted == SECRET:
            return _secret(descriptor, secrets.token_hex(16))
        if known := _kept(kept_in, wanted, Identity.of(found)):
            return known
    return _read(path, wanted, kept_in, found.st_size, wait_s)


def equal(path: Path, digest: str, kept_in: Path, wait_s: float | None = None) -> bool:
    """Whether the file at this path is the one with this digest. Errors as for `of`."""
    wanted, _, rest = digest.partition(":")
    if wanted == SECRET:
        with opened(path) as (descriptor, _found):
            return secrets.compare_digest(_secret(descriptor, rest.partition(":")[0]), digest)
    return of(path, wanted, kept_in, wait_s) == digest


def remember(path: Path, digest: str, kept_in: Path) -> None:
    """The file at this path was just verified to have this digest."""
    wanted = digest.partition(":")[0]
    if wanted != SECRET:
        time.sleep(2 * SETTLED_S)
        with opened(path) as (_, found):
            _keep(kept_in, wanted, Identity.of(found), digest)


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A plain file, to be read.

    Raises:
        Fatal: it is none.
        OSError: it cannot be read.
    """
    descriptor = files.opened(path, os.O_RDONLY)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Fatal(f"{path} is no plain file")
        yield descriptor, found
    finally:
        os.close(descriptor)


def of_secret(content: bytes) -> str:
    """The digest of a secret that is in no file, with a salt of its own."""
    return _scrypt(content, secrets.token_hex(16))


def computed(descriptor: int, wanted: str, digest: str = "") -> str:
    """The digest of an open file, read anew. `digest` is the one that it is to be compared with."""
    if wanted == SECRET:
        return _secret(descriptor, digest.split(":")[1])
    summed, begin = hashlib.sha256(), 0
    if wanted == OVERLAY:
        begin = _header(descriptor, summed)
    while chunk := os.pread(descriptor, CHUNK_BYTES, begin):
        summed.update(chunk)
        begin += len(chunk)
    return f"{wanted}:{summed.hexdigest()}"


def _header(descriptor: int, summed: "hashlib._Hash") -> int:
    """Add the fields that make up the image; returns where its second cluster begins."""
    raw = os.pread(descriptor, 112, 0)
    fields = list(_QCOW2.unpack_from(raw.ljust(_QCOW2.size, b"\0")))
    magic, version, cluster_bits, header_length = fields[0], fields[1], fields[4], fields[-1]
    if magic != _MAGIC:
        raise Fatal("the file is no qcow2 image")
    fields[2] = fields[3] = fields[-1] = 0  # where the name stands, and the size of what else QEMU writes beside it
    if version < 3:
        fields[_OF_VERSION_2:] = [0] * (len(fields) - _OF_VERSION_2)
    summed.update(_QCOW2.pack(*fields))
    summed.update(raw[104:105] if header_length > 104 else b"\0")  # the kind of compression
    return int(1 << cluster_bits)


def _secret(descriptor: int, salt: str) -> str:
    content = os.pread(descriptor, LARGEST_SECRET_BYTES + 1, 0)
    if len(content) > LARGEST_SECRET_BYTES:
        raise Fatal(f"a secret is larger than {LARGEST_SECRET_BYTES} bytes")
    return _scrypt(content, salt)


def _scrypt(content: bytes, salt: str) -> str:
    return f"{SECRET}:{salt}:{hashlib.scrypt(content, salt=salt.encode(), n=1 << 14, r=8, p=1).hex()}"


_lock = threading.Lock()
_being_read: dict[tuple[str, Identity], "Future[str]"] = {}


def _read(path: Path, wanted: str, kept_in: Path, size: int, wait_s: float | None) -> str:
    with opened(path) as (_, found):
        key = wanted, Identity.of(found)
    with _lock:
        known = _being_read.get(key)
        if known is None:
            known = _being_read[key] = Future()
            threading.Thread(target=_settle, args=(known, key, path, kept_in), name="digest", daemon=True).start()
    try:
        return known.result(wait_s)
    except TookTooLong:
        raise StillRead(
            f"{path} ({words.size(size)}) is being read so that the other host can tell whether it has the same file: "
            "nothing was changed, try again in a moment"
        ) from None


def _settle(result: "Future[str]", key: tuple[str, Identity], path: Path, kept_in: Path) -> None:
    try:
        wanted, before = key
        with opened(path) as (descriptor, _):
            digest = computed(descriptor, wanted)
            if Identity.of(os.fstat(descriptor)) != before:
                raise Fatal(f"{path} changes: somebody writes to it, but a guest relies on it")
        _keep(kept_in, wanted, before, digest)
        result.set_result(digest)
    except BaseException as error:
        result.set_exception(error)
    finally:
        with _lock:
            _being_read.pop(key, None)


def _keep(kept_in: Path, wanted: str, state: Identity, digest: str) -> None:
    if time.time() - max(state.mtime_ns, state.ctime_ns) / 1e9 < SETTLED_S:
        return
    with _database(kept_in) as database:
        database.execute("INSERT OR REPLACE INTO digest VALUES (?, ?, ?)", (_key(wanted, state), digest, time.time()))


def _kept(kept_in: Path, wanted: str, state: Identity) -> str | None:
    with _database(kept_in) as database:
        row = database.execute("SELECT digest FROM digest WHERE file = ?", (_key(wanted, state),)).fetchone()
    return None if row is None else str(row[0])


def _key(wanted: str, state: Identity) -> str:
    return f"{wanted}/{state.device}/{state.inode}/{state.size}/{state.mtime_ns}/{state.ctime_ns}"


@contextmanager
def _database(kept_in: Path) -> Iterator[sqlite3.Connection]:
    path = kept_in / "digests.sqlite"
    os.close(files.private(path, os.O_RDWR))
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS digest (file TEXT PRIMARY KEY, digest TEXT, at REAL)")
        yield database
