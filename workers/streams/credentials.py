"""Credentials of one start of a job's stream server: made for it, valid for nothing else, gone with it."""

import datetime
import os
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
