"""How a guest is started cold on its host: one file per guest in the worker's folder."""

from models.contracts import Many, Versioned


class LaunchFile(Versioned):
    """While it is there the guest lives on this host, and may be started here once it does not run."""

    guest: str
    job: int
    """Which moved the guest here."""
    argv: Many[str]
    qmp: str
    log: str
    """Where the QEMU writes what it has to say."""
    environment: dict[str, str]
    host: str = ""
    """Where it may be started; empty where an earlier version wrote it."""
    vcpus: Many[Many[int]] = ()
    """See `Execution.vcpus`."""
