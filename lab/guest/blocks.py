"""The blocks the guest writes, as writer.c lays them out."""

import struct
import zlib
from dataclasses import dataclass

BLOCK_SIZE = 4096
RING, FILL = 1, 2

_HEADER = struct.Struct("<8sQ8sQQQ")  # magic, run id, disk, kind, sequence, position
_CHECKSUM = struct.Struct("<Q")
_ZEROES = bytes(BLOCK_SIZE)


@dataclass(frozen=True)
class Block:
    run: int
    disk: str
    kind: int
    sequence: int
    position: int

    def written_by(self, run: int, disk: str) -> bool:
        return (self.run, self.disk) == (run, disk)


class TornBlockError(Exception):
    """The block holds something, but not one whole block that the guest wrote."""


def parse_block(data: bytes) -> Block | None:
    """None for a block that was never written."""
    if data == _ZEROES:
        return None
    magic, run, disk, kind, sequence, position = _HEADER.unpack_from(data)
    (checksum,) = _CHECKSUM.unpack(data[-_CHECKSUM.size :])
    if magic != b"DROVER01" or checksum != zlib.crc32(data[: -_CHECKSUM.size]):
        raise TornBlockError
    return Block(run, disk.rstrip(b"\0").decode("ascii"), kind, sequence, position)
