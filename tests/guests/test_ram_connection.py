"""The connections by which the RAM is sent: both QEMUs are handed one end of the job's streams."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import until
from tests.qmp_guest import QEMU
from workers.qemu import migration
from workers.qemu.monitor import Monitor, connect


async def _ended(source: Monitor) -> str:
    async with asyncio.timeout(60):
        while (status := (await source.query("query-migrate"))["status"]) not in {"completed", "failed"}:
            await asyncio.sleep(0.02)
    return str(status)


async def _arrived(source: Monitor, destination: Monitor) -> str:
    sends, takes = socket.socketpair()
    with sends, takes:
        await migration.prepare_incoming(destination)
        await migration.receive(destination, takes)
        await migration.send(source, sends, Path("/nowhere"))
        return await _ended(source)


@pytest.mark.guests
def test_the_ram_arrives_by_connections_that_both_are_handed(tmp_path: Path) -> None:
    async def arrived() -> str:
        async with connect(tmp_path / "a") as source, connect(tmp_path / "b") as destination:
            return await _arrived(source, destination)

    with _qemu(tmp_path / "a"), _qemu(tmp_path / "b", "-incoming", "defer"):
        assert asyncio.run(arrived()) == "completed"


@pytest.mark.guests
def test_an_incoming_qemu_answers_while_its_peer_is_silent(tmp_path: Path) -> None:
    async def answers() -> None:
        async with connect(tmp_path / "b") as destination:
            silent, takes = socket.socketpair()
            with silent, takes:
                await migration.prepare_incoming(destination)
                await migration.receive(destination, takes)
                assert (await destination.query("query-status", timeout_s=2.0))["status"] == "inmigrate"

    with _qemu(tmp_path / "b", "-incoming", "defer"):
        asyncio.run(answers())


@pytest.mark.guests
def test_what_another_tool_left_switched_on_does_not_forbid_our_connection(tmp_path: Path) -> None:
    async def arrived() -> str:
        async with connect(tmp_path / "a") as source, connect(tmp_path / "b") as destination:
            left_on = [{"capability": "multifd", "state": True}]
            await source.execute("migrate-set-capabilities", capabilities=left_on)
            await migration.set_capabilities(source, "events", "return-path")
            return await _arrived(source, destination)

    with _qemu(tmp_path / "a"), _qemu(tmp_path / "b", "-incoming", "defer"):
        assert asyncio.run(arrived()) == "completed"


@contextmanager
def _qemu(monitor: Path, *words: str) -> Iterator[None]:
    argv = [QEMU, "-display", "none", "-nodefaults", "-accel", "tcg", "-m", "16", *words]
    running = subprocess.Popen([*argv, "-qmp", f"unix:{monitor},server=on,wait=off"])
    try:
        until("QEMU listens", monitor.exists)
        yield
    finally:
        running.kill()
        running.wait()
