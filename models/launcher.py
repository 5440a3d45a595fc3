"""Who launched a guest's QEMU, and what would start it again."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, Strict

from models.contracts import Many, Part, Versioned

MOST = 2**63 - 1

Bytes = Annotated[int, Field(ge=0, le=MOST)]


class LauncherKind(StrEnum):
    """What kind of launcher it is."""

    UNIT = "unit"
    """A unit of systemd that runs this guest and nothing else."""
    SUPERVISOR = "supervisor"
    """A living process that the QEMU is a child of, such as the loop of a shell; or a unit that runs more."""
    CONTAINER = "container"
    """The QEMU runs in a container, and the worker outside of it."""
    DROVER = "drover"
    """A job moved it here, or the lab made it, and nothing starts it again."""
    NOBODY = "nobody"
    """It was started by something that has ended."""


class Limits(Part):
    """What a unit may take of its host; null is no limit of its own."""

    slice: str | None = Field(default=None, pattern=r"^[A-Za-z0-9:_.\\-]{1,249}\.slice$")
    memory_max_bytes: Bytes | None = None
    memory_high_bytes: Bytes | None = None
    cpu_quota_us_per_s: Bytes | None = None
    cpu_weight: int | None = Field(default=None, ge=1, le=10_000)
    io_weight: int | None = Field(default=None, ge=1, le=10_000)
    allowed_cpus: str | None = Field(default=None, pattern=r"^[0-9 ,-]{1,1024}$")
    allowed_memory_nodes: str | None = Field(default=None, pattern=r"^[0-9 ,-]{1,1024}$")
    devices: Many[str] = ()
    """Those of single block devices, as `io.max` of its cgroup has them: they are for this host alone."""

    @property
    def any(self) -> bool:
        """There is one that a unit could set."""
        return self.model_copy(update={"slice": None, "devices": ()}) != Limits()


class Inhibition(Versioned):
    """What keeps a launcher from starting a guest that is about to leave its host."""

    kind: Annotated[LauncherKind, Strict(False)]
    """A unit has a file of ours that refuses its start; others were told by the administrator's program."""
    unit: str | None = None


class Launcher(Versioned):
    """Who launched a guest, as its host finds out by the process."""

    kind: Annotated[LauncherKind, Strict(False)]
    name: str | None = None
    """The unit, or what the parent or the container is called."""
    pid: int | None = None
    """Of a supervisor."""
    started: int | None = None
    """Of a supervisor, see `Inspection.started`."""
    stays: str | None = None
    """Why it cannot be told not to start the guest again, as a sentence; null: it can be told, or there is none."""
    restart: str | None = Field(default=None, pattern=r"^[a-z-]{1,32}$")
    """Of a unit: `Restart=`."""
    restart_after_us: Bytes | None = None
    wanted: bool = True
    """The guest is started at boot: what a unit is not that an administrator disabled."""
    limits: Limits = Limits()

    @property
    def sentence(self) -> str:
        """For people."""
        match self.kind:
            case LauncherKind.UNIT:
                boot = "started at boot" if self.wanted else "not started at boot"
                return f"{self.name}, Restart={self.restart or 'no'}, {boot}"
            case LauncherKind.SUPERVISOR:
                return f"{self.name} (pid {self.pid})" if self.pid else f"{self.name}"
            case LauncherKind.CONTAINER:
                return f"the container {self.name}"
            case LauncherKind.DROVER:
                return "Drover: nothing starts it again"
        return "nothing that still runs"
