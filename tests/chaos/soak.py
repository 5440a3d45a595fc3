"""`make soak N=200`: many moves of many kinds of guests, each with up to three random faults at random moments.

Every move has a seed of its own, which a violation prints: `--only SEED` does that move again.
"""

import argparse
import json
import random
import sched
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lab.guest.spec import DiskSpec
from models.job import Side
from tests.chaos import lanes, report, trial
from tests.chaos.faults import FOR_GOOD, OF_THE_SOAK, Fault, RunningMove
from tests.chaos.points import Durations, Meet, Point
from tests.chaos.stage import Stage
from tests.chaos.trial import Outcome, Recipe
from tests.helpers import MIB

RESULTS = Path("build/soak.jsonl")
MOST_FAULTS = 3
PAST_THE_END = 1.2
"""Faults fall into this share of the time of an undisturbed move: some come right after it."""


class AtOnce(Point):
    """Right after the move was submitted: the faults have their own times."""

    side = Side.SOURCE
    position = 0.0

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @property
    def name(self) -> str:
        return f"seed {self.seed}"

    @contextmanager
    def armed(self, stage: Stage, durations: Durations) -> Iterator[Meet]:
        yield lambda move, strike: strike()


class Several(Fault):
    """Faults at times of their own, in seconds after the move was submitted."""

    def __init__(self, timed: list[tuple[float, Fault]]) -> None:
        self.timed = timed
        self.name = ", ".join(f"{fault.name} at {at:.2f} s" for at, fault in timed) or "none"
        self.lasts_s = max((fault.lasts_s for _, fault in timed if fault.lasts_s == FOR_GOOD), default=0.0)
        self.may_lose_guest = any(fault.may_lose_guest for _, fault in timed)
        self.may_pause_guest = any(fault.may_pause_guest for _, fault in timed)
        if any(fault.holds_up_source_worker for _, fault in timed):
            self.longest_pause_s = max(fault.longest_pause_alone_s for _, fault in timed)

    def strike(self, move: RunningMove) -> bool:
        agenda = sched.scheduler()
        for at, fault in self.timed:
            agenda.enter(at, 1, fault.strike, (move,))
            if fault.lasts_s != FOR_GOOD:
                agenda.enter(at + fault.lasts_s, 0, fault.heal, (move,))
        agenda.run()
        return True


def try_seed(stage: Stage, durations: Durations, seed: int) -> Outcome:
    """One move, all of it chosen by the seed."""
    dice = random.Random(seed)
    end = PAST_THE_END * sum(durations.values())
    faults = dice.choices(OF_THE_SOAK, k=dice.randint(0, MOST_FAULTS))
    timed = sorted(((dice.uniform(0, end), fault) for fault in faults), key=lambda pair: pair[0])
    return trial.run(stage, AtOnce(seed), Several(timed), durations, _recipe(dice))


def _recipe(dice: random.Random) -> Recipe:
    disks = tuple(
        DiskSpec(
            size_bytes=dice.choice([64, 128]) * MIB,
            format=dice.choice(["qcow2", "raw"]),
            attach=dice.choice(["blockdev", "drive"]),
            bus=dice.choice(["virtio-blk", "virtio-scsi"]),
        )
        for _ in range(dice.choice([1, 1, 2, 3]))
    )
    return Recipe(
        disks=disks,
        fill_mib=dice.choice([0, 16, 32]),
        dirty_rate=dice.choice([0, 2, 4]),
        bandwidth_bytes_per_s=dice.choice([32, 48, 96]) * MIB,
    )


def main() -> None:
    options = _options()
    RESULTS.parent.mkdir(exist_ok=True)
    seeds = [options.only] if options.only else [options.seed + number for number in range(options.moves)]
    outcomes, begun = [], time.monotonic()
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress, RESULTS.open("w") as file:
        bar = progress.add_task("moves", total=len(seeds))
        for outcome in lanes.outcomes(try_seed, seeds, options.lanes, with_standby=True):
            outcomes.append(outcome)
            file.write(json.dumps(outcome.document()) + "\n")
            file.flush()
            progress.console.print(report.line(outcome), soft_wrap=True)
            progress.advance(bar)
    if not options.only:
        report.write_soak(outcomes, options.seed, time.monotonic() - begun)
    sys.exit(1 if any(outcome.problems for outcome in outcomes) else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of the first move; counts up")
    parser.add_argument("--only", type=int, help="do again the one move of this seed")
    parser.add_argument("--lanes", type=int, default=2, help="how many moves at a time, each in a lab of its own")
    return parser.parse_args()


if __name__ == "__main__":
    main()
