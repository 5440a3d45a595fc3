"""What is seen of guests: running, paused, gone, twice; without asking their QEMUs each time."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, update

from drover.metrics import gauges
from models.database import transaction
from models.documents import SeenQemu, SeenQemus
from models.guest import Guest, Life
from models.host import Host
from models.job import Job, JobState
from tests import factories
from workers.guest import liveness
from workers.process import accounts, processes, qemus
from workflows import twins

WEB = SeenQemu(process="boot/1/10/1", pid=10, name="web", uuid="u-1", macs=("52:54:00:00:00:01",))


@pytest.mark.parametrize(
    ("words", "name", "uuid", "macs"),
    [
        ("-name web,debug-threads=on -uuid ABC -nic user,mac=52:54:00:0:0:A", "web", "abc", ("52:54:00:0:0:a",)),
        ("-name guest=web,process=x -smbios type=1,uuid=ABC", "web", "abc", ()),
        ('-device {"driver":"virtio-net-pci","mac":"52:54:00:0:0:b"}', None, None, ("52:54:00:0:0:b",)),
        ("-device virtio-net-pci,mac=1 -net nic,macaddr=2 -smbios type=2,uuid=X", None, None, ("1", "2")),
    ],
)  # fmt: skip
def test_a_qemu_is_known_by_its_command_line(words: str, name: str, uuid: str, macs: tuple[str, ...]) -> None:
    argv = ["qemu", *words.split()]
    assert (qemus.name_of(argv), qemus.uuid_of(argv), qemus.macs_of(argv)) == (name, uuid, macs)


@pytest.mark.parametrize(
    ("columns", "host_alive", "life"),
    [
        ({}, True, Life.RUNNING),
        ({"runstate": "running"}, True, Life.RUNNING),
        ({"runstate": "io-error"}, True, Life.PAUSED),
        ({"gone_at": "then"}, True, Life.GONE),
        ({"gone_at": "then"}, False, Life.UNKNOWN),
        ({"twin": "pid 1 on hv2", "gone_at": "then"}, False, Life.TWICE),
    ],
)
def test_the_state_of_a_guest_is_what_was_seen_last(columns: dict[str, str], host_alive: bool, life: Life) -> None:
    assert Guest(name="web", host="hv1", qmp="/q", **columns).life(host_alive=host_alive) is life


@pytest.fixture
def web(database: None) -> str:
    """A guest on hv1; hv2 is there as well."""
    factories.host("hv1")
    factories.host("hv2")
    factories.guest("web", on="hv1", process=WEB.process)
    seen("hv1", WEB)
    return "web"


def seen(host: str, *found: SeenQemu, ago: timedelta = timedelta(seconds=-1)) -> None:
    """That host reports these, as seen some time ago."""
    with transaction() as session:
        at = func.clock_timestamp() - ago
        session.execute(update(Host).where(Host.name == host).values(qemus=SeenQemus(qemus=found), qemus_at=at))


def twin_of(guest: str) -> str | None:
    twins.look(factories.ours())
    with transaction() as session:
        return session.get_one(Guest, guest).twin


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"uuid": "u-1", "user": "ada"}, ", a process of ada, has its UUID u-1"),
        ({"name": "web"}, " has its name web"),
        ({"macs": ("52:54:00:00:00:02", "52:54:00:00:00:01")}, " has its MAC 52:54:00:00:00:01"),
    ],
)
def test_the_same_machine_on_another_host_is_an_alarm_until_it_is_gone(
    web: str, other: dict[str, object], why: str
) -> None:
    assert twin_of(web) is None
    seen("hv2", SeenQemu.model_validate({"process": "boot/1/20/1", "pid": 20, **other}))
    assert twin_of(web) == twin_of(web) == f"pid 20 on hv2{why} as well"
    with transaction() as session:
        [_, trouble, *_] = gauges._of_guests(session, {"hv1": 1, "hv2": 1})
        assert [sample.labels for sample in trouble.samples] == [{"guest": web, "host": "hv1", "state": "twice"}]
    seen("hv2")
    assert twin_of(web) is None


def test_two_qemus_are_no_alarm_while_a_job_moves_the_guest_nor_in_a_report_of_before_its_end(web: str) -> None:
    seen("hv2", SeenQemu(process="boot/1/20/1", pid=20, uuid="u-1"))
    job = factories.job(web, "hv2", state=JobState.RUNNING)
    assert twin_of(web) is None
    with transaction() as session:
        session.execute(
            update(Job).where(Job.id == job).values(state=JobState.DONE, finished_at=func.clock_timestamp())
        )
    seen("hv2", SeenQemu(process="boot/1/20/1", pid=20, uuid="u-1"), ago=timedelta(seconds=3))
    assert twin_of(web) is None
    seen("hv2", SeenQemu(process="boot/1/20/1", pid=20, uuid="u-1"))
    assert twin_of(web) is not None


def test_another_guest_that_is_known_is_no_twin(web: str) -> None:
    factories.guest("db", on="hv2", process="boot/1/20/1")
    seen("hv2", SeenQemu(process="boot/1/20/1", pid=20, name="web"))
    assert twin_of(web) is None


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU that runs nothing."""
    line = ["qemu-system-x86_64", "-M", "none", "-display", "none", "-name", "web", "-uuid", str(WEB_UUID)]
    process = subprocess.Popen([*line, "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"], stdin=subprocess.DEVNULL)
    while not (tmp_path / "q").exists():
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()


WEB_UUID = "5d6f1f0e-7a3a-4f0c-9a4a-0000000000aa"


@pytest.mark.guests
@pytest.mark.usefixtures("database")
def test_a_worker_sees_its_qemus_and_asks_one_seldom(
    qemu: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(qemus.LAB, raising=False)
    process = processes.process(qemu.pid)
    assert process is not None
    identity = processes.identity(process)
    factories.host("hv1")
    factories.guest("web", on="hv1", process=identity)
    with transaction() as session:
        session.get_one(Guest, "web").qmp = f"{tmp_path}/q"
    ours = factories.ours(host="hv1")
    liveness.look(ours)
    with transaction() as session:
        host, guest = session.get_one(Host, "hv1"), session.get_one(Guest, "web")
        assert host.qemus is not None
        me = accounts.user_name(os.geteuid())
        assert [(one.uuid, one.user) for one in host.qemus.qemus if one.process == identity] == [(WEB_UUID, me)]
        assert guest.runstate == "running"
    with socket.socket(socket.AF_UNIX) as holder:
        holder.connect(f"{tmp_path}/q")  # it is not asked again: the next look would have to wait for it
        liveness.look(ours)
    qemu.send_signal(signal.SIGSTOP)
    while not qemus.qemu_of(qemu.pid).stopped:  # type: ignore[union-attr]
        pass
    liveness.look(ours)
    with transaction() as session:
        assert session.get_one(Guest, "web").life(host_alive=True) is Life.PAUSED
    qemu.send_signal(signal.SIGCONT)
