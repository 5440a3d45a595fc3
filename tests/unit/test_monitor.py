"""The door to QMP, where a real QEMU does not give the reply that matters on demand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from workers.qemu.monitor import MonitorLost, _Client, connect

GREETING = {"QMP": {"version": {"qemu": {"major": 8, "minor": 2, "micro": 2}, "package": ""}, "capabilities": ["oob"]}}
STOPPED = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}}


async def _ask_one_whose_event_comes_before(what: str, path: Path, times: int) -> str:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        slips_in = connections <= times

        def send(message: object) -> None:
            writer.write(json.dumps(message).encode() + b"\r\n")

        if slips_in and what == "the greeting":
            send(STOPPED)
        send(GREETING)
        while said := await reader.read(65536):  # one command at a time, and qemu.qmp ends it with no newline
            command = json.loads(said)
            if slips_in:
                send(STOPPED)
            send({"return": {"status": "paused"}, "id": command.get("id")})
        writer.close()

    async with await asyncio.start_unix_server(serve, path), connect(path) as monitor:
        return str((await monitor.query("query-status"))["status"])


@pytest.mark.parametrize("what", ["the greeting", "the answer to the negotiation"])
def test_an_event_that_slips_in_before_what_begins_a_connection_costs_nothing(what: str, tmp_path: Path) -> None:
    assert asyncio.run(_ask_one_whose_event_comes_before(what, tmp_path / "qmp", times=1)) == "paused"


@pytest.mark.parametrize("what", ["the greeting", "the answer to the negotiation"])
def test_a_monitor_whose_connections_never_begin_is_lost(what: str, tmp_path: Path) -> None:
    with pytest.raises(MonitorLost, match="is QEMU running"):
        asyncio.run(_ask_one_whose_event_comes_before(what, tmp_path / "qmp", times=1000))


async def _ask_one_that_dies_as_soon_as_it_has_greeted(path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(GREETING).encode() + b"\r\n")
        command = json.loads(await reader.read(65536))
        writer.write(json.dumps({"return": {}, "id": command.get("id")}).encode() + b"\r\n")
        writer.close()

    async with await asyncio.start_unix_server(serve, path), connect(path) as monitor:
        await monitor.query("query-status")


def test_the_monitor_of_a_qemu_that_dies_as_soon_as_it_has_greeted_is_lost(tmp_path: Path) -> None:
    with pytest.raises(MonitorLost):
        asyncio.run(_ask_one_that_dies_as_soon_as_it_has_greeted(tmp_path / "qmp"))


@asynccontextmanager
async def _a_qemu(path: Path, *answers: bytes) -> AsyncIterator[asyncio.Event]:
    """One that answers the negotiation, then with these, and hangs up; set once its client has hung up."""
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(GREETING).encode() + b"\r\n")
        for answer in (b'{"return": {}}\r\n', *answers):
            if not await reader.read(65536):
                break
            writer.write(answer)
        if not answers:
            await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_unix_server(serve, path):
        yield left


def test_a_monitor_whose_answer_has_no_end_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("workers.qemu.monitor._Client", partial(_Client, readbuflen=1000))  # else 10 MiB

    async def ask() -> None:
        async with _a_qemu(tmp_path / "qmp", b"{" * 5000), connect(tmp_path / "qmp") as monitor:
            await monitor.query("query-status")

    with pytest.raises(MonitorLost, match="query-status"):
        asyncio.run(ask())


def test_a_file_cannot_be_handed_to_a_qemu_that_has_hung_up(tmp_path: Path) -> None:
    async def hand_over() -> None:
        async with _a_qemu(tmp_path / "qmp", b""), connect(tmp_path / "qmp") as monitor:
            with pytest.raises(MonitorLost):
                await monitor.query("query-status")  # it hangs up instead
            await monitor.give("drover-ram", 0)

    with pytest.raises(MonitorLost, match="getfd"):
        asyncio.run(hand_over())


def test_a_monitor_of_which_nobody_tells_whose_it_is_is_hung_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def nobody_knows(*_: object) -> int:
        raise OSError("`ss` does not tell")

    async def leave() -> None:
        async with _a_qemu(tmp_path / "qmp") as left:
            with pytest.raises(MonitorLost):
                async with connect(tmp_path / "qmp"):
                    pass
            async with asyncio.timeout(5):
                await left.wait()

    monkeypatch.setattr("workers.qemu.monitor._listener", nobody_knows)
    asyncio.run(leave())
