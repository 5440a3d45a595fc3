"""From the last version to this one with a move under way, in the order of docs/how-to/upgrade.md.

What is Drover's is stopped, the database is upgraded, and this version is started. Guests, copies and helpers on the
hosts go on meanwhile.

The last version is a tree from git; both run with the same dependencies.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

import migrations
from lab import fleet, services
from lab.directory import Lab
from models.database import engine
from models.job import Job
from tests import brokers
from tests.helpers import Moves, stop, until
from workers.process import processes
from workers.process.processes import Process

pytestmark = pytest.mark.guests

ROOT = Path(__file__).parents[2]
DROVER = Path(sys.executable).with_name("drover")
LAST = "2015e49f9af6a3054385a6ef06081ac75a1c550a"  # pragma: allowlist secret
"""The commit that landed last before columns, states and modules were renamed."""


def _git(*words: str) -> bytes:
    command = ["git", "-c", f"safe.directory={ROOT}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous version's tree."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("only git knows the previous version")
    try:
        packed = _git("archive", LAST)
    except subprocess.CalledProcessError:
        pytest.skip("this clone has no history")
    tree = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(tree, filter="data")
    entry = tree / "drover" / "cli.py"  # where this version's script looks for the command
    entry.parent.mkdir()
    (entry.parent / "__init__.py").touch()
    entry.write_text("from workflows.cli import main as main\n")
    return tree


@dataclass
class Fleet:
    """A lab that was brought up by the previous version, which `run` goes on using."""

    lab: Lab
    previous: Path

    def run(self, *words: str) -> None:
        """A command of the previous version."""
        environment = os.environ | {"PYTHONPATH": str(self.previous)} | self.lab.environment
        done = subprocess.run(  # there, for `python -m` looks into the present folder first
            [DROVER, *words], cwd=self.previous, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def runs(self, role: str) -> Process:
        """The only process of this role."""
        [process] = processes.find(self.lab.mark(role))
        return process

    def is_new(self, role: str) -> bool:
        """Whether it is this version that runs."""
        environment = Path(f"/proc/{self.runs(role).pid}/environ").read_bytes()
        return f"PYTHONPATH={self.previous}".encode() not in environment.split(b"\0")

    def stop_all(self) -> None:
        """End controller and workers of the last version as a supervisor would."""
        for role in self.roles:
            assert not self.is_new(role)
            stop(self.runs(role))

    def start_all(self) -> None:
        """Start this version's."""
        fleet.write_policy(self.lab)
        hosts = [host.name for host in self.lab.hosts]
        services.make_roles(self.lab, hosts)
        with brokers.connected(self.lab) as redis:
            for user in services.users(hosts):
                redis.execute_command("ACL", "SETUSER", *user.split()[1:])  # type: ignore[no-untyped-call]
        fleet.start_controller(self.lab)
        for host in self.lab.hosts:
            fleet.start_worker(self.lab, host)
        for role in self.roles:
            assert self.is_new(role)

    @property
    def roles(self) -> list[str]:
        """What has to be stopped and started again."""
        return ["controller", *(f"worker-{host.name}" for host in self.lab.hosts)]


@pytest.fixture
def old_fleet(previous: Path) -> Iterator[Fleet]:
    """Two hosts, a controller and a guest, all by the previous version; this process is pointed at them."""
    lab = Lab(Path(tempfile.mkdtemp(prefix="du", dir="/tmp")), durable=False)
    made = Fleet(lab, previous)
    try:
        made.run("lab", "up", "--hosts", "2", "--no-flower", "--dir", str(lab.path))
        with fleet.pointed_at(lab):
            yield made
    finally:
        fleet.down(lab)
        shutil.rmtree(lab.path, ignore_errors=True)


def _schema() -> str | None:
    with engine().connect() as connection:
        return migrations.present(connection)


@pytest.mark.thorough
def test_a_fleet_is_upgraded_while_a_guest_moves_and_the_copy_goes_on(old_fleet: Fleet) -> None:
    lab, moves = old_fleet.lab, Moves(old_fleet.lab)
    newest = migrations.newest()
    assert _schema() != newest
    old_fleet.run(
        "lab", "guest", "web", "--host", "host-a", "--disk", "160M", "--fill-mib", "128", "--write-rate", "20"
    )
    old_fleet.run("migrate", "web", "--to", "host-b", "--bandwidth", "16M/s")
    copied = until("the copy runs", lambda: _copied(1), 60)

    old_fleet.stop_all()
    subprocess.run([DROVER, "db", "upgrade"], env=os.environ | lab.environment, check=True)
    assert _schema() == newest
    old_fleet.start_all()
    until("the same copy goes on", lambda: _copied(copied + 1))
    _switched(moves, moves.ended(1))
    moves.intact("web", "host-b")

    _switched(moves, moves.move("web", "host-a"))
    moves.intact("web", "host-a")


def _switched(moves: Moves, job: Job) -> None:
    """The job is done, and its downtime is known."""
    moves.done(job)
    assert job.downtime is not None
    assert job.downtime.ms is not None


def _copied(at_least: int) -> int:
    """Bytes of the first job's disk, by columns that every version has; 0 as long as there are fewer."""
    with engine().connect() as connection:
        copied = connection.exec_driver_sql("SELECT sum(bytes_copied) FROM disk WHERE job_id = 1").scalar()
    return int(copied or 0) if int(copied or 0) >= at_least else 0
