"""A guest's disks, read from QMP replies: what is needed to copy each, and why one cannot be copied."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.plan import BackingImage, FileKind, SourceDisk
from models.preflight import Check
from workers.images.manifest import ENCRYPTION
from workers.preflight import checks
from workers.preflight.checks.kind import Kind
from workers.qemu import inline_secrets
from workers.qemu.bitmaps import is_theirs, misses_nothing, never_smaller
from workers.qemu.json_text import flat, made_up, spelled
from workers.qemu.monitor import Monitor
from workers.qemu.needed_files import chain_of
from workers.qemu.nodes import Tree, tree
from workers.qemu.options import FILES, FILTERS, IMAGES, Option, parse_command_line
from workers.qemu.present_media import Drive
from workers.qemu.refusals import REMOTE
from workers.qemu.topology import Reply

OF_BACKUP = "copy-before-write"
"""The filter that a backup puts on top of a disk, and takes away at its end."""
VIEWS = FILTERS | {"mirror_top", OF_BACKUP}
"""Nodes through which a disk is seen as it is, the filter of its mirror among them."""
NOT_MIGRATED = frozenset({"parallels", "qcow", "vdi", "vhdx", "vmdk", "vpc"})
"""QEMU migrates no guest that has one of these open, be it to read (`migrate_add_blocker` in block/*.c, 10.0)."""
FORMATS = {"raw", "qcow2", "luks"}


@dataclass(frozen=True, kw_only=True)
class _Medium:
    """One entry of `query-block` with an image in it, seen through our own mirror filter."""

    device: str
    qdev: str
    top: str
    """The node that the guest's requests enter, below our own mirror: only such a one can be mirrored."""
    inserted: Reply
    """The node with the image's format, below filters."""
    file_node: str | None
    """The lowest node."""
    below: tuple[Reply, ...]
    """The nodes below that with the format, from there down to it."""
    path: str
    tree: Tree
    """The node that the guest's requests enter, with those below."""
    backed_up: bool
    """A backup is under way."""

    @property
    def image(self) -> Reply:
        image: Reply = self.inserted["image"]
        return image

    @property
    def specific(self) -> Reply:
        data: Reply = self.image.get("format-specific", {}).get("data", {})
        return data

    @property
    def protocol(self) -> str:
        """What the format lies on: the driver of the first node below that is no plain view of the next."""
        drivers = [str(node["drv"]) for node in (self.inserted, *self.below)]
        return next((driver for driver in drivers[1:] if driver != "raw"), drivers[-1])

    @property
    def shown(self) -> str:
        return f"disk {self.device or self.qdev} ({self.path})"


@dataclass(frozen=True, kw_only=True)
class Replies:
    """To the commands of these names."""

    query_block: Sequence[Reply]
    named_block_nodes: Sequence[Reply] = ()
    blockstats: Sequence[Reply] = ()

    @classmethod
    async def of(cls, monitor: Monitor, **how: bool) -> "Replies":
        """As QEMU answers now; `how` is for `query-named-block-nodes`."""
        return cls(
            query_block=await monitor.query("query-block"),
            named_block_nodes=await monitor.query("query-named-block-nodes", **how),
            blockstats=await monitor.query("query-blockstats"),
        )


def _media(replies: Replies) -> list[_Medium]:
    """`query-block` shows the topmost node; while a mirror runs that is its filter (`mirror_top`).

    Only `query-blockstats` shows what lies below a node (10.0 has no `children` elsewhere).
    """
    nodes = {node["node-name"]: node for node in replies.named_block_nodes}
    below = {_drive(entry): entry for entry in replies.blockstats}
    found = []
    for entry in replies.query_block:
        if "inserted" in entry:
            stats = below.get(_drive(entry), {})
            found.append(_medium(entry, nodes, stats))
    return found


def _drive(entry: Reply) -> tuple[str, str]:
    """Both names: a drive may have the name of another's device (before 9.0 there is an empty drive `sd0`)."""
    return entry.get("device", ""), entry.get("qdev", "")


def _medium(entry: Reply, nodes: Mapping[str, Reply], stats: Reply) -> _Medium:
    inserted: Reply = entry["inserted"]
    entered, seen_through = stats, set[str]()
    while inserted["drv"] in VIEWS and stats.get("parent", {}).get("node-name") in nodes:
        seen_through.add(inserted["drv"])
        ours = inserted["drv"] == "mirror_top"
        stats = stats["parent"]
        inserted = nodes[stats["node-name"]]
        entered = stats if ours else entered
    below = tuple(nodes[name] for name in _names_below(stats) if name in nodes)
    lowest = below[-1] if below else inserted
    return _Medium(
        device=entry.get("device", ""),
        qdev=entry.get("qdev", ""),
        top=entered.get("node-name", inserted["node-name"]),
        inserted=inserted,
        file_node=lowest["node-name"] if below or inserted["drv"] in FILES else None,
        below=below,
        path=_path(inserted, lowest),
        tree=tree(entered, nodes),
        backed_up=OF_BACKUP in seen_through,
    )


def _names_below(stats: Reply) -> Iterator[str]:
    while "parent" in stats:
        stats = stats["parent"]
        yield str(stats.get("node-name"))


def _path(inserted: Reply, lowest: Reply) -> str:
    """The image's file. A node opened with unusual options shows `json:{...}` instead of a name."""
    name = str(inserted["image"]["filename"])
    return str(lowest["image"]["filename"]) if name.startswith("json:") else name


def source_disks(replies: Replies) -> tuple[SourceDisk, ...]:
    """Every writable disk of the guest.

    Call `disk_checks` on the same replies: here nothing is refused.
    """
    writable = [medium for medium in _media(replies) if not _read_only(medium)]
    return tuple(_disk(index, medium) for index, medium in enumerate(writable))


def _read_only(medium: _Medium) -> bool:
    return bool(medium.inserted["ro"])


@dataclass(frozen=True, kw_only=True)
class ReadOnlyImage:
    """A medium that the guest has but cannot write."""

    kind: FileKind
    qdev: str
    path: str
    format: str
    chain: tuple[BackingImage, ...] = ()


def read_only_images(replies: Replies) -> tuple[ReadOnlyImage, ...]:
    """The media that are in the guest's drives now and cannot be written."""
    return tuple(
        ReadOnlyImage(
            kind=FileKind.FIRMWARE if "flash" in (medium.device or medium.qdev) else FileKind.MEDIUM,
            qdev=medium.qdev or medium.device,
            path=medium.path,
            format=str(medium.image["format"]),
            chain=chain_of(medium.image),
        )
        for medium in _media(replies)
        if _read_only(medium)
    )


def drives(replies: Replies) -> tuple[Drive, ...]:
    """All drives of the guest with what is in them now, in QEMU's order."""
    media = {(medium.device, medium.qdev): medium for medium in _media(replies)}
    found = []
    for entry in replies.query_block:
        medium = media.get(_drive(entry))
        image_format = "raw" if medium is None else str(medium.inserted["drv"])
        found.append(
            Drive(
                device=entry.get("device", ""),
                qdev=entry.get("qdev", ""),
                path=None if medium is None else medium.path,
                format="raw" if image_format == "file" else image_format,
                node={} if medium is None else medium.tree,
            )
        )
    return tuple(found)


def nodes_in_use(blockstats: Iterable[Reply]) -> set[str]:
    """The names of the nodes that a drive is on, and of those below, from the reply of `query-blockstats`."""
    found: set[str] = set()
    left = list(blockstats)
    while left:
        node = left.pop()
        found.add(str(node.get("node-name")))
        left += [node[below] for below in ("parent", "backing") if below in node]
    return found


def _disk(index: int, medium: _Medium) -> SourceDisk:
    image = medium.image
    driver = str(medium.inserted["drv"])
    size, taken = image["virtual-size"], image.get("actual-size")
    return SourceDisk(
        index=index,
        device=medium.top,
        qdev=medium.qdev,
        node=medium.inserted["node-name"],
        file_node=medium.file_node,
        format="raw" if driver in FILES else driver,  # a device on the bare file sees raw data
        path=medium.path,
        virtual_size_bytes=size,
        allocated_bytes=size if driver == "luks" else taken,  # what was never written is no zeroes there
        cluster_size_bytes=image.get("cluster-size"),
        create_options=_create_options(medium),
        chain=chain_of(image) if driver in FORMATS else (),  # of a filter it is what it filters
        data_file=medium.specific.get("data-file"),
        key_secret=_key_secret(image),
        bitmaps=tuple(bitmap["name"] for bitmap in _bitmaps(medium) if bitmap["persistent"]),
        written=_recorded(medium),
    )


def _key_secret(image: Reply) -> str | None:
    """QEMU tells it only in the made-up name of an encrypted image, which holds its options."""
    if not image.get("encrypted"):
        return None
    options = flat(made_up(image["filename"]))
    return next((str(value) for key, value in options if key in {"key-secret", "encrypt.key-secret"}), None)


def _recorded(medium: _Medium) -> dict[str, int]:
    bitmaps = medium.inserted.get("dirty-bitmaps", ())
    return {
        str(bitmap["name"]): bitmap["count"]
        for bitmap in bitmaps
        if misses_nothing(bitmap) and never_smaller(bitmap["name"], bitmaps)
    }


def _thickness(medium: _Medium) -> dict[str, str]:
    """An image that has all its room allocated (preallocation=falloc, full) is made likewise.

    One with preallocation=metadata looks like any thin one, and becomes one.
    """
    thick = medium.image.get("actual-size", 0) >= medium.image["virtual-size"] > 0
    return {"preallocation": "falloc"} if thick else {}


def _create_options(medium: _Medium) -> dict[str, str]:
    """How `qemu-img create -o` makes one like it."""
    if medium.inserted["drv"] == "luks":
        return _encryption(medium.specific)
    header = _header(medium) if medium.inserted["drv"] == "qcow2" else {}
    return header | _thickness(medium)


def _encryption(specific: Reply, prefix: str = "") -> dict[str, str]:
    return {f"{prefix}{name}": str(specific[name]) for name in ENCRYPTION if name in specific}


def _header(medium: _Medium) -> dict[str, str]:
    """The qcow2 header; only what this QEMU reports."""
    options: dict[str, Any] = {"cluster_size": medium.image.get("cluster-size")}
    for key in ("compat", "lazy-refcounts", "refcount-bits", "extended-l2", "compression-type"):
        options[key.replace("-", "_")] = medium.specific.get(key)
    if "encrypt" in medium.specific:
        options |= {"encrypt.format": "luks", **_encryption(medium.specific["encrypt"], "encrypt.")}
    return {key: spelled(value) for key, value in options.items() if value is not None}


def disk_checks(replies: Replies, block_jobs: Sequence[Reply] = ()) -> list[Check]:
    """Why these disks cannot be moved. An empty drive (an ejected CD) is fine.

    Give `block_jobs` (`query-block-jobs`) without the mirrors this move started itself.
    """
    media = _media(replies)
    found = [check for medium in media for check in _refused(medium)]
    found += [
        checks.disks.BLOCK_JOB.found(f"block job {job['device']} ({job['type']}) is running") for job in block_jobs
    ]
    if not any(job["type"] == "backup" for job in block_jobs):  # or what reads the image of its begin by NBD
        backups = [medium.shown for medium in media if medium.backed_up]
        found += [checks.disks.BLOCK_JOB.found(f"{shown}: a backup of it is under way") for shown in backups]
    paths = Counter(medium.path for medium in media if not _read_only(medium))
    found += [
        checks.disks.SHARED_IMAGE.found(f"{path} is used by {count} disks")
        for path, count in paths.items()
        if count > 1
    ]
    return found


def _refused(medium: _Medium) -> Iterator[Check]:
    driver = medium.inserted["drv"]
    if medium.protocol in REMOTE:
        yield checks.disks.REMOTE_IMAGE.of(medium.shown)
        return
    if driver in FORMATS and medium.protocol not in {*FILES, *VIEWS, "host_cdrom"}:
        yield checks.disks.IMAGE_FORMAT.found(f"{medium.shown}: a {medium.protocol} node is below")
        return
    for level in chain_of(medium.image):
        if level.format in NOT_MIGRATED:
            yield checks.disks.IMAGE_FORMAT.found(f"{medium.shown}: it lies on {level.path}, a {level.format} image")
    if _read_only(medium) and driver not in NOT_MIGRATED:
        return  # see `workers.media.listing`
    if driver not in FORMATS | FILES:
        yield checks.disks.IMAGE_FORMAT.found(f"{medium.shown}: a {driver} node is on top")
        return
    for kind, applies in _reasons(medium).items():
        if applies:
            yield kind.of(medium.shown)


def _reasons(medium: _Medium) -> dict[Kind, bool]:
    inserted, image, specific = medium.inserted, medium.image, medium.specific
    encryption = specific if inserted["drv"] == "luks" else specific.get("encrypt", {})
    unusable = [bitmap["name"] for bitmap in _bitmaps(medium) if bitmap.get("busy") or bitmap.get("inconsistent")]
    return {
        checks.disks.INTERNAL_SNAPSHOTS: bool(image.get("snapshots")),
        checks.disks.DETACHED_HEADER: bool(encryption.get("detached-header")),
        checks.disks.KEY_DERIVED_AGAIN: inserted["drv"] == "qcow2" and bool(encryption),
        checks.disks.FURTHER_KEYS: sum(slot["active"] for slot in encryption.get("slots", ())) > 1,
        checks.disks.DATA_FILE_JOINED: "data-file" in specific,
        checks.disks.DIRTY_BITMAPS: bool(unusable),
        checks.disks.PARTIAL_IMAGE: any(map(_is_partial, (image, *(node["image"] for node in medium.below)))),
        checks.disks.CORRUPT_IMAGE: bool(specific.get("corrupt")),
    }


def _bitmaps(medium: _Medium) -> list[Reply]:
    return [bitmap for bitmap in medium.inserted.get("dirty-bitmaps", ()) if is_theirs(bitmap)]


def _is_partial(image: Reply) -> bool:
    return image["format"] == "raw" and bool(made_up(image["filename"]).get("offset"))


def keys_given_later(disks: Iterable[SourceDisk], argv: Sequence[str]) -> list[Check]:
    """Encrypted disks that QEMU could not open by this command line."""
    options = [option for option in parse_command_line(argv) if option.name in IMAGES]
    named = {value for option in options for key, value in option.leaves() if key == "key-secret"}
    return [
        checks.disks.KEY_GIVEN_LATER.of(f"disk {disk.qdev} ({disk.path})")
        for disk in disks
        if disk.key_secret is not None
        if disk.key_secret not in named or not inline_secrets.objects(argv, disk.key_secret)
    ]


def named_data_files(disks: Iterable[SourceDisk], argv: Sequence[str]) -> list[Check]:
    """Data files that the command line names: QEMU would open them at the destination, where there are none."""
    said = {value for option in parse_command_line(argv) for value in _values(option)}
    return [
        checks.disks.DATA_FILE.of(f"disk {disk.qdev} ({disk.path})")
        for disk in disks
        if disk.data_file is not None and any(disk.data_file in value for value in said)
    ]


def unnamed_images(images: Iterable[SourceDisk | ReadOnlyImage], argv: Sequence[str]) -> list[Check]:
    """Those that are not on the command line: a snapshot or a pivot changed it since the start."""
    said = {value for option in parse_command_line(argv) for value in _values(option)}
    return [
        checks.disks.IMAGE_NOT_NAMED.found(
            f"{image.path}, the image of disk {image.qdev}, is not on the guest's command line"
        )
        for image in images
        if not any(image.path in value for value in said)
    ]


def _values(option: Option) -> Iterator[str]:
    """All that it says, without escapes."""
    yield option.value or ""
    yield from (value for _, value in option.leaves())
