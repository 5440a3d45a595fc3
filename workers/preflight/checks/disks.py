"""The guest's disks: their images here, and where and as what they are made there."""

from models.preflight import Verdict
from workers.preflight.checks.kind import Kind

TEMPORARY_FILES = Kind(
    name="snapshot-mode",
    what="`-snapshot`, `snapshot=on`: the guest writes to temporary files",
    why="the guest writes to a temporary file",
    remedy="restart it without",
    explains=frozenset({"backing-file", "image-not-named", "image-astray", "outside-root"}),
)
REMOTE_IMAGE = Kind(
    name="remote-image",
    what="images that are no files of the host (NBD, RBD, iSCSI, NFS, HTTP, ...)",
    why="the image is not a file of this host",
    remedy="only local images are moved: copy it to one while the guest runs (`blockdev-mirror`, `job-complete`)",
    live=True,
    explains=frozenset({"blocked-by-qemu", "image-not-named", "image-astray", "needed-file", "image-kind", "layout"}),
)
IMAGE_FORMAT = Kind(
    name="image-format",
    what="formats besides raw, qcow2 and LUKS (QEMU itself migrates no guest with a vmdk, vdi, vhdx, vpc or parallels "
    "image), and filters besides throttle and copy-on-read",
    remedy="raw, qcow2 and LUKS are moved: copy it to one while the guest runs (`blockdev-mirror`, `job-complete`)",
    live=True,
    explains=frozenset({"blocked-by-qemu", "backing-file", "image-not-named", "image-astray", "image-kind", "layout"}),
)
BACKING_FILE = Kind(
    name="backing-file",
    what="backing files that are not copied as they are: no files of the host, or neither raw nor qcow2",
    remedy="move the guest with `--chain flatten`",
    live=True,
)
INTERNAL_SNAPSHOTS = Kind(
    name="internal-snapshots",
    what="internal snapshots",
    why="it has internal snapshots, which are not copied",
    remedy="delete them, or move the guest with `--drop-snapshots`: then they stay in the former image alone, for as "
    "long as that is kept",
    live=True,
)
KEY_GIVEN_LATER = Kind(
    name="key-given-later",
    what="encrypted images that were opened while the guest ran",
    why="it was opened while the guest ran, with a key that its command line does not name",
    remedy="restart the guest with the image and its secret on the command line",
)
DETACHED_HEADER = Kind(
    name="detached-header",
    what="LUKS with a detached header",
    why="its LUKS header is in another file",
    remedy="convert it (`qemu-img convert`) to an image with its header in it",
)
DATA_FILE = Kind(
    name="data-file",
    what="qcow2 with a data file that is named on the command line",
    why="its data file is named on the command line, and would be missing there",
    remedy="restart the guest without naming it: the image itself says where it is",
)
DIRTY_BITMAPS = Kind(
    name="dirty-bitmaps",
    what="dirty bitmaps that are in use, or inconsistent",
    why="it has a dirty bitmap that QEMU does not send along: one that is in use by a backup, or inconsistent",
    remedy="let the backup end, or remove the bitmap: the backup after it is a full one",
    live=True,
)
PARTIAL_IMAGE = Kind(
    name="partial-image",
    what="a disk that begins within its file (`offset`)",
    why="it begins within its file (offset)",
    remedy="copy it to an image of its own (`blockdev-mirror`)",
    live=True,
)
CORRUPT_IMAGE = Kind(
    name="corrupt-image",
    what="an image that is marked corrupt",
    why="the image is marked corrupt",
    remedy="power the guest off and run `qemu-img check -r all` on it",
)
BLOCK_JOB = Kind(
    name="block-job",
    what="a block job of somebody else, such as a backup",
    remedy="let it end or cancel it",
    live=True,
)
SHARED_IMAGE = Kind(name="shared-image", what="one image that several disks write", remedy="give each its own")
IMAGE_NOT_NAMED = Kind(
    name="image-not-named",
    what="an image that was changed while the guest ran",
    remedy="it was changed while the guest ran: restart the guest on it first",
)
HANDED_IMAGE = Kind(
    name="handed-image",
    what="an image by descriptor (`add-fd`, `/dev/fdset/N`) that has no path on its host: deleted, in memory alone, or "
    "in a mount namespace of its own",
    remedy="copy it to an image with a path while the guest runs (`blockdev-mirror`, `job-complete`); eject a medium",
    live=True,
    explains=frozenset({"open-file", "image-not-named", "image-astray", "image-lost", "needed-file", "outside-root"}),
)
IMAGE_ASTRAY = Kind(
    name="image-astray",
    what="an image that was moved, replaced or deleted under the running guest",
    live=True,
)
IMAGE_LOST = Kind(
    name="image-lost",
    what="an image that QEMU opens again in the switchover and would not find: relative name with `-daemonize`, chroot",
    remedy="start it with full paths and without a chroot, or give the image as a -blockdev without auto-read-only",
)
BEHIND_LINK = Kind(name="behind-link", what="images behind links that are not the guest's own")
IMAGE_KIND = Kind(name="image-kind", what="images as no host makes them", side="destination")
IMAGE_EXISTS = Kind(
    name="image-exists",
    what="an image that is there already, or a place where none can be made",
    side="destination",
    live=True,
)
TARGET_DEVICE = Kind(
    name="target-device",
    what="a block device at the destination that is in use, too small, or not named as free to overwrite",
    side="destination",
    live=True,
)
NO_LVM = Kind(name="no-lvm", what="a destination without lvcreate for its volumes", side="destination", live=True)
LAYOUT = Kind(
    name="layout",
    what="storages that the destination does not have, and several disks that would become one image",
    side="destination",
    live=True,
)
NO_ROOM = Kind(name="no-room", what="too little room for its images at the destination", side="destination", live=True)
NO_TOOLS = Kind(
    name="no-tools",
    what="a destination without qemu-img or qemu-storage-daemon",
    side="destination",
    remedy="install it (Debian's qemu-utils and qemu-system-common hold it)",
    live=True,
)
KEY_DERIVED_AGAIN = Kind(
    name="key-derived-again",
    what="LUKS within qcow2: QEMU opens the image again while the guest stands still",
    why="QEMU derives its key again right before the guest goes on (a raw LUKS image needs none of that)",
    remedy="move it when the guest may stand still for some seconds",
    verdict=Verdict.WARN,
    live=True,
)
FURTHER_KEYS = Kind(
    name="further-keys",
    what="LUKS images with several passphrases",
    why="it is made anew with the passphrase by which the guest opens it alone: its other key slots are not copied",
    remedy="add the other passphrases again after the move (`qemu-img amend`)",
    verdict=Verdict.WARN,
)
UNUSED_NODE = Kind(
    name="unused-node",
    what="a node of a block device (`-blockdev`) that no device is on: its disk was unplugged",
    why="no device of the guest is on it, so it stays behind",
    remedy="add it again after the move (`blockdev-add`), if a disk is to be plugged in on it",
    verdict=Verdict.WARN,
    live=True,
)
BLOCK_EXPORT = Kind(
    name="block-export",
    what="disks that the guest's QEMU exports to others (NBD)",
    why="it ends with the move",
    remedy="make it again at the destination",
    verdict=Verdict.WARN,
    live=True,
)
DATA_FILE_JOINED = Kind(
    name="data-file-joined",
    what="qcow2 with its data in a separate file (`data-file`)",
    why="its data lies in a separate file (data-file); at the destination the image holds all by itself",
    remedy="the separate file stays where it is: delete it once the former image is of no use any more",
    verdict=Verdict.WARN,
    live=True,
)
CHANGED_DISK = Kind(
    name="changed-disk",
    what="block devices that become image files, and devices that are overwritten",
    side="destination",
    verdict=Verdict.WARN,
    live=True,
)
