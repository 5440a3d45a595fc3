"""Who launched a guest, and what becomes of a launcher that would start it a second time."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from lab import fleet
from lab import guests as lab_guests
from lab.directory import Lab
from lab.guest.boot_files import boot_files, default_cache
from lab.guest.command_line import command_line
from lab.guest.spec import DiskSpec, GuestSpec, create_images
from models.database import transaction
from models.guest import Guest
from models.launcher import Launcher, LauncherKind
from tests.cli.support import drover
from tests.helpers import MIB, Moves, until
from workers.launcher import found
from workers.process import processes, qemus
from workers.process.machine import boot
from workers.process.processes import Process
from workflows import cold_start, guests
from workflows.migration import preflight


def _launcher(process: Process) -> Launcher:
    return found.launcher_of(process)


def _child(above: "subprocess.Popen[bytes]") -> Process:
    alive = processes.process(above.pid)
    assert alive is not None
    below: list[Process] = until("it has started its child", lambda: processes.children(alive))
    return below[0]


def test_a_shell_that_waits_for_it_may_start_it_again() -> None:
    with subprocess.Popen(["sh", "-c", "while true; do sleep 100; done"], start_new_session=True) as shell:
        try:
            child = _child(shell)
            launcher = _launcher(child)
            assert (launcher.kind, launcher.name, launcher.pid) == (LauncherKind.SUPERVISOR, "sh", shell.pid)
            assert launcher.stays is not None
            assert "may start it again" in launcher.stays
        finally:
            shell.kill()
            child.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a process numbers of its own")
def test_what_has_process_numbers_of_its_own_may_be_started_again_by_the_engine_of_its_container() -> None:
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "100"]) as engine:
        try:
            launcher = _launcher(_child(engine))
            assert launcher.kind is LauncherKind.CONTAINER
            assert "whose engine may start it again" in str(launcher.stays)
        finally:
            engine.kill()


def test_what_has_lost_its_parent_is_started_again_by_nobody(tmp_path: Path) -> None:
    pid = subprocess.check_output(["sh", "-c", "sleep 100 >/dev/null 2>&1 & echo $!"], text=True)
    orphan = processes.process(int(pid))
    assert orphan is not None
    try:
        until("its parent has ended", lambda: (parent := processes.parent(orphan)) is None or parent.pid == 1)
        assert _launcher(orphan) == Launcher(kind=LauncherKind.NOBODY)
    finally:
        orphan.kill()


def test_what_drover_started_is_told_from_what_such_a_process_starts(tmp_path: Path) -> None:
    started = processes.spawn(f"{tmp_path}/incoming", ["sleep", "100"], tmp_path / "log")
    looping = processes.spawn(f"{tmp_path}/other", ["sh", "-c", "while true; do sleep 100; done"], tmp_path / "log")
    below: list[Process] = until("the loop has begun", lambda: processes.children(looping))
    try:
        assert _launcher(started).kind is LauncherKind.DROVER
        assert _launcher(below[0]).kind is LauncherKind.SUPERVISOR
    finally:
        for process in (started, looping, *below):
            process.kill()


@pytest.mark.parametrize(
    ("shown", "microseconds"),
    [("100ms", 100_000), ("1min 30s", 90_000_000), ("1.5s", 1_500_000), ("infinity", None), ("", None)],
)
def test_spans_are_read_as_systemd_shows_them(shown: str, microseconds: int | None) -> None:
    assert found._span_us(shown) == microseconds


@pytest.mark.parametrize(
    ("lines", "unit"),
    [
        ("0::/system.slice/web.service", "web.service"),
        ("1:name=systemd:/machine.slice/web.service/payload\n0::/", "web.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", "web.service"),
        ("0::/system.slice/system-guest.slice/guest@web\\x2d1.service/payload", "guest@web\\x2d1.service"),
        ("0::/system.slice/__web.service", "_web.service"),  # cg_escape() of systemd
        ("0::/system.slice/_io.service", "io.service"),
        ("0::/user.slice/user-0.slice/session-3.scope", None),
        ("0::/machine.slice/machine-qemu-1-web.scope", None),
        ("0::/", None),
    ],
)
def test_the_unit_of_a_process_is_that_of_its_cgroup(
    lines: str, unit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = dict(line.split(":", 2)[1:] for line in lines.splitlines())
    monkeypatch.setattr(found, "_cgroup", lambda process: paths.get("name=systemd") or paths.get("", ""))
    assert found.unit_of(Process(1, 1)) == unit


def test_a_unit_in_which_another_guest_runs_is_nobodys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the two its main process is, and in whatever cgroup below the unit's (`DelegateSubgroup`)."""
    started = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    mine, other = (processes.process(one.pid) for one in started)
    assert mine is not None
    assert other is not None
    places = {mine.pid: "/system.slice/web.service/a", other.pid: "/system.slice/web.service/b"}
    monkeypatch.setattr(found, "_cgroup", lambda process: places.get(process.pid, "/init.scope"))
    monkeypatch.setattr(qemus, "qemu_of", lambda pid: pid in places or None)
    try:
        for main in (mine.pid, 0):
            assert f"web.service runs other guests as well (pid {other.pid})" in str(
                found._shared("web.service", main, mine)
            )
        places.pop(other.pid)
        assert found._shared("web.service", mine.pid, mine) is None
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_what_a_host_starts_at_boot_is_no_guests_own_unit() -> None:
    assert found._shared("rc-local.service", 0, Process(1, 1)) == "rc-local.service may start more than this guest"


