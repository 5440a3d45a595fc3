"""What a host knows of images that a guest left behind there: enough to need only what the guest has written since."""

from typing import Annotated

from models.contracts import Many, Part, Versioned, of_dataclass
from models.documents import Moment
from models.plain import Evidence
from models.plan import BackingImage


class FormerImage(Part):
    """One of these images."""

    path: str
    """Where it was in use."""
    kept_at: str
    format: str
    virtual_size_bytes: int
    chain: Many[BackingImage] = ()
    """The backing files that it lies on."""
    evidence: Annotated[Evidence, of_dataclass(Evidence)]
    """As nobody but the guest's QEMU had it any more."""


class WayBack(Versioned):
    """All writable disks of a guest as they were once. Bitmaps of its present QEMU hold all that is not there."""

    guest: str
    job: int
    """Which moved the guest away, or was rolled back."""
    bitmap: str
    """The name of these bitmaps, see `workers.qemu.written`."""
    images: Many[FormerImage]
    kept_until: Moment | None = None
    """Once a guest comes back to them: until when they would have been kept."""
