"""The features of a guest's CPU, as its CPUID shows them.

QEMU sends no CPUID with the RAM and does not notice that a feature is missing at the destination (seen on 7.2, 10.0 and
11.1): the guest goes on and dies at the first instruction that is not there. With `-cpu host` any other CPU can do
that, and a named model silently loses what the host, or under TCG an older QEMU, does not have. So both sides are
compared: what the source offers the destination must offer too. More of it does no harm: a running guest does not ask
again.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.plan import Cpu
from workers.qemu import program
from workers.qemu.monitor import CommandRefused, Monitor
from workers.qemu.options import Option, parse_command_line, words_of, write_options

_TOPOLOGY = {"CPUID.01H:EDX": 1 << 28, "CPUID.80000001H:ECX": 1 << 1}
"""HTT and CMP_LEGACY follow from `-smp`, which is the same on both sides; only some versions count them as features."""
_REFERENCES = words_of("memory-backend pflash0 pflash1 memory-encryption confidential-guest-support")
"""Keys of `-machine` that name objects made by other options."""
_FIRST = "/machine/unattached/device[0]"
"""The first CPU of a machine that has just started."""
_QUESTIONS: list[dict[str, Any]] = [
    {"execute": "qmp_capabilities"},
    *(
        {"execute": "qom-get", "id": name, "arguments": {"path": _FIRST, "property": name}}
        for name in ("feature-words", "vendor")
    ),
    {"execute": "quit"},
]


async def offered(monitor: Monitor) -> Cpu | None:
    """What the guest's CPUID shows; None where QEMU does not report them: only x86 has feature words."""
    path = (await monitor.query("query-cpus-fast"))[0]["qom-path"]
    try:
        words = await monitor.query("qom-get", path=path, property="feature-words")
        return _described(words, await monitor.query("qom-get", path=path, property="vendor"))
    except CommandRefused:
        return None


def offered_here(qemu: str, argv: Sequence[str]) -> Cpu | None:
    """The same for a guest with this command line on this host, asked of a QEMU that never runs anything.

    None where that does not start or does not report them: then only the guest's own incoming QEMU is asked.
    """
    words = ("-S", "-nodefaults", "-no-user-config", "-display", "none", *_of_the_cpu(argv), "-qmp", "stdio")
    try:
        said = program.output(qemu, *words, told="".join(map(json.dumps, _QUESTIONS)))
        replies = {reply["id"]: reply["return"] for reply in map(json.loads, said.splitlines()) if "id" in reply}
        return _described(replies["feature-words"], replies["vendor"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


def _of_the_cpu(argv: Sequence[str]) -> Iterator[str]:
    """The options that decide what the CPU offers."""
    for option in parse_command_line(argv):
        if option.name in {"machine", "M"}:
            kept = [(key, value) for key, value in option.pairs() if key not in _REFERENCES]
            yield from Option(word="-machine", value=write_options(tuple(kept))).words()
        elif option.name in {"accel", "enable-kvm", "cpu", "smp"}:
            yield from option.words()


def _described(words: Sequence[Mapping[str, Any]], vendor: str) -> Cpu:
    return Cpu(vendor=vendor, words={_label(word): word["features"] for word in words})


def _label(word: Mapping[str, Any]) -> str:
    """As in QEMU's own warnings, with the sub-leaf where there are several: `CPUID.07H.1:EAX`."""
    leaf, sub = word["cpuid-input-eax"], word.get("cpuid-input-ecx")
    return f"CPUID.{leaf:02X}H{f'.{sub}' if sub else ''}:{word['cpuid-register']}"


def missing(source: Cpu | None, destination: Cpu | None) -> list[str]:
    """What the guest has and would not find there, as sentences; empty if nothing, or if one side is unknown."""
    if source is None or destination is None:
        return []
    found = []
    if source.vendor != destination.vendor:
        found.append(f"its CPU is {source.vendor}'s, there it would be {destination.vendor}'s")
    lost = [f"{label} bit{_bits(bits)}" for label, bits in _lost(source.words, destination.words)]
    if lost:
        found.append(f"its CPU would lose {', '.join(lost)}; start it with a CPU model that both hosts have in full")
    return found


def _lost(source: Mapping[str, int], destination: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for label, bits in sorted(source.items()):
        lost = bits & ~destination.get(label, 0) & ~_TOPOLOGY.get(label, 0)
        if lost:
            yield label, lost


def _bits(word: int) -> str:
    numbers = [str(bit) for bit in range(32) if word >> bit & 1]
    return f"{'s' if len(numbers) > 1 else ''} {' '.join(numbers)}"
