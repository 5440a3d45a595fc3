"""Digests of what an export holds, a block at a time. Holes are not read."""

import asyncio
import hashlib
from dataclasses import dataclass

from workers.proof.protocol import SEGMENT_BYTES
from workers.qemu.nbd import ALLOCATION, Export

DIGEST_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a disk."""

    digests: tuple[str, ...]
    """One a block, in hexadecimal; empty: it reads as zeroes."""
    read_bytes: int
    """What had to be read for it."""


async def with_data(export: Export, offset: int, length: int) -> set[int]:
    """Where the segments of a range begin that are more than a hole. Errors as for `Export`."""
    return {
        number * SEGMENT_BYTES
        for extent in await export.extents(ALLOCATION, offset, length)
        if not extent.is_zero
        for number in range(extent.offset // SEGMENT_BYTES, -(-extent.end // SEGMENT_BYTES))
    }


async def segment(export: Export, offset: int, length: int, block: int) -> Segment:
    """The digests of a range. Errors as for `Export`."""
    there = [extent for extent in await export.extents(ALLOCATION, offset, length) if not extent.is_zero]
    if not there:
        return Segment(digests=("",) * -(-length // block), read_bytes=0)
    content = bytearray(length)
    for extent in there:
        begin = extent.offset - offset
        content[begin : begin + extent.length] = await export.read(extent.offset, extent.length)
    read = sum(extent.length for extent in there)
    return Segment(digests=await asyncio.to_thread(_digests, bytes(content), block), read_bytes=read)


def _digests(content: bytes, block: int) -> tuple[str, ...]:
    return tuple(_digest(content[begin : begin + block]) for begin in range(0, len(content), block))


def _digest(block: bytes) -> str:
    if block == bytes(len(block)):  # a block device has no holes
        return ""
    return hashlib.blake2b(block, digest_size=DIGEST_BYTES).hexdigest()
