"""Paths of a guest mean the same on another host: relative ones, those by links, those in a file, and open files."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from drover.errors import PreconditionFailed
from models.plan import Link
from models.preflight import Check
from tests import documents
from tests.helpers import until
from tests.qmp_guest import QEMU, Guest, image
from workers import files
from workers.files import UnsafePath
from workers.images import links
from workers.preflight import live_command_line, open_images
from workers.process import processes
from workers.process.processes import Process
from workers.qemu import config_file, json_text, paths
from workers.qemu.config_file import UnreadableConfig
from workers.qemu.disks import source_disks, unnamed_images


@contextmanager
def holding(*files: BinaryIO) -> Iterator[Process]:
    """A process that has these open."""
    running = subprocess.Popen(["sleep", "1000"], pass_fds=[file.fileno() for file in files])
    for file in files:
        file.close()
    try:
        process = processes.process(running.pid)
        assert process is not None
        yield process
    finally:
        running.kill()
        running.wait()


def only(checks: Sequence[Check]) -> str:
    """The one sentence."""
    (check,) = checks
    return check.sentence


@pytest.mark.parametrize(
    ("words", "there"),
    [
        ("-drive file=d.qcow2,if=virtio", "-drive file=/w/d.qcow2,if=virtio"),
        ("-drive file=/d.qcow2", "-drive file=/d.qcow2"),
        ("-hda file:d,x", "-hda /w/d,x"),
        ("d.img", "/w/d.img"),
        ("-drive file=a,,b/d", "-drive file=/w/a,,b/d"),
        ("-drive file=nbd:host:1", "-drive file=nbd:host:1"),
        ("-drive driver=qcow2,file.filename=d", "-drive driver=qcow2,file.filename=/w/d"),
        ("-blockdev driver=qcow2,file=node,node-name=n", "-blockdev driver=qcow2,file=node,node-name=n"),
        ('-blockdev {"driver":"file","filename":"d"}', '-blockdev {"driver": "file", "filename": "/w/d"}'),
        ("-blockdev {'driver':'file','filename':'d'}", '-blockdev {"driver": "file", "filename": "/w/d"}'),
        ("-qmp unix:q,server=on", "-qmp unix:/w/q,server=on"),
        ("-qmp tcp:127.0.0.1:1,server", "-qmp tcp:127.0.0.1:1,server"),
        ("-serial mon:file:log", "-serial mon:file:/w/log"),
        ("-serial stdio", "-serial stdio"),
        ("-chardev socket,id=c,path=s,server=on", "-chardev socket,id=c,path=/w/s,server=on"),
        ("-chardev socket,id=c,path=@abstract", "-chardev socket,id=c,path=@abstract"),
        ("-vnc unix:v,password=on", "-vnc unix:/w/v,password=on"),
        ("-pidfile p,q", "-pidfile /w/p,q"),
        ("-object secret,id=s,file=k", "-object secret,id=s,file=/w/k"),
        ("-fw_cfg name=opt/x,file=f", "-fw_cfg name=opt/x,file=/w/f"),
        ("-append root=a/b -name web", "-append root=a/b -name web"),
        ("-append {a/b -name {web}", "-append {a/b -name {web}"),
        ("-bios here.bin", "-bios /w/here.bin"),
        ("-bios bios-256k.bin", "-bios bios-256k.bin"),
        ("-device e1000,romfile=here.bin", "-device e1000,romfile=/w/here.bin"),
        ("-device loader,file=k", "-device loader,file=/w/k"),
        ("-netdev tap,id=n,script=./up,downscript=no", "-netdev tap,id=n,script=/w/./up,downscript=no"),
        ("-option-rom here.bin", "-option-rom /w/here.bin"),
        ("-smbios type=11,path=t", "-smbios type=11,path=/w/t"),
        ("-acpitable data=a:b", "-acpitable data=/w/a:/w/b"),
        ("-audiodev wav,id=a,path=o.wav", "-audiodev wav,id=a,path=/w/o.wav"),
        ("-M q35,kernel=k", "-M q35,kernel=/w/k"),
        (
            '-object {"qom-type":"secret","id":"s","file":"k"}',
            '-object {"qom-type": "secret", "id": "s", "file": "/w/k"}',
        ),
        ("-chardev socket,id=c,path=s,abstract=on", "-chardev socket,id=c,path=s,abstract=on"),
        ("-drive file=/g//d.img", "-drive file=/w//g//d.img"),
        ("-pidfile /g/./pid", "-pidfile /w//g/./pid"),
    ],
)
def test_a_relative_path_is_written_from_the_root(words: str, there: str) -> None:
    changed = paths.changed(
        ["qemu", *words.split()],
        lambda name: f"/w/{name}",
        searched=lambda name: f"/w/{name}" if name == "here.bin" else name,
    )
    assert " ".join(changed) == f"qemu {there}"


@pytest.mark.parametrize("name", ["nbd+unix:///x?socket=/s", "json:{}", "/g/a", ""])
def test_an_address_of_another_kind_is_no_relative_path(name: str) -> None:
    started = live_command_line.LiveCommandLine(argv=[], said=[], folder=Path("/g"))
    assert started.place(name) == name
    assert started.place("base.img") == "/g/base.img"


def test_a_path_is_written_without_what_says_nothing() -> None:
    started = live_command_line.LiveCommandLine(argv=[], said=[], folder=Path("/g"))
    assert started.place("//g///a/./b.img") == "/g/a/b.img"


def test_a_json_name_in_an_option_is_looked_into() -> None:
    line = ["qemu", "-drive", 'file=json:{"driver":"qcow2",,"file":{"driver":"file",,"filename":"d"}}']
    (changed,) = paths.changed(line, lambda name: f"/w/{name}")[2:]
    assert '"filename": "/w/d"' in changed.replace(",,", ",")


def test_what_qemu_takes_for_json_is_read() -> None:
    assert json_text.loads("{'a': 'it\\'s \"b\"', \"c\": [true, 'd']}") == {"a": 'it\'s "b"', "c": [True, "d"]}
    with pytest.raises(ValueError, match="Expecting"):
        json_text.loads("{a}")


CONFIG = """
# from qemu's own example
[machine]
  type = "pc"
