"""Credentials of one start of a job's stream server: made for it, valid for nothing else, gone with it. Or files of an
operator's, who may put new ones there at any time.
"""

import datetime
import logging
import os
import secrets
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

LIFETIME = datetime.timedelta(days=3650)
"""They end with the process that holds them, and a copy may be held for as long as an operator likes."""
CLOCKS_APART = datetime.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What one end proves itself with, and what the other end is known by. PEM texts."""

    certificate: str
    key: str
    peer: str
    """The only certificate that is trusted, or the authority's."""
    peer_name: str | None = None
    """The name that the peer's certificate must bear; None: `peer` is its very certificate."""


@dataclass(frozen=True, kw_only=True)
class CredentialFiles:
    """Where an operator keeps what one end proves itself with. Paths of PEM files."""

    certificate: str
    key: str
    authority: str
    peer_name: str
    """The name that the peer's certificate must bear."""

    def read(self) -> Credentials:
        """What stands in them now.

        Raises:
            OSError: one cannot be read.
        """
        certificate, key, authority = (Path(path).read_text() for path in self._paths)
        return Credentials(certificate=certificate, key=key, peer=authority, peer_name=self.peer_name)

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Differs once one of them was replaced or written. Errors as for `read`."""
        seen = (Path(path).stat() for path in self._paths)
        return tuple((each.st_ino, each.st_mtime_ns) for each in seen)

    @property
    def _paths(self) -> tuple[str, str, str]:
        return self.certificate, self.key, self.authority


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What both ends of one stream server hold."""

    server: Credentials
    client: Credentials


def make() -> Pair:
    """Two certificates that trust each other and nobody else. About 1 ms."""
    server, client = _certificate("server"), _certificate("client")
    return Pair(
        server=Credentials(certificate=server[0], key=server[1], peer=client[0]),
        client=Credentials(certificate=client[0], key=client[1], peer=server[0]),
    )


def make_secret() -> str:
    """What the client says first, so that nothing is passed on for another job's."""
    return secrets.token_hex(32)


def _certificate(name: str) -> tuple[str, str]:
    """A self-signed certificate and its key."""
    from cryptography import x509  # the processes that carry streams do without: it takes 0.1 s of CPU
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"drover stream {name}")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_APART)
        .not_valid_after(now + LIFETIME)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


class Shown:
    """What one end shows in each new connection. Files that were renewed count from the next one on; open ones go on.

    As long as new files do not go together, because not all are there yet, the former ones count.
    """

    def __init__(self, side: Callable[[Credentials], ssl.SSLContext], mine: Credentials | CredentialFiles) -> None:
        self.side, self.mine = side, mine
        self.seen = mine.stamp() if isinstance(mine, CredentialFiles) else ()
        self.made = side(mine.read() if isinstance(mine, CredentialFiles) else mine)

    def context(self) -> ssl.SSLContext:
        """For a connection that begins now."""
        if isinstance(self.mine, CredentialFiles):
            try:
                self._look(self.mine)
            except (OSError, ValueError) as error:
                log.warning("new certificates cannot be used, the former ones count: %s", error)
        return self.made

    def _look(self, files: CredentialFiles) -> None:
        stamp = files.stamp()
        if stamp != self.seen:
            self.seen = stamp  # what cannot be used is told once
            self.made = self.side(files.read())


def server_context(mine: Credentials) -> ssl.SSLContext:
    """For the end that is connected to: whoever connects has to show the peer's certificate."""
    return _context(ssl.PROTOCOL_TLS_SERVER, mine)


def client_context(mine: Credentials) -> ssl.SSLContext:
    """For the end that connects."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, mine)


def _context(side: ssl._SSLMethod, mine: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = side == ssl.PROTOCOL_TLS_CLIENT and mine.peer_name is not None
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=mine.peer)
    with _in_memory(mine.certificate + mine.key) as path:
        context.load_cert_chain(path)
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # no session is taken up again
    return context


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """A path under which only this process finds the text; Python reads certificates from files alone."""
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
