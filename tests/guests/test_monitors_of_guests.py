"""Monitors of every kind are found and used; one that is held is told by its holder, and another one is taken."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from models.host_rpc import Inspect
from tests import factories
from tests.helpers import until
from tests.qmp_guest import QEMU, Guest
from workers.guest import monitors
from workers.guest.monitors import Listening
from workers.preflight import inspection
from workers.process import qemus, sockets
from workers.qemu.monitor import MonitorLost, connect
from workers.qemu.permissions import violations

HOLD = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(9); input()"


def test_the_monitors_that_a_command_line_has_are_listed() -> None:
    line = ["qemu", "-qmp", "unix:/a,,b,server=on,wait=off", "-qmp-pretty", "unix:/p,server,nowait"]
    line += ["-monitor", "tcp::4445,server,nowait", "-qmp", "tcp:127.0.0.1:4444,server,nowait"]
    line += ["-chardev", "socket,id=c,path=/c,server=on,wait=off", "-mon", "chardev=c,mode=control,pretty=on"]
    line += ["-chardev", '{"id":"j","backend":"socket"}', "-chardev", "socket,id=d,path=/d,reconnect-ms=5000"]
    line += ["-mon", "chardev=d,mode=control", "-serial", "mon:unix:/s,server=on", "-monitor", "stdio"]
    assert monitors.listening(line) == [
        Listening("/a,b", control=True),
        Listening("/p", control=True),
        Listening("tcp:127.0.0.1:4445", control=False),
        Listening("tcp:127.0.0.1:4444", control=True),
        Listening("/c", control=True),
        Listening("/s", control=False),
    ]


def test_a_monitor_whose_socket_is_gone_is_told_as_that_and_another_one_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    line = ["qemu", *(word for name in "ab" for word in ("-qmp", f"unix:{tmp_path}/{name},server=on,wait=off"))]
    assert monitors.free(line, f"{tmp_path}/a") == f"{tmp_path}/b"
    assert f"nothing is at {tmp_path}/a any more: put it, or the folder" in monitors.why_none(line)


class _Anything:
    name, options = "policy", ()

    def may_write(self, path: str) -> bool:
        return True

    may_read = may_start = may_connect = may_name = may_write


@pytest.mark.parametrize(("host", "allowed"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("", False)])
def test_a_monitor_at_a_port_that_only_this_host_reaches_is_allowed(host: str, allowed: bool) -> None:
    bare = ["qemu", "-qmp", f"tcp:{f'[{host}]' if ':' in host else host}:1,server"]
    behind = ["qemu", "-chardev", f"socket,id=c,host={host},port=1,server=on", "-mon", "chardev=c,mode=control"]
    assert [violations(line, _Anything(), []) == [] for line in (bare, behind)] == [allowed, allowed]


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[tuple[Guest, list[str]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [QEMU, "-display", "none", "-S", "-m", "32", "-qmp", f"unix:{tmp_path}/held by us,server=on,wait=off"]
    line += ["-qmp-pretty", f"unix:{tmp_path}/pretty,server=on,wait=off", "-qmp", f"tcp:127.0.0.1:{port},server,nowait"]
    line += ["-monitor", f"unix:{tmp_path}/human,server=on,wait=off"]
    started = Guest(line, tmp_path / "held by us")
    yield started, line
    started.close()


@contextmanager
def held(path: str) -> Iterator[int]:
    """Somebody is connected to a monitor."""
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE) as client:
        until("it is connected", lambda: sockets.holder(path))
        yield client.pid
        client.kill()


@pytest.mark.guests
def test_a_monitor_that_is_held_is_told_by_its_holder_and_a_free_one_is_taken(
    guest: tuple[Guest, list[str]], tmp_path: Path
) -> None:
    started, line = guest
    ours, pretty, tcp = (monitor.address for monitor in monitors.listening(line) if monitor.control)

    async def answers(address: str) -> int:
        async with connect(address, timeout_s=5) as monitor:
            assert (await monitor.query("query-status"))["status"] == "prelaunch"
            assert len(await monitor.query("query-commands")) > 100
            return monitor.pid

    assert {asyncio.run(answers(pretty)), asyncio.run(answers(tcp))} == {started.process.pid}
    assert monitors.free(line, pretty) == pretty
    assert monitors.free(line, ours) == pretty
    with held(pretty) as pid:
        assert monitors.free(line, ours) == tcp
        with pytest.raises(MonitorLost, match=rf"pretty is held by process {pid} \(python"):
            asyncio.run(answers_soon(pretty))
        said = monitors.why_none(line)
        assert f"{pretty} is held by process {pid} (python" in said
        assert f"{tmp_path}/human, a human monitor, is free. No QMP monitor can be added" in said


@pytest.mark.guests
def test_a_qemu_that_waits_for_the_client_of_a_serial_port_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(qemus.LAB, raising=False)  # whose worker sees its own guests alone
    serial, qmp = tmp_path / "serial", str(tmp_path / "qmp")
    line = [QEMU, "-display", "none", "-S", "-m", "32", "-chardev", f"socket,id=s,path={serial},server=on"]
    line += ["-serial", "chardev:s", "-qmp", f"unix:{qmp},server=on,wait=off"]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as qemu:
        try:
            until("its serial port listens", serial.exists)
            with pytest.raises(PreconditionFailed, match=r"nobody has connected to -chardev socket,id=s,.* waits for"):
                asyncio.run(inspection.inspect(Inspect(qmp=qmp), factories.offline(directory=tmp_path)))
        finally:
            qemu.kill()


async def answers_soon(address: str) -> None:
    async with connect(address, timeout_s=0.3):
        pass


@pytest.mark.guests
def test_when_somebody_is_quicker_at_a_free_monitor_another_one_is_taken(
    guest: tuple[Guest, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, line = guest
    ours, pretty, tcp = (monitor.address for monitor in monitors.listening(line) if monitor.control)
    monkeypatch.setattr(monitors, "connect", lambda address: connect(address, timeout_s=0.5))
    seen = iter([False])
    holder = sockets.holder
    monkeypatch.setattr(sockets, "holder", lambda address: holder(address) if next(seen, True) else None)

    async def taken() -> str:
        async with monitors.connected(line, pretty) as (address, monitor):
            assert (await monitor.query("query-status"))["status"] == "prelaunch"
            return address

    with held(pretty):
        seen = iter([False])  # it looks free once more
        assert asyncio.run(taken()) in {ours, tcp}