[memory]
  size = "64M"
[drive "d0"]
  if = "none"
  file = "disk.raw"
  format = "raw"
[device "blk0"]
  driver = "virtio-blk-pci"
  drive = "d0"
[chardev "c0"]
  backend = "null"
[global]
  driver = "virtio-blk-pci"
  property = "queue-size"
  value = "64"
"""


def test_what_a_configuration_file_says_stands_on_the_command_line() -> None:
    merged = config_file.merged(["qemu", "-S", "-readconfig", "/x", "-nodefaults"], lambda name: CONFIG)
    assert merged == [
        *("qemu", "-S"),
        *("-machine", "pc"),
        *("-m", "size=64M"),
        *("-drive", "id=d0,if=none,file=disk.raw,format=raw"),
        *("-device", "virtio-blk-pci,id=blk0,drive=d0"),
        *("-chardev", "null,id=c0"),
        *("-global", "driver=virtio-blk-pci,property=queue-size,value=64"),
        "-nodefaults",
    ]
    with pytest.raises(UnreadableConfig, match="line 1"):
        config_file.options_of("nonsense")


@pytest.mark.parametrize(
    ("words", "card"), [([], True), (["-nodefaults"], False), (["-nic", "none"], False), (["-S"], True)]
)
def test_a_network_in_a_file_leaves_the_card_that_qemu_makes_by_default(words: list[str], card: bool) -> None:
    argv = ["qemu", "-readconfig", "/x", *words]
    merged = config_file.merged(argv, lambda name: '[netdev "n"]\ntype = "user"\n')
    assert (merged[-4:] == ["-net", "nic", "-net", "user"]) is card
    assert "-net" not in config_file.merged(argv, lambda name: '[machine]\ntype = "q35"\n')


def test_links_below_the_guest_root_are_followed_and_made_again(tmp_path: Path) -> None:
    here, there = tmp_path / "a", tmp_path / "b"
    (here / "web/v1").mkdir(parents=True)
    (here / "web/current").symlink_to("v1")
    (here / "web/v1/disk.raw").write_text("")
    (here / "web/root.raw").symlink_to(here / "web/current/disk.raw")
    path, found = links.followed(f"{here}/web/root.raw", here)
    assert path == f"{here}/web/v1/disk.raw"
    assert [Path(link.path).name for link in found] == ["root.raw", "current"]
    moved = [
        Link(path=link.path.replace(str(here), str(there)), target=link.target.replace(str(here), str(there)))
        for link in found
    ]
    assert links.in_the_way(moved) == []
    links.make(moved)
    links.make(moved)  # by a worker that died in between
    (there / "web/v1").mkdir()
    (there / "web/v1/disk.raw").write_text("here")
    assert (there / "web/root.raw").read_text() == "here"
    links.remove_dangling(moved)
    assert (there / "web/root.raw").is_symlink()  # another guest may have its image by it
    (there / "web/v1/disk.raw").unlink()
    (there / "web/v1").rmdir()
    links.remove_dangling(moved)
    assert list((there / "web").iterdir()) == []


def test_a_link_that_leads_out_of_the_guest_root_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_text("")
    root = tmp_path / "root"
    root.mkdir()
    (root / "disk.raw").symlink_to("../disk.raw")
    assert links.followed(f"{root}/disk.raw", root) == (f"{root}/disk.raw", [])


def test_something_else_where_a_link_belongs_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    link = Link(path=f"{tmp_path}/current", target="v1")
    assert "current exists already and is no link to v1: move it away" in links.in_the_way([link])[0]
    with pytest.raises(PreconditionFailed, match="no link to v1"):
        links.make([link])
    assert (tmp_path / "current").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_link_of_somebody_elses_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1")
    os.chown(tmp_path / "current", 65534, 65534, follow_symlinks=False)
    with pytest.raises(UnsafePath, match="chown -h root"):
        links.followed(f"{tmp_path}/current/disk.raw", tmp_path)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Guest, Process]]:
    """A QEMU whose paths are all relative to where it was started, some of them in a file; it has left that folder."""
    (tmp_path / "sub").mkdir()
    image(tmp_path / "sub/it's.raw")
    image(tmp_path / "disk.raw")
    (tmp_path / "c.conf").write_text('[drive "d1"]\n file = "disk.raw"\n format = "raw"\n if = "virtio"\n')
    line = [QEMU, "-display", "none", "-S", "-m", "32", "-daemonize", "-pidfile", "pid", "-readconfig", "c.conf"]
    line += ["-blockdev", "{'driver':'file','filename':'sub/it\\u0027s.raw','node-name':'f'}"]
    line += ["-device", "virtio-blk-pci,drive=f", "-qmp", "unix:qmp,server,nowait"]
    environment = {name: value for name, value in os.environ.items() if name != "PWD"}
    subprocess.run(line, cwd=tmp_path, env=environment, check=True)
    guest = Guest(["true"], tmp_path / "qmp")
    process = processes.process(int((tmp_path / "pid").read_text()))
    assert process is not None
    try:
        yield guest, process
    finally:
        process.kill()
        guest.close()


@pytest.mark.guests
def test_a_qemu_is_described_as_if_all_its_paths_had_been_written_out(
    started: tuple[Guest, Process], tmp_path: Path
) -> None:
    guest, process = started
    found = live_command_line.read(process)
    assert (found.folder, found.checks) == (tmp_path, ())
    line = " ".join(found.argv)
    assert f"-pidfile {tmp_path}/pid -drive id=d1,file={tmp_path}/disk.raw,format=raw,if=virtio" in line
    assert f"{tmp_path}/sub/it's.raw" in line
    disks = [disk.model_copy(update={"path": found.place(disk.path)}) for disk in source_disks(guest.block())]
    assert unnamed_images(disks, found.argv) == []
    assert open_images.elsewhere(process, disks, found.argv) == []
    lost = open_images.lost(process, ["disk.raw", "sub/it's.raw"], found.said)
    assert f"QEMU (pid {process.pid}) does not find disk.raw any more" in only(lost)

    here = tmp_path / "disk.raw"
    here.rename(tmp_path / "moved.raw")
    said = only(open_images.elsewhere(process, disks, found.argv))
    assert said.endswith(f"is gone, and QEMU (pid {process.pid}) has it open; `mv {tmp_path}/moved.raw {here}`")
    image(here)
    said = only(open_images.elsewhere(process, disks, found.argv))
    assert f"is another file by now, and QEMU (pid {process.pid}) has it open; move what is at {here} away" in said
    here.unlink()
    (tmp_path / "moved.raw").unlink()
    said = only(open_images.elsewhere(process, disks, found.argv))
    assert f"`stop` the guest, `drive-backup` the disk to {here}, and start the guest anew" in said
    guest("stop")
    guest("drive-backup", device="d1", target=str(here), sync="full", format="raw", job_id="j")
    until("the copy is complete", lambda: not guest("query-block-jobs"))
    assert here.stat().st_size == 1 << 20


@pytest.mark.parametrize(("also_written", "found"), [(False, 0), (True, 1)])
def test_a_medium_that_qemu_has_open_to_read_is_where_it_was_unless_an_image_is_somewhere_else(
    tmp_path: Path, also_written: bool, found: int
) -> None:
    medium, moved = image(tmp_path / "a.iso"), image(tmp_path / "moved.raw")
    with holding(medium.open("rb"), moved.open("r+b" if also_written else "rb")) as process:
        disk = documents.inspection().disks[0].model_copy(update={"path": str(medium)})
        assert len(open_images.elsewhere(process, [disk], [])) == found
        assert open_images.lost(process, [str(medium)], ["qemu", "-drive", f"file={medium},if=none"]) == []


def test_a_data_file_that_is_not_where_it_was_is_told(tmp_path: Path) -> None:
    top, data = image(tmp_path / "a.qcow2"), image(tmp_path / "a.raw")
    with holding(top.open("r+b"), data.open("r+b")) as process:
        disk = documents.inspection().disks[0].model_copy(update={"path": str(top), "data_file": str(data)})
        assert open_images.elsewhere(process, [disk], []) == []
        moved = data.rename(tmp_path / "b.raw")
        said = only(open_images.elsewhere(process, [disk], []))
        assert said.startswith(f"{data}, the data file of disk /q, is gone")
        assert said.endswith(f"; `mv {moved} {data}`")


def test_images_of_two_guests_that_have_each_others_names_are_told(tmp_path: Path) -> None:
    paths = [image(tmp_path / f"{name}.raw") for name in "ab"]
    with holding(paths[0].open("r+b")) as first, holding(paths[1].open("r+b")) as second:
        paths[0].rename(tmp_path / "c.raw")
        paths[1].rename(paths[0])
        (tmp_path / "c.raw").rename(paths[1])
        for process, path, other in zip((first, second), paths, reversed(paths), strict=True):
            disk = documents.inspection().disks[0].model_copy(update={"path": str(path)})
            said = only(open_images.elsewhere(process, [disk], []))
            assert said.startswith(f"{path}, the image of disk /q, is another file by now")
            assert said.endswith(f"; move what is at {path} away, then `mv {other} {path}`")


@pytest.mark.guests
def test_a_configuration_file_that_was_changed_since_is_not_believed(
    started: tuple[Guest, Process], tmp_path: Path
) -> None:
    _, process = started
    os.utime(tmp_path / "c.conf", (processes.started_at(process) + 60,) * 2)
    said = only(live_command_line.read(process).checks)
    assert "c.conf was changed after the guest was started; start the guest anew" in said


def test_a_name_that_is_no_utf8_is_refused_by_its_name() -> None:
    program = [b"bash", b"-c", b"read x", b"-drive", b"file=/g\xe4st.raw"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as running:
        process = processes.process(running.pid)
        assert process is not None
        until("it runs", lambda: b"file=" in Path(f"/proc/{running.pid}/cmdline").read_bytes())
        found = live_command_line.read(process)
        running.kill()
    said = only(found.checks)
    assert said.startswith("file=/g\\xe4st.raw: a name that is no UTF-8 cannot be told to another host; rename it")


def test_two_images_of_a_guest_that_have_each_others_names_are_told(tmp_path: Path) -> None:
    first, second = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    first.write_bytes(bytes(1 << 20))
    disks = [
        documents.inspection()
        .disks[0]
        .model_copy(update={"path": str(path), "allocated_bytes": files.taken_bytes(path.stat())})
        for path in (first, second)
    ]
    assert list(open_images.swapped(disks)) == []
    first.rename(tmp_path / "c.raw")
    second.rename(first)
    (tmp_path / "c.raw").rename(second)
    said = [check.seen.partition(",")[0] for check in open_images.swapped(disks)]
    assert said == [str(first), str(second)]
