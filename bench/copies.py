"""What the NBD server gains by keeping its memory, and by writing to the disk meanwhile; without a guest."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import baseline
from bench.figures import Figure, median
from bench.measuring import cpu_s
from bench.moves import MIB, turns
from lab.directory import Lab
from workers.disks import writeback
from workers.disks.nbd_server import ALLOCATION
from workers.process import processes
from workers.process.processes import Process

PLAIN, MEMORY, ALL = "plain", "memory kept", "memory kept, written meanwhile"
WAYS = (PLAIN, MEMORY, ALL)
HOLE_MIB = 64


def measure(lab: Lab, runs: int, *, quick: bool) -> list[Figure]:
    """A small image, and unless it is the quick form a large one, each copied in all ways in turns."""
    found = []
    for size_mib in (256,) if quick else (256, 4096):
        source = lab.path / "source.raw"
        _fill(source, size_mib)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        cpu: dict[str, list[float]] = {way: [] for way in WAYS}
        for way in turns(runs, *WAYS):
            took_s, used_s = _copy(lab.path, source, way)
            seconds[way].append(took_s)
            cpu[way].append(used_s)
            print(f"  {size_mib} MiB, {way}: {took_s:.2f} s, the NBD server {used_s:.2f} s of CPU", flush=True)
        source.unlink()
        found += [
            _figure(f"time-{size_mib}", f"time of a copy of {size_mib} MiB", seconds, way) for way in (MEMORY, ALL)
        ]
        found.append(_figure(f"cpu-{size_mib}", f"the NBD server's CPU for {size_mib} MiB", cpu, MEMORY))
    return found


def _fill(image: Path, size_mib: int) -> None:
    with image.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))
        file.truncate((size_mib + HOLE_MIB) * MIB)


def _copy(folder: Path, source: Path, way: str) -> tuple[float, float]:
    """Seconds until both sides are equal, and of the NBD server's CPU."""
    target = folder / "target.raw"
    disk = {
        "index": 0,
        "format": "raw",
        "destination_path": str(target),
        "create_options": {},
        "virtual_size_bytes": source.stat().st_size,
        "device": "disk0",
        "discard": "unmap",
    }
    baseline.create_images([disk])
    common = {"address": "127.0.0.1", "bandwidth_bytes_per_s": 0}
    whole = {**common, "disks": [{**disk, "destination_path": str(source)}]}
    copy = {**common, "disks": [disk], "environment": {} if way == PLAIN else ALLOCATION}
    with _daemon(folder / "from", whole) as (reader, _, _), _daemon(folder / "to", copy) as (_, nbd_server, port):
        if way == ALL:
            writeback.keep_up(nbd_server, [str(target)])
        begun, cpu = time.monotonic(), cpu_s(nbd_server.pid)
        baseline.start_mirrors(reader, copy, port)
        took = time.monotonic() - begun, cpu_s(nbd_server.pid) - cpu
    target.unlink()
    return took


@contextmanager
def _daemon(folder: Path, what: dict[str, Any]) -> Iterator[tuple[baseline.Qmp, Process, int]]:
    """One storage daemon with its images: its monitor, its process and its port."""
    folder.mkdir()
    monitor, daemon, port = baseline.start_nbd_server({**what, "folder": str(folder)})
    try:
        started = processes.process(daemon.pid)
        assert started is not None, "it ended at once"
        yield monitor, started, port
    finally:
        daemon.kill()
        daemon.wait()
        shutil.rmtree(folder)


def _figure(name: str, what: str, values: dict[str, list[float]], way: str) -> Figure:
    plain, better = median(values[PLAIN]), median(values[way])
    return Figure(
        name=f"copies-{name}-{way.replace(', ', '-').replace(' ', '-')}",
        what=f"{what}, {way}, over a plain NBD server's ({better:.3g} and {plain:.3g} s)",
        value=better / plain,
        at_most=1.0,
        far=1.5,
        series=values,
        axis=f"{what}, s",
    )
