"""Disks read from real QEMU processes; nothing of it is recorded."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.plan import BackingImage, SourceDisk
from tests.qmp_guest import IMAGES, QEMU, Start, guest_line, guests, image, make_images
from workers.images import manifest
from workers.preflight import inspection
from workers.qemu.disks import disk_checks, keys_given_later, source_disks, unnamed_images


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
    found = source_disks(replies)
    assert disk_checks(replies) == []
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
    assert source_disks(during) == found  # seen through the mirrors' own filters
    assert disk_checks(during) == []
    assert len(disk_checks(during, block_jobs=guest("query-block-jobs"))) == len(found)


@pytest.mark.guests
def test_a_qcow2_header_is_read_back_as_create_options(tmp_path: Path, start: Start) -> None:
    options = "cluster_size=128k,compat=1.1,lazy_refcounts=on,refcount_bits=32,extended_l2=on,compression_type=zstd"
    path = image(tmp_path / "i", "qcow2", "8M", "-o", options)
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    guest = start([*line, "-drive", f"file={path},if=virtio"], tmp_path / "q")
    (disk,) = source_disks(guest.block())
    read = ",".join(f"{name}={value}" for name, value in disk.create_options.items())
    assert read == options.replace("128k", "131072")
    copy = image(tmp_path / "copy", "qcow2", str(disk.virtual_size_bytes), "-o", read)
    info = [
        json.loads(subprocess.run(["qemu-img", "info", "-U", "--output=json", p], capture_output=True).stdout)
        for p in (path, copy)
    ]
    assert info[0]["format-specific"] == info[1]["format-specific"]
    assert (disk.cluster_size_bytes, disk.virtual_size_bytes) == (131072, 8 << 20)
    assert {node["node-name"]: node["drv"] for node in guest.block().named_block_nodes}[disk.file_node] == "file"


@pytest.mark.thorough
@pytest.mark.guests
def test_an_encrypted_disk_tells_its_key_and_how_one_like_it_is_made(tmp_path: Path, start: Start) -> None:
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    secrets = ["--object", "secret,id=s,data=x", "--object", "secret,id=t,data=y"]
    image(tmp_path / "a", "luks", "1M", *secrets, "-o", "key-secret=s,cipher-alg=twofish-128,iter-time=10")
    image(
        tmp_path / "b", "qcow2", "1M", *secrets, "-o", "encrypt.format=luks,encrypt.key-secret=t,encrypt.iter-time=10"
    )
    amend = ["-o", "encrypt.new-secret=s,encrypt.state=active,encrypt.iter-time=10"]
    opened = ["--image-opts", f"driver=qcow2,file.filename={tmp_path}/b,encrypt.key-secret=t"]
    subprocess.run(["qemu-img", "amend", *secrets, *amend, *opened], check=True)
    line += [word.replace("--", "-") for word in secrets]
    line += ["-drive", f"driver=luks,file.driver=file,file.filename={tmp_path}/a,key-secret=s,if=virtio"]
    line += ["-drive", f"file={tmp_path}/b,format=qcow2,encrypt.key-secret=t,if=virtio"]
    guest = start(line, tmp_path / "q")
    raw, within = source_disks(guest.block())
    assert (raw.format, raw.key_secret, raw.path) == ("luks", "s", f"{tmp_path}/a")
    assert raw.create_options["cipher-alg"] == "twofish-128"
    assert raw.allocated_bytes == raw.virtual_size_bytes == 1 << 20
    assert (within.format, within.key_secret) == ("qcow2", "t")
    assert within.create_options["encrypt.format"] == "luks"
    assert within.create_options["encrypt.cipher-alg"] == "aes-256"
    warned = disk_checks(guest.block())
    assert {(check.name, check.verdict) for check in warned} == {
        ("key-derived-again", "warn"),
        ("further-keys", "warn"),
    }
    assert all(f"{tmp_path}/b" in check.seen for check in warned)
    assert manifest.is_encrypted(tmp_path / "a", "luks")
    assert manifest.is_encrypted(tmp_path / "b", "qcow2")
    assert not manifest.is_encrypted(image(tmp_path / "c", "qcow2"), "qcow2")
    assert keys_given_later((raw, within), guest.argv()) == []
    without = [word.replace("encrypt.key-secret=t", "x=t") for word in guest.argv()]
    assert [check.name for check in keys_given_later((raw, within), without)] == ["key-given-later"]
    assert [check.name for check in keys_given_later((raw,), [*line[:7], *line[-4:]])] == ["key-given-later"]


def test_a_copy_counts_without_compression_and_with_the_backing_files_that_do_not_go_along(tmp_path: Path) -> None:
    late = time.monotonic() + 60
    image(plain := tmp_path / "plain", "raw", "64M")
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -q -P 7 1M 16M", plain], check=True)
    base, over = tmp_path / "base", tmp_path / "over"
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", plain, base], check=True)
    image(over, "qcow2", "64M", "-F", "qcow2", "-b", str(base))
    top = SourceDisk.model_construct(format="qcow2", path=str(over), virtual_size_bytes=64 << 20, data_file=None)
    below = BackingImage(path=str(base), format="qcow2")
    top = top.model_copy(update={"block_device": False, "allocated_bytes": 4096, "copied_bytes": None})
    on_base = top.model_copy(update={"chain": (below,)})
    assert base.stat().st_size < 1 << 20
    assert 16 << 20 <= (manifest.data_bytes(base, "qcow2", 60) or 0) < 17 << 20
    assert 16 << 20 <= (inspection.measured(on_base, "flatten", late).copied_bytes or 0) < 18 << 20
    assert (inspection.measured(on_base, "keep", late).copied_bytes or 0) < 1 << 20
    assert inspection.measured(on_base, "flatten", 0) == on_base, "images with many tables keep nobody waiting"
    thick = top.model_copy(update={"allocated_bytes": 64 << 20, "chain": ()})
    assert inspection.measured(thick, "keep", late).copied_bytes == 64 << 20
    image(empty := tmp_path / "empty", "qcow2", "64M", "-o", "preallocation=metadata,cluster_size=2M")
    alone = top.model_copy(update={"chain": ()})
    assert not inspection.measured(alone, "keep", late).laid_out
    assert inspection.measured(alone.model_copy(update={"path": str(empty)}), "keep", late).laid_out


REFUSED = {
    "snapshots": "internal snapshots",
    "bitmap": "dirty bitmap",
    "filter": "compress node",
    "base": "lies on .*base, a vmdk image; raw, qcow2 and LUKS are moved",
    "medium": "a vdi node is on top; raw, qcow2 and LUKS are moved",
    "part": "begins within its file",
    "shared": "used by 2 disks",
}


def awkward_image(kind: str, path: Path) -> None:
    """An image with something in it that a mirror leaves behind."""
    match kind:
        case "snapshots":
            subprocess.run(["qemu-img", "snapshot", "-c", "s", path], check=True)
        case "base":
            base = image(path.parent / "base", "vmdk")
            image(path, "qcow2", "1M", "-F", "vmdk", "-b", str(base))
        case "medium":
            image(path, "vdi")
        case "bitmap":
            subprocess.run(["qemu-img", "bitmap", "--add", path, "b"], check=True)
            subprocess.run(["qemu-io", "-c", "abort", path], capture_output=True, check=False)  # it stays in use


def awkward_disk(kind: str, path: Path) -> list[str]:
    file = {"driver": "file", "filename": str(path)}
    graphs: dict[str, dict[str, Any]] = {
        "filter": {"driver": "compress", "file": {"driver": "qcow2", "file": file}},
        "part": {"driver": "raw", "offset": 512, "size": 4096, "file": file},
    }
    if kind in graphs:
        return ["-blockdev", json.dumps({"node-name": "n", **graphs[kind]}), "-device", "virtio-blk-pci,drive=n"]
    awkward_image(kind, path)
    drive = ["-drive", f"file={path},if=virtio{',readonly=on' if kind == 'medium' else ''}"]
    return [f"{word},file.locking=off" if "," in word else word for word in drive * 2] if kind == "shared" else drive


@pytest.mark.guests
@pytest.mark.parametrize("kind", REFUSED)
def test_a_disk_a_mirror_would_not_copy_faithfully_is_refused(kind: str, tmp_path: Path, start: Start) -> None:
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    guest = start([*line, *awkward_disk(kind, image(tmp_path / "i", "qcow2"))], tmp_path / "q")
    (check,) = disk_checks(guest.block())
    assert re.search(REFUSED[kind], check.sentence)
    assert str(tmp_path) in check.seen
