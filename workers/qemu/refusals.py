"""What on a guest's command line ties it to its host, so that it cannot be rebuilt on another."""

import re
from collections.abc import Collection, Iterator, Sequence

from models.preflight import Check
from workers.preflight import checks
from workers.qemu.options import (
    CHANNELS_AND_DISPLAYS,
    DROPPED,
    GUEST_TEXT,
    IMAGES,
    MEMORY_FOLDERS,
    NETWORKS,
    STANDARD_STREAMS,
    Option,
    parse_command_line,
    settled,
    spelled_out,
    words_of,
)

_REFUSED_OPTIONS = {
    "add-fd": checks.ties.DESCRIPTOR,
    "fsdev": checks.ties.SHARED_FOLDER,
    "virtfs": checks.ties.SHARED_FOLDER,
    "snapshot": checks.disks.TEMPORARY_FILES,
    "loadvm": checks.machine.LOADVM,
}
_TIED_DEVICES = {
    "vfio-": checks.ties.PASSTHROUGH,
    "usb-host": checks.ties.PASSTHROUGH,
    "u2f-passthru": checks.ties.PASSTHROUGH,
    "scsi-block": checks.ties.PASSTHROUGH,
    "scsi-generic": checks.ties.PASSTHROUGH,
    "virtio-input-host": checks.ties.PASSTHROUGH,
    "usb-mtp": checks.ties.SHARED_FOLDER,
    "vhost-user-fs": checks.ties.VIRTIOFS,
    "vhost-": checks.ties.VHOST_USER,
    "virtio-9p": checks.ties.SHARED_FOLDER,
    "virtio-pmem": checks.machine.PMEM,
    "cxl-type3": checks.machine.CXL,
    "pci-serial-2x": checks.machine.CRASHES_QEMU,
}
_TIED_OBJECTS = {
    "input-linux": checks.ties.PASSTHROUGH,
    "iommufd": checks.ties.PASSTHROUGH,
    "can-host-socketcan": checks.ties.PASSTHROUGH,
    "secret_keyring": checks.ties.KEYRING,
}
_SHARED_BY_DEFAULT = words_of("memory-backend-memfd memory-backend-shm")
_ENCRYPTED_MEMORY = ("sev-", "tdx-", "s390-pv-")
"""Kinds of objects that a machine names as `confidential-guest-support`."""
_MOVABLE_VHOST = ("vhost-vsock",)
_OF_TAPS = words_of("fd fds vhostfd vhostfds")
_DESCRIPTORS = _OF_TAPS | words_of("sock_fd")
REMOTE = words_of(
    "nbd nfs rbd http https ftp ftps ssh iscsi gluster sheepdog nvme vvfat fat nvme-io_uring virtio-blk-vfio-pci "
    "virtio-blk-vhost-user virtio-blk-vhost-vdpa"
)
"""Drivers of images that are no files of the host."""
_LOCAL_DISPLAYS = words_of("gtk sdl curses cocoa spice-app")
_PATH_KEYS = {
    "drive": ("file", "filename"),
    "blockdev": ("filename",),
    "chardev": ("path", "logfile"),
    "netdev": ("path",),
    "object": ("mem-path",),
    "trace": ("file",),
}
_WRITTEN = words_of("pidfile D mem-path")
_READ = words_of("kernel initrd shim dtb L")
_PROTOCOL = re.compile(r"(?!file:|json:)([a-z][a-z0-9+.-]*):")
_CHANNEL = re.compile(r"(?:vnc=)?(?:mon:)?(?:unix|file|pipe):([^,]+)")
_OPEN_FILE = re.compile(r"/dev/(fdset|fd)/|/dev/stdin\b|/proc/(self|\d+)/fd/")
_NO_ROOT_NEEDED = ("/dev/null", *STANDARD_STREAMS)


def command_line_refusals(
    argv: Sequence[str], *, source_root: str, images: Collection[str] = (), descriptors: Collection[int] = ()
) -> list[Check]:
    """Why this command line cannot be rebuilt on another host; empty when it can. Takes what `refused_options` does."""
    found = refused_options(argv, source_root=source_root, images=images, descriptors=descriptors)
    return list(dict.fromkeys(check for each in found.values() for check in each))


def refused_options(
    argv: Sequence[str], *, source_root: str, images: Collection[str], descriptors: Collection[int]
) -> dict[Option, list[Check]]:
    """The options that cannot be rebuilt on another host, each with the reasons.

    `images` are disks whose place somebody else decides about: block devices, and images outside the guest root.
    `descriptors` are those of taps, likewise.
    """
    found = {}
    options = settled(parse_command_line(argv))
    private = {option.get("id") for option in options if _is_private_memory(option)}
    for written in options:
        option = spelled_out(written)
        against = [check for look in _LOOKS for check in look(option)]
        against += _refused_shared_memory(option, private)
        against += _refused_descriptor(option, descriptors)
        against += _refused_path(option, source_root, images)
        if against:
            found[written] = against
    return found


