"""Real QEMU processes with every way of naming a disk, and a monitor to ask them questions. TCG, tiny images."""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.preflight import Check
from workers.qemu import qom
from workers.qemu.disks import Replies
from workers.qemu.topology import hot_plugged, normalise_qtree, normalise_ramblocks

QEMU = "/usr/bin/qemu-system-x86_64"
MAC = "52:54:00:00:00:01"


class Guest:
    """A QEMU with a QMP socket, synchronous and without events: enough to ask questions."""

    def __init__(self, argv: Sequence[str], socket_path: Path) -> None:
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.errors = self.process.stderr
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.socket.connect(str(socket_path))
                break
            except OSError:
                assert self.process.poll() is None, self.errors.read()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while "event" in (reply := json.loads(self.file.readline())):
            pass
        assert "error" not in reply, reply
        return reply["return"]

    def qtree(self) -> tuple[str, ...]:
        return normalise_qtree(self("human-monitor-command", command_line="info qtree"))

    def ramblocks(self) -> tuple[str, ...]:
        return normalise_ramblocks(self("x-query-ramblock")["human-readable-text"])

    def block(self) -> Replies:
        return Replies(
            query_block=self("query-block"),
            named_block_nodes=self("query-named-block-nodes", flat=True),
            blockstats=self("query-blockstats"),
        )

    def argv(self) -> list[str]:
        return Path(f"/proc/{self.process.pid}/cmdline").read_text().split("\0")

    def hot_plugged(self) -> list[Check]:
        named, anonymous = (qom.named(self("qom-list", path=path)) for path in (qom.PERIPHERAL, qom.ANONYMOUS))
        return hot_plugged(named.keys(), anonymous.values(), self.argv())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()
        self.file.close()
        self.socket.close()


Start = Callable[[Sequence[str], Path], Guest]
"""Starts a QEMU by its command line, which has it listen on this socket."""


@contextmanager
def guests() -> Iterator[Start]:
    """A function that starts a QEMU; what it started ends with the block."""
    started: list[Guest] = []

    def start(argv: Sequence[str], socket_path: Path) -> Guest:
        started.append(Guest(argv, socket_path))
        return started[-1]

    try:
        yield start
    finally:
        for guest in started:
            guest.close()


def image(path: Path, fmt: str = "raw", size: str = "1M", *options: str) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *options, str(path), size], check=True)
    return path


IMAGES = {"a": "qcow2", "b": "raw", "c": "qcow2", "d": "raw", "e": "raw", "f": "qcow2", "g": "raw", "v": "raw"}


def make_images(root: Path) -> None:
    for name, fmt in IMAGES.items():
        image(root / name, fmt, "256K" if name == "v" else "1M")


def guest_line(root: Path, machine: str = "q35", *, flash: bool = True) -> list[str]:
    """Every way of naming a disk at once, with and without ids."""
    nested = {"driver": "raw", "node-name": "n3", "file": {"driver": "file", "filename": f"{root}/e"}}
    line = [QEMU, "-display", "none", "-m", "64", "-accel", "tcg", "-machine", machine]
    line += ["-qmp", f"unix:{root}/qmp,server=on,wait=off", "-pidfile", f"{root}/pid"]
    line += ["-serial", f"file:{root}/serial.log", "-monitor", f"unix:{root}/hmp,server=on,wait=off"]
    line += ["-drive", f"file={root}/a,if=virtio,format=qcow2"]
    line += ["-drive", f"file={root}/b,if=none,id=d0,format=raw", "-device", "virtio-scsi-pci,id=scsi0,num_queues=1"]
    line += ["-device", "scsi-hd,drive=d0,bus=scsi0.0,id=sd0"]
    line += ["-blockdev", f"driver=qcow2,node-name=n1,file.driver=file,file.filename={root}/c"]
    line += ["-device", "virtio-blk-pci,drive=n1,id=vb1"]
    line += ["-blockdev", f"driver=file,node-name=f2,filename={root}/d", "-blockdev", "driver=raw,node-name=n2,file=f2"]
    line += ["-device", "virtio-blk-pci,drive=n2,id=vb2"]
    line += ["-blockdev", json.dumps(nested), "-device", json.dumps({"driver": "virtio-blk-pci", "drive": "n3"})]
    line += ["-hda", f"{root}/f", "-hdb" if machine == "pc" else "-hdc", f"{root}/g"]
    line += ["-drive", "if=none,id=cd,media=cdrom", "-device", "ide-cd,drive=cd,id=cd0"]
    line += ["-netdev", "user,id=net0", "-device", f"virtio-net-pci,netdev=net0,id=nic0,mac={MAC}"]
    return [*line, "-drive", f"file={root}/v,if=pflash,format=raw"] if flash else line
