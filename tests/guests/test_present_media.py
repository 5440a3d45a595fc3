"""What is in a guest's drives now is on the command line of its next QEMU, whatever was there at the start."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.qmp_guest import QEMU, Start, guests, image
from workers.qemu.disks import drives
from workers.qemu.present_media import (
    Drive,
    as_it_is_now,
    opened_read_only,
    unused_nodes,
    without_backing_files,
    without_left_backing,
)
from workers.qemu.topology import hot_plugged


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


def drive_line(folder: Path) -> list[str]:
    return [
        *("-hda", f"{folder}/disk.qcow2", "-cdrom", f"{folder}/one.iso"),
        *("-drive", f"file={folder}/data.qcow2,if=none,id=d,format=qcow2", "-device", "virtio-blk-pci,drive=d"),
    ]


def node_line(folder: Path) -> list[str]:
    def of(name: str, kind: str, path: str, **more: Any) -> list[str]:
        storage = {
            "driver": "file",
            "filename": f"{folder}/{path}",
            "node-name": f"{name}-storage",
            "auto-read-only": True,
        }
        form = {"driver": kind, "node-name": name, "file": f"{name}-storage", **more}
        return ["-blockdev", json.dumps(storage), "-blockdev", json.dumps(form)]

    return [
        *of("disk", "qcow2", "disk.qcow2", backing=None),
        *("-device", json.dumps({"driver": "virtio-blk-pci", "drive": "disk", "id": "vda"})),
        *of("cd", "raw", "one.iso", **{"read-only": True}),
        *("-device", json.dumps({"driver": "ide-cd", "drive": "cd", "id": "cd0"})),
        *("-blockdev", f"driver=qcow2,node-name=data,file.driver=file,file.filename={folder}/data.qcow2"),
        *("-device", "virtio-blk-pci,drive=data,id=vdb"),
    ]


@pytest.mark.guests
@pytest.mark.parametrize("line", [drive_line, node_line])
def test_changed_media_and_live_snapshots_are_on_the_next_command_line(line: Any, tmp_path: Path, start: Start) -> None:
    for name in ("disk", "data"):
        image(tmp_path / f"{name}.qcow2", "qcow2", "8M")
    for name in ("one", "two"):
        (tmp_path / f"{name}.iso").write_bytes(bytes(1 << 20))
    common = [QEMU, "-display", "none", "-M", "q35", "-S", "-nodefaults"]
    argv = [*common, *line(tmp_path)]
    guest = start([*argv, "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"], tmp_path / "q")
    assert as_it_is_now(argv, drives(guest.block())) == argv
    cd = next(entry for entry in guest.block().query_block if entry.get("removable"))
    disk = next(entry for entry in guest.block().query_block if "data.qcow2" in str(entry))
    guest("blockdev-change-medium", id=cd["qdev"], filename=f"{tmp_path}/two.iso", format="raw")
    guest(
        "blockdev-snapshot-sync",
        node_name=disk["inserted"]["node-name"],
        snapshot_file=f"{tmp_path}/over.qcow2",
        snapshot_node_name="over",
    )
    now = as_it_is_now(argv, drives(guest.block()))
    assert _files(drives(guest.block())) == {f"{tmp_path}/{name}" for name in ("disk.qcow2", "two.iso", "over.qcow2")}
    again = start([*now, "-S", "-incoming", "defer", "-qmp", f"unix:{tmp_path}/r,server=on,wait=off"], tmp_path / "r")
    assert _files(drives(again.block())) == _files(drives(guest.block()))
    guest("eject", id=cd["qdev"], force=True)
    empty = as_it_is_now(argv, drives(guest.block()))
    last = start([*empty, "-S", "-incoming", "defer", "-qmp", f"unix:{tmp_path}/s,server=on,wait=off"], tmp_path / "s")
    assert _files(drives(last.block())) == {f"{tmp_path}/disk.qcow2", f"{tmp_path}/over.qcow2"}


CD = Drive(device="ide2-cd0", qdev="/machine/unattached/device[4]", path=None, format="raw")
FLOPPY = Drive(device="floppy0", qdev="/machine/unattached/device[9]", path=None, format="raw")
DISK = Drive(device="virtio0", qdev="v", path="/d", format="raw")
SCSI = ["-device", "virtio-scsi", "-device", "scsi-hd,drive=x"]


@pytest.mark.parametrize(
    ("line", "cd", "added"),
    [
        ([], None, []),
        ([], "/x.iso", ["-drive", "file=/x.iso,format=raw,index=2,media=cdrom"]),
        (SCSI, None, ["-drive", "index=2,media=cdrom"]),
        (["-cdrom", "/x.iso"], "/x.iso", []),
        (["-cdrom", "/x.iso", *SCSI], "/x.iso", []),
    ],
)
def test_the_cd_drive_that_qemu_makes_by_itself_is_written_out_where_it_would_be_lost(
    line: list[str], cd: str | None, added: list[str]
) -> None:
    argv = ["qemu", "-drive", "file=/d,if=virtio,format=raw", *line]
    assert as_it_is_now(argv, [DISK, replace(CD, path=cd)]) == [*argv, *added]


def floppy(unit: int, kind: str) -> str:
    return json.dumps({"driver": "floppy", "unit": unit, "drive": f"floppy{unit}", "drive-type": kind})


def test_a_floppy_in_the_drive_that_qemu_makes_by_itself_is_in_a_drive_of_the_same_type() -> None:
    argv = ["qemu", "-drive", "file=/d,if=virtio,format=raw"]
    drives = [DISK, CD, replace(FLOPPY, path="/f")]
    put_in = ["-drive", "index=2,media=cdrom", "-drive", "file=/f,format=raw,if=none,id=floppy0"]
    now = [*argv, *put_in, "-device", floppy(0, "288")]
    assert as_it_is_now(argv, drives, {0: "288"}) == as_it_is_now(now, drives, {0: "288"}) == now
    assert as_it_is_now(argv, [DISK, CD, FLOPPY], {0: "288"}) == argv
    nothing_is_plugged = hot_plugged(set(), ["virtio-blk-pci"], now)
    assert nothing_is_plugged == hot_plugged(set(), ["virtio-blk-pci", "floppy"], now) == []


def test_floppy_drives_that_were_changed_keep_their_types_and_numbers() -> None:
    second = Drive(device="floppy1", qdev="", path="/b", format="raw")
    drives = [second, replace(CD, device="ide1-cd0"), replace(FLOPPY, path="/a")]
    *_, first, of_second = as_it_is_now(["q", "-M", "pc", "-fdb", "/old"], drives, {0: "288", 1: "144"})[2::2]
    assert (first, of_second) == (
        floppy(1, "144"),
        floppy(0, "288"),
    )
    ejected = as_it_is_now(["q", "-M", "q35", "-fda", "/a"], [FLOPPY], {0: "144"})
    assert ejected[4::2] == ["if=none,id=floppy0", '{"driver": "isa-fdc"}', floppy(0, "144")]


def test_a_disk_that_was_plugged_in_stands_after_the_drives_that_qemu_makes_by_itself() -> None:
    argv = ["qemu", "-hda", "/d", "-cdrom", "/one", "-drive", "if=none,id=hd2,file=/b"]
    named = [replace(DISK, device="ide0-hd0"), replace(CD, device="ide1-cd0", path="/two"), FLOPPY]
    cd = "file=/two,format=raw,index=2,media=cdrom"
    empty = ["-drive", "if=none,id=floppy0"]
    now = as_it_is_now(argv, [*named, Drive(device="hd2", qdev="x", path="/b", format="raw")], {0: "288"})
    assert now[:-2] == ["qemu", "-hda", "/d", "-drive", cd, *empty, *argv[-2:]]


ISO = {"driver": "raw", "read-only": True, "file": {"driver": "file", "filename": "two"}}


@pytest.mark.parametrize("device", ["ide-cd,id=cd", '{"driver": "ide-cd", "id": "cd"}'])
def test_a_medium_is_in_a_drive_that_had_none_at_the_start(device: str) -> None:
    there = Drive(device="", qdev="cd", path="/two", format="raw", node=ISO)
    first, again = ("medium0", ["q", "-device", device]), ("medium1", ["q", "-blockdev", "null-co,node-name=medium0"])
    for name, line in (first, (again[0], [*again[1], "-device", device])):
        *_, with_it, _, node = as_it_is_now(line, [there])
        assert json.loads(node) == {**ISO, "file": {"driver": "file", "filename": "/two"}, "node-name": name}
        assert with_it.endswith((f",drive={name}", f'"drive": "{name}"}}'))
    assert as_it_is_now(["q", "-device", device], [replace(there, path=None)]) == ["q", "-device", device]


def test_a_medium_that_was_changed_behind_a_filter_stays_behind_it() -> None:
    def throttle(path: str) -> dict[str, Any]:
        return {"driver": "throttle", "node-name": "t", "file": {"driver": "raw", "file": file(path)}}

    def file(path: str) -> dict[str, Any]:
        return {"driver": "file", "filename": path}

    line = ["q", "-blockdev", json.dumps(throttle("/one")), "-device", "ide-cd,drive=t,id=cd"]
    there = Drive(device="", qdev="cd", path="/two", format="raw", node=throttle("/two"))
    assert as_it_is_now(line, [there]) == ["q", *line[3:], "-blockdev", json.dumps(throttle("/two"))]
    assert as_it_is_now(line, [replace(there, path="/one")]) == line
    assert as_it_is_now(line, [replace(there, path=None)]) == ["q", "-device", "ide-cd,id=cd"]


def test_a_node_that_was_streamed_into_the_one_above_it_is_no_backing_file_any_more() -> None:
    line = ["qemu", "-blockdev", "driver=qcow2,node-name=b,file=bf", "-blockdev"]
    for node, alone in (
        ("driver=qcow2,node-name=d,file=f,backing=b", "driver=qcow2,node-name=d,file=f"),
        ('{"driver": "qcow2", "node-name": "d", "backing": "b"}', '{"driver": "qcow2", "node-name": "d"}'),
        ("driver=qcow2,node-name=d,file=f,backing=kept", "driver=qcow2,node-name=d,file=f,backing=kept"),
    ):
        assert without_left_backing([*line, node], {"d", "f", "kept"}) == [*line, alone]


NBD = "nbd:unix:/s:exportname=x"


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (("-drive", f"file={NBD},if=virtio,format=raw"), ("-drive", "file=/g/new,format=qcow2,if=virtio")),
        (
            ("-drive", "driver=raw,file.driver=nbd,file.server.path=/s,file.export=x,cache=none"),
            ("-drive", "file=/g/new,format=qcow2,cache=none"),
        ),
    ],
)
def test_a_network_disk_that_was_copied_to_a_file_is_that_file(words: tuple[str, ...], now: tuple[str, ...]) -> None:
    copied = Drive(device="virtio0", qdev="", path="/g/new", format="qcow2")
    assert as_it_is_now(["q", *words], [copied]) == ["q", *now]


def test_nodes_of_a_network_disk_become_those_of_the_file_that_it_was_copied_to() -> None:
    remote = {"driver": "nbd", "node-name": "s", "export": "x", "server": {"type": "unix", "path": "/s"}}
    above = {"driver": "raw", "node-name": "f", "file": "s", "discard": "unmap", "size": 512}
    line = ["q", "-blockdev", json.dumps(remote), "-blockdev", json.dumps(above), "-device", "scsi-hd,drive=f,id=d"]
    _, _, node, *device = as_it_is_now(line, [Drive(device="", qdev="d", path="/g/new", format="qcow2")])
    file = {"node-name": "s", "driver": "file", "filename": "/g/new"}
    assert json.loads(node) == {"driver": "qcow2", "node-name": "f", "discard": "unmap", "file": file}
    assert device == line[-2:]


def test_a_device_without_an_id_is_known_by_its_number() -> None:
    def node(name: str) -> list[str]:
        return ["-blockdev", f"driver=raw,node-name={name},file.driver=file,file.filename=/g/{name}"]

    devices = ["-device", '{"driver":"scsi-hd","drive":"a"}', "-device", "scsi-hd,drive=b"]
    line = ["q", *node("a"), *node("b"), *devices, "-drive", "file=/g/c,if=virtio"]
    there = [Drive(device="", qdev="/machine/peripheral-anon/device[2]", path="/g/new", format="qcow2")]
    now = "driver=qcow2,file.driver=file,file.filename=/g/new,node-name=a"
    assert as_it_is_now(line, there) == ["q", "-blockdev", now, *line[3:]]


def test_nodes_that_nothing_is_on_any_more_are_known_with_those_below() -> None:
    def node(name: str, **more: str) -> list[str]:
        return ["-blockdev", json.dumps({"driver": "raw", "node-name": name, **more})]

    line = ["q", *node("s", filename="/a"), *node("f", file="s"), *node("t", filename="/b"), *node("g", file="t")]
    assert [option.get("node-name") for option in unused_nodes(line, {"g", "t"})] == ["f", "s"]
    assert unused_nodes([*line, "-machine", "q35,pflash0=f"], {"g", "t"}) == []


@pytest.mark.parametrize("words", ["file=/g/a,snapshot=on", f"file={NBD}", "file=rbd:pool/image:id=a"])
def test_a_temporary_file_or_a_network_disk_stays_as_it_was_written(words: str) -> None:
    there = Drive(device="virtio0", qdev="", path="/var/tmp/vl.X" if "snapshot" in words else NBD, format="qcow2")
    assert as_it_is_now(["q", "-drive", words], [there]) == ["q", "-drive", words]


def _files(found: Any) -> set[str]:
    return {drive.path for drive in found if drive.path is not None}


BASE = '{"driver":"file","filename":"/b","node-name":"bs","auto-read-only":true}'


def test_a_backing_file_is_opened_for_nothing_but_reading_and_other_nodes_stay() -> None:
    disk = '{"driver":"file","filename":"/d","node-name":"ds","auto-read-only":true}'
    words = ["q", "-blockdev", BASE, "-blockdev", disk, "-blockdev", "driver=file,filename=/b,auto-read-only=on"]
    base, same_disk, written = opened_read_only(words, {"/b"})[2::2]
    assert json.loads(base) == {"driver": "file", "filename": "/b", "node-name": "bs", "read-only": True}
    assert same_disk == disk
    assert written == "driver=file,filename=/b,read-only=on"


def test_json_in_single_quotes_is_read_as_qemu_reads_it() -> None:
    node = "{'driver':'qcow2','node-name':'n','backing':'b','file':{'driver':'file','filename':'/g/it's.qcow2'}}"
    argv = [
        QEMU,
        "-blockdev",
        node.replace("it's", "it\\'s"),
        "-blockdev",
        "{'driver':'file','node-name':'b','filename':'/g/base'}",
        *("-device", "virtio-blk-pci,drive=n"),
    ]
    assert opened_read_only(argv, {"/g/base"})[4] == json.dumps(
        {"driver": "file", "node-name": "b", "filename": "/g/base", "read-only": True}
    )
    (_, _, alone, *_) = without_backing_files(argv)
    assert (json.loads(alone)["backing"], json.loads(alone)["file"]["filename"]) == (None, "/g/it's.qcow2")


def test_a_flattened_disk_names_no_backing_file() -> None:
    form = '{"driver":"qcow2","node-name":"b","file":"bs","read-only":true,"backing":null}'
    disk = '{"driver":"qcow2","node-name":"d","file":{"driver":"file","filename":"/d"},"backing":"b"}'
    drive = "file=/e,if=virtio,backing.file.filename=/b"
    words = ["q", "-blockdev", BASE, "-blockdev", form, "-blockdev", disk, "-drive", drive, "-device", "x,drive=d"]
    made = without_backing_files(words)
    assert made[:2] == ["q", "-blockdev"]
    assert json.loads(made[2])["backing"] is None
    assert made[3:] == ["-drive", "file=/e,if=virtio", "-device", "x,drive=d"]
    remote = ["-blockdev", "driver=nbd,node-name=b,path=/s,read-only=on"]
    assert without_backing_files(["q", *remote, *words[5:]]) == made
    medium = ["-drive", "file=/e,media=cdrom,backing.file.filename=/b"]
    assert without_backing_files(["q", *medium]) == ["q", *medium]


def test_drives_that_came_or_went_since_the_start_are_not_guessed_at() -> None:
    words = ["q", "-cdrom", "/a.iso", "-drive", "file=/d,id=d"]
    gone = [Drive(device="d", qdev="", path="/e", format="raw")]
    other = [*gone, Drive(device="ide1-cd0", qdev="", path="/b.iso", format="raw")]
    assert as_it_is_now(words, gone) == as_it_is_now(words, other) == words
