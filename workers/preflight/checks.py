"""Every check of a guest that is to be moved, as data: what it looks for, why that matters, and what to do about it.

A module that looks yields `KIND.of(...)` or `KIND.found(...)`; nothing else says why a guest cannot be moved. A new
check is a `Kind` here and a line that yields it. `docs/reference/support.md` is written from this list.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from models.preflight import Check, Verdict

Where = Literal["source", "destination"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What one check looks for."""

    name: str
    what: str
    """For docs/reference/support.md."""
    why: str = ""
    """Why it is in the way; behind a colon in a sentence that begins with what was found."""
    remedy: str = ""
    live: bool = False
    """The remedy works while the guest runs."""
    verdict: Verdict = Verdict.REFUSE
    side: Where = "source"
    explains: frozenset[str] = field(default=frozenset())
    """Names of checks that find the same fact again: they are left out beside this one."""

    def of(self, subject: str, *, remedy: str | None = None) -> Check:
        """It was found in this option, disk or device."""
        return self.found(f"{subject}: {self.why}", remedy=remedy)

    def found(self, seen: str, *, remedy: str | None = None) -> Check:
        """It was found; `seen` says all of it."""
        return Check(
            name=self.name,
            side=self.side,
            verdict=self.verdict,
            seen=seen,
            remedy=self.remedy if remedy is None else remedy,
            live=self.live,
        )

    def ok(self) -> Check:
        """It was looked for, and nothing was found."""
        return Check(name=self.name, side=self.side, verdict=Verdict.OK)


RESTART = "restart the guest without it"

# --- The guest's QEMU and its state -----------------------------------------------------------------------------

QEMU_TOO_OLD = Kind(
    name="qemu-too-old",
    what="a QEMU without `pause-before-switchover`, `return-path` and `events`",
    remedy="restart the guest with a newer QEMU",
)
NOT_RUNNING = Kind(
    name="not-running",
    what="a guest that is paused, or stopped by an error",
    remedy="let it go on first",
    live=True,
)
FROZEN = Kind(
    name="frozen",
    what="a QEMU that a signal has stopped, or that gives no answer",
    remedy="let it go on with `kill -CONT PID`, or look at its log",
    live=True,
)
NO_MONITOR = Kind(
    name="no-monitor",
    what="a QEMU without a QMP monitor that clients can connect to",
    remedy="restart the guest with `-qmp unix:PATH,server=on,wait=off`",
)
MONITOR_HELD = Kind(
    name="monitor-held",
    what="a QEMU whose QMP monitors are all held by others",
    remedy="end that client, or restart the guest with one more `-qmp unix:PATH,server=on,wait=off`",
    live=True,
)
MIGRATION_UNDER_WAY = Kind(
    name="migration-under-way",
    what="a migration that somebody else has begun",
    remedy="let it end, or cancel it",
    live=True,
)
BLOCKED_BY_QEMU = Kind(
    name="blocked-by-qemu",
    what="devices that QEMU itself cannot migrate, such as NVMe disks",
    remedy=RESTART,
)
PROGRAM_NOT_ALLOWED = Kind(
    name="program-not-allowed",
    what="a QEMU that the policy of its host does not list",
    remedy="list it there, if guests may be run by it",
    live=True,
)
USER_NOT_ALLOWED = Kind(
    name="user-not-allowed",
    what="a QEMU of a user whom the policy of its host does not list",
    remedy="list the user there, if guests may be run by it",
    live=True,
)

LAUNCHER_STAYS = Kind(
    name="launcher-stays",
    what="a launcher that may start the guest a second time and that nobody can tell to keep still: the loop of a "
    "shell, a supervisor, a container",
    remedy="end what started it so that the guest runs on without it, or name a program that tells it to keep still "
    "(`launcher` in the policy of its host), or move the guest with --launcher-stays: then a folder takes the place of "
    "its image before its QEMU is ended",
    live=True,
)

# --- Tied to the host -------------------------------------------------------------------------------------------

