"""A job's plan: the source's report on the guest, and how the destination would run it. Never changed once written."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, field_validator

from models.activity import Activity
from models.contracts import Json, Many, Part, Versioned, nested
from models.launcher import Launcher
from models.plain import GRANULARITY
from models.preflight import Check
from models.succession import Succession

QemuVersion = Annotated[tuple[int, int, int], Strict(False)]
Accel = Literal["kvm", "tcg"]
Chain = Literal["keep", "flatten"]
"""What becomes of a disk's backing files: the destination has them as well, or its image holds all by itself."""


class Cpu(Part):
    """The features of a guest's CPU, as its CPUID shows them."""

    vendor: str
    words: dict[str, int]
    """{"CPUID.07H:EBX": 32 bits}, by the names of QEMU's own warnings."""


class Topology(Part):
    """A machine's CPU, devices and RAM in a form that can be compared across hosts."""

    cpu: Cpu | None = None
    """None where QEMU does not report them: only x86 has feature words."""
    qtree: Many[str]
    """The lines of `info qtree`, without what differs between two processes of one machine."""
    ramblocks: Many[str]


def _plain(path: str) -> str:
    if not path.startswith("/") or not path.isprintable() or ".." in path.split("/"):
        raise ValueError("an absolute path without `..` is wanted")
    return path


class DiskLayout(Part):
    """What an operator wants of one disk at the destination; what is left out stays as it is."""

    index: int
    path: str | None = None
    """Of the image or block device."""
    storage: str | None = None
    """Of the destination: its image or volume is made there."""
    format: Literal["raw", "qcow2"] | None = None
    thick: bool | None = None
    """All of its room is taken at once, or only what is written."""

    @field_validator("path")
    @classmethod
    def _path(cls, path: str | None) -> str | None:
        return path and _plain(path)


class Layout(Part):
    """Where, and as what, the disks of a guest are made at the destination."""

    disks: Many[DiskLayout] = ()
    format: Literal["raw", "qcow2"] | None = None
    """Of all disks that are not listed with one; likewise the next two."""
    storage: str | None = None
    thick: bool | None = None
    overwrite: Many[str] = ()
    """Block devices of the destination that may be overwritten."""

    @field_validator("overwrite")
    @classmethod
    def _paths(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_plain, paths))

    def of(self, index: int) -> DiskLayout:
        """What is wanted of one disk."""
        own = next((disk for disk in self.disks if disk.index == index), DiskLayout(index=index))
        common = {name: getattr(self, name) for name in ("format", "thick") if getattr(own, name) is None}
        if own.path is None and own.storage is None:
            common["storage"] = self.storage
        return own.model_copy(update=common)


class FileKind(StrEnum):
    """What a guest has a file for."""

    MEDIUM = "medium"
    """A disk or CD that it cannot write."""
    BACKING = "backing file"
    FIRMWARE = "firmware"
    """What is mapped into the machine: pflash, `-bios`, option ROMs."""
    KERNEL = "kernel"
    """Likewise what is booted: kernel, initrd, device tree."""
    DATA = "data"
    """What the machine shows the guest: `-fw_cfg`, SMBIOS and ACPI tables, a splash image."""
    SECRET = "secret"  # noqa: S105 # nosec B105 # a word
    """Keys and passwords."""


class NeededFile(Part):
    """A file that a guest needs besides its writable disks, as it is at the source."""

    kind: Annotated[FileKind, Strict(False)]
    path: str
    size_bytes: int
    digest: str
    """By which another host tells whether it has the same file, see `workers.media.digests`."""
    mode: int
    owner: str
    """Its user and group by their names; numbers where they have none."""
    group: str
    format: str | None = None
    """Of an image, like the next."""
    backing: str | None = None
    """The file that it lies on."""
    secret: str | None = None
    """There is no such file at the source: the guest's secret of this id has its content on the command line."""


class NeededFolder(Part):
    """A folder below the guest root in which a guest has files, sockets or logs."""

    path: str
    mode: int
    owner: str
    group: str
    pipe: bool = False
    """It is a named pipe: QEMU makes none itself."""


class BackingImage(Part):
    """One level of a disk's backing chain."""

    path: str
    """Not a path where it is no file of the host."""
    format: str


class Link(Part):
    """A symbolic link on the way to an image."""

    path: str
    target: str
    """As it is written in the link."""


LINK = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}$")
"""What a network interface is called, as far as `ip` and the kernel take the name for nothing else."""


PortFlag = Annotated[str, Field(pattern="^(hairpin|guard|learning|flood|mcast_flood|neigh_suppress|isolated)$")]


