"""Where on the network a name leads, and which addresses are public."""

import asyncio
import socket
from collections.abc import Coroutine
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, TypeVar

from drover.errors import PreconditionFailed

T = TypeVar("T")
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAT64 = IPv6Network("64:ff9b::/96")
"""An IPv4 address stands in the last four bytes, and that is where a message arrives."""
UNICAST = IPv6Network("2000::/3")
"""What is assigned of IPv6; Python knows no exceptions outside of it, such as the former site-local addresses."""


def is_public(address: Address) -> bool:
    """It belongs to nobody's own network or machine: neither private, unique-local, link-local nor loopback, neither
    multicast nor unspecified, nor reserved for something else.
    """
    there = _behind(address)
    assigned = isinstance(there, IPv4Address) or there in UNICAST
    return assigned and there.is_global and not there.is_multicast


def within(address: Address, network: Network) -> bool:
    """An IPv6 address that only wraps an IPv4 address counts as that."""
    return _behind(address) in network


def _behind(address: Address) -> Address:
    """Where a message to this address arrives."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


async def addresses_of(host: str, port: int) -> tuple[Address, ...]:
    """All addresses of a host, in the order in which they are to be tried. They are as of now: use them, do not ask
    again, or somebody else may be there by then.

    Raises:
        PreconditionFailed: nobody knows the name.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter for names that DNS cannot hold
        raise PreconditionFailed(f"the address of {host} cannot be looked up: {error}") from error
    return tuple(dict.fromkeys(ip_address(where[0]) for *_, where in found))


def in_time(work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """Not by `asyncio.run`: that would wait for the thread that looks a name up, however long that takes.

    Raises:
        TimeoutError: it took longer than `limit_s` seconds.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work, limit_s))
    finally:
        loop.close()
