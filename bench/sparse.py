"""A large image that holds little: what its holes cost, in time and on the destination's disk."""

from bench.figures import Figure
from bench.guests import booted
from bench.moves import LIGHT, MIB
from lab.directory import Lab
from lab.guest.spec import DiskSpec


def measure(lab: Lab, *, quick: bool) -> list[Figure]:
    """20 GiB that hold 1 GiB (quick: 256 MiB), qcow2 and raw, beside the same data without holes."""
    held_mib = 256 if quick else 1024
    found = []
    for image_format in ("qcow2", "raw"):
        seconds, allocated = {}, 0
        for size_mib in (held_mib + 64, 20 * 1024):
            disk = DiskSpec(size_bytes=size_mib * MIB, format=image_format)
            with booted(lab, f"sparse-{image_format}-{size_mib}", disks=(disk,), fill_mib=held_mib, **LIGHT) as guest:
                move = guest.move("drover")
            seconds[size_mib], allocated = move.seen.copy_s, move.allocated_bytes
        full, sparse = seconds.values()
        found += [
            Figure(
                name=f"sparse-time-{image_format}",
                what=f"20 GiB that hold {held_mib} MiB, {image_format}: time of the copy over that of the data alone "
                f"({sparse:.1f} s and {full:.1f} s)",
                value=sparse / full,
                far=10,
                at_most=1.5,
            ),
            Figure(
                name=f"sparse-room-{image_format}",
                what=f"the same, {image_format}: room taken at the destination over the data",
                value=allocated / (held_mib * MIB),
                at_most=1.15,
                far=2,
            ),
        ]
    return found
