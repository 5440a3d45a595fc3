"""`python -m bench`: measure, and write `bench/results`."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import (
    back,
    command_line,
    concurrency,
    console,
    copies,
    drains,
    estimates,
    hosts,
    libvirt,
    moves,
    qemu_tuning,
    report,
    sparse,
    streams,
)
from bench.figures import Figure
from bench.fleet import simulation
from lab import fleet
from lab.directory import SHORT_PATHS, Lab

QUICK_RUNS, FULL_RUNS = 3, 10
PARTS = (
    "cli",
    "console",
    "moves",
    "hosts",
    "copies",
    "sparse",
    "streams",
    "drains",
    "crowd",
    "fleet",
    "back",
    "estimate",
)
NOT_QUICK = {"crowd", "fleet", "back", "estimate"}
ASKED_FOR = ("libvirt", "spared")
"""Only by name: the one needs what `make setup` does not install, the other does not measure Drover."""
SETTINGS = {"crowd": concurrency.SETTINGS}
LIMITS = {"drains": drains.LIMITS, "crowd": concurrency.LIMITS}
FLEET_SIZES = [10, 50, 200]


def main() -> None:
    """Measure what was asked for; ends with 1 if the quick form finds a ratio far outside."""
    asked = _arguments()
    runs = asked.runs or (QUICK_RUNS if asked.quick else FULL_RUNS)
    folder = Path(tempfile.mkdtemp(prefix="bench-")) if asked.quick else asked.results
    parts: dict[str, Callable[[Lab], list[Figure]]] = {
        "moves": lambda lab: _moves(lab, runs, quick=asked.quick, only=asked.scenario),
        "hosts": hosts.measure,
        "copies": lambda lab: copies.measure(lab, runs, quick=asked.quick),
        "sparse": lambda lab: sparse.measure(lab, quick=asked.quick),
        "back": lambda lab: back.measure(lab, runs),
        "drains": drains.measure,
        "crowd": concurrency.measure,
        "estimate": lambda lab: estimates.measure(lab, folder, quick=asked.quick),
        "spared": lambda lab: qemu_tuning.measure(lab, runs),
        "libvirt": lambda lab: libvirt.measure(lab, runs, asked.scenario),
    }
    figures: list[Figure] = []
    for name in asked.part or [part for part in PARTS if not (asked.quick and part in NOT_QUICK)]:
        print(f"{name}:", flush=True)
        if name == "fleet":
            found = simulation.measure(FLEET_SIZES)
        elif name == "cli":
            found = command_line.measure(runs)
        elif name == "console":
            found = console.measure(runs)
        elif name == "streams":
            found = streams.measure(lambda settings: _laboratory(settings, {}, namespaces=False), runs)
        else:
            lab_of = _laboratory(SETTINGS.get(name, {}), LIMITS.get(name, {}), namespaces=name in {"libvirt", "back"})
            with lab_of as lab:
                found = parts[name](lab)
        figures += found
        print(report.write(found, runs=runs, folder=folder))  # at once: all parts together take an hour
    print(f"more in {folder}")
    if outside := [figure.what for figure in figures if asked.quick and figure.far_outside]:
        sys.exit("far outside: " + "; ".join(outside))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few runs; results go to a temporary folder")
    parser.add_argument("--runs", type=int, help=f"moves of each kind per scenario ({FULL_RUNS}; quick {QUICK_RUNS})")
    parser.add_argument("--part", action="append", choices=PARTS + ASKED_FOR, help="only this")
    parser.add_argument("--scenario", action="append", help="of the moves, only those of this name")
    parser.add_argument("--results", type=Path, default=report.FOLDER, help="where the results go")
    return parser.parse_args()


def _moves(lab: Lab, runs: int, *, quick: bool, only: list[str] | None) -> list[Figure]:
    found: list[Figure] = []
    for scenario in moves.scenarios(quick=quick):
        if not only or scenario.name in only:
            scenario.run(lab, runs)
            found += moves.figures(scenario)
    return found


@contextmanager
def _laboratory(settings: dict[str, str], limits: dict[str, str], *, namespaces: bool) -> Iterator[Lab]:
    """A lab of two hosts, whose workers and controller have these settings, under these limits."""
    lab = Lab(Path(tempfile.mkdtemp(prefix="db", dir=SHORT_PATHS)), settings, limits)
    try:
        fleet.up(lab, 2, flower=False, namespaces=namespaces)
        with fleet.pointed_at(lab):
            yield lab
    finally:
        fleet.down(lab)
        shutil.rmtree(lab.path, ignore_errors=True)


if __name__ == "__main__":
    main()
