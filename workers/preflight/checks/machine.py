"""What the guest's QEMU emulates: its version and state, its devices and memory."""

from models.preflight import Verdict
from workers.preflight.checks.kind import RESTART, Kind

QEMU_TOO_OLD = Kind(
    name="qemu-too-old",
    what="a QEMU without `pause-before-switchover`, `return-path` and `events`",
    remedy="restart the guest with a newer QEMU",
)
MACHINE_TYPE = Kind(
    name="machine-type",
    what="a machine type that the destination's QEMU does not have",
    side="destination",
    remedy="install a newer one",
    live=True,
)
KNOWN_BUG = Kind(
    name="known-bug",
    what="bugs of the QEMUs that concern this guest",
    verdict=Verdict.WARN,
)
NOT_RUNNING = Kind(
    name="not-running",
    what="a guest that is paused, or stopped by an error",
    remedy="let it go on first",
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
CRASHES_QEMU = Kind(
    name="crashes-qemu",
    what="devices at which QEMU itself crashes when it saves them (`pci-serial-2x`)",
    why="QEMU crashes when it saves the state of this device (seen with 10.0.2), and the guest with it",
    remedy="restart the guest with `pci-serial` or `pci-serial-4x` instead",
)
RECORD_REPLAY = Kind(
    name="record-replay",
    what="a guest whose run is recorded or replayed (`-icount rr=record`)",
    why="QEMU ends when it is to hand over a guest whose run it records (seen with 10.0.2), and the guest with it",
    remedy="restart the guest without `rr=`",
)
LOADVM = Kind(
    name="loadvm",
    what="`-loadvm`",
    why="the machine was loaded from an internal snapshot",
    remedy="restart the guest without",
)
HOT_PLUGGED = Kind(name="hot-plugged", what="devices that came or went while the guest ran")
SEV = Kind(
    name="encrypted-memory",
    what="encrypted memory (AMD SEV, SEV-ES, SEV-SNP, Intel TDX, s390 PV)",
    why="its memory is encrypted with a key of this host's processor",
    remedy="restart the guest without `confidential-guest-support`",
    explains=frozenset({"blocked-by-qemu"}),
)
SHARED_MEMORY = Kind(
    name="ivshmem",
    what="memory that is shared with another process (ivshmem)",
    why="it is tied to memory shared with another process",
    remedy=RESTART,
    explains=frozenset({"blocked-by-qemu"}),
)
SAME_MEMORY = Kind(
    name="same-memory",
    side="destination",
    what="memory in a file that both hosts see (`share=on`), as two hosts of one machine do",
    why="both hosts see this file: the guest's next QEMU would write into the memory of the running one",
    remedy="restart the guest with a folder as `mem-path`, with memory-backend-memfd, or with a file below its host's "
    "guest root",
)
READ_ONLY_MEMORY = Kind(
    name="read-only-memory",
    what="memory in a file that is only read (`readonly=on`), as Kata has its image",
    why="QEMU would write what it receives into this memory at the destination, and fails (seen with 10.0.2)",
    remedy="restart the guest without it: attach the file as a read-only disk",
    explains=frozenset({"does-not-start", "outside-root"}),
)
CXL = Kind(
    name="cxl-memory",
    what="memory on CXL (`cxl-type3`)",
    why="QEMU sends nothing of this memory: its block has no name",
    remedy="restart the guest with a NUMA node of its own, or a pc-dimm, for that memory",
    explains=frozenset({"other-machine"}),
)
PMEM = Kind(
    name="virtio-pmem",
    what="a file of the host as memory of the guest (virtio-pmem)",
    why="QEMU sends nothing of its file, which is this host's alone",
    remedy="restart the guest without it: attach the file as a disk, or as an NVDIMM",
    explains=frozenset({"blocked-by-qemu", "other-machine"}),
)
NO_MEMORY = Kind(
    name="no-memory",
    what="too little memory at the destination",
    side="destination",
    remedy="move another guest away first",
    live=True,
)
CPU = Kind(
    name="cpu",
    what="a destination without features of the guest's CPU",
    side="destination",
)
OTHER_MACHINE = Kind(
    name="other-machine",
    what="a machine that would differ from the guest's; a dry run makes it",
    side="destination",
    remedy="let both hosts have the same QEMU, or restart the guest with what both have",
)
CHANGED_SINCE = "unplug what was plugged in since its start, plug in what was unplugged, or restart the guest"
"""Where both hosts have the same QEMU, what differs came or went while the guest ran."""
DOES_NOT_START = Kind(
    name="does-not-start",
    what="a command line that the destination's QEMU does not start with; a dry run tries it",
    side="destination",
    remedy="put right at the destination what it says, or restart the guest without the option",
)
WATCHDOG_ACTION = Kind(
    name="watchdog-action",
    what="the action of a watchdog, where it was set by a monitor",
    why="QEMU does not tell its action, so after the move it is what the command line says",
    remedy="if it was changed while the guest ran, set it again then (`set-action`)",
    verdict=Verdict.WARN,
    live=True,
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
NO_TPM = Kind(
    name="no-tpm",
    what="an emulated TPM and a destination without swtpm, with an older one, or without the TPM's user or folders",
    remedy="install it (Debian's package swtpm)",
    side="destination",
    live=True,
)
