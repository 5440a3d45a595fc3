"""A guest that systemd keeps alive moves to another host and home again: one guest at any instant, at boot as well."""

import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from lab import fleet, services
from lab.directory import MARKER, Lab, host_names
from lab.guest.boot_files import boot_files, default_cache
from lab.guest.command_line import command_line
from lab.guest.spec import DiskSpec, GuestSpec
from models.database import transaction
from models.guest import Guest
from models.job import JobState, Side, StepState
from models.launcher import LauncherKind
from tests import booted
from tests.booted import Booted
from tests.cli.support import drover
from tests.guides import HOW_TO, ROOT, scripts
from tests.helpers import MIB, Moves, next_heartbeat, until
from tests.labs import BRISK
from tests.step_contexts import Link
from workflows import guests
from workflows.migration import jobs
from workflows.migration.links import StepName

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.guests,
    pytest.mark.skipif(not booted.may_be_made(), reason="no systemd-nspawn here, or this user may not mount"),
]
UNITS = ROOT / "deploy" / "systemd"
PREFIX = Path(sys.executable).parent.parent
OF_CONTROL = ("drover-controller", "drover-console", "drover-flower")
WHERE_TESTS_ARE = "[Service]\nUser=root\nPrivateTmp=no\nProtectHome=no\n"
"""The Python of a test may be in the home of root, its services are below /tmp."""
OF_SERVICES = re.compile(
    r"systemctl (stop|start|restart|disable --now|enable --now)((?: drover-(?:worker|controller|console|flower)\b)+)"
)
UNIT = """\
[Unit]
Description=the guest web, as its owner runs it
[Service]
ExecStartPre=/bin/sh -c '[ -e {image} ] || qemu-img create -q -f qcow2 {image} 64M'
ExecStart={command}
Restart=always
RestartSec=200ms
MemoryMax=600M
CPUWeight=50
Slice=machine.slice
[Install]
WantedBy=multi-user.target
"""


@dataclass
class HostsWithSystemd:
    """Two hosts that boot, and a guest that a unit of the first one keeps alive."""

    lab: Lab
    hosts: dict[str, Booted]
    spec: GuestSpec
    most: int = 0
    """Of this guest's QEMUs that had its disk open to write, at one time."""
    over: threading.Event = field(default_factory=threading.Event)

    def at(self, host: str) -> GuestSpec:
        return GuestSpec(**{**vars(self.spec), "directory": self.lab.host(host).guests / self.spec.name})

    def writes(self, host: str) -> None:
        """It says something new there."""
        console = self.at(host).console
        heard = console.stat().st_size if console.exists() else 0
        until(f"the guest writes on {host}", lambda: _said(console)[heard:].count(b"ack ") > 2, 120)

    def watch(self) -> None:
        """A QEMU that runs the guest prints on its console; of two hosts only one may at a time."""
        heard = dict.fromkeys(self.hosts, 0)
        while not self.over.wait(0.05):
            said = {host: len(_said(self.at(host).console)) for host in self.hosts}
            self.most = max(self.most, sum(said[host] > heard[host] for host in said))
            heard = said


def _said(console: Path) -> bytes:
    try:
        return console.read_bytes()
    except FileNotFoundError:
        return b""


