"""The check of a guest's owner, which the host's policy holds: a program, a TCP port, or a page."""

import asyncio
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from workers import programs
from workers.trust.policy import GuestCheck

AGAIN_S = 1.0
ONCE_S = 10.0
"""What one try may take; a program may take all of the time."""


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
            return await asyncio.to_thread(_page, str(check.http), min(left_s, ONCE_S))
    except OSError as error:
        return f"{check.tcp or check.http}: {_said(error)}"


def _said(error: OSError) -> str:
    """As the system calls it: asyncio repeats the address, and what it tried."""
    if isinstance(error, (ssl.SSLError, socket.gaierror)):  # their numbers are no system's
        return error.strerror or str(error)
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or "no answer in time"


def _page(url: str, timeout_s: float) -> str | None:
    """The guest answers: it may say anything, and take its time, byte by byte."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(str(parts.hostname), parts.port, timeout=timeout_s)
    end = threading.Timer(timeout_s, _cut, [connection])
    end.start()
    try:
        connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        status = connection.getresponse().status
    except http.client.HTTPException:
        return f"{url}: what it answers is no HTTP"
    finally:
        end.cancel()
        connection.close()
    return None if status < http.HTTPStatus.BAD_REQUEST else f"{url}: status {status}"


def _cut(connection: http.client.HTTPConnection) -> None:
    """Whoever waits for it waits no longer. The connection's own time limit is that of each read."""
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
