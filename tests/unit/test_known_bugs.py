"""Which bugs are avoided, and of which a guest's operator is warned."""

import pytest

from workers.qemu.known_bugs import (
    BUGS,
    Accel,
    Severity,
    Version,
    exporter_detect_zeroes,
    live_ram_safe,
    mirror_discard,
    version,
    warnings,
)


def test_versions_are_read_from_the_reply() -> None:
    reply = {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "Debian"}
    assert version(reply) == (10, 0, 2)


@pytest.mark.parametrize(
    ("source", "destination", "accel", "safe"),
    [
        ((7, 2, 22), (10, 0, 2), "tcg", False),
        ((10, 0, 2), (7, 2, 22), "tcg", False),
        ((8, 2, 2), (8, 2, 2), "tcg", False),
        ((9, 0, 0), (10, 0, 2), "tcg", True),
        ((7, 2, 22), (7, 2, 22), "kvm", True),
    ],
)
def test_live_memory_copies_are_for_versions_that_do_not_corrupt_them(
    source: Version, destination: Version, accel: Accel, safe: bool
) -> None:
    assert live_ram_safe(source, destination, accel, PLAIN) is safe


@pytest.mark.parametrize("device", ["pc-dimm,memdev=m", "virtio-mem-pci,memdev=m", '{"driver": "nvdimm"}'])
def test_a_guest_with_memory_in_a_device_is_paused_without_kvm(device: str) -> None:
    argv = [*PLAIN, "-device", device]
    assert not live_ram_safe(DEBIAN, DEBIAN, "tcg", argv)
    assert live_ram_safe(DEBIAN, DEBIAN, "kvm", argv)
    assert any("tcg-device-memory" in check.sentence for check in warnings(DEBIAN, "tcg", argv))


@pytest.mark.parametrize(
    ("qemu", "fmt", "discard"),
    [
        ((7, 2, 22), "qcow2", "unmap"),
        ((8, 0, 0), "qcow2", "ignore"),
        ((10, 0, 9), "qcow2", "ignore"),
        ((10, 0, 9), "raw", "unmap"),
        ((10, 0, 10), "qcow2", "unmap"),
        ((10, 1, 5), "qcow2", "ignore"),
        ((10, 2, 1), "qcow2", "ignore"),
        ((10, 2, 2), "qcow2", "unmap"),
        ((11, 1, 3), "qcow2", "unmap"),
    ],
)
def test_a_mirror_that_misses_early_writes_marks_everything_dirty_first(qemu: Version, fmt: str, discard: str) -> None:
    assert mirror_discard(qemu, fmt) == discard


def test_zeroes_are_detected_where_that_is_safe() -> None:
    assert exporter_detect_zeroes((11, 1, 3), "qcow2") == "unmap"
    assert exporter_detect_zeroes((10, 0, 2), "qcow2") == "off"
    assert exporter_detect_zeroes((10, 0, 2), "raw") == "unmap"


DISK = ["-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=/g/d"]
PLAIN = ["qemu-system-x86_64", "-machine", "q35", "-name", "iothread", *DISK, "-device", "virtio-blk-pci,drive=d"]
IOTHREAD = ["-object", "iothread,id=io0", "-device", '{"driver": "virtio-blk-pci", "drive": "e", "iothread": "io0"}']
DEBIAN = (10, 0, 2)


def told(qemu: Version, *words: str, accel: Accel = "kvm", destination: Version | None = None) -> list[str]:
    """The ids of the bugs that an ordinary guest with some more options is warned of."""
    return [
        check.seen.rpartition("(")[2][:-1]
        for check in warnings(qemu, accel, [*PLAIN, *words], destination_version=destination)
    ]


def test_every_bug_has_its_own_id() -> None:
    assert len({bug.id for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("accel", ["tcg", "kvm"])
def test_a_plain_guest_is_not_warned_of_what_others_suffer_from(accel: Accel) -> None:
    assert told(DEBIAN, accel=accel) == []


@pytest.mark.parametrize(
    ("words", "bugs"),
    [
        (["-drive", "file=/g/x,if=none,id=x,throttling.iops-total=9", *IOTHREAD], ["B9"]),
        (["-object", "throttle-group,id=t", *IOTHREAD], ["B9"]),
        (["-drive", "file=/g/x,if=none,id=x,throttling.iops-total=9"], []),
        (IOTHREAD, []),
        (["-device", "ich9-ahci,id=sata", "-device", "ide-hd,drive=x,bus=sata.0"], ["B9"]),
        (["-hda", "/g/x"], ["B9"]),
        (["/g/x"], ["B9"]),
        (["-drive", "file=/g/x,format=raw"], ["B9"]),
        (["-drive", "file=/g/x,if=virtio"], []),
        (["-cdrom", "/g/x.iso", "-device", "ide-cd,drive=x"], []),
        (["-device", "virtio-scsi-pci,id=scsi0"], ["B10"]),
        (["-drive", "if=pflash,file=/g/OVMF_VARS.fd"], ["B17"]),
        (["-pflash", "/g/OVMF_VARS.fd"], ["B17"]),
        (["-machine", "pflash0=code"], ["B17"]),
    ],
)
def test_a_guest_is_warned_of_what_concerns_it(words: list[str], bugs: list[str]) -> None:
    assert told(DEBIAN, *words) == bugs


def test_iothreads_alone_matter_to_versions_that_hang() -> None:
    assert told((8, 0, 0), *IOTHREAD) == ["B11"]
    assert told((8, 0, 0)) == []


def test_advice_for_running_a_host_is_no_warning() -> None:
    notes = {bug.id for bug in BUGS if bug.severity is Severity.NOTE}
    assert notes == {"B5"}
    assert not notes & set(told(DEBIAN))


@pytest.mark.parametrize(
    ("source", "destination", "named"),
    [
        ((7, 2, 22), None, "source QEMU 7.2.22: "),
        ((7, 2, 22), (7, 2, 22), "source QEMU 7.2.22: "),
        ((7, 2, 22), DEBIAN, "source QEMU 7.2.22: "),
        (DEBIAN, (7, 2, 22), "destination QEMU 7.2.22: "),
        ((7, 2, 22), (8, 0, 0), "source QEMU 7.2.22 and destination QEMU 8.0.0: "),
    ],
)
def test_a_pause_for_the_memory_is_told_in_one_sentence(
    source: Version, destination: Version | None, named: str
) -> None:
    (check,) = warnings(source, "tcg", PLAIN, destination_version=destination)
    assert check.sentence.startswith(named)
    assert "paused" in check.sentence
    assert warnings(source, "kvm", PLAIN, destination_version=destination) == []


@pytest.mark.parametrize("destination", [(7, 2, 22), (8, 2, 2), (9, 0, 0), DEBIAN, (11, 0, 0)])
@pytest.mark.parametrize("source", [(7, 2, 22), (8, 2, 2), (9, 0, 0), DEBIAN, (11, 0, 0)])
@pytest.mark.parametrize("accel", ["tcg", "kvm"])
def test_the_operator_knows_whenever_the_guest_will_be_paused(
    source: Version, destination: Version, accel: Accel
) -> None:
    paused = not live_ram_safe(source, destination, accel, PLAIN)
    assert ("tcg-precopy" in told(source, accel=accel, destination=destination)) is paused
