r"""How a file crosses: over one connection of the stream `files`, which the streams of the job carry.

source: PLACE\n                 which file, by its place in the plan
dest:   busy\n                  another job is bringing the same file just now; more follows
there\n                 it is in place: the end
from OFFSET\n           so much was written by an earlier connection
source: pieces                  offset and length, then as many bytes; holes are left out; length 0 is the end
dest:   there\n                 written out, equal to its digest, and in place
any other line          why not, for people
"""

import struct

PIECE = struct.Struct("!QI")
PIECE_BYTES = 1 << 20
BUSY, THERE, FROM = "busy", "there", "from"
LONGEST_LINE = 4096
