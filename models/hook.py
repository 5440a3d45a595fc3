"""What a hook of a host's administrator is told on its standard input."""

from typing import Literal

from models.contracts import Many, Part, Versioned


class HookDisk(Part):
    """One disk of the guest."""

    index: int
    source_path: str
    destination_path: str
    bytes_size: int


class HookCall(Versioned):
    """Of which move it is at which point."""

    hook: Literal["before-copy", "before-switchover", "after-switchover", "after-rollback", "after-cleanup"]
    side: Literal["source", "destination"]
    """Of the host that it runs on."""
    guest: str
    job: int
    attempt: int
    """A number that is higher each time."""
    source: str
    destination: str
    uuid: str | None = None
    """Of the guest, where it has one."""
    reason: str | None = None
    """Why the job is rolled back."""
    disks: Many[HookDisk] = ()
