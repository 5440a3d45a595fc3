"""A tap that a QEMU got as open descriptors is known from its process, and opened anew for the next QEMU."""

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError

from models.plan import Execution, OtherTap, Tap
from models.preflight import refusals
from tests import factories
from tests.helpers import until
from workers.preflight import checks
from workers.process import exec_qemu, execution, networks, processes, taps
from workers.process.processes import Process
from workers.qemu import descriptors
from workers.qemu.permissions import violations
from workers.qemu.refusals import command_line_refusals
from workers.trust.policy import HostPolicy, Policy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has network namespaces and taps")
CLONE_NEWNET = 0x40000000
WANTED = Tap(
    name="vnet7",
    bridge="br0",
    mac="fe:54:00:12:34:56",
    mtu=1400,
    headers=True,
    multi_queue=True,
    descriptors=(31, 30),
    port={"isolated": True, "learning": False},
)
AS_ROOT = Execution(user="root", group="root", taps=(WANTED,))
LINE = ["qemu", "-netdev", "tap,id=n,fds=31:30"]

Answer = TypeVar("Answer")


@pytest.fixture
def there() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Does something in a network namespace with a bridge, which is that of one thread and ends with it."""

    def enter() -> None:
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "set", "br0", "up")

    with ThreadPoolExecutor(max_workers=1, initializer=enter) as thread:
        yield lambda do: thread.submit(do).result()


def ip(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-json", *words], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout or "[]"))


def names() -> set[str]:
    return {link["ifname"] for link in ip("link", "show")} - {"lo", "br0"}


@contextmanager
def holding(wanted: Execution, program: Path | None = None) -> Iterator[Process]:
    """A process that was started with these taps; the program opens others."""
    with subprocess.Popen(execution.launched(["/bin/sleep", "60"], wanted, taps=program)) as child:
        until("it is another program", lambda: Path(f"/proc/{child.pid}/exe").samefile("/bin/sleep"), every_s=0.01)
        found = processes.process(child.pid)
        assert found is not None
        yield found
        child.kill()


def test_a_tap_is_opened_as_another_one_was_and_is_read_back_as_that(there: Any) -> None:
    def opened() -> tuple[taps.HandedOver, set[str], set[str]]:
        with holding(AS_ROOT) as process:
            found, during = taps.handed_over(process, LINE), names()
        return found, during, names()

    found, during, after = there(opened)
    assert (found.taps, found.refusals) == ((WANTED,), ())
    assert found.looked_at == {30, 31}
    assert (during, after) == ({"vnet7"}, set())


def test_a_user_without_privileges_gets_taps_as_well(there: Any) -> None:
    wanted = AS_ROOT.model_copy(update={"user": "nobody", "group": "nogroup"})

    def read_back() -> Execution | None:
        with holding(wanted) as process:
            return execution.read(process, LINE, taps.handed_over(process, LINE))

    assert there(read_back) == wanted


def test_a_name_that_is_taken_becomes_the_next_free_one(there: Any) -> None:
    def opened() -> set[str]:
        ip("tuntap", "add", "vnet7", "mode", "tap", "multi_queue")
        with holding(AS_ROOT):
            return names()

    assert there(opened) == {"vnet7", "vnet0"}


def test_without_its_bridge_no_program_is_started_and_nothing_is_left(there: Any) -> None:
    def tried() -> "tuple[subprocess.CompletedProcess[str], set[str]]":
        wanted = AS_ROOT.model_copy(update={"taps": (WANTED.model_copy(update={"bridge": "br1"}),)})
        argv = execution.launched(["/bin/echo", "started"], wanted)
        return subprocess.run(argv, capture_output=True, text=True), names()

    done, left = there(tried)
    assert (done.returncode, done.stdout, left) == (1, "", set())
    assert "drover: the guest's QEMU is not started" in done.stderr


def test_a_destination_that_cannot_have_such_a_tap_is_told_before_anything_begins(there: Any) -> None:
    def said(wanted: Execution, **policy: Any) -> str:
        rules = HostPolicy(Policy(**policy), factories.offline())
        return "; ".join(refusals(there(lambda: taps.impossible(wanted, rules))))

    elsewhere = AS_ROOT.model_copy(update={"taps": (WANTED.model_copy(update={"bridge": "lo"}),)})
    assert said(AS_ROOT) == ""
    assert said(elsewhere) == "its network is the bridge lo, which does not exist here; create it there"
    assert "does not list under `bridges`" in said(AS_ROOT, bridges=("br1",))
    if not Path(exec_qemu.VHOST_NET).exists():
        assert "no /dev/vhost-net here" in said(AS_ROOT.model_copy(update={"vhost_net": (32,)}))


def test_a_bridge_with_a_smaller_mtu_is_warned_of(there: Any) -> None:
    large = AS_ROOT.model_copy(update={"taps": (WANTED.model_copy(update={"mtu": 9000}),)})
    assert there(lambda: taps.warnings(AS_ROOT)) == []
    [check] = there(lambda: taps.warnings(large))
    assert check.seen == "its tap has an MTU of 9000, and br0 one of 1500 here"


def read_after(*then: str) -> taps.HandedOver:
    """What is known of a tap to which something was done."""
    with holding(AS_ROOT) as process:
        ip(*then)
        return taps.handed_over(process, LINE)


def test_a_tap_that_got_another_name_is_opened_under_that(there: Any) -> None:
    handed = there(lambda: read_after("link", "set", "vnet7", "name", "other"))
    assert ([tap.name for tap in handed.taps], handed.other_taps) == (["other"], ())


def test_a_tap_that_is_no_port_of_a_bridge_is_opened_by_a_program_of_the_destinations(
    there: Any, tmp_path: Path
) -> None:
    handed = there(lambda: read_after("link", "set", "vnet7", "nomaster"))
    assert (handed.taps, handed.refusals, handed.looked_at) == ((), (), {30, 31})
    [other] = handed.other_taps
    assert (other.kind, other.why, other.master) == ("tap", "its tap vnet7 is no port of a bridge", None)
    wanted = AS_ROOT.model_copy(update={"taps": (), "other_taps": handed.other_taps})
    assert execution.descriptors(wanted) == {30, 31}
    program = tmp_path / "taps"
    ours = factories.offline(host="two")
    [check] = there(lambda: taps.impossible(wanted, HostPolicy(Policy(), ours)))
    assert (check.name, check.side) == (checks.network.NO_TAP_PROGRAM.name, "destination")
    assert check.seen.startswith("its tap vnet7 is no port of a bridge, and ")
    [check] = there(lambda: taps.impossible(wanted, HostPolicy(Policy(taps=program), ours)))
    assert check.sentence.endswith("cannot be run; put it there")
    shutil.copy(Path(__file__).parents[2] / "examples" / "taps", program)
    (tmp_path / "networks").write_text("vnet8 br1\nvnet7 br0\n")
    assert there(lambda: taps.impossible(wanted, HostPolicy(Policy(taps=program), ours))) == []

    def opened() -> taps.HandedOver:
        with holding(wanted, program) as process:
            return taps.handed_over(process, LINE)

    [tap] = there(opened).taps
    assert tap == WANTED.model_copy(update={"port": {}})


@pytest.mark.parametrize(("program", "why"), [("true", "handed over 0 descriptors"), ("false", "exit status 1")])
def test_nothing_is_started_where_the_program_hands_over_nothing(there: Any, program: str, why: str) -> None:
    other = OtherTap(name="vnet7", kind="tap", why="", mac=WANTED.mac, mtu=1500, descriptors=(30,))
    wanted = AS_ROOT.model_copy(update={"taps": (), "other_taps": (other,)})
    argv = execution.launched(["/bin/echo", "started"], wanted, taps=Path("/bin", program))
    done = there(lambda: subprocess.run(argv, capture_output=True, text=True))
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr


def test_a_macvtap_is_known_by_the_number_of_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    link = {
        "ifname": "macvtap0",
        "ifindex": 9,
        "link": "eno1",
        "address": "52:54:00:12:34:56",
        "mtu": 1500,
        "flags": ["UP"],
        "linkinfo": {"info_kind": "macvtap", "info_data": {"mode": "bridge"}},
    }
    monkeypatch.setattr(taps, "links", lambda: {"macvtap0": link})
    monkeypatch.setattr(taps, "_opened", lambda process, number: "/dev/tap9")
    me = processes.process(os.getpid())
    assert me is not None
    handed = taps.handed_over(me, ["qemu", "-netdev", "tap,id=n,fd=30"])
    [tap] = handed.other_taps
    assert (tap.kind, tap.name, tap.parent, tap.mode) == ("macvtap", "macvtap0", "eno1", "bridge")
    assert (tap.why, handed.refusals) == ("its macvtap macvtap0 is on eno1", ())


def test_a_tap_of_another_network_namespace_and_what_is_no_tap_are_refused_by_that(there: Any) -> None:
    def refusals_of(process: Process, line: list[str]) -> list[str]:
        return [check.seen for check in taps.handed_over(process, line).refusals]

    with ExitStack() as stack:
        process = there(lambda: stack.enter_context(holding(AS_ROOT)))
        [elsewhere] = refusals_of(process, LINE)
        assert "its tap vnet7 is in another network namespace than this worker" in elsewhere
        [no_tap] = there(lambda: refusals_of(process, ["qemu", "-nic", "tap,fd=1"]))
        assert "descriptor 1 is no tap" in no_tap


def test_descriptors_of_a_command_line_are_those_of_its_taps() -> None:
    words = [
        *("-netdev", "tap,id=a,fd=30,vhostfd=31,vhost=on"),
        *("-netdev", '{"type":"tap","id":"b","fds":"32:33","vhostfds":"34:35"}'),
        *("-netdev", "tap,id=c,ifname=t0", "-netdev", "socket,id=d,fd=9", "-nic", "tap,fd=by-name"),
    ]
    found = [(tap.queues, tap.vhost) for tap in descriptors.taps(["qemu", *words])]
    assert found == [((30,), (31,)), ((32, 33), (34, 35))]


def test_a_tap_that_is_opened_anew_is_not_in_the_way_and_other_descriptors_are() -> None:
    def refused(*words: str) -> list[str]:
        found = command_line_refusals(["qemu", *words], source_root="/", descriptors={30, 31})
        return [check.name for check in found]

    assert refused("-netdev", "tap,id=n,fd=30,vhostfd=31") == []
    assert refused("-netdev", "tap,id=n,fd=32") == ["open-file"]
    assert refused("-netdev", "socket,id=n,fd=30") != []
    assert refused("-chardev", "socket,id=c,fd=30") == ["open-file"]


@pytest.mark.parametrize(
    "changed",
    [
        {"descriptors": (1,)},
        {"name": "-x"},
        {"name": "../x"},
        {"bridge": "br 0"},
        {"mac": "x"},
        {"mtu": 1},
        {"port": {"x": True}},
    ],
)
def test_what_no_tap_can_be_is_not_read_from_a_document(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Tap.model_validate({**WANTED.model_dump(mode="json"), **changed})


def test_qemu_starts_no_script_for_a_tap_by_descriptor() -> None:
    rules = HostPolicy(Policy(programs=()), factories.offline())
    assert violations(["qemu", "-netdev", "tap,id=n,fd=30"], rules, set()) == []
    assert violations(["qemu", "-netdev", "tap,id=n"], rules, set()) != []


def missing(*words: str, user: str = "root") -> str:
    """What is said of these networks after the interfaces were made."""
    return "; ".join(refusals(networks.missing(["qemu", *words], user)))


def test_a_tap_by_name_that_is_not_there_is_named_and_one_that_is_there_is_not(there: Any) -> None:
    def said() -> tuple[str, str, str]:
        line = ["-netdev", "tap,id=n,ifname=t0,script=no,downscript=no"]
        before = missing(*line)
        ip("tuntap", "add", "t0", "mode", "tap", "user", "nobody")
        ip("link", "set", "t0", "up")
        return before, missing(*line), missing(*line, user="daemon")

    before, after, of_another = there(said)
    assert "there is no tap of that name here; make it there (`ip tuntap add dev t0 mode tap`)" in before
    assert after == ""
    assert "does not belong to daemon" in of_another


def test_a_tap_by_name_that_qemu_could_not_open_is_told_beforehand(there: Any) -> None:
    def said() -> tuple[str, str, str]:
        ip("tuntap", "add", "t0", "mode", "tap")
        queues = missing("-nic", "tap,ifname=t0,script=no,queues=2")
        no_tap = missing("-nic", "tap,ifname=br0,script=no")
        with holding(AS_ROOT):
            return queues, no_tap, missing("-nic", "tap,ifname=vnet7,script=no,queues=2")

    queues, no_tap, in_use = there(said)
    assert "has a single queue" in queues
    assert "tap multi_queue`" in queues
    assert "is no tap" in no_tap
    assert "is in use" in in_use


def test_a_bridge_and_the_programs_of_networks_are_looked_for(there: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(networks, "ACCESS", tmp_path / "bridge.conf")
    monkeypatch.setattr(networks, "BRIDGE_HELPERS", ("/bin/true", "/none"))
    assert "there is no bridge br1 here" in there(lambda: missing("-nic", "bridge,br=br1"))
    assert "does not allow the bridge br0" in there(lambda: missing("-netdev", "bridge,id=n"))
    networks.ACCESS.write_text("# ours\nallow br0\n")
    assert there(lambda: missing("-netdev", '{"type":"bridge","id":"n","br":"br0"}')) == ""
    assert "there is no program /none here" in there(lambda: missing("-netdev", "tap,id=n,helper=/none"))
    assert "there is no program /none here" in there(lambda: missing("-netdev", "tap,id=n,ifname=t9,script=/none"))
    assert there(lambda: missing("-netdev", "tap,id=n,ifname=t9,script=/bin/true")) == ""


def test_what_names_no_interface_of_the_host_is_not_looked_for(there: Any) -> None:
    assert there(lambda: missing("-netdev", "tap,id=n,fd=30", "-nic", "user", "-net", "nic")) == ""


def test_vhost_that_is_not_there_is_warned_of_and_refused_where_the_guest_insists(monkeypatch: Any) -> None:
    monkeypatch.setattr(networks, "_has_vhost", lambda: False)
    line = ["qemu", "-netdev", "tap,id=n,ifname=t0,script=/bin/true,vhost=on"]
    [check] = networks.warnings(line)
    assert "there is no /dev/vhost-net there" in check.seen
    assert networks.missing(line, "root") == []
    insists = [*line[:-1], f"{line[-1]},vhostforce=on"]
    assert "no /dev/vhost-net here" in "; ".join(refusals(networks.missing(insists, "root")))
