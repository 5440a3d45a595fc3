"""A third machine in the migration network listens to a move and attacks its port from begin to end."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import network
from lab.directory import Lab, LabHost
from models.job import Job
from tests import labs
from tests.helpers import MIB, Moves, until

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.guests,
    pytest.mark.xdist_group("hostile_network"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

ATTACK = """
import socket, sys, time
address, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held, learnt = [], b""
NBD = b"\\0\\0\\0\\3" + b"IHAVEOPT" + b"\\0\\0\\0\\3" + b"\\0\\0\\0\\0"  # which exports are there?
TLS = b"\\x16\\x03\\x01\\xff\\xff" + b"x" * 999
GARBAGE = [b"", b"GET / HTTP/1.0\\r\\n\\r\\n", NBD, TLS, b"nbd " + b"0" * 64 + b"\\n"]
print("attacking", flush=True)
while True:
    for port in range(first, last + 1):
        for words in GARBAGE:
            try:
                peer = socket.create_connection((address, port), timeout=0.5)
                peer.sendall(words)
                peer.settimeout(0.05)
                try:
                    learnt += peer.recv(4096)
                except TimeoutError:
                    pass
                held.append(peer)
            except OSError:
                break
        print(len(held), learnt[:4000].hex(), flush=True)
    for peer in held[:-200]:
        peer.close()
    held = held[-200:]
    time.sleep(0.01)
"""
LISTEN = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire, open(sys.argv[1], "wb", 0) as file:
    wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: nothing is lost while the machine is busy
    print("listening", flush=True)
    while file.tell() < 1 << 29:
        file.write(wire.recv(1 << 17))
"""
PORTS = ("49152", "49155")


@contextmanager
def _on(lab: Lab, host: LabHost, program: str, *words: str) -> Iterator[Path]:
    """Run a program on a host for a `with` block; gives the file with what it prints."""
    argv = [*network.inside(lab, host), sys.executable, "-c", program, *words]
    said = host.folder / "said"
    with said.open("w") as output:
        process = subprocess.Popen(argv, stdout=output)
    try:
        until("the program runs", said.read_text)
        yield said
    finally:
        process.kill()
        process.wait()


@contextmanager
def _network(streams: str) -> Iterator[Lab]:
    more = {"DROVER_STREAMS": streams, "DROVER_PORTS": "-".join(PORTS)}
    with labs.temporary(3, settings=labs.BRISK | more, namespaces=True) as lab:
        yield lab


def _moved_under_attack(lab: Lab, moves: Moves) -> tuple[str, Job, list[bytes]]:
    """The guest, its job, and what a stranger learnt."""
    guest = moves.boot(fill_mib=48)
    with _on(lab, lab.host("host-c"), ATTACK, lab.host("host-b").address, *PORTS) as said:
        job = moves.ended(moves.submit(guest, "host-b", bandwidth_bytes_per_s=12 * MIB).id, 240)
    lines = [line.split() for line in said.read_text().splitlines()[1:-1]]
    assert max(int(words[0]) for words in lines) > 20, "the attacker reached no port"
    return guest, job, [bytes.fromhex(words[1]) for words in lines if len(words) > 1]


def _patterns(image: Path) -> list[bytes]:
    """Parts of what the guest wrote that are found nowhere else."""
    content = image.read_bytes()
    places = range(4 * MIB, len(content) - 64, 8 * MIB)
    found = [content[place : place + 64] for place in places]
    return [part for part in found if len(set(part)) > 16]


@pytest.mark.parametrize("streams", ["encrypted", "plain"])
def test_a_move_goes_well_and_who_listens_or_attacks_learns_only_what_is_sent_in_plain_text(
    streams: str, tmp_path: Path
) -> None:
    with _network(streams) as lab:
        moves = Moves(lab)
        heard = tmp_path / "wire"
        with _on(lab, lab.host("host-b"), LISTEN, str(heard)):
            guest, job, learnt = _moved_under_attack(lab, moves)
        moves.done(job)
        moves.intact(guest, "host-b")
        assert {step.attempts for step in job.steps} == {1}, "no step needed a second attempt"
        assert not any(b"NBDMAGIC" in said or b"drover-" in said for said in learnt)
        patterns = _patterns(Path(job.disks[0].destination_path))
        assert len(patterns) > 3
        wire = heard.read_bytes()
        assert len(wire) > 32 * MIB  # zeroes are not sent
        seen = [pattern for pattern in patterns if pattern in wire]
        assert bool(seen) is (streams == "plain"), f"{len(seen)} of {len(patterns)} patterns were on the wire"
        moves.end()
