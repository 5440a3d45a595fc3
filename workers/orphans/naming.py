"""Recognises what jobs leave on a host: all names contain the number of the job."""

import json
import re
from contextlib import suppress
from pathlib import Path

from sqlalchemy import ColumnElement, exists

from models.guest import Guest
from models.job import Job, unfinished
from workers.qemu.monitor import Monitor
from workers.step import JobDirectory

NUMBER = r"[1-9][0-9]{0,17}"
ROLES = re.compile(r"exporter|streams|files|incoming|switch-[0-9]+")
MIRROR = re.compile(rf"drover-({NUMBER})-[0-9]+")

MONITOR_TIMEOUT_S = 2.0


def made(directory: JobDirectory) -> list[Path]:
    """The files and volumes made by the job, as far as they are still there."""
    found = list(directory.volumes.made())
    with suppress(FileNotFoundError):
        recorded = json.loads(directory.manifest.path.read_text())["files"]
        found += [Path(name) for name in recorded if directory.manifest.owns(Path(name))]
    return found


async def mirror_names(monitor: Monitor) -> set[str]:
    """The block jobs, nodes and dirty bitmaps with names of ours."""
    names = {job["id"] for job in await monitor.query("query-jobs", MONITOR_TIMEOUT_S)}
    nodes = await monitor.query("query-named-block-nodes", MONITOR_TIMEOUT_S, flat=True)
    names |= {node["node-name"] for node in nodes}
    names |= {bitmap.get("name", "") for node in nodes for bitmap in node.get("dirty-bitmaps", ())}
    return {name for name in names if MIRROR.fullmatch(name)}


def being_moved() -> ColumnElement[bool]:
    return exists().where(Job.guest == Guest.name, unfinished())
