"""The next QEMU of a guest runs as the same user, in the same groups and within the same limits, by their names."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.plan import Execution, ExecutionOrder
from models.preflight import refusals
from tests import factories
from tests.helpers import until
from tests.loops import loop_device, need_loops
from workers.files import UnsafePath
from workers.process import exec_qemu, execution, processes
from workers.process.processes import Process
from workers.trust import policy
from workers.trust.policy import HostPolicy, Policy

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
WANTED = Execution(
    user="nobody",
    group="nogroup",
    groups=("daemon", "nogroup"),
    nice=3,
    oom_score_adj=77,
    cpus=(min(os.sched_getaffinity(0)),),
    limits={"nofile": (512, 600)},
    memory_policy="interleave:0",
)


@contextmanager
def running(argv: list[str]) -> Iterator[Process]:
    with subprocess.Popen(argv) as child:
        until("it is another program", lambda: Path(f"/proc/{child.pid}/exe").samefile("/bin/sleep"))
        found = processes.process(child.pid)
        assert found is not None
        yield found
        child.kill()


@as_root
def test_a_process_is_started_as_another_one_was_and_is_read_back_as_that() -> None:
    with running(execution.launched(["/bin/sleep", "60"], WANTED)) as process:
        assert execution.read(process, ["qemu"]) == WANTED


@as_root
def test_a_block_device_of_its_own_becomes_its_users(tmp_path: Path) -> None:
    need_loops()
    with loop_device(tmp_path / "disk", 1 << 20) as device:
        with running(execution.launched(["/bin/sleep", "60"], WANTED, devices=[str(device), str(tmp_path)])):
            assert (device.owner(), tmp_path.owner()) == (WANTED.user, "root")
        os.chown(device, 0, -1)


def test_a_process_like_the_workers_own_needs_no_help() -> None:
    with running(["/bin/sleep", "60"]) as process:
        found = execution.read(process, ["qemu"])
        assert found is not None
        assert execution.launched(["qemu"], found.model_copy(update={"user": "root"})) == ["qemu"]
        assert execution.launched(["qemu"], None) == ["qemu"]


@as_root
def test_a_qemu_that_changes_its_user_itself_is_started_by_root_again() -> None:
    with running(execution.launched(["/bin/sleep", "60"], WANTED)) as process:
        for words in (["-runas", "nobody"], ["-run-with", "user=nobody"]):
            found = execution.read(process, ["qemu", *words])
            assert found is not None
            assert (found.user, found.group, found.groups) == ("root", "root", ())


def test_what_a_host_does_not_have_or_allow_is_refused_by_its_name() -> None:
    rules = HostPolicy(Policy(users=("nobody",)), factories.offline())

    def said(**changed: object) -> str:
        return "; ".join(refusals(execution.impossible(WANTED.model_copy(update=changed), rules)))

    assert said() == "" or os.geteuid() != 0
    assert said(user="nobody-at-all").endswith("as the user nobody-at-all, who does not exist here; create it there")
    assert "runs in the group no-such-group, which does not exist here" in said(groups=("no-such-group",))
    assert "does not list under `users`" in said(user="daemon")
    assert said(user="root") == ""
    assert execution.impossible(None, policy.of(factories.offline())) == []


def test_what_a_qemu_is_pinned_to_and_this_host_does_not_have_is_warned_of() -> None:
    def said(**changed: object) -> list[str]:
        return [check.seen for check in execution.warnings(WANTED.model_copy(update=changed))]

    here = min(os.sched_getaffinity(0))
    assert said() == said(vcpus=((), (here,))) == []
    assert execution.warnings(None) == []
    [cpus] = said(cpus=(here, 700), vcpus=((701,), ()))
    assert cpus.startswith("its QEMU is pinned to CPUs of which 700, 701 may not be used here")
    [nodes] = said(memory_policy="bind:0,70-71")
    assert "names NUMA nodes of which 70, 71 do not exist here" in nodes


def test_lists_of_numbers_are_read_as_the_kernel_writes_them() -> None:
    assert exec_qemu.numbers("0,2-4,9") == [0, 2, 3, 4, 9]


@as_root
def test_a_limit_that_may_not_be_raised_is_left_and_the_program_starts() -> None:
    wanted = Execution(user="nobody", group="nogroup", limits={"nonsense": (1, 1)})
    program, document = [sys.executable, "-I", "-S", exec_qemu.__file__], wanted.model_dump_json()
    done = subprocess.run([*program, document, "/usr/bin/id", "-un"], capture_output=True, text=True, check=True)
    assert done.stdout == "nobody\n"
    assert "drover: limit nonsense is not as at the source" in done.stderr


def test_a_document_of_a_newer_version_starts_nothing() -> None:
    newer = ExecutionOrder(user="nobody", group="nogroup", version=exec_qemu.VERSION + 1)
    program = [sys.executable, "-I", "-S", exec_qemu.__file__, newer.model_dump_json(), "/usr/bin/id"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "upgrade it here" in done.stderr
    assert ExecutionOrder.latest() == exec_qemu.VERSION


SERVES = """
import os, socket, sys, time
path, aside, secret = sys.argv[1:]
unix = socket.socket(socket.AF_UNIX)
unix.bind(path)
if secret:
    os.rename(path, aside)
    os.link(secret, path)
unix.listen()
time.sleep(60)
"""


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the test starts ends with it."""
    started, start = [], subprocess.Popen

    def noted(*words: Any, **how: Any) -> "subprocess.Popen[bytes]":
        started.append(start(*words, **how))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    yield
    for child in started:
        child.kill()
        child.wait()


@as_root
@pytest.mark.usefixtures("children")
def test_the_socket_of_its_tpm_becomes_its_users(tmp_path: Path) -> None:
    path = tmp_path / "tpm.sock"
    exec_qemu._start({"socket": str(path), "argv": [sys.executable, "-c", SERVES, str(path), "", ""]}, 65534, 65534)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


@as_root
@pytest.mark.usefixtures("children")
@pytest.mark.parametrize("what", ["file", "socket", "socket of another process"])
def test_what_somebody_puts_in_the_place_of_its_tpms_socket_stays_whose_it_is(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "tpm.sock", tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as unix:
        if what == "file":
            other.touch()
        else:
            unix.bind(str(other))
        if what == "socket of another process":
            unix.listen()
        argv = [sys.executable, "-c", SERVES, str(path), str(tmp_path / "aside"), str(other)]
        with pytest.raises(UnsafePath, match="is not the socket of process"):
            exec_qemu._start({"socket": str(path), "argv": argv}, 65534, 65534)
    assert other.stat().st_uid == 0


@as_root
@pytest.mark.parametrize("whose", [0, 65534])
def test_a_block_device_becomes_its_users_unless_somebody_elses_link_leads_to_it(tmp_path: Path, whose: int) -> None:
    device, link = tmp_path / "device", tmp_path / "disk0"
    os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(7, 255))
    link.symlink_to(device)
    os.lchown(link, whose, whose)
    if whose == 0:
        exec_qemu._give(str(link), 65534)
    else:
        with pytest.raises(UnsafePath, match="is a symbolic link to"):
            exec_qemu._give(str(link), 65534)
    assert device.stat().st_uid == (0 if whose else 65534)
