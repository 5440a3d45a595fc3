"""The process of the guest's QEMU: who launched it, as whom and within which limits, its monitors and displays."""

from models.preflight import Verdict
from workers.preflight.checks.kind import Kind

FROZEN = Kind(
    name="frozen",
    what="a QEMU that a signal has stopped, or that gives no answer",
    remedy="let it go on with `kill -CONT PID`, or look at its log",
    live=True,
)
NOT_ASKED = Kind(
    name="not-asked",
    what="a QEMU beside so many that give no answer that there was no time left for it (`guest scan`)",
    remedy="scan again once those go on, or adopt it by the name of its monitor",
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
OWN_ROOT = Kind(
    name="own-root",
    what="a QEMU in a root or a mount namespace of its own (chroot, container), where its paths lead to other files",
    why="it is in a root of its own, as in a container, where this path leads to another file than on the host",
    remedy="restart the guest outside of it, or with paths that are the same inside and outside",
    explains=frozenset({"image-astray", "image-lost", "needed-file", "outside-root"}),
)
MONITOR_STDIO = Kind(
    name="monitor-stdio",
    what="a monitor on stdio",
    why="whoever started the guest is behind this monitor, and nobody after the move",
    remedy="use a unix socket, if it is still needed then",
    verdict=Verdict.WARN,
)
LOG_HANDED_OVER = Kind(
    name="log-handed-over",
    what="a console's log that another program opened for QEMU (`-add-fd`), as libvirt does with virtlogd",
    why="whoever opened this log for QEMU gets nothing more of the console after the move",
    remedy="read the console itself there, or start the guest with a log that QEMU opens by its name (`logfile=PATH`)",
    verdict=Verdict.WARN,
)
SOCKET = Kind(
    name="socket",
    what="a QMP socket that is in use at the destination, or whose path would be too long",
    side="destination",
    live=True,
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
    what="a launcher that may start the guest a second time and that cannot be told not to: the loop of a shell, a "
    "supervisor, a container",
    remedy="end what started it so that the guest runs on without it, or name a program that tells it not to start the "
    "guest (`launcher` in the policy of its host), or move the guest with --launcher-stays: then a folder takes the "
    "place of its image as soon as it runs elsewhere",
    live=True,
)
NO_QEMU = Kind(
    name="no-qemu",
    what="a destination without the guest's QEMU, or with one that does not work",
    side="destination",
    remedy="install it",
    live=True,
)
NOT_WRITABLE = Kind(
    name="not-writable",
    what="logs, sockets and memory that the user of the guest's QEMU may not make or write at the destination",
    remedy="let that user write there; a folder that is missing is made like that of the guest's host: change that one",
    side="destination",
    live=True,
)
NOT_READABLE = Kind(
    name="not-readable",
    what="media, firmware and other files that the user of the guest's QEMU may not read at the destination, and "
    "folders of these or of its images that it may not enter",
    remedy="let that user do so there; what is missing is made like that of the guest's host: change that one",
    side="destination",
    live=True,
)
QEMU_NOT_ALLOWED = Kind(
    name="qemu-not-allowed",
    what="a QEMU that the destination's policy does not list",
    side="destination",
    remedy="list it under `qemu` in the policy there, if guests may be run by it",
    live=True,
)
NO_USER = Kind(
    name="no-user",
    what="a QEMU of a user or group that the destination does not have or allow",
    remedy="create it there",
    side="destination",
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
LOCAL_DISPLAY = Kind(
    name="local-display",
    what="a display in a window or a terminal of the host (`-display gtk`, `sdl`, `curses`)",
    why="its display is a window or a terminal of whoever started it, and at the destination nobody has one",
    remedy="restart the guest with `-display none`, or with `-vnc`",
)
DISPLAY_PASSWORD = Kind(
    name="display-password",
    what="a password of VNC or SPICE that was set by a monitor",
    why="QEMU does not tell its password, so nobody can connect to this display after the move",
    remedy="set it again then (`set_password`, `expire_password`), or start the guest with `password-secret=`",
    verdict=Verdict.WARN,
    live=True,
)
DISPLAY_ADDRESS = Kind(
    name="display-address",
    what="VNC that listens elsewhere than the command line says (`display-update`)",
    why="the guest's next QEMU listens where its command line says",
    remedy="set it again after the move (`display-update`)",
    verdict=Verdict.WARN,
    live=True,
)
READCONFIG = Kind(
    name="readconfig",
    what="`-readconfig` with a file that is gone, changed since, or not understood",
    why="what its -readconfig says is not known",
    remedy="start the guest anew with a file that is there, or with its options on the command line",
)
