"""The options of an image that becomes another format, or lies on a block device, whatever way they are written."""

import pytest

from workers.qemu.image_options import Fit, fitted

MIB = 1 << 20
RAW_FILE = Fit(format="raw", device=False, size_bytes=64 * MIB)
QCOW2_FILE = Fit(format="qcow2", device=False, size_bytes=64 * MIB)
RAW_DEVICE = Fit(format="raw", device=True, size_bytes=64 * MIB)
QCOW2_DEVICE = Fit(format="qcow2", device=True, size_bytes=64 * MIB)


@pytest.mark.parametrize(
    ("before", "fit", "after"),
    [
        ("-drive file=/i,if=virtio,format=raw", QCOW2_FILE, "-drive file=/i,if=virtio,format=qcow2"),
        ("-drive file=/i,if=virtio", QCOW2_FILE, "-drive file=/i,if=virtio,format=qcow2"),
        (
            "-drive file=/i,format=qcow2,l2-cache-size=1M,cache=none",
            RAW_FILE,
            "-drive file=/i,format=raw,cache=none",
        ),
        ("-drive file=/i,format=qcow2", RAW_DEVICE, f"-drive file=/i,format=raw,size={64 * MIB}"),
        (f"-drive file=/i,format=raw,size={64 * MIB}", RAW_FILE, "-drive file=/i,format=raw"),
        (
            "-drive file.filename=/i,file.driver=file,driver=qcow2,if=none,id=d",
            RAW_DEVICE,
            f"-drive file.filename=/i,file.driver=host_device,driver=raw,if=none,id=d,size={64 * MIB}",
        ),
        (
            "-blockdev driver=raw,node-name=d,file.driver=host_device,file.filename=/i",
            QCOW2_FILE,
            "-blockdev driver=qcow2,node-name=d,file.driver=file,file.filename=/i",
        ),
        (
            "-blockdev driver=file,node-name=f,filename=/i -blockdev driver=qcow2,node-name=d,file=f",
            RAW_DEVICE,
            "-blockdev driver=host_device,node-name=f,filename=/i "
            f"-blockdev driver=raw,node-name=d,file=f,size={64 * MIB}",
        ),
        (
            "-blockdev driver=qcow2,node-name=d,file=f -blockdev driver=file,node-name=f,filename=/i",
            QCOW2_DEVICE,
            "-blockdev driver=qcow2,node-name=d,file=f -blockdev driver=host_device,node-name=f,filename=/i",
        ),
        (
            "-blockdev driver=file,node-name=d,filename=/i,discard=unmap,aio=native",
            QCOW2_FILE,
            "-blockdev driver=qcow2,file.driver=file,node-name=d,file.filename=/i,discard=unmap,file.discard=unmap,"
            "file.aio=native",
        ),
        (
            '-blockdev {"driver":"throttle","node-name":"t","throttle-group":"g","file":{"driver":"qcow2",'
            '"node-name":"d","file":{"driver":"file","filename":"/i"}}}',
            RAW_DEVICE,
            '-blockdev {"driver": "throttle", "node-name": "t", "throttle-group": "g", "file": {"driver": "raw", '
            '"node-name": "d", "file": {"driver": "host_device", "filename": "/i"}, "size": 67108864}}',
        ),
    ],
)
def test_an_image_is_opened_as_what_it_is(before: str, fit: Fit, after: str) -> None:
    assert " ".join(fitted(["qemu", *_words(before)], {"/i": fit})) == f"qemu {after}"


def test_other_disks_and_options_stay_as_they_were_written() -> None:
    line = ["qemu", "-m", "1G", "-drive", "format=raw,file=/j,if=virtio", "-device", "virtio-blk-pci,drive=d", "-S"]
    assert fitted(line, {"/i": QCOW2_DEVICE}) == line


def _words(line: str) -> list[str]:
    """Option and value in turn; values have blanks only in JSON."""
    words = [word for part in line.split(" -") for word in part.split(" ", 1)]
    return [word if index % 2 else "-" + word.removeprefix("-") for index, word in enumerate(words)]
