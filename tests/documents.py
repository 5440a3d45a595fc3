"""Documents as hosts would write them, of the least that a guest can be."""

from pathlib import Path
from typing import Any

from models.documents import Window
from models.plan import DestinationPlan, Inspection, Plan, PlannedDisk, SourceDisk, Topology


def inspection(**fields: Any) -> Inspection:
    """A guest with one raw disk."""
    disk = SourceDisk(
        index=0, device="d", qdev="/q", node="d", format="raw", path="/s", virtual_size_bytes=10**10, create_options={}
    )
    common: dict[str, Any] = {
        "pid": 1,
        "started": 1,
        "qmp": "/qmp",
        "argv": ("qemu",),
        "exe": "/qemu",
        "qemu_version": (10, 0, 2),
        "accel": "tcg",
        "machine_type": "q35",
        "runstate": "running",
        "memory_bytes": 10**9,
        "cpus": 1,
        "devices": (),
        "topology": Topology(qtree=(), ramblocks=()),
        "disks": (disk,),
    }
    return Inspection(**common | fields)


def planned_disk(**fields: Any) -> PlannedDisk:
    """Where that disk would be made elsewhere."""
    common: dict[str, Any] = {
        "index": 0,
        "device": "d",
        "format": "raw",
        "source_path": "/s",
        "destination_path": "/d",
        "virtual_size_bytes": 10**10,
        "create_options": {},
        "discard": "unmap",
    }
    return PlannedDisk(**common | fields)


def planned_volume(path: Path, size_bytes: int, storage: str) -> PlannedDisk:
    """As a volume that a storage makes."""
    return planned_disk(
        destination_path=str(path), destination_device=True, volume_of=storage, virtual_size_bytes=size_bytes
    )


def destination_plan(**fields: Any) -> DestinationPlan:
    """How that guest would run elsewhere."""
    common: dict[str, Any] = {
        "argv": ("qemu",),
        "qmp": "/qmp",
        "qemu": "/qemu",
        "qemu_version": (10, 0, 2),
        "ram": "live",
        "disks": (planned_disk(),),
    }
    return DestinationPlan(**common | fields)


def plan() -> Plan:
    """Both."""
    return Plan(source=inspection(), destination=destination_plan())


NOWHERE = Window(start="22:00", end="04:00", timezone="Mars/Olympus")
"""A window that another machine wrote, whose list of time zones is newer."""