DESCRIPTOR = Kind(
    name="open-file",
    what="open files handed to QEMU (`-add-fd`, `fd=`), besides taps and macvtaps",
    why="an open file of this host cannot be handed over",
    remedy="give QEMU a path instead",
)
TAP = Kind(
    name="tap",
    what="a tap by descriptor that is in another network namespace than its host's worker, or that is none",
    remedy="let it be an untagged port of a bridge, or have QEMU open a tap by name (`ifname=`)",
)
SHARED_FOLDER = Kind(
    name="shared-folder",
    what="a folder of the host that is shared with the guest (`-virtfs`, `-fsdev`, virtio-9p)",
    why="a shared host directory cannot be moved",
    remedy="unmount it in the guest and restart the guest without the option; share it over the network instead",
    explains=frozenset({"hot-plugged", "blocked-by-qemu"}),
)
VIRTIOFS = Kind(
    name="virtiofs",
    what="virtiofs (`vhost-user-fs`)",
    why="it is tied to a back end outside QEMU (virtiofsd) and to a folder of this host",
    remedy="unmount it in the guest and restart the guest without it; share the folder over the network instead",
    explains=frozenset({"blocked-by-qemu"}),
)
VHOST_USER = Kind(
    name="vhost-user",
    what="vhost-user and vhost-vdpa devices and networks",
    why="it is tied to a back end outside QEMU",
    remedy="restart the guest with what QEMU itself emulates: a tap or bridge for a network, an image for a disk",
    explains=frozenset({"blocked-by-qemu"}),
)
PASSTHROUGH = Kind(
    name="passthrough",
    what="devices of the host that are passed through (`vfio-*`, `usb-host`, `u2f-passthru`)",
    why="it is tied to hardware of this host",
    remedy="restart the guest without it, with an emulated or virtio device instead",
    explains=frozenset({"blocked-by-qemu"}),
)
SHARED_MEMORY = Kind(
    name="ivshmem",
    what="memory that is shared with another process (ivshmem)",
    why="it is tied to memory shared with another process",
    remedy=RESTART,
    explains=frozenset({"blocked-by-qemu"}),
)
PMEM = Kind(
    name="virtio-pmem",
    what="a file of the host as memory of the guest (virtio-pmem)",
    why="QEMU sends nothing of its file, which is this host's alone",
    remedy="restart the guest without it: attach the file as a disk, or as an NVDIMM",
    explains=frozenset({"blocked-by-qemu", "other-machine"}),
)
SEV = Kind(
    name="encrypted-memory",
    what="encrypted memory (AMD SEV, SEV-ES, SEV-SNP, Intel TDX, s390 PV)",
    why="its memory is encrypted with a key of this host's processor",
    remedy="restart the guest without `confidential-guest-support`",
    explains=frozenset({"blocked-by-qemu"}),
)
REAL_TPM = Kind(
    name="tpm-passthrough",
    what="a TPM of the host (`-tpmdev passthrough`)",
    why="it is tied to the TPM of this host",
    remedy="restart the guest with an emulated TPM (swtpm), or without one",
    explains=frozenset({"tpm", "blocked-by-qemu"}),
)
TPM = Kind(
    name="tpm",
    what="an emulated TPM that is not the host's own swtpm behind a Unix socket, with its state in a folder or a "
    "file and without keys",
    remedy="restart the guest with such a TPM, or without one",
)
HOST_PORT = Kind(
    name="host-port",
    what="serial and parallel ports of the host",
    why="a port of this host cannot be moved",
    remedy="restart the guest without it",
)
LOADVM = Kind(
    name="loadvm",
    what="`-loadvm`",
    why="the machine was loaded from an internal snapshot",
    remedy="restart the guest without",
)
READCONFIG = Kind(
    name="readconfig",
    what="`-readconfig` with a file that is gone, changed since, or not understood",
    why="what its -readconfig says is not known",
    remedy="start the guest anew with a file that is there, or with its options on the command line",
)
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

