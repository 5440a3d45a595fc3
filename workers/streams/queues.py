"""A second queue of a listening port, for the connections of one address: who fills the other one keeps none of it out.

The kernel puts each connection that begins into one of them, by a program (classic BPF, of a group of sockets with
SO_REUSEPORT; Linux 4.6) that looks at the sender's address.
"""

import ctypes
import socket
import struct

from workers.streams.local import BACKLOG

SO_ATTACH_REUSEPORT_CBPF = 51
LOAD_WORD, GO_ON_IF_EQUAL, ANSWER = 0x20, 0x15, 0x06
IP_HEADER = 0xFFF00000
"""Offsets from here on are of the IP header, whatever the kernel has before it (SKF_NET_OFF)."""
SENDER = {socket.AF_INET: 12, socket.AF_INET6: 8}
"""Where its address is in that header."""


def beside(listening: socket.socket, address: str) -> socket.socket:
    """A socket that gets the connections of this address (or host name) instead of the one that listens.

    Raises:
        OSError: nobody knows the name, or the kernel cannot do it. Then the other one gets them all.
    """
    sender = socket.getaddrinfo(address, None, listening.family, socket.SOCK_STREAM)[0][4][0]
    made = socket.socket(listening.family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind(listening.getsockname())
        made.listen(BACKLOG)
        _attach(made, _second_for(socket.inet_pton(listening.family, str(sender)), SENDER[listening.family]))
    except OSError:
        made.close()
        raise
    return made


def _second_for(sender: bytes, offset: int) -> bytes:
    """The program: 1, the number of the second socket, for that sender, and 0 for all others."""
    words = struct.unpack(f"!{len(sender) // 4}I", sender)
    lines = []
    for number, word in enumerate(words):
        to_the_last = 2 * (len(words) - number) - 1
        lines += [(LOAD_WORD, 0, 0, IP_HEADER + offset + 4 * number), (GO_ON_IF_EQUAL, 0, to_the_last, word)]
    return b"".join(struct.pack("HBBI", *line) for line in (*lines, (ANSWER, 0, 0, 1), (ANSWER, 0, 0, 0)))


def _attach(to: socket.socket, program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    told = struct.pack("HP", len(program) // 8, ctypes.addressof(held))
    to.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, told)
