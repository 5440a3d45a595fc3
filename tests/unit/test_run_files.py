"""What a QEMU that has ended left behind."""

from pathlib import Path

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
    argv += ["-object", f'{{"qom-type":"memory-backend-file","id":"m","mem-path":"{memory}","size":4096}}']
    assert list(run_files.in_the_way(permissions.written(argv))) == [memory]
    run_files.unlink_written(permissions.written(argv))
    assert list(run_files.in_the_way(permissions.written(argv))) == []
    assert (memory.exists(), folder.exists(), log.exists()) == (False, True, True)