@contextmanager
def _looping(lab: Lab, name: str) -> Iterator[tuple[GuestSpec, Process]]:
    """A guest that a shell starts again and again; it makes a missing image first, as such scripts do."""
    spec = GuestSpec(
        name=name,
        directory=lab.host("host-a").guests / name,
        disks=(DiskSpec(size_bytes=64 * MIB),),
        window_mib=4,
        write_rate=40,
    )
    lab_guests.make_directory(lab, spec, "host-a")
    create_images(spec)
    words = command_line(spec, boot_files(default_cache()))
    lab_guests._record(lab, spec)
    image = spec.image(0)
    script = (
        f"while true; do [ -e {image} ] || qemu-img create -q -f qcow2 {image} 64M; "
        f"{subprocess.list2cmdline(words)}; echo ended >>{spec.directory}/ends; sleep 0.2; done"
    )
    with (spec.directory / "loop.log").open("wb") as log:
        loop = subprocess.Popen(["sh", "-c", script], stdout=log, stderr=log, start_new_session=True)
    shell = processes.process(loop.pid)
    assert shell is not None
    try:
        until("the guest writes", lambda: spec.console.exists() and b"ack " in spec.console.read_bytes(), 120)
        guests.adopt(name, "host-a", str(spec.qmp_socket))
        yield spec, shell
    finally:
        below = processes.children(shell) if shell.alive else []
        loop.kill()
        loop.wait()
        for process in below:
            process.kill()


@pytest.mark.thorough
@pytest.mark.guests
def test_a_guest_whose_launcher_stays_is_refused_and_moved_on_request_without_ever_running_twice(
    lab: Lab, moves: Moves
) -> None:
    name = "looped"
    moves.names.append(name)
    with _looping(lab, name) as (spec, shell):
        with pytest.raises(PreconditionFailed, match=rf"sh \(pid {shell.pid}\).* may start it again.*--launcher-stays"):
            preflight.plan(guests.known_guest(name), "host-b")

        job_id = moves.submit(name, "host-b", launcher_stays=True, watch_s=3, verify=True).id
        until("it lives on host-b", lambda: guests.known_guest(name).host == "host-b", 120)
        for former in processes.children(shell):
            former.kill()  # before it is cleared away
        job = moves.ended(job_id)
        moves.done(job)
        assert job.proof is not None
        assert job.proof.finished
        assert f"sh (pid {shell.pid}) stays on host-a" in moves.events(job.id)
        heard = spec.console.stat().st_size
        ends = spec.directory / "ends"
        until("the loop has tried several times", lambda: ends.exists() and ends.read_text().count("ended") > 3)
        assert spec.image(0).is_dir(), "a folder keeps the loop out"
        assert spec.console.stat().st_size == heard, "no second guest has said a word"
        assert sorted(path.name for path in spec.directory.glob("disk*")) == [
            "disk0.qcow2",
            f"disk0.qcow2.drover-{job.id}",
        ]
        moves.intact(name, "host-b")

        with pytest.raises(PreconditionFailed, match=rf"sh \(pid {shell.pid}\) would start a QEMU of its own"):
            moves.submit(name, "host-a")
        moves_home = _ended(shell)
    assert moves_home
    back = moves.move(name, "host-a")
    moves.done(back)
    assert back.disks[0].delta_bytes is not None, "only what has changed was sent"
    assert spec.image(0).is_file()
    _starts_cold_once_after_a_reboot(lab, name, spec)


def _starts_cold_once_after_a_reboot(lab: Lab, name: str, spec: GuestSpec) -> None:
    with pytest.raises(PreconditionFailed, match="looped runs already: on host-a"):
        cold_start.start(name)
    for process in (*processes.having_open(spec.image(0)), *processes.find(lab.mark("worker-host-a"))):
        process.kill()
    with transaction() as session:
        row = session.get_one(Guest, name)
        assert row.process is not None
        row.process = row.process.replace(boot(), "an-earlier-boot")
    fleet.start_worker(lab, lab.host("host-a"))
    fleet.wait_for_workers(lab)
    heard = spec.console.stat().st_size
    assert json.loads(drover("guest", "start", name, "--json").stdout)["host"] == "host-a"
    until("the guest boots and writes", lambda: b"ack " in spec.console.read_bytes()[heard:], 120)
    with pytest.raises(PreconditionFailed, match="looped runs already: on host-a"):
        cold_start.start(name)


def _ended(shell: Process) -> bool:
    shell.kill()
    return not shell.alive
