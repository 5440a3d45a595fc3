"""How a job's source reaches the job's streams: what the destination seals for the source's host key."""

from typing import Annotated

from pydantic import Field

from models.contracts import Part, Versioned


class StreamCredentials(Part):
    """What the source proves itself with, and what it knows the destination by. PEM texts."""

    certificate: str
    key: str
    peer: str
    """The only certificate that is trusted, or the authority's."""
    peer_name: str | None = None
    """The name that the peer's certificate must bear; null: `peer` is its very certificate."""


class StreamAccess(Versioned):
    """All that the source needs to connect. Only its host can read it."""

    job: int
    address: str
    port: Annotated[int, Field(ge=1, lt=1 << 16)]
    secret: str
    """What the client says first."""
    bitmap: str | None = None
    """The bitmaps that hold all in which the destination's images differ from the guest's disks; null: those images
    are empty."""
    credentials: StreamCredentials | None = None
    """Null: the source has its own, or the streams are plain text, by the setting of both hosts."""