@pytest.fixture(scope="module")
def hosts_with_systemd() -> Iterator[HostsWithSystemd]:
    lab = Lab(Path(tempfile.mkdtemp(prefix="du", dir="/tmp")), BRISK, durable=False)
    folder = Path(tempfile.mkdtemp(prefix="drover-booted-", dir="/var/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(fleet.down, lab)
        _start_services(lab)
        hosts = {}
        for name in host_names(2):
            shared = [lab.path, ROOT, default_cache()]
            made = stack.enter_context(booted.machine(name, folder / name, shared))
            _install(lab, made)
            made.boot()
            hosts[name] = made
        stack.enter_context(fleet.pointed_at(lab))
        fleet.wait_for_workers(lab)
        spec = GuestSpec(
            name="web",
            directory=lab.host("host-a").guests / "web",
            disks=(DiskSpec(size_bytes=64 * MIB),),
            window_mib=4,
            write_rate=40,
        )
        yield HostsWithSystemd(lab, hosts, spec)


def _start_services(lab: Lab) -> None:
    (lab.path / MARKER).touch()
    lab.path.chmod(0o711)
    for name in host_names(2):
        lab.host(name).guests.mkdir(parents=True)
    fleet.write_policy(lab)
    services.start_postgres(lab)
    services.start_redis(lab)
    fleet.make_tables(lab)
    services.make_roles(lab, host_names(2))
    fleet.start_controller(lab)


def _install(lab: Lab, machine: Booted) -> None:
    """What docs/how-to/deploy.md says of a hypervisor."""
    there = machine.root / "etc/systemd/system"
    for unit in ("drover-worker.service", "drover-guest@.service"):
        shutil.copy(UNITS / unit, there / unit)
    for unit in OF_CONTROL:
        shutil.copy(UNITS / f"{unit}.service", there)
        more = there / f"{unit}.service.d"
        more.mkdir()
        (more / "of-tests.conf").write_text(WHERE_TESTS_ARE)
    wants = there / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "drover-worker.service").symlink_to("/etc/systemd/system/drover-worker.service")
    opt = machine.root / "opt/drover"
    opt.unlink(missing_ok=True)
    opt.symlink_to(PREFIX)
    of_tests = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    settings = machine.root / "etc/drover"
    settings.mkdir(exist_ok=True)
    of_flower = lab.environment_of(services.FLOWER) | {"DROVER_HOST": services.FLOWER}
    for name, lines in (
        ("environment", lab.host_environment(lab.host(machine.name))),
        ("flower.environment", of_flower),
    ):
        (settings / name).write_text("".join(f'{one}="{value}"\n' for one, value in (lines | of_tests).items()))


def test_a_guest_that_systemd_keeps_alive_runs_once_wherever_it_lives(hosts_with_systemd: HostsWithSystemd) -> None:
    here, there, moves = (
        hosts_with_systemd.hosts["host-a"],
        hosts_with_systemd.hosts["host-b"],
        Moves(hosts_with_systemd.lab),
    )
    watching = threading.Thread(target=hosts_with_systemd.watch, daemon=True)
    _begin(hosts_with_systemd)
    adopted, _ = guests.adopt("web", "host-a", str(hosts_with_systemd.spec.qmp_socket))
    assert adopted.launcher is not None
    assert (adopted.launcher.kind, adopted.launcher.name) == (LauncherKind.UNIT, "web.service")
    watching.start()

    _called_off_while_workers_are_killed(hosts_with_systemd, moves)
    _its_host_loses_power_in_mid_move(hosts_with_systemd, moves)
    _its_new_host_loses_power_right_after_the_switchover(hosts_with_systemd, moves)

    time.sleep(1.0)  # several times its RestartSec
    assert here.unit("web.service", "ActiveState") in {"inactive", "failed"}
    _its_former_unit_is_edited_and_starts_nothing(here)
    known = guests.known_guest("web")
    assert known.launcher is not None
    assert known.launcher.name == "drover-guest@web.service"
    _lives_by_its_own_unit(there)
    pid = there.unit("drover-guest@web", "MainPID")
    there.done("systemctl restart drover-worker")
    assert there.unit("drover-guest@web", "MainPID") == pid, "it outlives the worker"
    there.done("systemctl kill -s KILL drover-guest@web")
    hosts_with_systemd.writes("host-b")
    assert there.unit("drover-guest@web", "MainPID") != pid, "it is started again"

    here.shut_down()
    there.lose_power()
    here.boot()
    there.boot()
    hosts_with_systemd.writes("host-b")
    assert here.unit("web.service", "ActiveState") == "inactive", "it is not started at boot where it does not live"

    fleet.wait_for_workers(hosts_with_systemd.lab)
    until("host-b knows it again", _inspected, 60, every_s=0.5)
    _moved_while_workers_are_killed(hosts_with_systemd, moves)
    hosts_with_systemd.writes("host-a")
    _lives_by_its_own_unit(here)
    assert here.run("systemctl start web.service").returncode != 0, "its former unit starts no second one"
    assert there.unit("drover-guest@web", "ActiveState") == "inactive"
    assert there.unit("drover-guest@web", "UnitFileState") == "disabled"
    _starts_nothing_once_it_was_fenced(hosts_with_systemd)
    _its_former_unit_runs_it_again(hosts_with_systemd)
    hosts_with_systemd.over.set()
    watching.join()
    assert hosts_with_systemd.most == 1


def _its_former_unit_is_edited_and_starts_nothing(here: Booted) -> None:
    """By its owner, while the guest is away."""
    lines = r"[Service]\nRestart=always\nMemoryMax=500M\n"
    here.done(rf"printf '{lines}' >/etc/systemd/system/web.service.d/override.conf && systemctl daemon-reload")
    assert {name: here.unit("web.service", name) for name in ("Restart", "MemoryMax")} == {
        "Restart": "no",
        "MemoryMax": str(500 * MIB),
    }
    assert here.run("systemctl start web.service").returncode != 0, "nobody can start a second one there"


EDGES = {
    (StepName.START_NBD, Side.DESTINATION),
    (StepName.MIGRATE_RAM, Side.SOURCE),
    (StepName.CUTOVER, Side.DESTINATION),
    (StepName.CLEANUP, Side.SOURCE),
}
"""The links that do something about the guest's units."""


TAKEN_BACK = {(StepName.START_NBD, Side.DESTINATION), (StepName.MIGRATE_RAM, Side.SOURCE)}
"""Those of them that are begun, and rolled back, of a move that is called off while its RAM is sent."""


def _called_off_while_workers_are_killed(hosts_with_systemd: HostsWithSystemd, moves: Moves) -> None:
    """Its launcher keeps still, then the worker dies; each link is rolled back twice. After that it is as before."""
    here, there = hosts_with_systemd.hosts["host-a"], hosts_with_systemd.hosts["host-b"]
    job_id = moves.submit("web", "host-b", bandwidth_bytes_per_s=4 * MIB).id
    until("its launcher keeps still", lambda: here.unit("web.service", "Restart") == "no", 120)
    _kill_worker(here)
    jobs.cancel(job_id)
    killed = _ends_while_workers_are_killed(hosts_with_systemd, moves, job_id, TAKEN_BACK, StepState.ROLLING_BACK)
    assert moves.job(job_id).state is JobState.ROLLED_BACK, moves.events(job_id)
    assert killed, "all were over before their workers could be killed"
    assert {name: here.unit("web.service", name) for name in ("Restart", "ActiveState")} == {
        "Restart": "always",
        "ActiveState": "active",
    }
    assert there.unit("drover-guest@web", "ActiveState") == "inactive"
    hosts_with_systemd.writes("host-a")


def _its_host_loses_power_in_mid_move(hosts_with_systemd: HostsWithSystemd, moves: Moves) -> None:
    """It is started at boot where it lives, as if nothing had been tried; if nothing on the host tells any more that it
    was not handed over, once an operator has said so by what both hosts answer.
    """
    here, there = hosts_with_systemd.hosts["host-a"], hosts_with_systemd.hosts["host-b"]
    for of_ram in (False, True):
        job_id = moves.submit("web", "host-b", bandwidth_bytes_per_s=4 * MIB).id
        until("its launcher keeps still", lambda: here.unit("web.service", "Restart") == "no", 120)
        if of_ram:
            until("its RAM is sent", partial(_sends_ram, moves, job_id), 120)
        here.lose_power()
        here.boot()
        job = moves.ended(job_id, 240)
        if of_ram and job.state is JobState.NEEDS_OPERATOR:  # its switchover process did not outlive its QEMU
            assert here.unit("web.service", "ActiveState") != "active", "nobody starts it"
            assert "`drover reconcile`" in str(job.error)
            assert "the destination does not hold the complete guest" in drover("reconcile", "web").output
            assert drover("job", "resolve", str(job_id), "--owner", "source").exit_code == 0
            job = moves.ended(job_id)
        assert job.state is JobState.ROLLED_BACK, moves.events(job_id)
        hosts_with_systemd.writes("host-a")
        assert {name: here.unit("web.service", name) for name in ("Restart", "ActiveState")} == {
            "Restart": "always",
            "ActiveState": "active",
        }
        assert there.unit("drover-guest@web", "ActiveState") == "inactive"
        until("host-a knows it again", _inspected, 60, every_s=0.5)


def _sends_ram(moves: Moves, job_id: int) -> bool:
    ram = moves.job(job_id).ram
    return ram is not None and ram.transferred > 0


def _its_new_host_loses_power_right_after_the_switchover(hosts_with_systemd: HostsWithSystemd, moves: Moves) -> None:
    """It is started at boot where it lives by then, and its former launcher keeps still."""
    here, there = hosts_with_systemd.hosts["host-a"], hosts_with_systemd.hosts["host-b"]
    job_id = moves.submit("web", "host-b", watch_s=15.0).id
    until("it has changed hosts", lambda: moves.step_is(job_id, "check_guest", "running"), 120)
    there.lose_power()
    there.boot()
    hosts_with_systemd.writes("host-b")
    job = moves.ended(job_id, 240)
    moves.done(job)
    assert job.health is not None
    assert guests.known_guest("web").host == "host-b"
    assert here.unit("web.service", "ActiveState") in {"inactive", "failed"}


def _moved_while_workers_are_killed(hosts_with_systemd: HostsWithSystemd, moves: Moves) -> None:
    """Home to host-a; each of these links is begun twice, the second time by a worker that systemd has started."""
    job_id = moves.submit("web", "host-a").id
    killed = _ends_while_workers_are_killed(hosts_with_systemd, moves, job_id, EDGES, StepState.RUNNING)
    moves.done(moves.job(job_id))
    assert killed, "all were over before their workers could be killed"


def _ends_while_workers_are_killed(
    hosts_with_systemd: HostsWithSystemd, moves: Moves, job_id: int, links: set[Link], state: StepState
) -> int:
    """The worker of each of these links is killed once in that state; of how many that succeeded."""
    left = set(links)

    def ended() -> bool:
        job = moves.job(job_id)
        for step in job.steps:
            if (step.name, step.side) in left and step.state is state:
                left.remove((StepName(step.name), step.side))
                _kill_worker(hosts_with_systemd.hosts[step.host])
        return job.state.settled

    until("the job ends", ended, 240, every_s=0.01)
    return len(links) - len(left)


def _kill_worker(host: Booted) -> None:
    host.done("systemctl kill --kill-whom=main -s KILL drover-worker")


def _starts_nothing_once_it_was_fenced(hosts_with_systemd: HostsWithSystemd) -> None:
    """The guest's host loses power, an operator has the guest go on elsewhere, and the host comes back."""
    here = hosts_with_systemd.hosts["host-a"]
    launch = hosts_with_systemd.lab.host("host-a").folder / "drover" / "launch" / "web.json"
    assert launch.exists()
    here.lose_power()
    with transaction() as session:
        session.get_one(Guest, "web").host = "host-b"
    heard = _said(hosts_with_systemd.at("host-a").console)
    here.boot()
    until("its worker puts the launch file aside", launch.with_suffix(".moved").exists, 120)
    until("its unit is disabled", lambda: here.unit("drover-guest@web", "UnitFileState") == "disabled", 60)
    until("its unit is not at work", lambda: here.unit("drover-guest@web", "ActiveState") in {"failed", "inactive"}, 60)
    assert _said(hosts_with_systemd.at("host-a").console) == heard


def _its_former_unit_runs_it_again(hosts_with_systemd: HostsWithSystemd) -> None:
    """As the documents say of a backup that named the wrong host, and of a guest that is to be its owner's again."""
    here, folder = hosts_with_systemd.hosts["host-a"], hosts_with_systemd.lab.host("host-a").folder / "drover"
    with transaction() as session:
        session.get_one(Guest, "web").host = "host-a"
    for page in ("backup", "launchers"):
        [script] = scripts(HOW_TO / f"{page}.md", "booted")
        lines = script.replace("/var/lib/drover", str(folder)).splitlines()
        here.done("\n".join(line for line in lines if not line.startswith("drover ")))
        if page == "backup":
            assert here.unit("drover-guest@web", "UnitFileState") == "enabled"
    hosts_with_systemd.writes("host-a")
    assert here.unit("web.service", "ActiveState") == "active"
    assert here.unit("drover-guest@web", "UnitFileState") == "disabled"


def _begin(hosts_with_systemd: HostsWithSystemd) -> None:
    spec, here = hosts_with_systemd.spec, hosts_with_systemd.hosts["host-a"]
    spec.directory.mkdir()
    words = command_line(spec, boot_files(default_cache()))
    command = " ".join('"' + word.replace("%", "%%") + '"' for word in [f"/usr/bin/{words[0]}", *words[1:]])
    unit = UNIT.format(image=spec.image(0), command=command)
    (hosts_with_systemd.hosts["host-a"].root / "etc/systemd/system/web.service").write_text(unit)
    here.done("systemctl daemon-reload && systemctl enable --quiet --now web.service")
    hosts_with_systemd.writes("host-a")


def _lives_by_its_own_unit(host: Booted) -> None:
    unit = "drover-guest@web.service"
    wanted = {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "Restart": "always",
        "MemoryMax": str(600 * MIB),
        "CPUWeight": "50",
        "Slice": "machine.slice",
    }
    assert {name: host.unit(unit, name) for name in wanted} == wanted


def _inspected() -> bool:
    return bool(guests.inspect(guests.known_guest("web")).runstate == "running")


def test_whatever_a_worker_does_about_units_is_done_by_the_next_one_wherever_it_was_killed(
    hosts_with_systemd: HostsWithSystemd,
) -> None:
    here = hosts_with_systemd.hosts["host-a"]
    script = f"set -a; . /etc/drover/environment; cd {ROOT}; exec {sys.executable} -m tests.deaths_amid_units"
    assert int(here.done(script)) > 5, "so many effects has what has most of them"


def test_services_begin_and_end_by_the_lines_of_the_pages(hosts_with_systemd: HostsWithSystemd) -> None:
    """Here one machine has the units of control and hypervisor."""
    here = hosts_with_systemd.hosts["host-a"]
    lines = {line for page in HOW_TO.glob("*.md") for line in OF_SERVICES.findall(page.read_text())}
    assert {("restart", " drover-worker"), ("start", " drover-controller drover-console drover-flower")} <= lines
    for how, names in sorted(lines):
        _obeyed(here, how, names.split())
    units = [*OF_CONTROL, "drover-worker"]
    here.done(f"systemctl enable --now {' '.join(units)}")
    next_heartbeat("host-a")
    told = here.run(f"systemctl status --full --lines=30 {' '.join(units)}").stdout
    assert {here.unit(unit, "NRestarts") for unit in units} == {"0"}, told
    assert {here.unit(unit, "ActiveState") for unit in units} == {"active"}, told


def _obeyed(here: Booted, how: str, units: list[str]) -> None:
    """After the line they run, or not, and were begun or ended by it."""
    ends = how in {"stop", "disable --now"}
    here.done(f"systemctl {'start' if ends or how == 'restart' else 'stop'} {' '.join(units)}")
    before = {unit: here.unit(unit, "MainPID") for unit in units}
    here.done(f"systemctl {how} {' '.join(units)}")
    assert {here.unit(unit, "ActiveState") for unit in units} == {"inactive" if ends else "active"}, how
    assert [unit for unit in units if here.unit(unit, "MainPID") == before[unit]] == []
