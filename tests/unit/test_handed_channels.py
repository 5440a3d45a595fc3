"""Sockets and logs that a guest's launcher opened for its QEMU become those that QEMU opens by their names."""

import socket
import subprocess
from pathlib import Path

import pytest

from models.preflight import Verdict
from tests.helpers import until
from workers.process import handed_channels, processes


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("socket,id=m,fd={fd},server=on,wait=off", "socket,id=m,path={path},server=on,wait=off"),
        ("socket,id=m,fd={fd},server,nowait", "socket,id=m,path={path},server,nowait"),
        ("socket,id=m,fd={fd}", "socket,id=m,fd={fd}"),
        ("socket,id=m,fd=1,server=on", "socket,id=m,fd=1,server=on"),
    ],
)
def test_a_socket_that_a_launcher_opened_is_told_by_its_path(tmp_path: Path, word: str, option: str) -> None:
    path = tmp_path / "a b"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        number = server.fileno()
        with subprocess.Popen(["sleep", "60"], pass_fds=[number]) as child:
            process = processes.process(child.pid)
            assert process is not None
            until("it runs", lambda: b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes())
            found = handed_channels.by_name(process, ["qemu", "-chardev", word.format(fd=number), "-m", "64"])
            child.kill()
    assert found == ["qemu", "-chardev", option.format(fd=number, path=path), "-m", "64"]


def test_the_device_of_a_vsock_is_opened_by_its_qemu_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (device := tmp_path / "vhost-vsock").touch()
    monkeypatch.setattr(handed_channels, "VHOST_VSOCK", str(device))
    with device.open() as opened, subprocess.Popen(["sleep", "60"], pass_fds=[opened.fileno()]) as child:
        process = processes.process(child.pid)
        assert process is not None
        until("it runs", lambda: b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes())
        told = f"vhost-vsock-pci,guest-cid=3,vhostfd={opened.fileno()}"
        found = handed_channels.by_name(process, ["qemu", "-device", told, "-device", "vhost-vsock-pci,vhostfd=1"])
        child.kill()
    assert found == ["qemu", "-device", "vhost-vsock-pci,guest-cid=3", "-device", "vhost-vsock-pci,vhostfd=1"]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("-chardev pty,id=c,logfile=/dev/fdset/0,logappend=on -S", "-chardev pty,id=c -S"),
        ("-chardev file,id=c,path=/dev/fdset/3,append=on", "-chardev null,id=c"),
    ],
)
def test_a_log_that_another_program_opened_ends_with_a_warning(words: str, left: str) -> None:
    argv, (check,) = handed_channels.without_logs(["qemu", *words.split()])
    assert " ".join(argv) == f"qemu {left}"
    assert check.verdict is Verdict.WARN


@pytest.mark.parametrize("words", ["-drive file=/dev/fdset/2", "-chardev file,id=c,path=/l"])
def test_other_open_files_are_left_to_the_other_checks(words: str) -> None:
    argv = ["qemu", *words.split()]
    assert handed_channels.without_logs(argv) == (argv, [])
