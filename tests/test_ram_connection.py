"""The connection by which the RAM is sent: made by us, for what QEMU's own does to the pause."""

import asyncio
import os
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


class Overheard(Monitor):
    """A monitor of a real QEMU; `no_delay` is what was set on the socket that it was given."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor._client, monitor.pid, monitor._guard)
        self.no_delay: int | None = None

    async def give(self, name: str, descriptor: int) -> None:
        with socket.socket(fileno=os.dup(descriptor)) as given:
            self.no_delay = given.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await super().give(name, descriptor)


@pytest.mark.guests
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_ram_arrives_by_a_connection_that_delays_no_small_piece(tmp_path: Path, address: str) -> None:
    async def arrived() -> tuple[str, int | None]:
        async with connect(tmp_path / "a") as source, connect(tmp_path / "b") as destination:
            port = await migration.listen(destination, address)
            overheard = Overheard(source)
            await migration.send(overheard, address, port)
            return await _ended(source), overheard.no_delay

    if address == "::1" and not _has_ipv6():
        pytest.skip("no IPv6 on this machine")
    with _qemu(tmp_path / "a"), _qemu(tmp_path / "b", "-incoming", "defer"):
        assert asyncio.run(arrived()) == ("completed", 1)


@pytest.mark.guests
def test_what_another_tool_left_switched_on_does_not_forbid_our_connection(tmp_path: Path) -> None:
    async def arrived() -> str:
        async with connect(tmp_path / "a") as source, connect(tmp_path / "b") as destination:
            left_on = [{"capability": "multifd", "state": True}]
            await source.execute("migrate-set-capabilities", capabilities=left_on)
            port = await migration.listen(destination, "127.0.0.1")
            await migration.set_capabilities(source, "events", "return-path")
            await migration.send(source, "127.0.0.1", port)
            return await _ended(source)

    with _qemu(tmp_path / "a"), _qemu(tmp_path / "b", "-incoming", "defer"):
        assert asyncio.run(arrived()) == "completed"


@pytest.mark.guests
def test_nobody_who_listens_is_an_error_and_qemu_sends_nothing(tmp_path: Path) -> None:
    async def status() -> str:
        async with connect(tmp_path / "a") as source:
            with pytest.raises(OSError, match="Connect call failed"):
                await migration.send(source, "127.0.0.1", _closed_port())
            return str((await source.query("query-migrate")).get("status", "none"))

    with _qemu(tmp_path / "a"):
        assert asyncio.run(status()) == "none"


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


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
