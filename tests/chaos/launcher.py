"""A shell that starts a guest again whenever its QEMU has ended, until it is told to keep still."""

import json
from pathlib import Path

from lab import fleet
from lab.directory import Lab
from lab.guest.spec import GuestSpec

LOOP = """\
still=$1; shift
"$@"
left=$(($# - 2))  # the words by which it went on from its saved state
for word do shift; [ $((left -= 1)) -lt 0 ] || set -- "$@" "$word"; done
while true; do
    sleep 0.1
    [ ! -e "$still" ] || continue
    {make_missing_images}
    "$@"
done
"""
TELL = """\
#!/bin/sh -e
case $1 in
still) touch {folder}/$2.still ;;
again) rm -f {folder}/$2.still ;;
esac
"""
PERIODS_S = 0.5
"""In which the shell has looked several times."""


def words(lab: Lab, spec: GuestSpec) -> list[str]:
    """What runs the command line behind it. It makes a missing image first, as such scripts do."""
    images = [(spec.image(index), disk) for index, disk in enumerate(spec.disks)]
    make = [
        f"[ -e {image} ] || qemu-img create -q -f {disk.format} {image} {disk.size_bytes}" for image, disk in images
    ]
    return ["sh", "-c", LOOP.format(make_missing_images="; ".join(make)), "sh", str(kept_still(lab, spec.name))]


def kept_still(lab: Lab, guest: str) -> Path:
    """The file by which the shell keeps still."""
    return lab.path / f"{guest}.still"


def let_be_told(lab: Lab) -> None:
    """The policy of the lab's hosts names a program that tells such shells."""
    program = lab.path / "tell-launchers"
    program.write_text(TELL.format(folder=lab.path))
    program.chmod(0o755)
    fleet.write_policy(lab, launcher=json.dumps(str(program)))
