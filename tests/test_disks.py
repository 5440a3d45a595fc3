"""Disks read from real QEMU processes; nothing of it is recorded."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.qmp_guest import IMAGES, QEMU, Start, guest_line, guests, image, make_images
from workers.qemu.disks import disk_refusals, source_disks, unnamed_images


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


@pytest.mark.guests
def test_every_writable_disk_is_found_and_can_be_mirrored_by_its_name(tmp_path: Path, start: Start) -> None:
    a = tmp_path / "a"
    make_images(a)
    guest = start([*guest_line(a), "-S"], a / "qmp")
    replies = guest.block()
    found = source_disks(**replies)
    assert disk_refusals(**replies) == []
    assert {disk.path: disk.format for disk in found} == {f"{a}/{name}": fmt for name, fmt in IMAGES.items()}
    assert [disk.index for disk in found] == list(range(len(IMAGES)))
    assert unnamed_images(found, guest.argv()) == []
    for disk in found:
        target = image(tmp_path / f"target{disk.index}", "raw", str(disk.virtual_size_bytes))
        guest("blockdev-add", driver="file", node_name=f"t{disk.index}", filename=str(target))
        guest(
            "blockdev-mirror",
            device=disk.device,
            target=f"t{disk.index}",
            job_id=f"j{disk.index}",
            sync="full",
            filter_node_name=f"top{disk.index}",
        )
    time.sleep(0.5)
    assert {job["status"] for job in guest("query-jobs")} == {"ready"}
    during = guest.block()
    assert source_disks(**during) == found  # seen through the mirrors' own filters
    assert disk_refusals(**during) == []
    assert len(disk_refusals(**during, block_jobs=guest("query-block-jobs"))) == len(found)


@pytest.mark.guests
def test_a_qcow2_header_is_read_back_as_create_options(tmp_path: Path, start: Start) -> None:
    options = "cluster_size=128k,compat=1.1,lazy_refcounts=on,refcount_bits=32,extended_l2=on,compression_type=zstd"
    path = image(tmp_path / "i", "qcow2", "8M", "-o", options)
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    guest = start([*line, "-drive", f"file={path},if=virtio"], tmp_path / "q")
    (disk,) = source_disks(**guest.block())
    assert disk.create_option_string == options.replace("128k", "131072")
    copy = image(tmp_path / "copy", "qcow2", str(disk.virtual_size_bytes), "-o", disk.create_option_string)
    info = [
        json.loads(subprocess.run(["qemu-img", "info", "-U", "--output=json", p], capture_output=True).stdout)
        for p in (path, copy)
    ]
    assert info[0]["format-specific"] == info[1]["format-specific"]
    assert (disk.cluster_size_bytes, disk.virtual_size_bytes) == (131072, 8 << 20)
    assert {node["node-name"]: node["drv"] for node in guest.block()["named_block_nodes"]}[disk.file_node] == "file"


REFUSED = {
    "snapshots": "internal snapshots",
    "data": "separate file",
    "encrypted": "encrypted",
    "bitmaps": "dirty bitmaps",
    "throttled": "throttled",
    "filter": "throttle node",
    "part": "part of its file",
    "shared": "used by 2 disks",
}


def awkward_image(kind: str, path: Path) -> str:
    """An image with something in it that a mirror leaves behind; further `-drive` words."""
    match kind:
        case "snapshots":
            subprocess.run(["qemu-img", "snapshot", "-c", "s", path], check=True)
        case "data":
            image(path, "qcow2", "1M", "-o", f"data_file={path}.data")
        case "encrypted":
            secret = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"]
            image(path, "qcow2", "1M", *secret)
            return ",encrypt.key-secret=s"
        case "bitmaps":
            subprocess.run(["qemu-img", "bitmap", "--add", path, "b"], check=True)
        case "throttled":
            return ",throttling.iops-total=9"
    return ""


def awkward_disk(kind: str, path: Path) -> list[str]:
    file = {"driver": "file", "filename": str(path)}
    graphs: dict[str, dict[str, Any]] = {
        "filter": {"driver": "throttle", "throttle-group": "g", "file": {"driver": "qcow2", "file": file}},
        "part": {"driver": "raw", "offset": 512, "size": 4096, "file": file},
    }
    if kind in graphs:
        return ["-blockdev", json.dumps({"node-name": "n", **graphs[kind]}), "-device", "virtio-blk-pci,drive=n"]
    drive = ["-drive", f"file={path},if=virtio{awkward_image(kind, path)}"]
    return [f"{word},file.locking=off" if "," in word else word for word in drive * 2] if kind == "shared" else drive


@pytest.mark.guests
@pytest.mark.parametrize("kind", REFUSED)
def test_a_disk_a_mirror_would_not_copy_faithfully_is_refused(kind: str, tmp_path: Path, start: Start) -> None:
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    line += ["-object", "secret,id=s,data=x", "-object", "throttle-group,id=g"]
    guest = start([*line, *awkward_disk(kind, image(tmp_path / "i", "qcow2"))], tmp_path / "q")
    (check,) = disk_refusals(**guest.block())
    assert REFUSED[kind] in check.sentence
    assert str(tmp_path) in check.seen
