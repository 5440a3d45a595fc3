"""Turns outcomes into lines on the screen and into the tables below `docs/`."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.faults import Fault
from tests.chaos.points import Point
from tests.chaos.trial import Outcome

MATRIX = Path("docs/explanation/crash-matrix.md")
SOAK = Path("docs/explanation/soak.md")

WORDS = {
    "needs_operator": "**operator**",
    "absent": "-",
    "missed": "too short",
    "untried": "not yet",
}

LEGEND = """\
# The crash matrix

Made by `make chaos`; not written by hand. Each cell is one move of a real guest (QEMU, Linux, two hosts in network
namespaces, real Postgres, Redis and workers) in which the fault of the column struck at the point of the row. "before"
is the boundary at which all earlier links are done and the link's worker is about to claim it, met exactly; "during" is
half of the time that the link takes when nothing goes wrong; "switch" are lines of the source's switch journal (the
guest stands still from `pre-switchover` on, and `run` is the point of no return). Moves in the rows of `compare_images`
are to be proven (`--verify`); "by changes" is a move back to images that the guest left behind, or to the copy of a
move that was rolled back; "in the loop of a shell" is a guest that a shell at its source starts again whenever its
QEMU has ended, unless a program of the administrator's tells it to keep still (`launcher` in the policy); in the rows
of hooks a program of the host's administrator runs when the fault strikes.

| word | meaning |
| --- | --- |
| done | the guest goes on at the destination |
| rolled back | the guest goes on at the source as if nothing had been tried |
| lost | its own QEMU was killed and it runs nowhere; its disks hold every acknowledged write; "/": the job says |
| operator | the job asked for a person; what its text advised was done, and all below held afterwards |
| - | the fault had no target |
| too short | the link was always over before the fault could be injected into it |
| not yet | it was not tried |
| **!** | something below did not hold |

Checked in every cell: at no instant two copies ran (events of both QEMUs); no acknowledged write is missing or torn
and one guest went on counting; it stood still for at most 2 s unless its own QEMU, or the link, was struck, and 7 s
where after `run` the process that alone may let it go on was frozen for 5 s; the record says where the guest is, its
steps agree with it, its events end with its state; `drover gc --dry-run` finds nothing, and no process, directory or
file of the job is left; no worker or controller ended but by the fault; the shell that starts a guest has started no
second one, keeps still after the guest has left, and does not where it stays. Each move
has a webhook, whose receiver never ends its answer.
"""


SOAK_LEGEND = """\
# The soak

Made by `make soak`; not written by hand. Each move has a guest of its own (one to three disks, qcow2 and raw, two
buses, idle to busy) and up to three random faults at random moments, those of the crash matrix and a Postgres that
fails over to its standby and back. Checked after each: all that
[the crash matrix](crash-matrix.md) checks. `.venv/bin/python -m tests.chaos.soak --only SEED` does one of them again.
"""


def line(outcome: Outcome) -> str:
    """One trial on the screen."""
    mark = "[red]![/red]" if outcome.problems else " "
    text = f"{mark} {outcome.point:42} {outcome.fault:36} {_word(outcome.document()):20} {outcome.took_s:6.1f} s"
    return "\n   ".join([text, *outcome.problems])


def _word(result: dict[str, Any]) -> str:
    word = WORDS.get(result["state"], _shown(result["state"]))
    if result["lost"]:
        word = f"lost / {word}"
    return f"**!** {word}" if result["problems"] else word


def _shown(state: str) -> str:
    return state.replace("_", " ")


def write(results: Iterable[dict[str, Any]], points: Sequence[Point], faults: Sequence[Fault]) -> None:
    """The matrix as a page."""
    by_cell = {(result["point"], result["fault"]): result for result in results}
    struck = [result for result in by_cell.values() if result["state"] not in {"absent", "missed", "untried"}]
    page = [LEGEND, _facts(struck), ""]
    page.append("| | " + " | ".join(fault.name for fault in faults) + " |")
    page.append("| --- " * (len(faults) + 1) + "|")
    page += [_row(point, faults, by_cell) for point in points]
    if asked := sorted({_shortened(result) for result in struck if result["state"] == "needs_operator"}):
        page += ["", "## What the operator was told", "", *(f"- {text}" for text in asked)]
    MATRIX.write_text("\n".join(page) + "\n")


def _facts(struck: list[dict[str, Any]]) -> str:
    count = Counter(result["state"] for result in struck)
    unharmed = [result["pause_ms"] for result in struck if result["pause_ms"]]
    words = ", ".join(f"{number} {_shown(state)}" for state, number in count.most_common())
    bad = sum(bool(result["problems"]) for result in struck)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_qemu()}, no KVM: {len(struck)} moves with a fault: {words}; "
        f"{bad} in which something did not hold. "
        f"Longest pause of any guest that went on: {max(unharmed, default=0):.0f} ms."
    )


def _qemu() -> str:
    said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join(said.split()[:1] + said.split()[3:4])


def _row(point: Point, faults: Sequence[Fault], by_cell: dict[tuple[str, str], dict[str, Any]]) -> str:
    cells = (by_cell.get((point.name, fault.name)) for fault in faults)
    return f"| {point.name} | " + " | ".join(_word(cell) if cell else "-" for cell in cells) + " |"


def _shortened(result: dict[str, Any]) -> str:
    """Without what differs from one trial to the next."""
    said = re.sub(r"\bt1\w+", "GUEST", " ".join(result["said"].split()))
    return f"{result['point']}, {result['fault']}: {said}"


def write_soak(outcomes: Sequence[Outcome], seed: int, took_s: float) -> None:
    """The summary of a soak of so many seconds as a page."""
    states = Counter(_shown(outcome.state) + (", guest lost" if outcome.lost else "") for outcome in outcomes)
    struck = Counter(name.rsplit(" at ", 1)[0] for outcome in outcomes for name in outcome.fault.split(", "))
    bad = [outcome for outcome in outcomes if outcome.problems]
    page = [
        SOAK_LEGEND,
        f"{datetime.now(UTC):%Y-%m-%d}, {_qemu()}, no KVM, seeds {seed} to {seed + len(outcomes) - 1}: "
        f"{len(outcomes)} moves in {took_s / 60:.0f} minutes, {len(bad)} in which something did not hold.",
        "",
        *_counts("outcome", "moves", states),
        "",
        *_counts("fault", "times", struck),
    ]
    page += [f"- {outcome.point} ({outcome.fault}): {'; '.join(outcome.problems)}" for outcome in bad]
    SOAK.write_text("\n".join(page) + "\n")


def _counts(what: str, how_many: str, counter: Counter[str]) -> list[str]:
    lines = [f"| {name} | {number} |" for name, number in counter.most_common()]
    return [f"| {what} | {how_many} |", "| --- | --- |", *lines]
