"""Waiting for a program that was just started to listen on its monitor."""

import asyncio
import time
from pathlib import Path

from drover.errors import Fatal, Transient
from workers.process import processes
from workers.process.processes import Process
from workers.qemu.monitor import MonitorLost, connect

START_TIMEOUT_S = 20.0


async def monitor_ready(started: Process, socket_path: str | Path, log: Path) -> None:
    """Wait until the program answers on its monitor.

    Raises:
        Fatal: it ended instead; the text holds the end of its log.
        Transient: it lives but does not answer.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if not started.alive:
            raise Fatal(f"it ended at once: {processes.log_tail(log)}")
        try:
            async with connect(socket_path, timeout_s=2.0):
                return
        except MonitorLost:
            await asyncio.sleep(0.005)
    raise Transient(f"no monitor answers at {socket_path} after {START_TIMEOUT_S:g} s")
