"""`make chaos`: the whole crash matrix, and the table in `docs/explanation/crash-matrix.md` made of it."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos import lanes, report, trial
from tests.chaos.faults import FAULTS, Kill
from tests.chaos.points import POINTS, Durations, InHook, Line
from tests.chaos.stage import Stage
from tests.chaos.trial import Outcome

RESULTS = Path("build/chaos.jsonl")
Cell = tuple[int, int]
"""Row and column."""


def cells() -> list[Cell]:
    """All cells in which the fault has a target, slow columns first so that no lane is left with them at the end."""
    there = [(row, column) for row in range(len(POINTS)) for column in range(len(FAULTS)) if applies(row, column)]
    return sorted(there, key=lambda cell: -FAULTS[cell[1]].lasts_s)


def applies(row: int, column: int) -> bool:
    """Whether the fault could have a target. A guest whose launcher starts it anew is not lost by its QEMU's death."""
    point, fault = POINTS[row], FAULTS[column]
    return fault.first <= point.position <= fault.last and not (point.launched and fault.kills_guest)


def chosen() -> list[Cell]:
    """What `make test` runs: some that cover every row and every column, and every death during the switchover."""
    taken: list[Cell] = []
    for row in range(len(POINTS)):
        possible = [column for column in range(len(FAULTS)) if applies(row, column) and _tells_most(row, column)]
        uses = Counter(column for _, column in taken)
        taken.append((row, min(possible, key=lambda column: (uses[column], FAULTS[column].last))))
    return sorted({*taken, *_under_fire(), *_once_broken()})


def _tells_most(row: int, column: int) -> bool:
    """A hook that was running is run again by another worker: that is what it must bear."""
    point, its_worker = POINTS[row], {f"{POINTS[row].side} worker killed", "both workers killed"}
    return not isinstance(point, InHook) or FAULTS[column].name in its_worker


def _under_fire() -> list[Cell]:
    lines = [row for row, point in enumerate(POINTS) if isinstance(point, Line)]
    deaths = [column for column, fault in enumerate(FAULTS) if isinstance(fault, Kill) and fault.in_the_switch]
    return [(row, column) for row in lines for column in deaths]


def _once_broken() -> list[Cell]:
    """Where the matrix found a fault: the second try called the first one's switchover process, and nobody answered."""
    found = {("before `migrate_ram` (source)", "link cut for 5 s")}
    return [cell for cell in cells() if _key(cell) in found]


def try_cell(stage: Stage, durations: Durations, cell: Cell) -> Outcome:
    """One cell on a stage."""
    row, column = cell
    return trial.run_in_time(stage, POINTS[row], FAULTS[column], durations)


def main() -> None:
    options = _options()
    held = {key for key, result in _known().items() if not result["problems"]}
    todo = [cell for cell in cells() if _wanted(cell, options) and _key(cell) not in held]
    RESULTS.parent.mkdir(exist_ok=True)
    bad = _run(todo, options.lanes)
    known = _known()
    untried = [Outcome(*key, state="untried").document() for cell in cells() if (key := _key(cell)) not in known]
    report.write([*untried, *known.values()], POINTS, FAULTS)
    sys.exit(1 if bad else 0)


def _run(todo: list[Cell], count: int) -> int:
    bad = 0
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress, RESULTS.open("a") as file:
        bar = progress.add_task("cells", total=len(todo))
        for outcome in lanes.outcomes(try_cell, todo, count):
            file.write(json.dumps(outcome.document()) + "\n")
            file.flush()
            bad += bool(outcome.problems)
            progress.console.print(report.line(outcome), soft_wrap=True)
            progress.advance(bar)
    return bad


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lanes", type=int, default=2, help="how many cells at a time, each in a lab of its own")
    parser.add_argument("--again", action="store_true", help="forget the results of earlier runs")
    parser.add_argument("--row", help="only points whose name holds this")
    parser.add_argument("--column", help="only faults whose name holds this")
    options = parser.parse_args()
    if options.again:
        RESULTS.unlink(missing_ok=True)
    return options


def _wanted(cell: Cell, options: argparse.Namespace) -> bool:
    row, column = cell
    return (options.row or "") in POINTS[row].name and (options.column or "") in FAULTS[column].name


def _key(cell: Cell) -> tuple[str, str]:
    return POINTS[cell[0]].name, FAULTS[cell[1]].name


def _known() -> dict[tuple[str, str], dict[str, Any]]:
    """The newest result of each cell."""
    if not RESULTS.exists():
        return {}
    found = map(json.loads, RESULTS.read_text().splitlines())
    return {(result["point"], result["fault"]): result for result in found}


if __name__ == "__main__":
    main()