# --- Disks ------------------------------------------------------------------------------------------------------

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
    explains=frozenset({"blocked-by-qemu", "image-not-named", "image-astray", "needed-file"}),
)
NEEDED_FILE = Kind(
    name="needed-file",
    what="a file that the guest needs and that is gone, cannot be read, or is no file (a CD drive of the host)",
    remedy="put it back where it was",
    live=True,
)
IMAGE_FORMAT = Kind(
    name="image-format",
    what="formats besides raw, qcow2 and LUKS (QEMU itself migrates no guest with a vmdk, vdi, vhdx, vpc or parallels "
    "image), and filters besides throttle and copy-on-read",
    remedy="raw, qcow2 and LUKS are moved: copy it to one while the guest runs (`blockdev-mirror`, `job-complete`)",
    live=True,
    explains=frozenset({"blocked-by-qemu", "backing-file", "image-not-named", "image-astray"}),
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
    remedy="it was changed while the guest ran, so restart the guest on it first",
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
HOT_PLUGGED = Kind(name="hot-plugged", what="devices that came or went while the guest ran")

NO_HOOKS = Kind(
    name="no-hooks",
    what="a policy's set of hooks that the guest's host does not have",
    remedy="make that folder, with what is to run there, or none",
    live=True,
)

# --- The destination --------------------------------------------------------------------------------------------

NOT_BELOW_ROOT = Kind(
    name="not-below-root",
    what="files outside the guest root of the guest's host",
    side="destination",
    remedy="let its DROVER_GUEST_ROOT hold them all",
)
NO_QEMU = Kind(
    name="no-qemu",
    what="a destination without the guest's QEMU, or with one that does not work",
    side="destination",
    remedy="install it",
    live=True,
)
QEMU_NOT_ALLOWED = Kind(
    name="qemu-not-allowed",
    what="a QEMU that the destination's policy does not list",
    side="destination",
    remedy="list it under `qemu` in the policy there, if guests may be run by it",
    live=True,
)
MACHINE_TYPE = Kind(
    name="machine-type",
    what="a machine type that the destination's QEMU does not have",
    side="destination",
    remedy="install a newer one",
    live=True,
)
POLICY = Kind(
    name="policy",
    what="what the destination's policy does not allow: paths, programs, options, users, monitors in the network",
    side="destination",
    remedy="allow it in the policy there, if guests may have it, or move the guest elsewhere",
    live=True,
)
NO_HOOKS_THERE = Kind(
    name="no-hooks-there",
    what="a policy's set of hooks that the destination does not have",
    side="destination",
    remedy="make that folder, with what is to run there, or none",
    live=True,
)
NO_CHECK_THERE = Kind(
    name="no-check-there",
    what="a policy's check of whether a guest is well that is not in the destination's file",
    side="destination",
    remedy="list it below `checks` there",
    live=True,
)
IMAGE_KIND = Kind(name="image-kind", what="images as no host makes them", side="destination")
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
NO_USER = Kind(
    name="no-user",
    what="a QEMU of a user or group that the destination does not have or allow",
    remedy="create it there",
    side="destination",
    live=True,
)
NO_TPM = Kind(
    name="no-tpm",
    what="an emulated TPM and a destination without swtpm, with an older one, or without the TPM's user or folders",
    remedy="install it (Debian's package swtpm)",
    side="destination",
    live=True,
)
NO_BRIDGE = Kind(
    name="no-bridge",
    what="a tap by descriptor and a destination without its bridge, or where none may be opened",
    remedy="create it there",
    side="destination",
    live=True,
)
NO_TAP_PROGRAM = Kind(
    name="no-tap-program",
    what="a tap by descriptor that is no port of a Linux bridge, a port with VLANs of its own, or a macvtap, and a "
    "destination whose policy names no program that opens such a one (`taps`)",
    remedy="name one that opens the like under `taps` there, let it be an untagged port of a bridge, or have QEMU open "
    "a tap by name (`ifname=`)",
    side="destination",
    live=True,
)
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
    what="storages that the destination does not have",
    side="destination",
    live=True,
)
NO_ROOM = Kind(name="no-room", what="too little room for its images at the destination", side="destination", live=True)
NO_MEMORY = Kind(
    name="no-memory",
    what="too little memory at the destination",
    side="destination",
    remedy="move another guest away first",
    live=True,
)
NO_TOOLS = Kind(
    name="no-tools",
    what="a destination without qemu-img or qemu-storage-daemon",
    side="destination",
    remedy="install it (Debian's qemu-utils and qemu-system-common hold it)",
    live=True,
)
SOCKET = Kind(
    name="socket",
    what="a QMP socket that is in use at the destination, or whose path would be too long",
    side="destination",
    live=True,
)
ADDRESS = Kind(
    name="address",
    what="a destination that listens where the source cannot reach it",
    side="destination",
    remedy="give its worker the right DROVER_ADDRESS",
    live=True,
)
CPU = Kind(
    name="cpu",
    what="a destination without features of the guest's CPU",
    side="destination",
)
PORT_TAKEN = Kind(
    name="port-taken",
    what="ports of the host that the guest's QEMU listens at, and that are in use at the destination",
    side="destination",
    remedy="end what listens there, or give the guest another port",
    live=True,
)
DOES_NOT_START = Kind(
    name="does-not-start",
    what="a command line that the destination's QEMU does not start with; a dry run tries it",
    side="destination",
    remedy="put right at the destination what it says, or restart the guest without the option",
)

