"""The guest agent: a program inside of the guest that answers at a Unix socket of its QEMU."""

import asyncio
import json
import secrets
from collections.abc import Sequence
from contextlib import suppress

from pydantic import Field, ValidationError

from models.contracts import Part
from workers.qemu.command_line import listening_sockets
from workers.qemu.options import parse_command_line

NAME = "org.qemu.guest_agent.0"
LONGEST_ANSWER = 1 << 16


def socket_of(argv: Sequence[str]) -> str | None:
    """Where a QEMU with this command line listens for whoever asks the agent; None: it has no such channel."""
    options = parse_command_line(argv)
    channels = [option for option in options if option.name == "device" and option.get("name") == NAME]
    chardevs = {option.get("id"): option for option in options if option.name == "chardev"}
    for channel in channels:
        path = (found := chardevs.get(channel.get("chardev"))) and found.get("path")
        if path in listening_sockets(argv):
            return path
    return None


class Synchronised(Part):
    """An answer to `guest-sync-delimited`."""

    number: int = Field(alias="return")


async def answers(path: str, timeout_s: float) -> bool:
    """Whether it answers in time. One that somebody else talks to does not."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _synchronised(path)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False


async def _synchronised(path: str) -> bool:
    """By `guest-sync-delimited`: an answer to an earlier question is not taken for the one to ours."""
    number = secrets.randbelow(1 << 31)
    question = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
    reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST_ANSWER)
    try:
        writer.write(b"\xff" + json.dumps(question).encode() + b"\n")
        while True:
            await reader.readuntil(b"\xff")
            if _number(await reader.readuntil(b"\n")) == number:
                return True
    finally:
        writer.close()


def _number(line: bytes) -> int | None:
    """Of an answer. Whoever runs inside of the guest writes what they like; None: it is no answer to ours."""
    with suppress(ValidationError):
        return Synchronised.model_validate_json(line).number
    return None
