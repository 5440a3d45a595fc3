"""Taps that a QEMU was handed as open descriptors: what each is, and whether another one like it can be opened here.

`workers.process.exec_qemu` opens them, right before it becomes the QEMU, at every way in which a guest is started. The
kernel removes such a tap when its QEMU ends.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.plan import Execution, Tap
from models.preflight import Check
from workers.preflight import checks
from workers.process.exec_qemu import TUN, VHOST_NET
from workers.process.processes import Process
from workers.qemu import descriptors
from workers.trust.policy import HostPolicy

PORT = {
    "hairpin": False,
    "guard": False,
    "learning": True,
    "flood": True,
    "mcast_flood": True,
    "neigh_suppress": False,
    "isolated": False,
}
"""Flags of a bridge's port, as they are by default."""
UNTAGGED = [{"vlan": 1, "flags": ["PVID", "Egress Untagged"]}]

Link = Mapping[str, Any]
"""As `ip -json -details link` shows one."""


@dataclass(frozen=True)
class HandedOver:
    """What of a QEMU's open descriptors can be opened anew, and why the others of its taps cannot."""

    taps: tuple[Tap, ...] = ()
    vhost_net: tuple[int, ...] = ()
    refusals: tuple[Check, ...] = ()
    looked_at: frozenset[int] = frozenset()
    """All descriptors of taps: the command line's own check needs to say nothing of them."""


NOTHING = HandedOver()


def handed_over(process: Process, argv: Sequence[str]) -> HandedOver:
    """What the taps on its command line are."""
    named = list(descriptors.taps(argv))
    if not named:
        return NOTHING
    links, found, vhost, refusals = _links(), [], [], []
    for tap in named:
        try:
            found.append(_tap(process, tap.queues, links))
            vhost += [_vhost_net(process, number) for number in tap.vhost]
        except LookupError as error:
            refusals.append(checks.TAP.found(f"{tap.option.text}: {error.args[0]}"))
    looked_at = frozenset(number for tap in named for number in (*tap.queues, *tap.vhost))
    return HandedOver(tuple(found), tuple(vhost), tuple(refusals), looked_at)


def _tap(process: Process, numbers: Sequence[int], links: Mapping[str, Link]) -> Tap:
    """Raises LookupError with the reason why there can be no other one like it."""
    name = _name(process, numbers[0])
    link = links.get(name)
    if link is None:
        raise LookupError(f"its tap {name} is in another network namespace than this worker")
    bridge = link.get("master")
    if bridge is None or _kind(links.get(bridge, {})) != "bridge":
        where = f"a port of {bridge}, which is no Linux bridge" if bridge else "no port of a bridge"
        raise LookupError(f"its tap {name} is {where}: what leads to it is not set up at another host")
    if _vlans(name) not in ([], UNTAGGED):
        raise LookupError(f"its tap {name} has VLANs of its own on {bridge}: they are not set up at another host")
    told, port = link["linkinfo"]["info_data"], link["linkinfo"].get("info_slave_data", {})
    return Tap(
        name=name,
        bridge=bridge,
        mac=link["address"],
        mtu=link["mtu"],
        up="UP" in link["flags"],
        headers=told["vnet_hdr"],
        multi_queue=told["multi_queue"],
        descriptors=tuple(numbers),
        port={flag: port[flag] for flag, usual in PORT.items() if port.get(flag, usual) != usual},
    )


def _name(process: Process, number: int) -> str:
    opened = _opened(process, number)
    if opened.startswith("/dev/tap"):
        raise LookupError("it is a macvtap: there would be two interfaces with the guest's MAC address")
    if opened == TUN:
        info = Path(f"/proc/{process.pid}/fdinfo/{number}").read_text()
        for line in info.splitlines():
            if line.startswith("iff:"):
                return line.removeprefix("iff:").strip()
    raise LookupError(f"descriptor {number} is no tap")


def _vhost_net(process: Process, number: int) -> int:
    if _opened(process, number) != VHOST_NET:
        raise LookupError(f"descriptor {number} is not {VHOST_NET}")
    return number


def _opened(process: Process, number: int) -> str:
    try:
        return str(Path(f"/proc/{process.pid}/fd/{number}").readlink())
    except OSError as error:
        raise LookupError(f"descriptor {number} cannot be looked at ({error.strerror})") from error


def _links() -> dict[str, Link]:
    return {link["ifname"]: link for link in _told(["ip", "-json", "-details", "link", "show"])}


def _vlans(name: str) -> list[Any]:
    found = _told(["bridge", "-json", "vlan", "show", "dev", name])
    return found[0].get("vlans", []) if found else []


def _told(argv: list[str]) -> list[Any]:
    """Nothing where there is no such program or it knows nothing."""
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout or "[]"))
    return []


def _kind(link: Link) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", ""))


def impossible(wanted: Execution | None, rules: HostPolicy) -> list[Check]:
    """Why no such taps can be opened here."""
    if wanted is None or not wanted.taps:
        return []
    if os.geteuid() != 0:
        return [checks.NO_BRIDGE.found("this worker is no root and cannot open taps", remedy="run the worker as root")]
    links = _links()
    devices = (TUN, *([VHOST_NET] if wanted.vhost_net else []))
    missing = [device for device in devices if not Path(device).is_char_device()]
    found = [checks.NO_BRIDGE.found(f"there is no {device} here", remedy="load its module") for device in missing]
    for bridge in sorted({tap.bridge for tap in wanted.taps}):
        if _kind(links.get(bridge, {})) != "bridge":
            found.append(checks.NO_BRIDGE.found(f"its network is the bridge {bridge}, which does not exist here"))
        elif not rules.may_join(bridge):
            seen = f"its network is the bridge {bridge}, which {rules.name} here does not list under `bridges`"
            found.append(checks.NO_BRIDGE.found(seen, remedy="list it there, if guests may be on it"))
    return found


def warnings(wanted: Execution | None) -> list[Check]:
    """What such taps would lack here."""
    taps = wanted.taps if wanted is not None else ()
    links = _links() if taps else {}
    return [
        checks.SMALLER_BRIDGE.found(f"its tap has an MTU of {tap.mtu}, and {tap.bridge} one of {there} here")
        for tap in taps
        if (there := links.get(tap.bridge, {}).get("mtu", tap.mtu)) < tap.mtu
    ]
