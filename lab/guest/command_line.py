"""The QEMU command line of a test guest: everything has its own id and address, as migration needs."""

from lab.guest.boot_files import BootFiles
from lab.guest.spec import DiskSpec, GuestSpec

SCSI_SLOT, FIRST_DISK_SLOT = 3, 4

# What these save is the start of the kernel under emulation: no timer calibration against slow emulated
# clocks, no self-tests, no mitigations, no watchdog that mistakes a paused guest for a hung one. And a fifth of
# what the guest costs later: an HPET that was used for the tick goes on waking QEMU 500 times a second.
KERNEL_WORDS = (
    "console=ttyS0 quiet loglevel=2 panic=1 reboot=t tsc=reliable no_timer_check hpet=disable mitigations=off "
    "nokaslr cryptomgr.notests nowatchdog rcupdate.rcu_cpu_stall_suppress=1 random.trust_cpu=on scsi_mod.scan=manual"
)


def command_line(spec: GuestSpec, files: BootFiles) -> list[str]:
    return [
        *(spec.qemu, "-name", f"guest={_escaped(spec.name)}", "-uuid", str(spec.uuid)),
        *("-machine", "q35", "-accel", f"tcg,thread={'single' if spec.cpus == 1 else 'multi'}"),
        *("-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-qmp", f"unix:{_escaped(spec.qmp_socket)},server=on,wait=off"),
        *("-qmp", f"unix:{_escaped(spec.watch_socket)},server=on,wait=off"),
        *("-chardev", f"file,id=console,path={_escaped(spec.console)},append=on"),
        *("-serial", "chardev:console", "-pidfile", str(spec.pidfile)),
        *("-kernel", str(files.kernel), "-initrd", str(files.initramfs), "-append", kernel_words(spec)),
        *_disk_arguments(spec),
        *spec.more,
    ]


def kernel_words(spec: GuestSpec) -> str:
    """The guest's kernel command line. The kernel puts unknown name=value words into the environment of /init."""
    words = {
        "rate": spec.write_rate,
        "window_mib": spec.window_mib,
        "fill_mib": spec.fill_mib,
        "dirty_mib": spec.dirty_mib,
        "dirty_rate": spec.dirty_rate,
        "scsi": sum(disk.bus == "virtio-scsi" for disk in spec.disks),
    }
    return " ".join([KERNEL_WORDS, *(f"drover_{name}={value}" for name, value in words.items())])


def _disk_arguments(spec: GuestSpec) -> list[str]:
    arguments: list[str] = []
    if any(disk.bus == "virtio-scsi" for disk in spec.disks):
        arguments += ["-device", f"virtio-scsi-pci,id=scsi0,bus=pcie.0,addr={SCSI_SLOT:#x}"]
    for index, disk in enumerate(spec.disks):
        arguments += _backend(spec, index, disk)
        arguments += ["-device", _device(spec, index, disk)]
    return arguments


def _backend(spec: GuestSpec, index: int, disk: DiskSpec) -> list[str]:
    path = _escaped(spec.image(index))
    if disk.attach == "drive":
        return ["-drive", f"if=none,id=disk{index},file={path},format={disk.format}"]
    return ["-blockdev", f"driver={disk.format},node-name=disk{index},file.driver=file,file.filename={path}"]


def _device(spec: GuestSpec, index: int, disk: DiskSpec) -> str:
    common = f"drive=disk{index},id=device{index},serial=disk{index}"
    if disk.bus == "virtio-blk":
        return f"virtio-blk-pci,{common},bus=pcie.0,addr={FIRST_DISK_SLOT + index:#x}"
    target = sum(other.bus == "virtio-scsi" for other in spec.disks[:index])
    return f"scsi-hd,{common},bus=scsi0.0,channel=0,scsi-id={target},lun=0"


def _escaped(value: object) -> str:
    """QEMU's key=value lists end a value at a comma, unless it is doubled."""
    return str(value).replace(",", ",,")
