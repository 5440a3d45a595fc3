"""Where a lab keeps everything: one folder, with nothing of it anywhere else."""

import os
import shlex
import string
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MARKER = "drover-lab"
"""A file that proves that a folder is a lab: `lab down` deletes no other."""
SHORT_PATHS = "/tmp"  # nosec B108 # noqa: S108 - mkdtemp makes folders in it that are ours alone
LONGEST_PATH = 48
"""Unix sockets may have paths of 107 bytes; the longest of ours lies 59 below the lab's folder."""


def default_directory() -> Path:
    """The same for every command of one user."""
    chosen = os.environ.get("DROVER_LAB_DIR")
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"drover-lab-{os.getuid()}"


@dataclass(frozen=True)
class LabHost:
    """One pretended hypervisor: an address of the loopback network and a folder."""

    name: str
    address: str
    folder: Path

    @property
    def guests(self) -> Path:
        """The host's guest root: its guests' images, sockets and consoles lie here."""
        return self.folder / "guests"


@dataclass(frozen=True)
class Lab:
    """Names of all that a lab consists of."""

    path: Path
    settings: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Further `DROVER_*` variables of all its processes."""
    limits: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Limits of its fleet other than the defaults, as `drover fleet set` has them."""
    durable: bool = field(default=True, compare=False)
    """Its Postgres survives a crash of the machine. Without, each commit takes a fraction of the time, and what is
    committed survives the death of any process all the same."""

    @property
    def exists(self) -> bool:
        """There is a lab here."""
        return (self.path / MARKER).exists()

    def command(self, word: str) -> str:
        """How a command of `drover lab` for this lab is typed."""
        elsewhere = "" if self.path == default_directory() else f" --dir {shlex.quote(str(self.path))}"
        return f"drover lab {word}{elsewhere}"

    @property
    def postgres(self) -> Path:
        """Its Postgres: the cluster and its socket."""
        return self.path / "pg"

    @property
    def redis(self) -> Path:
        """Its Redis: socket and append-only file."""
        return self.path / "redis"

    @property
    def logs(self) -> Path:
        """What its processes print."""
        return self.path / "logs"

    @property
    def hosts(self) -> list[LabHost]:
        """Its hosts, in order of their names."""
        return [self.host(folder.name) for folder in sorted((self.path / "hosts").glob("*"))]

    def host(self, name: str) -> LabHost:
        """One of its hosts: `host-a` is 127.0.0.11, or 10.213.0.11 in a network namespace, and so on."""
        number = string.ascii_lowercase.index(name.removeprefix("host-"))
        network = "10.213.0" if self.network_file.exists() else "127.0.0"
        return LabHost(name, f"{network}.{11 + number}", self.path / "hosts" / name)

    @property
    def network_file(self) -> Path:
        """Exists if every host is a network namespace of its own."""
        return self.path / "namespaces"

    def mark(self, role: str) -> str:
        """The name under which a process of the lab is started."""
        return f"{self.path}/{role}"

    @property
    def flower_port_file(self) -> Path:
        """Has the port of 127.0.0.1 where Flower listens."""
        return self.path / "flower.port"

    @property
    def policy(self) -> Path:
        """What guests may be made of on all its hosts."""
        return self.path / "policy.toml"

    @property
    def metrics_port_file(self) -> Path:
        """Has the port where the controller answers Prometheus."""
        return self.path / "metrics.port"

    @property
    def hooks(self) -> Path:
        """The folder of programs that a roll may name."""
        return self.path / "hooks"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which `drover` uses this lab."""
        return {
            "DROVER_LAB_DIR": str(self.path),
            "DROVER_DATABASE_URL": f"postgresql+psycopg://drover@/drover?host={self.postgres}",
            "DROVER_BROKER_URL": f"redis+socket://{self.redis}/redis.sock",
            "DROVER_HOOKS": str(self.hooks),
            **self.settings,
        }

    def environment_of(self, role: str) -> dict[str, str]:
        """The variables of a service: `environment` may do everything, this has a role and a user of its own."""
        database = self.environment["DROVER_DATABASE_URL"].replace("//drover@", f"//{role}@")
        broker = self.environment["DROVER_BROKER_URL"].replace("redis+socket://", f"redis+socket://{role}:{role}@")
        return self.environment | {"DROVER_DATABASE_URL": database, "DROVER_BROKER_URL": broker}

    def host_environment(self, host: LabHost) -> dict[str, str]:
        """The variables of that host's worker."""
        return self.environment_of(host.name) | {
            "DROVER_HOST": host.name,
            "DROVER_ADDRESS": host.address,
            "DROVER_DIRECTORY": str(host.folder / "drover"),
            "DROVER_GUEST_ROOT": str(host.guests),
            "DROVER_POLICY": str(self.policy),
        }


def host_names(count: int) -> list[str]:
    """host-a, host-b, ..."""
    return [f"host-{letter}" for letter in string.ascii_lowercase[:count]]
