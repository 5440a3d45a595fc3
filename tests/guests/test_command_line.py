"""The destination's command line as data; that real QEMU accepts it is shown in test_topology."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from workers.qemu.command_line import destination_command_line, device_ids, listening_sockets, nameless_devices
from workers.qemu.options import FLAGS, Pairs, parse_command_line, parse_options, write_options


def derive(*words: str, source: str = "/hosts/a", destination: str = "/hosts/b", **more: Any) -> list[str]:
    return destination_command_line(
        ["qemu", *words],
        machine_type="pc-q35-7.2",
        source_root=source,
        destination_root=destination,
        qemu="/usr/bin/qemu-system-x86_64",
        **more,
    )


def value(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("q35,accel=tcg", ((None, "q35"), ("accel", "tcg"))),
        ("file=/a,,b,if=virtio", (("file", "/a,b"), ("if", "virtio"))),
        ("unix:/s,server,nowait", ((None, "unix:/s"), (None, "server"), (None, "nowait"))),
        ("a==b", (("a", "=b"),)),
        ("a,", ((None, "a"), (None, ""))),
        ("a,,,b", ((None, "a,"), (None, "b"))),
        ("/a,,b=c", ((None, "/a,b=c"),)),
        ("", ((None, ""),)),
    ],
)
def test_option_strings_survive_a_round_trip(text: str, pairs: Pairs) -> None:
    assert parse_options(text) == pairs
    assert write_options(pairs) == text


@pytest.mark.parametrize(
    "machine",
    [["-machine", "q35,accel=tcg"], ["-M", "type=q35,accel=tcg"], ["--machine", "accel=tcg,type=q35"]],
)
def test_the_machine_type_is_pinned_where_it_is_named(machine: list[str]) -> None:
    argv = derive(*machine)
    assert "pc-q35-7.2" in argv[2]
    assert "accel=tcg" in argv[2]
    assert argv.count("-machine") + argv.count("-M") + argv.count("--machine") == 1


@pytest.mark.parametrize("words", [[], ["-machine", "accel=tcg"]])
def test_the_machine_type_is_inserted_where_it_is_not_named(words: list[str]) -> None:
    assert derive(*words)[1:3] == ["-machine", "pc-q35-7.2"]


def test_what_belongs_to_the_last_start_is_left_behind() -> None:
    argv = derive("-S", "-incoming", "tcp:0:4444", "-daemonize", "-m", "64")
    assert argv[-3:] == ["-S", "-incoming", "defer"]
    assert argv.count("-S") == argv.count("-incoming") == 1
    assert "-daemonize" not in argv
    assert value(argv, "-msg") == "timestamp=on"


@pytest.mark.parametrize(
    ("option", "before", "after"),
    [
        ("-pidfile", "/hosts/a/run,x/pid", "/hosts/b/run,x/pid"),
        ("-qmp", "unix:/hosts/a/q.sock,server=on,wait=off", "unix:/hosts/b/q.sock,server=on,wait=off"),
        (
            "-chardev",
            "socket,id=c,path=/hosts/a/c,logfile=/hosts/a/l",
            "socket,id=c,path=/hosts/b/c,logfile=/hosts/b/l",
        ),
        ("-device", '{"driver": "x", "romfile": "/hosts/a/rom"}', '{"driver": "x", "romfile": "/hosts/b/rom"}'),
        ("-kernel", "/hosts/a/vmlinuz", "/hosts/b/vmlinuz"),
        ("-kernel", "/hosts/ab/vmlinuz", "/hosts/ab/vmlinuz"),
        ("-kernel", "/x/hosts/a/vmlinuz", "/x/hosts/a/vmlinuz"),
        ("-append", "root=/hosts/a/x", "root=/hosts/a/x"),
        ("-device", "scsi-hd,serial=/hosts/a/1", "scsi-hd,serial=/hosts/a/1"),
        ("-smbios", "type=11,value=/hosts/a/1", "type=11,value=/hosts/a/1"),
        ("-device", '{"driver":"scsi-hd","lun":1}', '{"driver":"scsi-hd","lun":1}'),
        ("-serial", "file:/dev/stdout", "file:/dev/null"),
        ("-D", "/dev/stderr", "/dev/null"),
        ("-serial", "unix:/hosts/a/s,server", "unix:/hosts/b/s,server,wait=off"),
        ("-qmp", "tcp:127.0.0.1:4444,server,wait", "tcp:127.0.0.1:4444,server,wait=off"),
        ("-chardev", "socket,id=c,path=/c,wait=on,server=on", "socket,id=c,path=/c,server=on,wait=off"),
        ("-monitor", "telnet::4444,server,nowait", "telnet::4444,server,nowait"),
        ("-chardev", "socket,id=c,path=/c", "socket,id=c,path=/c"),
    ],
)
def test_host_paths_move_below_the_other_root_and_guest_visible_text_stays(
    option: str, before: str, after: str
) -> None:
    assert value(derive(option, before), option) == after


def test_root_slash_leaves_paths_alone_but_named_images_move() -> None:
    argv = derive(
        "-drive",
        "file=/srv/a.raw,format=raw",
        "-pidfile",
        "/run/p",
        source="/",
        destination="/",
        image_paths={"/srv/a.raw": "/new/a.raw"},
    )
    assert value(argv, "-drive") == "file=/new/a.raw,format=raw,file.drop-cache=off"
    assert value(argv, "-pidfile") == "/run/p"


DROP_CACHE = [
    ("-drive", "file={},if=none", "file={},if=none,file.drop-cache=off"),
    ("-drive", "file=file:{},if=none", "file=file:{},if=none,file.drop-cache=off"),
    ("-drive", "file={},if=none,file.drop-cache=on", "file={},if=none,file.drop-cache=off"),
    ("-drive", "file.filename={},if=none", "file.filename={},if=none,file.drop-cache=off"),
    (
        "-drive",
        "driver=raw,file.driver=file,file.filename={},if=none",
        "driver=raw,file.driver=file,file.filename={},if=none,file.drop-cache=off",
    ),
    ("-drive", "driver=file,filename={},if=none", "driver=file,filename={},if=none,drop-cache=off"),
    ("-drive", "if=ide,media=cdrom", "if=ide,media=cdrom"),
    (
        "-drive",
        'file=json:{{"driver":"raw",,"file":{{"driver":"file",,"filename":"{}"}}}},if=none',
        'file=json:{{"driver": "raw",, "file": {{"driver": "file",, "filename": "{}",, "drop-cache": false}}}},if=none',
    ),
    ("-blockdev", "file,node-name=f,filename={}", "file,node-name=f,filename={},drop-cache=off"),
    ("-blockdev", "driver=file,node-name=f,filename={}", "driver=file,node-name=f,filename={},drop-cache=off"),
    (
        "-blockdev",
        "raw,node-name=f,file.driver=file,file.filename={}",
        "raw,node-name=f,file.driver=file,file.filename={},file.drop-cache=off",
    ),
    (
        "-blockdev",
        '{{"driver": "raw", "node-name": "n", "file": {{"driver": "file", "filename": "{}"}}}}',
        '{{"driver": "raw", "node-name": "n", "file": {{"driver": "file", "filename": "{}", "drop-cache": false}}}}',
    ),
    ("-hda", "{}", "file={},index=0,media=disk,file.drop-cache=off"),
    ("-cdrom", "{}", "file={},index=2,media=cdrom,file.drop-cache=off"),
]


@pytest.mark.parametrize(("option", "before", "after"), DROP_CACHE)
def test_no_host_file_drops_its_cache(option: str, before: str, after: str) -> None:
    argv = derive(option, before.format("/hosts/a/i"))
    spelled = "-drive" if option in {"-hda", "-cdrom"} else option
    assert value(argv, spelled) == after.format("/hosts/b/i")


@pytest.mark.guests
@pytest.mark.parametrize(("option", "before", "after"), DROP_CACHE)
def test_real_qemu_accepts_every_form(option: str, before: str, after: str, tmp_path: Path) -> None:
    image = tmp_path / "i"
    image.write_bytes(bytes(1 << 20))
    argv = derive(option, before.format(image), source="/", destination="/")
    argv += ["-display", "none", "-nodefaults", "-monitor", "stdio"]
    done = subprocess.run(argv, input="quit\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_bare_image_name_is_a_hard_disk() -> None:
    argv = derive("-m", "64", "/hosts/a/x,y.img")
    assert value(argv, "-drive") == "file=/hosts/b/x,,y.img,index=0,media=disk,file.drop-cache=off"


def test_moving_back_gives_the_same_line_but_for_paths() -> None:
    words = [w for option, before, _ in DROP_CACHE for w in (option, before.format("/hosts/a/i"))]
    there = derive("-M", "q35", "-pidfile", "/hosts/a/p", *words)
    again = derive(*there[1:], source="/hosts/b", destination="/hosts/c")
    assert again == [word.replace("/hosts/b", "/hosts/c") for word in there]


def test_devices_without_an_id_are_numbered_as_qemu_makes_them() -> None:
    argv = [
        "q",
        "-device",
        "a,id=one",
        "-device",
        '{"driver":"b","id":"two"}',
        "-device",
        "c",
        "-device",
        '{"driver":"d"}',
    ]
    assert device_ids(argv) == {"one", "two"}
    assert device_ids(["q", "-debugcon", "file:/x"]) == {"debugcon"}
    drives = ["-drive", "if=virtio,file=/x", "-drive", "if=none,id=n,file=/y"]
    options = parse_command_line([argv[0], *argv[7:], *drives, *argv[1:7]])
    assert [options[place].value for place in nameless_devices(options)] == ["c", "if=virtio,file=/x", '{"driver":"d"}']


@pytest.mark.guests
def test_every_option_of_this_qemu_without_an_argument_is_known() -> None:
    """In `-help` two blanks, or nothing, follow such an option (and `-dtb`, which does take a file)."""
    text = subprocess.run(["qemu-system-x86_64", "-help"], capture_output=True, text=True).stdout
    flags = set(re.findall(r"^--?([a-zA-Z][\w-]*)(?:  .*)?$", text, re.MULTILINE))
    assert len(flags) > 10
    assert flags - {"dtb"} <= FLAGS


def test_the_sockets_that_a_qemu_listens_on_are_found_and_those_it_calls_are_not() -> None:
    argv = [
        *("qemu", "-qmp", "unix:/run/a,,b.sock,server=on,wait=off", "-monitor", "unix:/run/hmp,server"),
        *("-chardev", "socket,id=c,path=/run/c.sock,server=on,wait=off"),
        *("-chardev", "socket,id=d,path=/run/others.sock", "-chardev", "file,id=e,path=/run/log"),
        *("-qmp", "tcp:127.0.0.1:4444,server=on", "-vnc", "none"),
    ]
    assert listening_sockets(argv) == ["/run/a,b.sock", "/run/hmp", "/run/c.sock"]
