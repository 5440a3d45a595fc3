"""Reads what the guest printed on its serial console, over all the hosts it lived on."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Tick:
    number: int
    ms: int
    console: int


@dataclass(frozen=True)
class Ack:
    disk: str
    sequence: int
    ms: int
    console: int


@dataclass(frozen=True)
class Geometry:
    """How the guest uses a disk, as it prints itself, so that images can be checked without its settings."""

    slots: int
    stride: int
    fill: int
    allowance: int
    rate: int


@dataclass
class Transcript:
    consoles: int
    run: int | None = None
    geometry: dict[str, Geometry] = field(default_factory=dict)
    ticks: list[Tick] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    starts: int = 0

    def acknowledged(self, disk: str) -> int:
        return max((ack.sequence for ack in self.acks if ack.disk == disk), default=0)

    def longest_gap_ms(self) -> int:
        return max((later.ms - earlier.ms for earlier, later in pairwise(self.ticks)), default=0)


_TICK = re.compile(r"tick (\d+) (\d+)")
_ACK = re.compile(r"ack (\w+) (\d+) (\d+)")
_DISK = re.compile(r"disk (\w+) window=(\d+) stride=(\d+) fill=(\d+) allowance=(\d+) rate=(\d+)")
_READY = re.compile(r"ready ([0-9a-f]{16}) disks=\S*")


def read_consoles(consoles: Sequence[Path]) -> Transcript:
    """The consoles in the order of the hosts. A line that a migration cut goes on in the next console."""
    transcript = Transcript(consoles=len(consoles))
    for console, line in _lines([path.read_bytes() for path in consoles]):
        _take(transcript, console, line)
    return transcript


def _lines(contents: list[bytes]) -> Iterator[tuple[int, str]]:
    """Each finished line with the console it ended in. The end of the last console may be half a line."""
    rest = b""
    for console, content in enumerate(contents):
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            yield console, line.decode("utf-8", "replace").strip()


def _take(transcript: Transcript, console: int, line: str) -> None:
    if match := _TICK.fullmatch(line):
        transcript.ticks.append(Tick(int(match[1]), int(match[2]), console))
    elif match := _ACK.fullmatch(line):
        transcript.acks.append(Ack(match[1], int(match[2]), int(match[3]), console))
    elif match := _DISK.fullmatch(line):
        transcript.geometry[match[1]] = Geometry(*map(int, match.groups()[1:]))
    elif match := _READY.fullmatch(line):
        transcript.run = int(match[1], 16)
        transcript.starts += 1
    elif line.startswith(("error", "corrupt")) or (line and transcript.starts):
        # Before it is ready the kernel may print; after that only the writer does.
        transcript.complaints.append(line)
