"""Labs of the tests' own, each in a folder that is gone afterwards."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab import fleet
from lab.directory import Lab

LEASE_S = 6.0
BRISK = {
    "DROVER_LEASE_TTL_S": f"{LEASE_S:g}",
    "DROVER_LEASE_MARGIN_S": "2",
    "DROVER_HEARTBEAT_S": "1",
    "DROVER_REPUBLISH_AFTER_S": "2",
    "DROVER_WATCH_S": "0.2",
    "DROVER_LOOK_S": "0",
}
"""What was lost is found sooner than by default, and a busy machine still keeps up with it.

A lab with the defaults is in `tests/guests/test_default_timings.py`.
"""


@contextmanager
def temporary(
    hosts: int = 2,
    *,
    settings: Mapping[str, str] = BRISK,
    limits: Mapping[str, str] | None = None,
    namespaces: bool = False,
    prefix: str = "dl",
    kind: type[Lab] = Lab,
) -> Iterator[Lab]:
    """A lab for the time of a `with` block; this process is pointed at it."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))  # a short one: Unix sockets lie in it
    lab = kind(path, settings, limits or {}, durable=False)
    try:
        fleet.up(lab, hosts, flower=False, namespaces=namespaces)
        with fleet.pointed_at(lab):
            yield lab
    finally:
        fleet.down(lab)
        shutil.rmtree(lab.path, ignore_errors=True)
