"""A guest whose network the kernel carries (vhost-net): in the virtual machine of `tests/guests/test_in_a_vm.py`."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.plan import Execution, Tap
from tests.qmp_guest import QEMU, Guest
from tests.vm import POOL
from workers.process import execution, networks, processes, taps
from workers.process.exec_qemu import VHOST_NET

pytestmark = [
    pytest.mark.all_lines,
    pytest.mark.skipif(not Path(POOL).exists(), reason="only the virtual machine has a network of its own for this"),
]
BY_DESCRIPTOR = "tap,id=n,fd=30,vhost=on,vhostfd=31"
TAP = Tap(
    name="vnet7",
    bridge="br7",
    mac="fe:54:00:12:34:57",
    mtu=1500,
    up=True,
    headers=True,
    multi_queue=False,
    descriptors=(30,),
)
WANTED = Execution(user="root", group="root", taps=(TAP,), vhost_net=(31,))


@pytest.fixture(autouse=True)
def bridge() -> Iterator[None]:
    subprocess.run(["ip", "link", "add", "br7", "type", "bridge"], check=True)
    yield
    subprocess.run(["ip", "link", "delete", "br7"], check=True)


def line(folder: Path, netdev: str, *more: str) -> list[str]:
    folder.mkdir()
    argv = [QEMU, "-M", "pc", "-m", "32", "-display", "none", "-nodefaults", "-netdev", netdev]
    argv += ["-device", "virtio-net-pci,netdev=n,romfile="]
    return [*argv, "-qmp", f"unix:{folder}/q,server=on,wait=off", *more]


def test_a_guest_with_vhost_by_descriptor_goes_on_with_another_one(tmp_path: Path) -> None:
    argv = line(tmp_path / "a", BY_DESCRIPTOR)
    source = Guest(execution.launched(argv, WANTED), tmp_path / "a" / "q")
    alive = processes.process(source.process.pid)
    assert alive is not None
    seen = execution.read(alive, argv, taps.handed_over(alive, argv))
    assert seen is not None
    assert (seen.vhost_net, [tap.descriptors for tap in seen.taps]) == ((31,), [(30,)])
    assert seen.taps[0].headers
    there = execution.launched(line(tmp_path / "b", BY_DESCRIPTOR, "-incoming", "defer"), seen)
    destination = Guest(there, tmp_path / "b" / "q")
    assert str(Path(f"/proc/{destination.process.pid}/fd/31").readlink()) == VHOST_NET
    destination("migrate-incoming", uri=f"unix:{tmp_path}/ram")
    source("migrate", uri=f"unix:{tmp_path}/ram")
    deadline = time.monotonic() + 60
    while source("query-migrate")["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    source.close()
    while destination("query-status")["status"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    destination.close()


def test_a_tap_by_name_with_vhost_is_found_and_opened(tmp_path: Path) -> None:
    netdev = "tap,id=n,ifname=t7,script=no,downscript=no,vhost=on,vhostforce=on,queues=2"
    argv = line(tmp_path / "a", netdev)
    assert "no tap of that name here" in networks.missing(argv, "root")[0].seen
    subprocess.run(["ip", "tuntap", "add", "t7", "mode", "tap", "multi_queue"], check=True)
    subprocess.run(["ip", "link", "set", "t7", "master", "br7", "up"], check=True)
    assert networks.missing(argv, "root") == networks.warnings(argv) == []
    guest = Guest(argv, tmp_path / "a" / "q")
    assert "is in use" in networks.missing(argv, "root")[0].seen
    opened = [str(link.readlink()) for link in Path(f"/proc/{guest.process.pid}/fd").iterdir()]
    assert opened.count(VHOST_NET) == 2
    guest.close()
    subprocess.run(["ip", "link", "delete", "t7"], check=True)
