"""The line between the two switchover processes: who holds the key gets through, whatever strangers do at its port."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from multiprocessing.connection import Client
from typing import Any

import pytest

from workers.switchover import channel
from workers.switchover.channel import Channel, PeerLost

KEY, OTHER = b"k" * 32, b"o" * 32
LOCAL = "127.0.0.1"
Stranger = Callable[[int, ExitStack], Awaitable[None]]


async def _echo(message: dict[str, Any]) -> dict[str, Any]:
    return {"heard": message["word"]}


async def _hang_up(port: int, _: ExitStack) -> None:
    for _n in range(50):
        socket.create_connection((LOCAL, port)).close()


async def _say_nothing(port: int, stack: ExitStack) -> None:
    for _n in range(50):
        stack.enter_context(socket.create_connection((LOCAL, port)))


async def _talk_nonsense(port: int, stack: ExitStack) -> None:
    for nonsense in (b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\x10" + b"x" * 16, b"\xff" * 64, b"\x7f\xff\xff\xff", b"\0"):
        stack.enter_context(socket.create_connection((LOCAL, port))).sendall(nonsense)


async def _hold_another_key(port: int, _: ExitStack) -> None:
    with pytest.raises(PeerLost, match="does not hold this attempt's key"):
        await channel.call(LOCAL, port, OTHER)


@pytest.mark.parametrize("stranger", [_hang_up, _say_nothing, _talk_nonsense, _hold_another_key])
def test_the_right_peer_gets_through_whatever_strangers_do(stranger: Stranger) -> None:
    async def meet() -> None:
        with channel.listen(LOCAL) as listener, ExitStack() as stack:
            port = listener.getsockname()[1]
            accepting = asyncio.create_task(channel.accept(listener, KEY, 60))
            await stranger(port, stack)
            async with asyncio.timeout(30):
                calling = Channel(await channel.call(LOCAL, port, KEY))
                answering = Channel(await accepting, _echo)
                assert (await calling.ask("echo", 20, word="yes"))["heard"] == "yes"
            calling.close()
            answering.close()

    asyncio.run(meet())


def test_the_right_peer_may_be_of_the_version_before() -> None:
    async def meet() -> None:
        with channel.listen(LOCAL) as listener:
            accepting = asyncio.create_task(channel.accept(listener, KEY, 60))
            calling = await asyncio.to_thread(Client, listener.getsockname(), authkey=KEY)
            Channel(await accepting).close()
            calling.close()

    asyncio.run(meet())


def test_a_call_that_is_in_vain_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "CALL_S", 0.5)

    async def reasons() -> list[str]:
        with socket.create_server((LOCAL, 0)) as silent:
            port = silent.getsockname()[1]
            with pytest.raises(PeerLost) as unanswered:
                await channel.call(LOCAL, port, KEY)
        with pytest.raises(PeerLost) as refused:
            await channel.call(LOCAL, port, KEY)
        return [str(unanswered.value), str(refused.value)]

    unanswered, refused = asyncio.run(reasons())
    assert unanswered.endswith("cannot be reached: no answer within 0.5 s")
    assert "refused" in refused


def test_a_source_that_never_comes_is_told_from_strangers_that_came() -> None:
    async def wait() -> None:
        with channel.listen(LOCAL) as listener:
            accepting = asyncio.create_task(channel.accept(listener, KEY, 3))
            socket.create_connection(listener.getsockname()).close()
            await accepting

    with pytest.raises(PeerLost, match=r"did not connect within 3 s \(1 others were refused\)"):
        asyncio.run(wait())
