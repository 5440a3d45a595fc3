"""What a QEMU that has ended left behind."""

from pathlib import Path

import pytest

from workers.guest import run_files
from workers.qemu import permissions


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
