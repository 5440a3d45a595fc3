"""An emulated TPM: which process it is, and how another one is started for the next QEMU, which ends with that."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.plan import DestinationPlan, Execution, Inspection, PlannedTpm, Tpm
from models.preflight import refusals
from tests import factories
from tests.helpers import until
from workers.preflight import derivation
from workers.process import execution, processes, sockets, tpm
from workers.trust.policy import HostPolicy, Policy

with_swtpm = pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed (lab/setup.sh does it)")
OPTIONS = ("--tpm2", "--tpmstate", "dir={0},mode=0600", "--ctrl", "type=unixio,path={0}/sock", "--log", "file={0}/log")


def options(folder: Path) -> list[str]:
    return [word.format(folder) for word in OPTIONS]


def line(folder: Path) -> list[str]:
    emulator = ["-tpmdev", "emulator,id=t,chardev=c", "-device", "tpm-crb,tpmdev=t"]
    return ["qemu", "-chardev", f"socket,id=c,path={folder}/sock", *emulator]


@contextmanager
def emulated(folder: Path, *more: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(["swtpm", "socket", *options(folder), *more]) as child:
        until("it listens", (folder / "sock").exists, every_s=0.01)
        yield
        child.terminate()


def found(folder: Path) -> Tpm:
    emulator, problems = tpm.read(line(folder))
    assert (emulator is not None, problems) == (True, [])
    assert emulator is not None
    return emulator


def seen(emulator: Tpm) -> Inspection:
    return Inspection.model_construct(tpm=emulator)


def planned(emulator: Tpm, root: Path, there: Path) -> PlannedTpm:
    plan = tpm.planned(seen(emulator), str(root), factories.offline(guest_root=there))
    assert plan is not None
    return plan


@with_swtpm
def test_the_process_is_found_by_its_socket_and_told_to_another_host_by_its_options(tmp_path: Path) -> None:
    here, there = tmp_path / "a", tmp_path / "b"
    with emulated(here, "--terminate", "--pid", f"file={here}/pid"):
        emulator = found(here)
        assert emulator.argv == ("socket", *options(here))
        assert emulator.state == str(here)
        assert emulator.version > (0, 0, 0)
        assert planned(emulator, here, there) == PlannedTpm(
            argv=("socket", *options(there)),
            socket=f"{there}/sock",
            state=str(there),
            started_as=emulator.started_as,
        )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["chardev", "--vtpm-proxy"], "`swtpm chardev` is tied to this host"),
        (["socket", "--key", "file=/k"], "its option --key is not moved"),
        (["socket", "--tpmstate", "backend-uri=dir:///x"], "dir:///x of its option --tpmstate is no full path"),
        (["socket", "--tpmstate", "dir=state"], "state of its option --tpmstate is no full path"),
        (["socket", "--ctrl", "type=tcp,port=1"], "its option --ctrl type=tcp is not moved"),
        (["socket", "--server=type=tcp"], "its option --server=type=tcp is not moved"),
    ],
)
def test_what_is_not_started_elsewhere_is_named(words: list[str], why: str) -> None:
    with pytest.raises(tpm.Strange, match=why):
        tpm._lasting(words)


def test_what_the_start_decides_is_left_out() -> None:
    words = ["socket", "-d", "--runas", "tss", "--pid=file=/p", "-t", "--tpm2", "--ctrl", "type=unixio,path=/s,uid=7"]
    assert tpm._lasting(words) == ["socket", "--tpm2", "--ctrl", "type=unixio,path=/s"]


def test_a_tpm_that_nobody_serves_is_refused(tmp_path: Path) -> None:
    emulator, problems = tpm.read(line(tmp_path))
    assert emulator is None
    assert "nobody can be seen to serve it" in refusals(problems)[0]
    assert tpm.read(["qemu", "-m", "64"]) == (None, [])


@with_swtpm
def test_it_is_started_beside_the_program_and_ends_with_it(tmp_path: Path) -> None:
    here = tmp_path / "a"
    with emulated(here):
        plan = planned(found(here), here, tmp_path)
    argv = execution.launched(["/bin/sleep", "60"], execution.plainly(), plan)
    with subprocess.Popen(argv, env={**os.environ, processes.MARK: "the guest"}) as child:
        until("it is another program", lambda: Path(f"/proc/{child.pid}/exe").samefile("/bin/sleep"), every_s=0.01)
        emulator = found(tmp_path)
        assert emulator.argv == plan.argv
        assert [process.pid for process in processes.find("the guest")] == [child.pid]
        child.kill()
    alive = processes.Process(emulator.pid, emulator.started)
    assert alive.wait(10)
    assert not sockets.listens(Path(plan.socket))


@with_swtpm
def test_a_state_that_is_one_file_is_begun_by_an_empty_one_of_the_same_size(tmp_path: Path) -> None:
    """As Proxmox has it."""
    here, there = tmp_path / "a", tmp_path / "b"
    here.mkdir()
    there.mkdir()
    (here / "state").write_bytes(bytes(4 << 20))
    words = ["--tpmstate", f"backend-uri=file://{here}/state", "--ctrl", f"type=unixio,path={here}/sock"]
    with subprocess.Popen(["swtpm", "socket", "--tpm2", *words]) as child:
        until("it listens", (here / "sock").exists, every_s=0.01)
        emulator = found(here)
        child.terminate()
    plan = planned(emulator, here, there)
    assert tpm.states(plan) == [there / "state"]
    tpm.prepare(plan)
    assert (there / "state").stat().st_size == 4 << 20
    assert [check.name for check in tpm.in_the_way(plan)] == ["in-the-way"]
    argv = execution.launched(["/bin/echo", "started"], execution.plainly(), plan)
    assert subprocess.run(argv, capture_output=True, text=True).stdout == "started\n"
    asyncio.run(tpm.take_back(plan))
    assert not (there / "state").exists()


def test_a_state_on_a_block_device_is_refused_by_that(tmp_path: Path) -> None:
    with pytest.raises(tpm.Strange, match="is neither a folder nor a small file"):
        tpm._size(Path("/dev/null"))


@with_swtpm
def test_a_program_whose_tpm_does_not_start_is_not_started(tmp_path: Path) -> None:
    plan = PlannedTpm(
        argv=("socket", *options(tmp_path / "gone")),
        socket=f"{tmp_path}/gone/sock",
        state="/",
        started_as=execution.plainly(),
    )
    argv = execution.launched(["/bin/echo", "started"], execution.plainly(), plan)
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "drover: the guest's QEMU is not started: what listens at" in done.stderr


def test_a_destination_that_cannot_have_the_tpm_is_told_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = Tpm(
        pid=1,
        started=1,
        version=(99, 0, 0),
        argv=("socket", *options(tmp_path)),
        socket=f"{tmp_path}/sock",
        state=str(tmp_path),
        started_as=Execution(user="no-such-user", group="x"),
    )
    ours = factories.offline(guest_root=tmp_path)
    plan = planned(emulator, tmp_path, tmp_path)

    def said(rules: HostPolicy) -> str:
        return "; ".join(refusals(tpm.impossible(seen(emulator), plan, rules)))

    monkeypatch.setenv("PATH", str(tmp_path))
    usual = said(HostPolicy(Policy(), ours))
    assert "its TPM runs as the user no-such-user, who does not exist here" in usual
    assert "there is no swtpm here; install it" in usual
    assert "is outside the folders that the policy allows" in said(HostPolicy(Policy(folders=(Path("/x"),)), ours))
    plan = plan.model_copy(update={"socket": f"{tmp_path}/other.sock"})
    assert "its TPM's options name other paths than it is said to have" in said(HostPolicy(Policy(), ours))
    program = tmp_path / "swtpm"
    program.write_text("#!/bin/sh\necho TPM emulator version 0.7.1, Copyright\n")
    program.chmod(0o755)
    assert "swtpm here is of version 0.7.1, and 99.0.0 at the source" in said(HostPolicy(Policy(), ours))


def test_a_log_of_a_tpm_that_is_an_image_is_in_the_way(tmp_path: Path) -> None:
    plan = PlannedTpm(
        argv=("socket", *options(tmp_path)), socket=f"{tmp_path}/sock", state="/", started_as=execution.plainly()
    )
    (tmp_path / "log").write_text("of an earlier one\n")
    there = DestinationPlan.model_construct(argv=("qemu",), tpm=plan)
    assert derivation.in_the_way(there) == []
    (tmp_path / "log").write_bytes(bytes(512))
    assert [check.seen for check in derivation.in_the_way(there)] == [f"{tmp_path}/log exists already and is no log"]


def test_the_state_of_another_tpm_is_in_the_way_and_taken_back_is_only_the_state(tmp_path: Path) -> None:
    plan = PlannedTpm(
        argv=(), socket=f"{tmp_path}/sock", state=str(tmp_path), started_as=Execution(user="root", group="root")
    )
    assert tpm.in_the_way(plan) == tpm.in_the_way(None) == []
    for name in ("tpm2-00.permall", ".lock", "log"):
        (tmp_path / name).touch()
    [check] = tpm.in_the_way(plan)
    assert "tpm2-00.permall, the state of a TPM, exists already" in check.seen
    asyncio.run(tpm.take_back(plan))
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