def _descriptors(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if not all(2 < number < 1 << 16 for number in numbers):
        raise ValueError("numbers of descriptors above 2 are wanted")
    return numbers


MAC = Field(pattern="^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")


class OtherTap(Part):
    """A tap, or macvtap, by open descriptors that only a program of the destination's administrator can open."""

    name: Annotated[str, LINK]
    kind: Literal["tap", "macvtap"]
    why: str
    """What it is, for people."""
    master: Annotated[str, LINK] | None = None
    """What it is a port of, such as an Open vSwitch or a bridge with VLANs."""
    parent: Annotated[str, LINK] | None = None
    """Of a macvtap: the interface that it is on."""
    mode: str | None = None
    """Likewise: `bridge`, `vepa`, `private`, `passthru`."""
    mac: Annotated[str, MAC]
    """Of a macvtap it is that of the guest's card."""
    mtu: Annotated[int, Field(ge=68, lt=1 << 16)]
    headers: bool = True
    """See `Tap`, as the next."""
    multi_queue: bool = False
    descriptors: Many[int]

    _above_2 = field_validator("descriptors")(_descriptors)


class Tap(Part):
    """A tap that a QEMU was handed as open descriptors, and its port on a bridge."""

    name: Annotated[str, LINK]
    bridge: Annotated[str, LINK]
    mac: Annotated[str, MAC]
    """Of the tap itself, not of the guest's card."""
    mtu: Annotated[int, Field(ge=68, lt=1 << 16)]
    up: bool = True
    headers: bool
    """Packets begin with a virtio-net header (IFF_VNET_HDR)."""
    multi_queue: bool
    descriptors: Many[int]
    """One for each queue."""
    port: dict[PortFlag, bool] = {}  # noqa: RUF012 - pydantic copies it
    """Flags of the port that are not as by default, by their names in ip-link(8): {"isolated": true}."""

    _above_2 = field_validator("descriptors")(_descriptors)


class Execution(Part):
    """As whom a QEMU runs, by names, within which limits of its own, and with what in its hands."""

    user: str
    group: str
    groups: Many[str] = ()
    nice: int = 0
    oom_score_adj: int = 0
    cpus: Many[int] = ()
    """On which it may run; empty: on those of its host's worker."""
    vcpus: Many[Many[int]] = ()
    """On which the thread of each vCPU may run, by its index; empty for one that is not pinned, or if none is."""
    memory_policy: Annotated[str, Field(pattern=r"^(prefer|bind|interleave):[0-9][0-9,-]{0,255}$")] | None = None
    """Its own NUMA policy, as proc_pid_numa_maps(5) has it."""
    limits: dict[str, Annotated[tuple[int, int], Strict(False)]] = {}  # noqa: RUF012 - pydantic copies it
    """{"nofile": (soft, hard)}, -1 for none; only those that differ from the worker's."""
    taps: Many[Tap] = ()
    other_taps: Many[OtherTap] = ()
    vhost_net: Many[int] = ()
    """Under these numbers it has /dev/vhost-net open."""

    _above_2 = field_validator("vhost_net")(_descriptors)


class Companion(Part):
    """What is started with a QEMU, before it, and ends with it: the emulator of its TPM."""

    argv: Many[str]
    socket: str
    """Where it listens for the QEMU."""


class ExecutionOrder(Execution, Versioned):
    """What `workers.process.exec_qemu` is told on its command line, which a launch file may hold for years."""

    beside: Companion | None = None
    opens_taps: str | None = None
    """The program that opens `other_taps`."""
    devices: Many[str] = ()
    """Block devices of its own, in folders of root's: they become its user's."""


TpmFileBytes = Annotated[int, Field(ge=1, le=1 << 26)] | None
"""Size of the file with a TPM's state; None where it is a folder."""


class Tpm(Part):
    """The process that emulates a guest's TPM, as it is at the source."""

    pid: int
    started: int
    """See `Inspection.started`."""
    version: QemuVersion
    """Of the program."""
    argv: Many[str]
    """Its options, without those that the way it is started decides."""
    socket: str
    state: str
    """The folder of its state, or one file with all of it."""
    file_bytes: TpmFileBytes = None
    started_as: Execution


class SourceDisk(Part):
    """One writable disk of a running guest: all that is needed to create its copy and mirror it."""

    index: int
    """Position among the writable disks in `query-block`, which keeps the command line's order."""
    device: str
    """What `blockdev-mirror` takes as `device`: the node below any mirror filter. QEMU accepts its
    made-up names (`#block123`) here, but makes up others in every process."""
    qdev: str
    """The guest device's id or QOM path."""
    node: str
    """The node with the image format; below `device` where a filter is on top."""
    file_node: str | None = None
    """The protocol node below it."""
    format: str
    path: str
    """Of the file itself, whatever links lead there."""
    block_device: bool = False
    """There is a block device at this path, or a link to one."""
    named: str | None = None
    """As QEMU was told to open it, where that differs: by links below the guest root."""
    links: Many[Link] = ()
    """Those links, in the order in which they are followed."""
    virtual_size_bytes: int
    allocated_bytes: int | None = None
    """What the image takes of its storage now; None: a worker of an earlier version did not look."""
    copied_bytes: int | None = None
    """What a copy of it takes, where that is another number: nothing of it is compressed, and what backing files hold
    that do not go along is in it.
    """
    laid_out: bool = False
    """Most of its clusters have a place and no data (preallocation=metadata): QEMU takes them for data all the same."""
    cluster_size_bytes: int | None = None
    create_options: dict[str, str]
    """For `qemu-img create -o`, such as `cluster_size=65536`; empty for raw."""
    chain: Many[BackingImage] = ()
    """Its backing files, from the one right below it down to the base."""
    data_file: str | None = None
    """Where its data lies, if that is another file (qcow2's `data-file`)."""
    key_secret: str | None = None
    """Id of the secret that opens it; None: it is not encrypted."""
    bitmaps: Many[str] = ()
    """Persistent dirty bitmaps of somebody else's, by their names."""
    owner: str | None = None
    """User and group of its image by their names, and its mode. None: a worker of an earlier version did not look."""
    group: str | None = None
    mode: int | None = None
    written: dict[str, int] = {}  # noqa: RUF012 - pydantic copies it
    """{name: bytes} of the bitmaps of `workers.qemu.written` that it has."""


def _qemu_version(document: Json) -> Json:
    """Before version 1 `version` was QEMU's, as a list."""
    return {**document, "qemu_version": document.get("version")}


class Attestation(Part):
    """That a host signed a description of a guest which it saw running."""

    host: str
    public_key: str
    """As `workers.trust.host_key` writes it, like the signature."""
    statement: str
    """A `Statement` as JSON, to the letter as it was signed."""
    signature: str
    successions: Many[Succession] = ()
    """How the host came to this key, if it had others before."""


class StreamCertificates(Part):
    """What a host shows of the certificates that its operator made for its streams: nothing secret. PEM texts."""

    certificate: str
    """Its own, and those between that and a root."""
    authority: str
    """Those that it trusts."""


class Inspection(Versioned):
    """A running guest as its host describes it: all that its next host needs."""

    UPGRADES = {0: _qemu_version}  # noqa: RUF012 - a ClassVar of the base

    pid: int
    started: int
    """When the process was started, in ticks since boot: with `pid` it names the process."""
    process: str | None = None
    """See `workers.process.processes.identity`; None: a worker of Drover 0.1 before revision 0006."""
    job: int | None = None
    """The job that has started it, which may have ended long ago; None: none has."""
    uuid: str | None = None
    """The machine's, where one is set."""
    certificates: StreamCertificates | None = None
    """Of the host; None: its streams are protected otherwise."""
    address: str = ""
    """Of the host, from which it connects to the destination; empty: a worker of an earlier version."""
    qmp: str
    argv: Many[str]
    exe: str
    pidfile: str | None = None
    qemu_version: QemuVersion
    accel: Accel
    machine_type: str
    runstate: str
    memory_bytes: int
    cpus: int = 0
    devices: Many[str]
    """QOM names of the guest's devices."""
    started_as: Execution | None = None
    """None: it could not be looked at, or a worker of an earlier version did not look."""
    tpm: Tpm | None = None
    topology: Topology
    disks: Many[SourceDisk]
    files: Many[NeededFile] = ()
    """Backing files before the images that lie on them."""
    folders: Many[NeededFolder] = ()
    """Each after the one that it lies in."""
    activity: Annotated[Activity, nested(Activity)] | None = None
    """What it did meanwhile; None: its host did not look."""
    refusals: Many[str] = ()
    """Why it cannot be moved now, as sentences."""
    warnings: Many[str] = ()
    launcher: Annotated[Launcher, nested(Launcher)] | None = None
    """Who launched it; None: a worker of an earlier version, which did not look."""
    checks: Many[Check] = ()
    """All that was looked at; `refusals` and `warnings` are the sentences of what was found."""
    attestation: Attestation | None = None
    """None: its host's policy does not allow such a guest, or its worker is of a version that signed nothing."""


class Statement(Versioned):
    """What a host signs of a guest."""

    host: str
    guest_root: str
    machine: str
    """See `HostFacts.machine`."""
    inspection: Annotated[Inspection, nested(Inspection)]
    """Without an attestation of its own."""


class PlannedDisk(Part):
    """One disk: where it is, and the image that is made for it at the destination."""

    index: int
    device: str
    format: str
    source_format: str | None = None
    """Where it is another one at the source; None: the same."""
    source_path: str
    source_device: bool = False
    """The source's image is a block device; likewise at the destination."""
    destination_path: str
    destination_device: bool = False
    volume_of: str | None = None
    """The destination's storage in which the job makes the block device; None: it is there already."""
    named: str | None = None
    """As QEMU is told to open it, where that is by links."""
    links: Many[Link] = ()
    """What is made again at the destination."""
    virtual_size_bytes: int
    allocated_bytes: int | None = None
    """What its copy takes of its storage, by what is known when it begins; None as for `SourceDisk`."""
    piece_bytes: int = GRANULARITY
    """What a mirror of all of it copies at once."""
    create_options: dict[str, str]
    discard: str
    """How the mirror's target treats discards, see `workers.qemu.known_bugs.mirror_discard`."""
    chain: Many[BackingImage] = ()
    """The backing files that the image made for it has at the destination; only what is above them is copied."""
    key_secret: str | None = None
    """See `SourceDisk.key_secret`."""


class PlannedFile(Part):
    """A file that the guest needs at the destination."""

    kind: Annotated[FileKind, Strict(False)]
    source_path: str
    destination_path: str
    size_bytes: int
    digest: str
    mode: int
    owner: str
    group: str
    format: str | None = None
    backing: str | None = None
    """At the destination."""
    secret: str | None = None
    """See `NeededFile.secret`."""
    there: bool = False
    """It was there, and equal, when the destination was asked."""


class PlannedFolder(Part):
    """A folder that the guest needs at the destination; one that is there stays as it is."""

    path: str
    mode: int
    owner: str
    group: str
    pipe: bool = False
    """See `NeededFolder.pipe`."""


class PlannedTpm(Part):
    """The process that emulates the guest's TPM at the destination."""

    argv: Many[str]
    socket: str
    state: str
    file_bytes: TpmFileBytes = None
    started_as: Execution


class DestinationPlan(Versioned):
    """How a guest would run on its destination, as that host reports."""

    UPGRADES = {0: _qemu_version}  # noqa: RUF012 - a ClassVar of the base

    argv: Many[str]
    qmp: str
    pidfile: str | None = None
    qemu: str
    """Path of the program."""
    qemu_version: QemuVersion
    ram: Literal["live", "paused"]
    """`paused`: the guest is paused while its RAM is sent, because these versions of QEMU corrupt it otherwise."""
    disks: Many[PlannedDisk]
    files: Many[PlannedFile] = ()
    """Backing files before the images that lie on them."""
    folders: Many[PlannedFolder] = ()
    tpm: PlannedTpm | None = None
    way_back: int | None = None
    """The job that has left images of the guest here: only what it has written since has to be sent."""
    way_back_bytes: int | None = None
    """How much that is."""
    no_way_back: str | None = None
    """Why not, although there are images of it."""
    warnings: Many[str] = ()
    checks: Many[Check] = ()
    """All that was looked at there; `warnings` are the sentences of what was found."""


def _disks_of_the_destination(document: Json) -> Json:
    """Before version 1 the disks stood beside the destination's plan."""
    destination: dict[str, Any] = document.get("destination") or {}
    return {"source": document.get("source"), "destination": {**destination, "disks": document.get("disks", [])}}


class Plan(Versioned):
    """What was found out before a job was queued."""

    UPGRADES = {0: _disks_of_the_destination}  # noqa: RUF012 - a ClassVar of the base

    source: Annotated[Inspection, nested(Inspection)]
    destination: Annotated[DestinationPlan, nested(DestinationPlan)]
    layout: Layout = Layout()
    """What was wanted of its disks, by the operator or by mappings of storages."""
    source_key: str | None = None
    """The source's public key, by which the destination seals credentials for it. None: Drover 0.1 made the plan; the
    controller adds both keys before the job goes on."""
    destination_key: str | None = None
    """The destination's, by which the source knows from whom they are."""
    successions: Many[Succession] = ()
    """How both came to these keys, if they had others before."""

    @property
    def disks(self) -> tuple[PlannedDisk, ...]:
        """By their index."""
        return self.destination.disks
