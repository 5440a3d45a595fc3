"""The check of a guest's owner, which the host's policy holds: a program, a TCP port, or a page."""

import asyncio
import http
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from workers import programs
from workers.trust.policy import GuestCheck

AGAIN_S = 1.0
ONCE_S = 10.0
"""What one try may take; a program may take all of the time."""
LONGEST_LINE = 1 << 12
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")


async def failure(check: GuestCheck, environment: Mapping[str, str]) -> str | None:
    """Why the guest did not pass it within its time; None: it did."""
    until = time.monotonic() + check.deadline_s
    while True:
        left = max(until - time.monotonic(), 0.1)
        why = await _tried(check, environment, left)
        if why is None or time.monotonic() + AGAIN_S >= until:
            return why
        await asyncio.sleep(AGAIN_S)


async def _tried(check: GuestCheck, environment: Mapping[str, str], left_s: float) -> str | None:
    if check.command is not None:
        done = await programs.run(check.command, environment=environment, user=check.user, timeout_s=left_s)
        return None if done.ok else f"{check.command}: {done.said}"
    try:
        async with asyncio.timeout(min(left_s, ONCE_S)):
            if check.tcp is not None:
                host, _, port = check.tcp.rpartition(":")
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
                writer.close()
                return None
            return await _page(str(check.http))
    except OSError as error:
        return f"{check.tcp or check.http}: {_said(error)}"


def _said(error: OSError) -> str:
    """As the system calls it: asyncio repeats the address, and what it tried."""
    if isinstance(error, (ssl.SSLError, socket.gaierror)):  # their numbers are no system's
        return str(error.strerror)
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or "no answer in time"


async def _page(url: str) -> str | None:
    """Only the first line of the answer is read. The guest answers: it may take its time, and say anything."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port or (443 if secure else 80), ssl=secure or None, limit=LONGEST_LINE
    )
    try:
        asked = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        host = parts.netloc.rpartition("@")[2]
        writer.write(f"GET {asked} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii", "replace"))
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        line = b""
    finally:
        writer.transport.abort()
    status = STATUS.match(line)
    if status is None:
        return f"{url}: what it answers is no HTTP"
    return None if int(status[1]) < http.HTTPStatus.BAD_REQUEST else f"{url}: status {int(status[1])}"
