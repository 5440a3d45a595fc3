"""Taps that a QEMU was handed as open descriptors: what each is, and whether another one like it can be opened here.

`workers.process.exec_qemu` opens them, right before it becomes the QEMU, at every way in which a guest is started. The
kernel removes such a tap when its QEMU ends.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.plan import Execution, OtherTap, Tap
from models.preflight import Check
from workers.preflight import checks
from workers.process import processes
from workers.process.environment import handed_on
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
MACVTAP = re.compile(r"/dev/tap(\d+)")
UNTAGGED = [{"vlan": 1, "flags": ["PVID", "Egress Untagged"]}]

Link = Mapping[str, Any]
"""As `ip -json -details link` shows one."""


@dataclass(frozen=True)
class HandedOver:
    """What of a QEMU's open descriptors can be opened anew, and why the others of its taps cannot."""

    taps: tuple[Tap, ...] = ()
    other_taps: tuple[OtherTap, ...] = ()
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
    present, vhost, refusals = links(), [], []
    found: list[Tap | OtherTap] = []
    for tap in named:
        try:
            found.append(_tap(process, tap.queues, present))
            vhost += [_vhost_net(process, number) for number in tap.vhost]
        except LookupError as error:
            refusals.append(checks.network.TAP.found(f"{tap.option.text}: {error.args[0]}"))
    looked_at = frozenset(number for tap in named for number in (*tap.queues, *tap.vhost))
    return HandedOver(
        taps=tuple(tap for tap in found if isinstance(tap, Tap)),
        other_taps=tuple(tap for tap in found if isinstance(tap, OtherTap)),
        vhost_net=tuple(vhost),
        refusals=tuple(refusals),
        looked_at=looked_at,
    )


def _tap(process: Process, numbers: Sequence[int], links: Mapping[str, Link]) -> Tap | OtherTap:
    """Raises LookupError with the reason why there can be no other one like it."""
    name = _name(process, numbers[0], links)
    link = links.get(name)
    if link is None:
        raise LookupError(f"its tap {name} is in another network namespace than this worker")
    if kind(link) == "macvtap":
        return _other(link, numbers, f"its macvtap {name} is on {link.get('link')}")
    bridge = link.get("master")
    if bridge is None or kind(links.get(bridge, {})) != "bridge":
        where = f"a port of {bridge}, which is no Linux bridge" if bridge else "no port of a bridge"
        return _other(link, numbers, f"its tap {name} is {where}")
    if _vlans(name) not in ([], UNTAGGED):
        return _other(link, numbers, f"its tap {name} has VLANs of its own on {bridge}")
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


def _other(link: Link, numbers: Sequence[int], why: str) -> OtherTap:
    told = link["linkinfo"]["info_data"]
    macvtap = kind(link) == "macvtap"
    return OtherTap(
        name=link["ifname"],
        kind="macvtap" if macvtap else "tap",
        why=why,
        master=link.get("master"),
        parent=link.get("link") if macvtap else None,
        mode=told.get("mode") if macvtap else None,
        mac=link["address"],
        mtu=link["mtu"],
        headers=told.get("vnet_hdr", True),
        multi_queue=told.get("multi_queue", len(numbers) > 1),
        descriptors=tuple(numbers),
    )


def _name(process: Process, number: int, links: Mapping[str, Link]) -> str:
    opened = _opened(process, number)
    if macvtap := MACVTAP.fullmatch(opened):
        index = int(macvtap[1])
        named = (name for name, link in links.items() if link["ifindex"] == index)
        return next(named, f"with the number {index}")
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
        return processes.opened(process, number)
    except OSError as error:
        raise LookupError(f"descriptor {number} cannot be looked at ({error.strerror})") from error


def links() -> dict[str, Link]:
    """The interfaces of this host, by name."""
    return {link["ifname"]: link for link in _told(["ip", "-json", "-details", "link", "show"])}


def _vlans(name: str) -> list[Any]:
    found = _told(["bridge", "-json", "vlan", "show", "dev", name])
    return found[0].get("vlans", []) if found else []


def _told(argv: list[str]) -> list[Any]:
    """Nothing where there is no such program or it knows nothing."""
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(argv, env=handed_on(), capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout or "[]"))
    return []


def kind(link: Link) -> str:
    """`bridge`, `tun`, `macvtap` and the like; empty for real ones."""
    return str(link.get("linkinfo", {}).get("info_kind", ""))


def impossible(wanted: Execution | None, rules: HostPolicy) -> list[Check]:
    """Why no such taps can be opened here."""
    if wanted is None or not (wanted.taps or wanted.other_taps):
        return []
    if os.geteuid() != 0:
        return [
            checks.network.NO_BRIDGE.found(
                "this worker is no root and cannot open taps", remedy="run the worker as root"
            )
        ]
    present = links()
    devices = (TUN, *([VHOST_NET] if wanted.vhost_net else []))
    missing = [device for device in devices if not Path(device).is_char_device()]
    found = [
        checks.network.NO_BRIDGE.found(f"there is no {device} here", remedy="load its module") for device in missing
    ]
    for bridge in sorted({tap.bridge for tap in wanted.taps}):
        if kind(present.get(bridge, {})) != "bridge":
            found.append(
                checks.network.NO_BRIDGE.found(f"its network is the bridge {bridge}, which does not exist here")
            )
        elif not rules.may_join(bridge):
            seen = f"its network is the bridge {bridge}, which {rules.name} here does not list under `bridges`"
            found.append(checks.network.NO_BRIDGE.found(seen, remedy="list it there, if guests may be on it"))
    return found + _without_program(wanted.other_taps, rules)


def _without_program(others: Sequence[OtherTap], rules: HostPolicy) -> list[Check]:
    program = rules.file.taps
    if program is None:
        return [
            checks.network.NO_TAP_PROGRAM.found(f"{tap.why}, and {rules.name} here names no program") for tap in others
        ]
    if others and not os.access(program, os.X_OK):
        return [
            checks.network.NO_TAP_PROGRAM.found(
                f"{program}, by {rules.name} here, cannot be run", remedy="put it there"
            )
        ]
    return []


def warnings(wanted: Execution | None) -> list[Check]:
    """What such taps would lack here."""
    taps = wanted.taps if wanted is not None else ()
    present = links() if taps else {}
    return [
        checks.network.SMALLER_BRIDGE.found(f"its tap has an MTU of {tap.mtu}, and {tap.bridge} one of {there} here")
        for tap in taps
        if (there := present.get(tap.bridge, {}).get("mtu", tap.mtu)) < tap.mtu
    ]
