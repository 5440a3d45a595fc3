"""Who is at the ends of this host's sockets, as `ss` of iproute2 shows it.

The kernel tells of a connection that it exists, but only by a search through all processes whose it is: `ss` does both.
"""

import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workers import files
from workers.files import UnsafePath
from workers.process.environment import handed_on

_UNIX = re.compile(r"u_str\s+(\S+)\s+\d+\s+\d+\s+(.*?)\s(\d+)\s+(?:.*?)\s(\d+)\s*(?:users:\((.*)\))?\s*")
_TCP = re.compile(r"(\S+)\s+\d+\s+\d+\s+(\S+)\s+(\S+)\s*(?:users:\((.*)\))?\s*")
_USER = re.compile(r'\("((?:[^"\\]|\\.)*)",pid=(\d+),')
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class User:
    """A process at the end of a socket."""

    pid: int
    program: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program})"


@dataclass(frozen=True)
class _End:
    """One end of a connection, or a socket that listens."""

    state: str
    own: str
    other: str
    """What names both ends: the numbers of Unix sockets, the addresses of TCP."""
    path: str
    users: tuple[User, ...]


def listens(path: str | Path) -> bool:
    """A process listens on this Unix socket; a file whose process is gone refuses."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def peer(connection: socket.socket) -> tuple[int, int]:
    """The process at the other end of a Unix socket, as it was when that was made, and its user."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def give(path: Path, server: int, uid: int, gid: int) -> None:
    """Give somebody the Unix socket on which this process listens.

    Raises:
        UnsafePath: something else is there by now, or somebody else's link is on the way.
    """
    with files.held(path) as there:
        if not _serves(server, files.named(there)):
            raise UnsafePath(f"{path} is not the socket of process {server} any more: it is not touched")
        files.give(there, uid, gid)


def _serves(server: int, path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) == 0 and peer(probe)[0] == server


def holder(address: str) -> User | None:
    """Who is connected to a monitor, by its path or `tcp:HOST:PORT`. None: nobody, or it cannot be told."""
    ends = list(_ends(address))
    accepted = [end for end in ends if end.state == "ESTAB" and end.users and _at(address, end.path)]
    clients = {end.own: end.users for end in ends}
    found = [user for end in accepted for user in clients.get(end.other, ())]
    return found[0] if found else (User(0, "on another host") if accepted else None)


def listener(address: str) -> User | None:
    """Who listens there."""
    ends = _ends(address)
    return next((end.users[0] for end in ends if end.state == "LISTEN" and end.users and _at(address, end.path)), None)


def server(path: str) -> User | None:
    """Who serves a Unix socket; it may listen no more, and have a client."""
    return next((end.users[0] for end in _ends(path) if end.users and _at(path, end.path)), None)


def _at(address: str, path: str) -> bool:
    if not address.startswith("tcp:"):
        return path == address
    port = address.rpartition(":")[2]
    return path.rpartition(":")[2] == port


def _ends(address: str) -> Iterator[_End]:
    if address.startswith("tcp:"):
        for line in _told("-tanHp"):
            if found := _TCP.fullmatch(line):
                yield _End(found[1], found[2], found[3], found[2], _users(found[4]))
        return
    for line in _told("-xaHp"):
        if found := _UNIX.fullmatch(line):
            users = _users(found[5])
            yield _End(found[1], found[3], found[4], _placed(found[2], users), users)


def _placed(path: str, users: tuple[User, ...]) -> str:
    """The whole path of a socket that was bound by a relative one."""
    if path.startswith(("/", "*", "@")) or not users:
        return path
    with suppress(OSError):  # it has ended, or is another user's
        return str(Path(f"/proc/{users[0].pid}/cwd").readlink() / path)
    return path


def _users(text: str | None) -> tuple[User, ...]:
    return tuple(User(int(pid), program) for program, pid in _USER.findall(text or ""))


def _told(options: str) -> list[str]:
    """The lines of `ss`; none where it is not installed."""
    try:
        done = subprocess.run(
            ["ss", options], env=handed_on(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
