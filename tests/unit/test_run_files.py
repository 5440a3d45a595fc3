"""What a QEMU that has ended left behind."""

import socket
import tempfile
from pathlib import Path

import pytest

from workers.guest import run_files
from workers.qemu import permissions
from workers.qemu.trial_line import trial_line


def test_memory_that_a_qemu_left_is_in_the_way_until_it_is_removed_and_a_folder_for_memory_is_not(
    tmp_path: Path,
) -> None:
    memory, folder, log = tmp_path / "ram", tmp_path / "huge", tmp_path / "serial.log"
    folder.mkdir()
    memory.write_bytes(bytes(4096))
    log.write_text("login: ")
    argv = ["qemu", "-mem-path", str(folder), "-chardev", f"file,id=c,path={log}"]
    argv += ["-object", f'{{"qom-type":"memory-backend-file","id":"m","mem-path":"{memory}","share":true}}']
    assert list(run_files.in_the_way(permissions.written(argv))) == [memory]
    run_files.unlink_left_over(permissions.written(argv))
    assert list(run_files.in_the_way(permissions.written(argv))) == []
    assert (memory.exists(), folder.exists(), log.exists()) == (False, True, True)


def test_a_program_that_the_guest_speaks_with_is_not_in_the_way(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(f"{tmp_path}/events.sock")
        theirs.listen()
        argv = ["qemu", "-chardev", f"socket,id=e,path={tmp_path}/events.sock,reconnect-ms=5000"]
        argv += ["-netdev", f"stream,id=n,server=off,addr.type=unix,addr.path={tmp_path}/events.sock"]
        argv += ["-netdev", f"dgram,id=d,local.type=unix,local.path={tmp_path}/d,remote.path={tmp_path}/events.sock"]
        made = list(permissions.written(argv))
        assert [each.path for each in made] == [f"{tmp_path}/d"]
        assert list(run_files.in_the_way(made)) == []


def test_sound_that_a_qemu_has_written_is_its_own(tmp_path: Path) -> None:
    sound = tmp_path / "out.wav"
    sound.write_bytes(b"RIFF\0\0")
    argv = ["qemu", "-audiodev", f"wav,id=w,path={sound}"]
    assert list(run_files.left_over(permissions.written(argv))) == [sound]


@pytest.mark.parametrize(
    "words",
    [
        "-object memory-backend-file,id=m,mem-path={}",
        "-object memory-backend-file,id=m,mem-path={},share=on,readonly=on",
        "-set drive.cd.file={}",
        "-global driver=e1000,property=romfile,value={}",
    ],
)
def test_what_others_may_read_as_well_stays(tmp_path: Path, words: str) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(4096))
    made = list(permissions.written(["qemu", *words.format(shared).split()]))
    assert list(run_files.left_over(made)) == []
    assert list(run_files.in_the_way(made)) == ([shared] if "-set" in words else [])


def test_memory_that_takes_that_of_the_host_is_in_the_way_and_goes_with_its_guest(tmp_path: Path) -> None:
    memory = Path(tempfile.mkstemp(dir="/dev/shm")[1])
    try:
        argv = ["qemu", "-object", f"memory-backend-file,id=m,size=1M,mem-path={memory},share=on"]
        argv += ["-object", "memory-backend-file,id=n,size=1M,mem-path=/dev/shm,share=on"]
        made = list(permissions.written(argv))
        assert list(run_files.in_the_way(made)) == [memory]
        run_files.unlink_memory(made)
        assert not memory.exists()
    finally:
        memory.unlink(missing_ok=True)


def test_memory_below_the_guests_own_folder_is_no_such(tmp_path: Path) -> None:
    (tmp_path / "nvdimm").write_bytes(bytes(4096))
    argv = ["qemu", "-object", f"memory-backend-file,id=m,size=1M,mem-path={tmp_path}/nvdimm,share=on"]
    run_files.unlink_memory(permissions.written(argv))
    assert (tmp_path / "nvdimm").exists()


@pytest.mark.parametrize("where", ["/dev/shm", "/dev/shm/no-such-guest"])
def test_a_dry_run_opens_no_memory_by_its_name(tmp_path: Path, where: str) -> None:
    argv = ["qemu", "-object", f"memory-backend-file,id=m,size=1M,mem-path={where},share=on"]
    tried = trial_line(argv, stand_ins={}, folder=tmp_path).argv
    assert "memory-backend-file,id=m,size=1M,mem-path=/dev/shm,share=on" in tried
