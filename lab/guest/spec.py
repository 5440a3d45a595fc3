"""What a test guest is made of."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4


@dataclass(frozen=True, kw_only=True)
class DiskSpec:
    size_bytes: int
    format: Literal["qcow2", "raw"] = "qcow2"
    attach: Literal["blockdev", "drive"] = "blockdev"
    bus: Literal["virtio-blk", "virtio-scsi"] = "virtio-blk"
    preallocation: Literal["off", "metadata"] = "off"


@dataclass(frozen=True, kw_only=True)
class GuestSpec:
    """A guest and its load. All its files are below `directory`, which must exist."""

    name: str
    directory: Path
    disks: tuple[DiskSpec, ...]
    qemu: str = "qemu-system-x86_64"
    memory_mib: int = 160
    cpus: int = 1
    window_mib: int = 16
    write_rate: int = 200  # blocks of 4 KiB per second and disk; 0: none
    dirty_mib: int = 0
    dirty_rate: int | Literal["max"] = 0  # MiB per second; 0: the memory is only checked
    fill_mib: int = 0
    more: tuple[str, ...] = ()  # words of QEMU's command line
    uuid: UUID = field(default_factory=uuid4)

    @property
    def qmp_socket(self) -> Path:
        return self.directory / "qmp.sock"

    @property
    def watch_socket(self) -> Path:
        """A second monitor, for observers beside Drover: QEMU serves one client at a time."""
        return self.directory / "watch.sock"

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    @property
    def pidfile(self) -> Path:
        return self.directory / "qemu.pid"

    def image(self, index: int) -> Path:
        return self.directory / f"disk{index}.{self.disks[index].format}"

    @property
    def disk_names(self) -> tuple[str, ...]:
        """The guest's names of the disks: each bus counts its own from a."""
        counts = {"virtio-blk": 0, "virtio-scsi": 0}
        names = []
        for disk in self.disks:
            prefix = "vd" if disk.bus == "virtio-blk" else "sd"
            names.append(prefix + chr(ord("a") + counts[disk.bus]))
            counts[disk.bus] += 1
        return tuple(names)


def create_images(spec: GuestSpec) -> None:
    for index, disk in enumerate(spec.disks):
        image, size = str(spec.image(index)), str(disk.size_bytes)
        options = ["-o", f"preallocation={disk.preallocation}"]
        subprocess.run(["qemu-img", "create", "-q", "-f", disk.format, *options, image, size], check=True)