OTHER_MACHINE = Kind(
    name="other-machine",
    what="a machine that would differ from the guest's; a dry run makes it",
    side="destination",
    remedy="let both hosts have the same QEMU, or restart the guest with what both have",
)

# --- Warnings ---------------------------------------------------------------------------------------------------

KNOWN_BUG = Kind(
    name="known-bug",
    what="bugs of the QEMUs that concern this guest",
    verdict=Verdict.WARN,
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
MONITOR_STDIO = Kind(
    name="monitor-stdio",
    what="a monitor on stdio",
    why="whoever started the guest is behind this monitor, and nobody after the move",
    remedy="use a unix socket, if it is still needed then",
    verdict=Verdict.WARN,
)
DISPLAY_PASSWORD = Kind(
    name="display-password",
    what="a password of VNC or SPICE that was set by a monitor",
    why="QEMU does not tell its password, so nobody can connect to this display after the move",
    remedy="set it again then (`set_password`, `expire_password`), or start the guest with `password-secret=`",
    verdict=Verdict.WARN,
    live=True,
)
WATCHDOG_ACTION = Kind(
    name="watchdog-action",
    what="the action of a watchdog, where it was set by a monitor",
    why="QEMU does not tell its action, so after the move it is what the command line says",
    remedy="if it was changed while the guest ran, set it again then (`set-action`)",
    verdict=Verdict.WARN,
    live=True,
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
SMALLER_BRIDGE = Kind(
    name="smaller-bridge",
    what="a tap by descriptor whose MTU is larger than that of its bridge at the destination",
    remedy="give the bridge and its ports the same MTU there",
    side="destination",
    verdict=Verdict.WARN,
    live=True,
)
PINNED = Kind(
    name="pinned",
    what="CPUs and NUMA nodes that the guest's QEMU is pinned to and that the destination does not have",
    side="destination",
    verdict=Verdict.WARN,
    live=True,
)
NO_LIMITS = Kind(
    name="no-limits",
    what="limits of memory, CPU and I/O (cgroups) that are not set at the destination: there is no systemd or no "
    "drover-guest@.service, or they are for single block devices",
    remedy="install deploy/systemd/drover-guest@.service there, or set them by hand after the move",
    side="destination",
    verdict=Verdict.WARN,
    live=True,
)
PLAIN_STREAMS = Kind(
    name="plain-streams",
    what="disks and RAM that go over the network in plain text",
    side="destination",
    verdict=Verdict.WARN,
    live=True,
)

# --- What needs no check ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Supported:
    """What goes along with the guest."""

    what: str
    how: str


MOVED = (
    Supported(
        what="raw and qcow2 images on virtio-blk, virtio-scsi, SATA, IDE and USB",
        how="mirrored while the guest runs; size, cluster size and further options of the format are kept",
    ),
    Supported(
        what="LUKS, raw and within qcow2",
        how="the new image is encrypted likewise, with a key of its own and the same passphrase; that goes along as a "
        "secret, also one that stands on the command line (`-object secret,data=`): it is a file of mode 0600 there",
    ),
    Supported(
        what="read-only media, firmware, kernel, initrd, `-fw_cfg`, SMBIOS and ACPI tables, option ROMs, secrets",
        how="what is there and equal is used, what is missing is copied first; what is in a drive now counts",
    ),
    Supported(
        what="backing chains of raw and qcow2, snapshots taken live included",
        how="kept, with a base that is copied once for all guests on it; or `--chain flatten`",
    ),
    Supported(
        what="block devices: LVM volumes, loop devices, partitions, zvols, and links to one",
        how="mirrored to an image, or to a device that a storage of the destination makes or that an operator names",
    ),
    Supported(
        what="machine types q35, pc, microvm and virt; UEFI with and without Secure Boot",
        how="by the same machine type; the variables of UEFI are a disk like others",
    ),
    Supported(
        what="user, groups, limits, nice, CPU affinity (of vCPUs as well), NUMA policy; `-sandbox`, `-run-with`; "
        "limits of a unit or of a cgroup of the guest's own",
        how="by name, and as far as the destination has these CPUs and nodes; cgroup limits by the guest's unit there. "
        "vCPUs are not pinned again when systemd starts the guest at boot",
    ),
    Supported(
        what="taps by descriptor (`fd=`, `fds=`, `vhostfd=`, or plugged in) on a Linux bridge",
        how="opened anew on the bridge of that name, with the same queues, MTU, MAC and port flags; under the same "
        "name, or if that is taken under the next free one",
    ),
    Supported(
        what="other taps by descriptor (Open vSwitch, VLANs, routed), macvtap",
        how="handed over by a program that the destination's policy names (`taps`), under the same numbers",
    ),
    Supported(
        what="user networks, taps by name, bridges by helper",
        how="made anew by the same options; a tap or bridge of that name must be there",
    ),
    Supported(what="VNC, SPICE, serial consoles, guest agents", how="their sockets are made below the guest root"),
)
"""With the guest's RAM or disks, or made anew by its command line."""
CARRIED = (
    Supported(
        what="I/O limits of drives and throttle groups, copy-on-read",
        how="as they are when the RAM is sent; the copy of a disk is not slowed by them",
    ),
    Supported(
        what="an emulated TPM (swtpm)",
        how="with the RAM, into a new swtpm that runs with the same options, as the same user",
    ),
    Supported(
        what="dirty bitmaps, persistent and transient",
        how="with the RAM: the next incremental backup is one",
    ),
    Supported(
        what="balloon target, virtio-mem's sizes, a link that is down, state of all devices",
        how="with the RAM",
    ),
    Supported(what="how often a balloon asks its guest for statistics", how="as it is when the RAM is sent"),
    Supported(what="`-name`, UUID, MAC addresses, serial numbers", how="by the command line, to the letter"),
)
"""What lives in the QEMU process alone."""

KINDS: tuple[Kind, ...] = tuple(value for value in globals().values() if isinstance(value, Kind))
"""All of them, in this order."""


def told_once(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Without repetitions, and without those that another one explains: they would name a remedy that does not help."""
    found = tuple(dict.fromkeys(checks))
    named = {check.name for check in found}
    explained = {name for kind in KINDS if kind.name in named for name in kind.explains}
    return tuple(check for check in found if check.name not in explained)


def completed(side: Where, found: Iterable[Check]) -> tuple[Check, ...]:
    """What was found, and that nothing else of this side was."""
    told = tuple(found)
    names = {check.name for check in told}
    return (*told, *(kind.ok() for kind in KINDS if kind.side == side and kind.name not in names))


def at_destination(checks: Iterable[Check]) -> list[Check]:
    """Found by the destination in what would be started there."""
    return [check.model_copy(update={"side": "destination"}) for check in checks]
