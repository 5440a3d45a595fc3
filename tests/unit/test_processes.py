"""Processes are known by pid, start time and mark, and are dead only when all of them is."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import until
from workers.process import processes

STARTS = {"subprocess.run", "subprocess.Popen", "asyncio.create_subprocess_exec"}
MANY_THREADS = """
import threading, time, socket, sys
listening = socket.socket(socket.AF_UNIX); listening.bind(sys.argv[1]); listening.listen()
for _ in range(50): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
time.sleep(1000)
"""


def _spawn(tmp_path: Path, *argv: str) -> processes.Process:
    return processes.spawn(f"{tmp_path}/mark", argv, tmp_path / "log")


def test_a_process_is_found_again_by_its_mark_and_not_after_its_death(tmp_path: Path) -> None:
    started = _spawn(tmp_path, "sleep", "1000")
    assert processes.find(f"{tmp_path}/mark") == [started]
    assert processes.find(f"{tmp_path}/mar") == []
    assert processes.find_below(tmp_path) == [started]
    started.kill()
    assert processes.find(f"{tmp_path}/mark") == []


def test_a_process_that_anybody_calls_like_one_of_a_job_is_none_of_its(tmp_path: Path) -> None:
    processes.make_names_secret(tmp_path)
    started = _spawn(tmp_path, "sleep", "1000")
    called = ("mark", "switch-x", "switch-1/x/y", "x/../mark", "switch-" + "x" * 300, "x/" * 60_000, "mark\tguessed")
    forged = [subprocess.Popen(["sleep", "1000"], env={processes.MARK: f"{tmp_path}/{name}"}) for name in called]
    try:
        assert processes.marked(tmp_path) == [("mark", started)]
        assert processes.find(f"{tmp_path}/mark") == [started]
    finally:
        started.kill()
        for one in forged:
            one.kill()
            one.wait()


def test_a_process_is_found_also_while_it_becomes_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restless = tmp_path / "restless"  # as a wrapper script does once, all the time
    restless.write_text('#!/bin/sh\nexec "$0"\n')
    restless.chmod(0o755)
    started = _spawn(tmp_path, str(restless))
    monkeypatch.setattr(processes, "pids", lambda: [started.pid])  # a look at all others takes longer than it
    try:
        assert all(processes.find(f"{tmp_path}/mark") == [started] for _ in range(4000))
    finally:
        started.kill()


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    known = processes.process(child.pid)
    assert known is not None
    assert known.alive
    os.kill(child.pid, signal.SIGKILL)
    assert known.wait(5), "nobody has waited for it, and still it counts as dead"
    child.wait()


def test_another_process_with_the_same_pid_is_not_the_same_process(tmp_path: Path) -> None:
    started = _spawn(tmp_path, "sleep", "1000")
    impostor = processes.Process(started.pid, started.started - 1)
    assert not impostor.alive
    impostor.kill()
    assert started.alive
    started.kill()


def test_a_killed_process_of_many_threads_holds_nothing_once_it_counts_as_dead(tmp_path: Path) -> None:
    import socket

    path = f"/tmp/drover-test-{os.getpid()}.sock"
    started = _spawn(tmp_path, sys.executable, "-c", MANY_THREADS, path)
    try:
        deadline = time.monotonic() + 10
        while not Path(path).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        started.kill()
        with socket.socket(socket.AF_UNIX) as probe:
            assert probe.connect_ex(path) != 0
    finally:
        started.kill()
        Path(path).unlink(missing_ok=True)


def test_a_spawned_process_outlives_its_parent(tmp_path: Path) -> None:
    program = (
        "from workers.process import processes; from pathlib import Path; import os, signal\n"
        f"processes.spawn('{tmp_path}/mark', ['sleep', '1000'], Path('{tmp_path}/log'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    [left] = processes.find(f"{tmp_path}/mark")
    assert left.alive
    left.kill()


def test_a_host_of_which_nothing_is_known_may_have_been_booted_since() -> None:
    me = processes.process(os.getpid())
    assert me is not None
    assert not processes.booted_since(processes.identity(me))
    assert processes.booted_since("another-boot/1/2/3")
    assert processes.booted_since(None)
    assert processes.identified(processes.identity(me)) == me


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_process_with_mounts_of_its_own_sees_other_files_than_we_do(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    (outside / "disk").touch()
    (tmp_path / "both").touch()
    script = f"mount --bind {outside} {inside} && exec sleep 1000"
    started = _spawn(tmp_path, "unshare", "-m", "sh", "-c", script)
    try:
        until("it has its mounts", lambda: processes.sees_otherwise(started, f"{inside}/disk"))
        assert not processes.sees_otherwise(started, f"{outside}/disk")
        assert not processes.sees_otherwise(started, f"{tmp_path}/both")
        assert not processes.sees_otherwise(started, f"{tmp_path}/nothing")
    finally:
        started.kill()


def test_no_program_that_a_worker_starts_gets_the_workers_own_environment() -> None:
    """It has the password of the database, and some of them run as a guest's user."""
    calls = [
        (path.name, call)
        for path in (Path(__file__).parents[2] / "workers").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in STARTS
    ]
    assert {ast.unparse(call.func) for _, call in calls} == STARTS
    assert [name for name, call in calls if "env" not in {keyword.arg for keyword in call.keywords}] == []
