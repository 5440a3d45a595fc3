"""How a file crosses: over one connection of the stream `files`, which the streams of the job carry.

| end | line or bytes | meaning |
| --- | --- | --- |
| source | `PLACE` | which file, by its place in the plan |
| destination | `busy` | another job is bringing the same file just now; more follows |
| destination | `wait` | every few seconds, at any time: it is alive, and at work |
| destination | `there` | the file is in place and equal to its digest: the end |
| destination | `from OFFSET` | send it; so much was written by an earlier connection |
| source | pieces | offset and length, then as many bytes; holes are left out; length 0 is the end |
| destination | any other line | why not, for people: the end |
"""

import struct

PIECE = struct.Struct("!QI")
PIECE_BYTES = 1 << 20
BUSY, THERE, FROM, WAIT = "busy", "there", "from", "wait"
BEAT_S, SILENCE_S = 5.0, 60.0
"""How often it says so, and after what time without a word it counts as unreachable."""
LONGEST_LINE = 4096
