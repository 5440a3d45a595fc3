"""The line between the two switchover processes, once the job's streams have let them through."""

import asyncio
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from workers.qemu.monitor import CommandRefused
from workers.streams import handshake
from workers.switchover import channel, destination
from workers.switchover.channel import Channel, PeerLost
from workers.switchover.destination import Destination


async def _echo(message: dict[str, Any]) -> dict[str, Any]:
    return {"heard": message["word"]}


def test_both_ask_and_answer_over_one_connection() -> None:
    async def meet() -> None:
        one, other = socket.socketpair()
        calling, answering = Channel(one), Channel(other, _echo)
        assert (await calling.ask("echo", 20, word="yes"))["heard"] == "yes"
        calling.close()
        async with asyncio.timeout(10):
            await answering.closed.wait()

    asyncio.run(meet())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "the process that carries the streams ended"),
        (b"nobody listens for switchover there: Connection refused\n", "nobody listens for switchover there"),
    ],
)
def test_a_call_that_is_in_vain_says_why(tmp_path: Path, said: bytes, why: str) -> None:
    async def call() -> None:
        path = str(tmp_path / "switchover.sock")
        with channel.listen(path) as listening:
            calling = asyncio.create_task(channel.call(path))
            connection = await channel.accept(listening, 10)
            connection.send(said)
            connection.close()
            await calling

    with pytest.raises(PeerLost, match=f"the destination's switchover cannot be reached: {why}"):
        asyncio.run(call())


def test_a_call_waits_until_it_is_let_in(tmp_path: Path) -> None:
    async def call() -> bytes:
        path = str(tmp_path / "switchover.sock")
        with channel.listen(path) as listening:
            calling = asyncio.create_task(channel.call(path))
            connection = await channel.accept(listening, 10)
            connection.send(handshake.ACCEPTED)
            with await calling as called, connection:
                connection.send(b"x")
                return await asyncio.get_running_loop().sock_recv(called, 10)

    assert asyncio.run(call()) == b"x"


def test_a_source_that_never_comes_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async def wait() -> None:
        with channel.listen(str(tmp_path / "switchover.sock")) as listening:
            await channel.accept(listening, 0.2)

    with pytest.raises(PeerLost, match=r"did not connect within 0.2 s"):
        asyncio.run(wait())


def test_a_qemu_that_does_not_take_the_ram_ends_the_attempt_with_its_reason() -> None:
    async def refuse() -> None:
        raise CommandRefused("migrate-incoming: it does not")

    async def attempt() -> None:
        one, other = socket.socketpair()
        told = SimpleNamespace(finished=asyncio.Event(), told_to_run=False, heard_at=time.monotonic())
        with other:
            await destination._until_finished(cast("Destination", told), Channel(one), asyncio.create_task(refuse()))

    with pytest.raises(CommandRefused, match="it does not"):
        asyncio.run(attempt())
