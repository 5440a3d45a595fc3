"""Compares an image with the writes that the guest saw acknowledged."""

from dataclasses import dataclass, field
from typing import BinaryIO

from lab.guest.blocks import BLOCK_SIZE, FILL, RING, Block, TornBlockError, parse_block
from lab.guest.console import Geometry


@dataclass(frozen=True)
class DiskReport:
    name: str
    acknowledged: int
    blocks_checked: int = 0
    missing: int = 0
    torn: int = 0


@dataclass
class DiskCheck:
    """Collects what is wrong; the first of each kind is quoted, the rest counted."""

    name: str
    run: int
    geometry: Geometry
    acknowledged: int
    checked: int = 0
    missing: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def check(self, data: BinaryIO) -> None:
        """`data` is the start of the disk, raw: the ring and the filled area behind it."""
        ring = {slot: self._read(data, slot) for slot in range(self.geometry.slots)}
        for slot, sequence in self._newest_by_slot(self._newest(ring)).items():
            self._compare(ring[slot], Block(self.run, self.name, RING, sequence, slot))
        for position in range(self.geometry.slots, self.geometry.slots + self.geometry.fill):
            self._compare(self._read(data, position), Block(self.run, self.name, FILL, position, position))

    def report(self) -> DiskReport:
        return DiskReport(self.name, self.acknowledged, self.checked, len(self.missing), len(self.torn))

    def problems(self) -> list[str]:
        found = list(self.other)
        if self.missing:
            found.append(f"{self.name}: {len(self.missing)} blocks are missing, first {self.missing[0]}")
        if self.torn:
            found.append(f"{self.name}: {len(self.torn)} blocks are torn, first {self.torn[0]}")
        return found

    def _newest(self, ring: dict[int, Block | None]) -> int:
        """The guest writes one block after the other, so the newest block found proves all those before it.
        It may be newer than the last acknowledgement, but not by more than the guest allows itself.
        """
        ours = [block.sequence for block in ring.values() if block and block.written_by(self.run, self.name)]
        newest = max([self.acknowledged, *ours])
        if newest > self.acknowledged + self.geometry.allowance:
            self.other.append(
                f"{self.name}: holds sequence {newest}, though only {self.acknowledged} was acknowledged and "
                f"{self.geometry.allowance} may be in flight: another copy of the guest wrote to it"
            )
        return newest

    def _newest_by_slot(self, newest: int) -> dict[int, int]:
        """The last sequence that went to each slot; slots that had no turn yet are left out."""
        first = max(1, newest - self.geometry.slots + 1)
        turns = range(first, newest + 1)
        return {sequence * self.geometry.stride % self.geometry.slots: sequence for sequence in turns}

    def _read(self, data: BinaryIO, position: int) -> Block | None:
        data.seek(position * BLOCK_SIZE)
        content = data.read(BLOCK_SIZE)
        try:
            return parse_block(content.ljust(BLOCK_SIZE, b"\0"))
        except TornBlockError:
            self.torn.append(f"at block {position}")
            return Block(self.run, self.name, 0, 0, position)

    def _compare(self, found: Block | None, wanted: Block) -> None:
        self.checked += 1
        if found == wanted or (found and found.kind == 0):  # torn ones are counted already
            return
        holds = f"sequence {found.sequence} of {found.disk}" if found else "nothing"
        self.missing.append(f"sequence {wanted.sequence} at block {wanted.position}, which holds {holds}")
