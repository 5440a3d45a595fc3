"""What the two processes of a job's streams are told: one JSON file that only its owner can read, as it holds keys."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from workers.files import write_durably
from workers.streams.credentials import CredentialFiles, Credentials

NBD, RAM, SWITCHOVER, FILES, PROOF = "nbd", "ram", "switchover", "files", "proof"
STREAMS = (NBD, RAM, SWITCHOVER, FILES, PROOF)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What both ends need."""

    sockets: dict[str, str]
    """{stream: path of a Unix socket on this host}."""
    secret: str
    """What the client says first."""
    credentials: Credentials | CredentialFiles | None
    """None: plain text, by the setting of both hosts."""

    @property
    def mark(self) -> str:
        """By which the server knows the right peer before TLS begins: it is in the first bytes, where TLS has the name
        of the server that is asked for. Who listens on the way sees it, and gets no further by it. Empty: there is
        none, for certificates of an operator's are asked for by the host's name.
        """
        if self.credentials is None:
            return self.secret
        return "" if self.credentials.peer_name else hashlib.sha256(f"mark {self.secret}".encode()).hexdigest()[:32]

    def save(self, path: Path) -> None:
        """Write it."""
        write_durably(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it."""
        told: dict[str, Any] = json.loads(path.read_text())
        mine = told.pop("credentials")
        kind = CredentialFiles if mine and "authority" in mine else Credentials
        return cls(credentials=kind(**mine) if mine else None, **told)


@dataclass(frozen=True, kw_only=True)
class ServerParameters(Parameters):
    """For the destination's process, which connects to these sockets."""

    listening: int
    """Descriptor of the listening socket that it inherits."""
    of_source: int | None = None
    """Likewise of the one that gets what comes from the source's address."""


@dataclass(frozen=True, kw_only=True)
class ClientParameters(Parameters):
    """For the source's process, which listens at these sockets."""

    address: str
    port: int
    guest_pid: int
    """The guest's QEMU may connect, whatever user it runs as."""
    listening: dict[str, int]
    """{stream: descriptor of the listening Unix socket that it inherits}."""
    own_address: str = field(default="", compare=False)
    """By which the other host knows this one."""

    @property
    def asks_for(self) -> str | None:
        """The name by TLS."""
        return (self.credentials.peer_name or self.mark) if self.credentials else None
