"""Paths and files that the guest needs besides its disks."""

from models.preflight import Verdict
from workers.preflight.checks.kind import Kind

NOT_UTF8 = Kind(
    name="no-utf8",
    what="names that are no UTF-8",
    why="a name that is no UTF-8 cannot be told to another host",
    remedy="rename it and start the guest with that",
)
RELATIVE_PATH = Kind(
    name="relative-path",
    what="paths relative to a folder that is not known",
    remedy="give the full path",
)
OUTSIDE_ROOT = Kind(
    name="outside-root",
    what="files that are written and lie outside the guest root",
    remedy="move it below",
)
NOT_BELOW_ROOT = Kind(
    name="not-below-root",
    what="files outside the guest root of the guest's host",
    side="destination",
    remedy="let its DROVER_GUEST_ROOT hold them all",
)
NEEDED_FILE = Kind(
    name="needed-file",
    what="a file that the guest needs and that is gone, cannot be read, or is no file (a CD drive of the host)",
    remedy="put it back where it was",
    live=True,
)
FIRMWARE_REPLACED = Kind(
    name="firmware-replaced",
    what="firmware on pflash that was replaced since the guest was started, as by an upgrade of its package",
    why="what the guest runs goes along in its RAM, and what is in the file counts from its next start on",
    remedy="nothing, if both hosts have the same version of the package",
    verdict=Verdict.WARN,
    live=True,
)
UEFI_VARIABLES = Kind(
    name="uefi-variables",
    what="UEFI variables in a JSON file (`uefi-vars-x64,jsonfile=`)",
    why="QEMU writes this file only when the guest changes a variable: at the destination it would be empty until then",
    remedy="restart the guest with its variables on a pflash drive",
)
NO_FOLDER = Kind(
    name="no-folder",
    what="a folder outside of the guest root for logs or sockets that the destination does not have",
    side="destination",
    remedy="make it there, as it is on the guest's host",
    live=True,
)
IN_THE_WAY = Kind(
    name="in-the-way",
    what="files that QEMU would delete or overwrite at the destination",
    side="destination",
    remedy="if no guest needs it, move it away",
    live=True,
)
FILE_DIFFERS = Kind(
    name="file-differs",
    what="another file where one that the guest needs belongs: medium, backing file, firmware, kernel, secret",
    side="destination",
    remedy="move it away if no guest needs it",
    live=True,
)
FILE_NOT_COPIED = Kind(
    name="file-not-copied",
    what="a file that is missing there and is not copied: it lies outside of the folders for guests, is a "
    "secret where streams are in plain text, or belongs to a user who is unknown there",
    side="destination",
    remedy="put it there",
    live=True,
)
