"""The destination's end of the stream `files`: a process that writes what the source sends beside its place, verifies
it, and puts it into place under its name. It outlives the worker and needs neither database nor broker.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from drover.errors import DroverError, Fatal
from workers import files
from workers.files import sync_folder
from workers.images import manifest
from workers.images.manifest import Manifest
from workers.media import digests
from workers.media.parameters import Incoming, ReceiverParameters
from workers.media.protocol import BEAT_S, BUSY, FROM, LONGEST_LINE, PIECE, PIECE_BYTES, THERE, WAIT

log = logging.getLogger(__name__)

LOOK_S = 0.2
DRAFT = ".drover-"


def is_draft(path: Path) -> bool:
    """By its name: a file that was not put into place yet."""
    return path.name.startswith(".") and DRAFT in path.name


class Receiver:
    """Accepts for as long as the process lives."""

    def __init__(self, told: ReceiverParameters) -> None:
        self.told, self.directory = told, Path(told.directory)
        self.listening = socket.socket(fileno=told.listening)
        self.manifest = Manifest(Path(told.manifest))
        self.writing = threading.Lock()

    def run(self) -> None:
        """Never returns."""
        while True:
            peer, _ = self.listening.accept()
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            said = peer.makefile("rb")
            place = said.readline(LONGEST_LINE).decode(errors="replace").strip()
            try:
                with _alive(peer):
                    self._take(self.told.incoming[place], peer, _Pieces(said))
                answer = THERE
            except KeyError:
                answer = f"no file {place!r} is wanted"
            except (DroverError, OSError, subprocess.SubprocessError) as error:
                log.warning("a file could not be taken: %s", error)
                answer = " ".join(str(error).split()) or type(error).__name__
            peer.sendall(f"{answer[: LONGEST_LINE - 2]}\n".encode())

    def _take(self, file: Incoming, peer: socket.socket, pieces: "_Pieces") -> None:
        path = files.below(Path(self.told.guest_root), file.path)
        with alone_with(path, self.directory, lambda: peer.sendall(f"{BUSY}\n".encode())), self.writing:
            if files.status(path) is not None:
                if not digests.equal(files.followed(path), file.digest, self.directory):
                    raise Fatal(f"another file is at {path} by now")
                return
            self._write(file, path, peer, pieces)

    def _write(self, file: Incoming, path: Path, peer: socket.socket, pieces: "_Pieces") -> None:
        draft = path.with_name(f".{path.name[:200]}{DRAFT}{self.told.job}")
        self.manifest.claim(draft)
        descriptor = files.opened(draft, os.O_RDWR)
        try:
            peer.sendall(f"{FROM} {os.fstat(descriptor).st_size}\n".encode())
            pieces.write_to(descriptor)
            os.ftruncate(descriptor, file.size_bytes)
            self._verify(file, descriptor, draft, path)
            _lies_on(file, descriptor)
            os.fchown(descriptor, file.uid, file.gid)
            os.fchmod(descriptor, file.mode)
            os.fsync(descriptor)
            self.manifest.put(path, os.fstat(descriptor).st_ino)
        finally:
            os.close(descriptor)
        files.link(draft, path.name)
        files.unlink(draft)
        sync_folder(path.parent)
        digests.remember(path, file.digest, self.directory)

    def _verify(self, file: Incoming, descriptor: int, draft: Path, path: Path) -> None:
        wanted = file.digest.partition(":")[0]
        if digests.computed(descriptor, wanted, file.digest) != file.digest:
            files.unlink(draft)
            raise Fatal(f"what arrived for {path} is not the file that was announced: it changed at the source")


@contextmanager
def _alive(peer: socket.socket) -> Iterator[None]:
    """The peer is told every few seconds that this end is at work, whatever takes so long."""
    over = threading.Event()

    def beat() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(BEAT_S):
                peer.sendall(f"{WAIT}\n".encode())

    beats = threading.Thread(target=beat, daemon=True)
    beats.start()
    try:
        yield
    finally:
        over.set()
        beats.join()


class _Pieces:
    """What the source sends."""

    def __init__(self, said: BinaryIO) -> None:
        self.said = said

    def write_to(self, descriptor: int) -> None:
        while True:
            offset, length = PIECE.unpack(self._exactly(PIECE.size))
            if not length:
                return
            if length > PIECE_BYTES:
                raise Fatal("a piece is larger than agreed")
            os.pwrite(descriptor, self._exactly(length), offset)

    def _exactly(self, count: int) -> bytes:
        data = self.said.read(count)
        if len(data) < count:
            raise ConnectionError("the source hung up in the middle of a file")
        return data


def _lies_on(file: Incoming, descriptor: int) -> None:
    """The image names its backing file by its place on this host."""
    if file.backing is None or file.backing_format is None:
        return
    if (why := manifest.put_on(descriptor, file.backing, file.backing_format)) is not None:
        raise Fatal(f"qemu-img could not put {file.path} on {file.backing}: {why}")


@contextmanager
def alone_with(path: Path, directory: Path, once_busy: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of this place: no other job brings a file there, or takes it away, meanwhile."""
    name = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    descriptor = files.private(directory / "places" / name, os.O_RDWR)
    try:
        said = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    once_busy()
                said = True
                time.sleep(LOOK_S)
        yield
    finally:
        os.close(descriptor)


def main(told: ReceiverParameters) -> None:
    """Serve until the process is ended."""
    log.info("takes files of job %d", told.job)
    Receiver(told).run()
