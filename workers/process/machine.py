"""Which machine this is, which boot of it, and how much memory it has."""

from functools import cache
from pathlib import Path


@cache
def boot() -> str:
    """Names this boot of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def machine() -> str:
    """Equal for workers that reach each other by loopback addresses: this boot of the kernel, and its network."""
    return f"{boot()}/{Path('/proc/self/ns/net').stat().st_ino}"


def machine_id() -> str:
    """Identifies a boot of an installation: clones of a disk share the latter, containers of a machine the former."""
    installed = Path("/etc/machine-id")
    number = installed.read_text().strip() if installed.exists() else ""
    return f"{number}/{boot()}"


def memory_bytes(what: str) -> int:
    """A line of /proc/meminfo: `MemTotal`, `MemAvailable`."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(what)
