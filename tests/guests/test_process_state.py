"""What lives in a guest's QEMU process alone: carried, or told as what cannot be."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.fleet import free_port
from models.preflight import Check, Verdict
from tests.helpers import until
from tests.qmp_guest import QEMU, Guest, Start, guests, image
from workers.qemu import process_state
from workers.qemu.monitor import connect
from workers.qemu.ports import FIRST_VNC


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


SILENT = ["-vnc :1", "-vnc unix:/x,password=off", "-vnc :1,password=on,password-secret=s", "-device virtio-net"]
SILENT += ["-spice port=1,disable-ticketing=on", "-spice port=1,disable-ticketing", "-spice port=1,password-secret=s"]
TOLD = {"-spice port=1": "display", "-spice port=1,disable-ticketing=off": "display", "-device i6300esb": "action"}
TOLD |= {f"-vnc :1,{said}": "display" for said in ("password=on", "password")}


@pytest.mark.parametrize("words", SILENT)
def test_nothing_is_warned_of_that_the_command_line_says(words: str) -> None:
    assert not list(process_state.untold(["qemu", *words.split()]))


@pytest.mark.parametrize("words", TOLD)
def test_what_qemu_does_not_tell_is_warned_of_with_what_to_do(words: str) -> None:
    (check,) = process_state.untold(["qemu", *words.split()])
    assert check.verdict is Verdict.WARN
    assert re.search(TOLD[words], check.sentence)
    assert words in check.seen
    assert check.remedy


CARDS = ("e1000", "virtio-net-pci")


def line(folder: Path, *more: str) -> list[str]:
    argv = [QEMU, "-display", "none", "-M", "pc", "-m", "32", "-nic", "none", *more]
    argv += ["-qmp", f"unix:{folder}/q,server=on,wait=off"]
    for name in CARDS:
        argv += ["-netdev", f"user,id=net-{name}", "-device", f"{name},id={name},netdev=net-{name}"]
    return argv


def links(guest: Guest) -> tuple[bool, bool] | None:
    """Whether the cards say that the link is up, in their registers; None before the firmware has found them."""
    told = guest("human-monitor-command", command_line="info pci")
    memory = re.search(r"8086:100e.*?BAR0: 32 bit memory at (0x\w+)", told, re.DOTALL)
    ports = re.search(r"1af4:1000.*?BAR0: I/O at (0x\w+)", told, re.DOTALL)
    if memory is None or ports is None:
        return None
    status = guest("human-monitor-command", command_line=f"xp /1xw {int(memory[1], 16) + 8:#x}")
    config = guest("human-monitor-command", command_line=f"i /b {int(ports[1], 16) + 26:#x}")
    return bool(int(status.split()[-1], 16) & 2), bool(int(config.split()[-1], 16) & 1)


def started(start: Start, path: Path, *words: str) -> tuple[Guest, list[str]]:
    """A guest that stands still and has a monitor for us beside the test's; and its command line."""
    argv = [QEMU, "-S", "-qmp", f"unix:{path}/q,server=on,wait=off", "-qmp", f"unix:{path}/ours,server=on,wait=off"]
    argv += words
    return start(argv, path / "q"), argv


def told(path: Path, argv: list[str]) -> list[Check]:
    async def ask() -> list[Check]:
        async with connect(path / "ours") as monitor:
            return await process_state.told(monitor, argv)

    return asyncio.run(ask())


@pytest.mark.guests
def test_a_disk_that_is_exported_is_warned_of(tmp_path: Path, start: Start) -> None:
    disk = image(tmp_path / "disk")
    node = f"file,node-name=d,filename={disk}"
    guest, argv = started(start, tmp_path, "-display", "none", "-blockdev", node)
    guest("nbd-server-start", addr={"type": "unix", "data": {"path": str(tmp_path / "nbd")}})
    guest("block-export-add", type="nbd", id="backup", node_name="d")
    (check,) = told(tmp_path, argv)
    assert (check.name, check.verdict) == ("block-export", Verdict.WARN)
    assert check.seen.startswith("the export backup of d")


@pytest.mark.guests
@pytest.mark.parametrize(
    "words",
    [
        *(["-vnc", value] for value in ("127.0.0.1:{}", ":{}", "[::1]:{}", "localhost:{}", "unix:{}/vnc", "none")),
        ["-vnc", "127.0.0.1:{},websocket=on"],
        ["-display", "vnc=:{}"],
    ],
    ids=" ".join,
)
def test_vnc_that_was_put_elsewhere_is_warned_of(tmp_path: Path, start: Start, words: list[str]) -> None:
    place = tmp_path if "unix" in words[1] else free_port() - FIRST_VNC
    guest, argv = started(start, tmp_path, *(word.format(place) for word in words))
    assert told(tmp_path, argv) == []
    guest("display-update", type="vnc", addresses=[{"type": "unix", "path": f"{tmp_path}/elsewhere"}])
    (check,) = told(tmp_path, argv)
    assert (check.name, check.verdict) == ("display-address", Verdict.WARN)
    assert f"{tmp_path}/elsewhere" in check.seen


@pytest.mark.guests
def test_vnc_at_a_port_that_qemu_chose_is_not_warned_of(tmp_path: Path, start: Start) -> None:
    _, argv = started(start, tmp_path, "-vnc", "127.0.0.1:0,to=900")
    assert told(tmp_path, argv) == []


@pytest.mark.guests
def test_vnc_that_is_opened_to_every_address_is_warned_of(tmp_path: Path, start: Start) -> None:
    port = free_port()
    guest, argv = started(start, tmp_path, "-vnc", f"127.0.0.1:{port - FIRST_VNC}")
    guest("display-update", type="vnc", addresses=[{"type": "inet", "host": "0.0.0.0", "port": str(port)}])
    (check,) = told(tmp_path, argv)
    assert check.seen.startswith(f"VNC at 0.0.0.0:{port}")


@pytest.mark.guests
def test_a_link_that_is_down_stays_down(tmp_path: Path, start: Start) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    source, target = start(line(a), a / "q"), start(line(b, "-incoming", f"unix:{b}/ram"), b / "q")
    until("the firmware has found the cards", lambda: links(source) == (True, True))
    for name in (CARDS[0], f"net-{CARDS[1]}"):
        source("set_link", name=name, up=False)
    assert links(source) == (False, False)
    source("migrate", uri=f"unix:{b}/ram")
    until("the RAM has arrived", lambda: target("query-status")["status"] == "running")
    assert links(target) == (False, False)
    for name in (CARDS[0], f"net-{CARDS[1]}"):
        target("set_link", name=name, up=True)
    assert links(target) == (True, True)
