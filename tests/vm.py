"""A virtual machine that has this machine's files, and writes into a copy of its own.

It is for what needs another kernel than this machine's, which may have neither device-mapper nor vhost-net. It runs
Debian's (or Ubuntu's) kernel for real machines, the only one with 9p, and what is started in it are the programs and
the environment of this machine, besides LVM's, which are unpacked and not installed.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.guest import boot_files
from lab.guest.initramfs import DIRECTORY, FILE, PROGRAM, Entry, archive
from lab.guest.modules import load_order
from lab.guest.packages import kernel_packages, newest, unpack

KERNELS = ("linux-image-amd64", "linux-image-generic")
LVM = ("lvm2", "dmeventd", "libdevmapper-event1.02.1")
WANTED = (
    *("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "overlay"),
    *("crc32c_generic", "loop", "dm_thin_pool", "tun", "bridge", "vhost_net", "vhost_vsock"),
)
LVM_CONF = """
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
backup { backup = 0 archive = 0 }
devices { obtain_device_list_from_udev = 0 }
global { event_activation = 0 thin_check_executable = "" use_lvmpolld = 0 }
"""
POOL = "/dev/mapper/thin-pool"
VOLUMES = '{thick = {driver = "lvm", place = "thick"}, thin = {driver = "lvm", place = "thin/pool"}}'
"""Storages in the groups that `GROUPS` makes of its two disks."""
GROUPS = """
vgcreate --quiet thick /dev/vda && vgcreate --quiet thin /dev/vdb &&
lvcreate --quiet --type thin-pool --size 600m --name pool thin && lvchange --quiet --errorwhenfull y thin/pool"""
MEMORY_MIB = 2048
MACHINE = "machine"
INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc none /proc
$bb mount -t sysfs none /sys
$bb mount -t devtmpfs none /dev
while read -r module; do
    $bb insmod "/modules/$module"
done </modules/order
$bb mount -t tmpfs none /own
$bb mkdir /own/upper /own/work
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro {machine} /machine
$bb mount -t overlay -o lowerdir=/machine,upperdir=/own/upper,workdir=/own/work none /root
for each in proc sys dev; do
    $bb mount -o move "/$each" "/root/$each"
done
$bb mount -t tmpfs none /root/run
$bb cp /inside /root/run/inside
exec $bb switch_root /root /bin/sh /run/inside
"""
INSIDE = """
mkdir -p /dev/pts /dev/shm /run/lock /etc/lvm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified
chmod 666 /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
printf %s {lvm_conf} >/etc/lvm/lvm.conf
ip link set lo up
export {environment}
cd {folder}
({command}) >/dev/ttyS1 2>&1 </dev/null
echo "{ended} $?" >/dev/ttyS1
echo o >/proc/sysrq-trigger
sleep 60
"""
ENDED = "vm: ended with"


@dataclass(frozen=True)
class Ran:
    """What was run in a virtual machine."""

    status: int | None
    """None: it has not ended by itself."""
    output: str


def run(command: str, *, disks_mib: Sequence[int] = (), timeout_s: float = 540.0) -> Ran:
    """Run a shell's command in a virtual machine, as root, in the folder of the checkout.

    Its disks are /dev/vda and so on. It is emulated, so a second of Python takes it half a minute.
    """
    built = _built()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vm", dir="/var/tmp")))
        drives = []
        for number, size in enumerate(disks_mib):
            with (folder / f"disk{number}").open("wb") as disk:
                disk.truncate(size << 20)
            drives += ["-drive", f"file={disk.name},if=virtio,format=raw,cache=unsafe"]
        initramfs = folder / "initramfs"
        initramfs.write_bytes(archive([*_entries(built), Entry("inside", FILE, _inside(command, built).encode())]))
        output = folder / "output"
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)]
        argv += ["-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(built / "vmlinuz")]
        argv += ["-initrd", str(initramfs), "-append", "console=ttyS0 panic=-1 loglevel=4"]
        argv += ["-serial", f"file:{folder}/console", "-serial", f"file:{output}", *drives]
        argv += ["-virtfs", f"local,path=/,mount_tag={MACHINE},security_model=none,readonly=on,multidevs=remap"]
        with suppress(subprocess.TimeoutExpired):  # what it has printed by then tells more
            subprocess.run(argv, check=True, timeout=timeout_s)
        return _ran(output, folder / "console")


def _ran(output: Path, console: Path) -> Ran:
    said = output.read_text(errors="replace").replace("\r", "") if output.exists() else ""
    before, found, status = said.rpartition(ENDED)
    if not found:
        return Ran(None, said + console.read_text(errors="replace"))
    return Ran(int(status), before)


def need() -> None:
    """Skip the test where no such machine can be had."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("only root may give all files to a virtual machine, whose kernel comes from apt")


def _inside(command: str, built: Path) -> str:
    path = f"{built}/lvm/sbin:{built}/lvm/usr/sbin:{os.environ['PATH']}"
    environment = {
        "PATH": path,
        "LD_LIBRARY_PATH": f"{built}/lvm/lib/x86_64-linux-gnu:{built}/lvm/usr/lib/x86_64-linux-gnu",
        "HOME": str(Path.home()),
        "LANG": "C.UTF-8",
    }
    return INSIDE.format(
        lvm_conf=shlex.quote(LVM_CONF),
        environment=" ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items()),
        folder=shlex.quote(str(Path(__file__).parents[1])),
        command=command,
        ended=ENDED,
    )


def _built() -> Path:
    """Kernel, modules and LVM's programs, unpacked once per machine."""
    cache = boot_files.default_cache()
    packages = kernel_packages(KERNELS)
    holds = ":".join([*map(str, packages), *LVM, *WANTED])
    built = cache / f"vm-{hashlib.sha256(holds.encode()).hexdigest()[:16]}"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as temporary:
            tree, made = Path(temporary, "tree"), Path(temporary, "made")
            (made / "modules").mkdir(parents=True)
            for package in packages:
                unpack(package, cache / "packages", tree)
            for name in LVM:
                unpack(newest(name), cache / "packages", made / "lvm")
            shutil.copyfile(next(tree.glob("boot/vmlinuz-*")), made / "vmlinuz")
            (made / "busybox").write_bytes(boot_files.busybox(Path(temporary)))
            modules = load_order(next(path.parent for path in tree.rglob("modules.builtin")), WANTED)
            for name, content in modules.items():
                (made / "modules" / name).write_bytes(content)
            (made / "order").write_text("".join(f"{name}.ko\n" for name in modules))
            made.rename(built)
    return built


def _entries(built: Path) -> list[Entry]:
    folders = ("bin", "dev", "proc", "sys", "modules", "own", "machine", "root")
    return [
        *(Entry(name, DIRECTORY) for name in folders),
        Entry("bin/busybox", PROGRAM, (built / "busybox").read_bytes()),
        Entry("init", PROGRAM, INIT.format(machine=MACHINE).encode()),
        Entry("modules/order", FILE, (built / "order").read_bytes()),
        *(Entry(f"modules/{path.name}.ko", FILE, path.read_bytes()) for path in (built / "modules").iterdir()),
    ]