def _refused_option(option: Option) -> Iterator[Check]:
    if option.name in _REFUSED_OPTIONS:
        yield _REFUSED_OPTIONS[option.name].of(option.text)
    if option.name == "chroot" or (option.name == "run-with" and option.get("chroot")):
        yield checks.ties.CHROOT.of(option.text)
    if option.name == "icount" and option.get("rr") in {"record", "replay"}:
        yield checks.machine.RECORD_REPLAY.of(option.text)
    if option.name == "tpmdev" and option.driver != "emulator":
        yield checks.machine.REAL_TPM.of(option.text)
    if option.name == "object" and option.kind in _TIED_OBJECTS:
        yield _TIED_OBJECTS[option.kind].of(option.text)
    if option.name == "object" and option.kind == "memory-backend-file" and option.is_on("readonly"):
        yield checks.machine.READ_ONLY_MEMORY.of(option.text)
    if option.name == "object" and option.kind.startswith(_ENCRYPTED_MEMORY):
        yield checks.machine.SEV.of(option.text)


def _refused_device(option: Option) -> Iterator[Check]:
    driver = option.driver
    if option.name in NETWORKS and driver in {"vhost-user", "vhost-vdpa"}:
        yield checks.ties.VHOST_USER.of(option.text)
    if option.name != "device" or driver.startswith(_MOVABLE_VHOST):
        return
    if driver.startswith("uefi-vars-") and option.get("jsonfile"):
        yield checks.files.UEFI_VARIABLES.of(option.text)
    kind = next((kind for prefix, kind in _TIED_DEVICES.items() if driver.startswith(prefix)), None)
    if kind is not None:
        yield kind.of(option.text)


def _refused_shared_memory(option: Option, private: Collection[str | None]) -> Iterator[Check]:
    """On memory that is not shared, QEMU says itself whether it can move the device: only as `master=on`."""
    if option.name == "device" and option.driver.startswith("ivshmem") and option.get("memdev") not in private:
        yield checks.machine.SHARED_MEMORY.of(option.text)


def _is_private_memory(option: Option) -> bool:
    """No other process can have mapped it."""
    if option.name != "object" or not option.kind.startswith("memory-backend-"):
        return False
    return not option.is_on("share") and (option.kind not in _SHARED_BY_DEFAULT or option.get("share") is not None)


def _refused_descriptor(option: Option, known: Collection[int]) -> Iterator[Check]:
    if option.name in {"add-fd", *GUEST_TEXT, *DROPPED}:
        return
    for key, value in option.leaves():
        if key in _OF_TAPS and option.driver == "tap" and _all_known(value, known):
            continue
        if key in _DESCRIPTORS or _OPEN_FILE.search(value) or (key == "type" and value == "fd"):
            yield checks.ties.DESCRIPTOR.of(option.text)


def _all_known(value: str, known: Collection[int]) -> bool:
    return all(word.isdecimal() and int(word) in known for word in value.split(":"))


def _refused_disk(option: Option) -> Iterator[Check]:
    if option.name not in IMAGES:
        return
    if option.is_on("snapshot"):
        yield checks.disks.TEMPORARY_FILES.of(option.text)
    for key, value in option.leaves():
        has_protocol = option.name == "drive" and key == "file" and _PROTOCOL.match(value)
        if has_protocol or (key == "driver" and value in REMOTE):
            yield checks.disks.REMOTE_IMAGE.of(option.text)


def _refused_port(option: Option) -> Iterator[Check]:
    value = (option.value or "").removeprefix("mon:")
    path = option.get("path") if option.name == "chardev" else value if option.name in CHANNELS_AND_DISPLAYS else ""
    if (path or "").startswith(("/dev/tty", "/dev/parport")):
        yield checks.ties.HOST_PORT.of(option.text)


def _refused_display(option: Option) -> Iterator[Check]:
    if option.name in _LOCAL_DISPLAYS or (option.name == "display" and option.driver in _LOCAL_DISPLAYS):
        yield checks.process.LOCAL_DISPLAY.of(option.text)


def _host_files(option: Option) -> Iterator[tuple[str, bool]]:
    """(path, whether it is written) for every host file the option names. Memory may be where it is on every host."""
    if option.name == "mem-path" and (option.value or "").startswith(MEMORY_FOLDERS):
        return
    if option.name in _WRITTEN | _READ and option.value:
        yield option.value, option.name in _WRITTEN
    channel = _CHANNEL.match(option.value or "")
    if channel and option.name in CHANNELS_AND_DISPLAYS:
        yield channel[1], True
    keys = _PATH_KEYS.get(option.name, ())
    for key, value in option.leaves() if keys else ():
        if option.is_memory(key) and value.startswith(MEMORY_FOLDERS):
            continue
        if key in keys and value and not _PROTOCOL.match(value):
            yield value.removeprefix("file:"), not option.read_only


def _refused_path(option: Option, source_root: str, images: Collection[str]) -> Iterator[Check]:
    root = source_root.rstrip("/")
    for path, written in _host_files(option):
        if path.startswith(("@", *_NO_ROOT_NEEDED)) or _OPEN_FILE.match(path) or path in images:
            continue
        if not path.startswith("/"):
            yield checks.files.RELATIVE_PATH.found(f"{option.text}: {path} is relative to an unknown directory")
        elif written and not path.startswith(root + "/"):
            yield checks.files.OUTSIDE_ROOT.found(f"{option.text}: {path} is written but lies outside {source_root}")


_LOOKS = (_refused_option, _refused_device, _refused_disk, _refused_port, _refused_display)
