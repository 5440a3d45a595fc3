"""All QEMUs of a host are found: who runs each, who holds its monitors, and what is in the way of a move."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from models.host_rpc import FindQemus, FoundMonitor, FoundQemu, FoundQemus, Inspect
from models.job import JobState
from models.launcher import Launcher, LauncherKind
from tests import factories
from tests.cli.support import drover
from tests.helpers import until
from workers.preflight import checks, inspection, qemu_scan
from workers.process import processes, qemus, sockets
from workflows import guest_scan, guests

Start = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the QEMUs of hv1 run: those of the machine are not for us to ask."""
    monkeypatch.setenv(qemus.LAB, str(tmp_path))
    made = tmp_path / "hosts/hv1/guests"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts QEMUs that run nothing; answers the pid."""
    started = []

    def begin(*words: str) -> int:
        line = ["qemu-system-x86_64", "-M", "none", "-display", "none", "-serial", "none", "-parallel", "none"]
        process = subprocess.Popen([*line, *words], stdin=subprocess.DEVNULL, cwd=folder)
        started.append(process)
        until("it runs", lambda: qemus.qemu_of(process.pid))
        return process.pid

    yield begin
    for process in started:
        process.kill()
        process.wait()


def _scanned(pid: int) -> FoundQemu:
    found = asyncio.run(qemu_scan.find_qemus(FindQemus(), factories.ours(host="hv1")))
    [one] = [qemu for qemu in found.qemus if qemu.pid == pid]
    return one


@pytest.mark.guests
@pytest.mark.usefixtures("database")
def test_a_qemu_whose_monitors_are_held_or_missing_says_by_whom_and_what_to_do(start: Start, folder: Path) -> None:
    bare = _scanned(start("-name", "bare", "-monitor", f"unix:{folder}/people,server=on,wait=off"))
    [why] = bare.checks
    assert (why.name, bare.name, bare.user, bare.qmp) == ("no-monitor", "bare", "root", None)
    assert bare.launcher.kind is LauncherKind.SUPERVISOR
    assert "but the human monitor" in why.seen
    pid = start("-qmp", "unix:qmp,server=on,wait=off")
    until("it listens", (folder / "qmp").exists)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "qmp"))
        until("it is held", lambda: sockets.holder(f"{folder}/qmp"))
        held = _scanned(pid)
    [monitor], [why] = held.monitors, held.checks
    assert (monitor.address, why.name) == (f"{folder}/qmp", "monitor-held")
    assert monitor.held_by is not None
    assert "process" in why.sentence
    assert "end that client" in why.sentence


@pytest.mark.guests
@pytest.mark.usefixtures("database")
def test_a_qemu_that_gives_no_answer_or_is_at_work_does_not_hold_up_the_scan(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = start("-qmp", f"unix:{folder}/qmp,server=on,wait=off")
    until("it listens", (folder / "qmp").exists)
    process = processes.process(pid)
    assert process is not None
    factories.host("hv1")
    factories.host("hv2")
    factories.guest("web", on="hv1", process=processes.identity(process))
    process.signal(signal.SIGSTOP)
    until("it has stopped", lambda: (seen := qemus.qemu_of(pid)) is not None and seen.stopped)
    assert [check.name for check in _scanned(pid).checks] == ["frozen"]
    monkeypatch.setattr(qemu_scan, "PATIENCE_S", 0.1)
    hung = [replace(seen, stopped=False) for seen in qemus.running(factories.ours(host="hv1"))]
    monkeypatch.setattr(qemus, "running", lambda _: hung)
    assert [check.name for check in _scanned(pid).checks] == ["frozen"], "its main loop hangs"
    monkeypatch.setattr(qemu_scan, "WITHIN_S", 0.0)
    assert [check.name for check in _scanned(pid).checks] == ["not-asked"], "others took all the time"
    with pytest.raises(PreconditionFailed, match=f"a signal has stopped QEMU .*`kill -CONT {pid}`"):
        asyncio.run(inspection.inspect(Inspect(qmp=f"{folder}/qmp"), factories.ours(host="hv1")))
    number = factories.job("web", "hv2", state=JobState.RUNNING)
    at_work = _scanned(pid)
    assert (at_work.job, at_work.qmp, at_work.checks) == (number, None, ())


@pytest.mark.guests
def test_a_name_that_is_no_utf8_can_be_told(folder: Path) -> None:
    line = [b"qemu-system-x86_64", b"-M", b"none", b"-display", b"none", b"-name", b"x\xe4y"]
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, cwd=folder) as process:
        until("it runs", lambda: qemus.qemu_of(process.pid))
        qemu = qemus.qemu_of(process.pid)
        process.kill()
    assert qemu is not None
    assert '"name":"x\\\\xe4y"' in qemu.seen.model_dump_json()


@pytest.mark.guests
def test_what_a_dry_run_tries_is_no_guest_that_runs_twice(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processes.MARK, f"/var/lib/drover/{qemus.TRIALS}/12-abc/trial")
    tried = start("-name", "web")
    monkeypatch.delenv(processes.MARK)
    guest = start("-name", "web")
    assert {qemu.process.pid for qemu in qemus.running(factories.offline(host="hv1"))} & {tried, guest} == {guest}


def _qemu(pid: int, name: str | None, **more: object) -> FoundQemu:
    common = {"process": f"boot/1/{pid}/1", "pid": pid, "name": name, "user": "root", "qmp": f"/run/{pid}"}
    monitors = (FoundMonitor(address=f"/run/{pid}", qmp=True),)
    return FoundQemu.model_validate(
        common | {"launcher": Launcher(kind=LauncherKind.NOBODY), "monitors": monitors} | more
    )


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, database: None) -> None:
    """hv1 with eight QEMUs, one of them known."""
    factories.host("hv1")
    factories.guest("web", on="hv1", process="boot/1/10/1")
    seen = FoundQemus(
        qemus=(
            _qemu(10, "web"),
            _qemu(11, "db"),
            _qemu(12, None),
            _qemu(13, "web"),
            _qemu(14, "a b"),
            _qemu(15, "bad", checks=(checks.process.FROZEN.found("a signal has stopped pid 15"),)),
            _qemu(16, "twin"),
            _qemu(17, "twin"),
        )
    )
    monkeypatch.setattr(guest_scan, "ask", lambda _host, _question: seen)


def test_a_guest_that_is_on_record_elsewhere_is_known_by_its_uuid(
    monkeypatch: pytest.MonkeyPatch, database: None
) -> None:
    factories.host("hv1")
    factories.host("hv2")
    factories.guest("web", on="hv1", uuid="5d6f1f0e-7a3a-4f0c-9a4a-0000000000aa")
    moved = _qemu(10, "web", uuid="5d6f1f0e-7a3a-4f0c-9a4a-0000000000aa")
    monkeypatch.setattr(guest_scan, "ask", lambda _host, _question: FoundQemus(qemus=(moved,)))
    [found] = guest_scan.scan("hv2")
    assert (found.guest, found.name) == (None, None)
    assert found.unnamed == (
        "by its UUID it is web, which is on record on hv1: if it does not run there, "
        "`drover guest adopt web --host hv2 --qmp /run/10`"
    )


@pytest.mark.usefixtures("host")
def test_only_what_can_be_moved_and_has_a_name_of_its_own_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def adopt(name: str, host: str, qmp: str) -> object:
        called.append((name, host, qmp))
        raise PreconditionFailed("it has ended meanwhile")

    monkeypatch.setattr(guests, "adopt", adopt)
    found = guest_scan.scan("hv1")
    assert [(one.guest, one.name) for one in found[:2]] == [("web", None), (None, "db")]
    unnamed = [one.unnamed or "" for one in found[2:]]
    assert "started without a name" in unnamed[0]
    assert "web is the name of another guest: `drover guest adopt NAME --host hv1 --qmp /run/13`" in unnamed[1]
    assert "a name has 1 to 63 letters" in unnamed[2]
    assert (found[5].reasons, unnamed[3]) == (
        ("a signal has stopped pid 15; let it go on with `kill -CONT PID`, or look at its log",),
        "",
    )
    assert all("twin is the name of another guest" in why for why in unnamed[4:])
    assert guest_scan.adopt("hv1", found)[1].unnamed == "it has ended meanwhile"
    assert called == [("db", "hv1", "/run/11")]


@pytest.mark.usefixtures("host")
def test_a_scan_lists_each_qemu_and_below_why_not() -> None:
    shown = drover("guest", "scan", "--host", "hv1")
    assert shown.exit_code == 0
    assert "/run/11 (free)" in shown.stdout
    assert "pid 15 (bad): a signal has stopped pid 15" in shown.stdout
    assert "1 QEMU can be adopted: `drover guest scan --host hv1 --adopt`" in shown.stderr
