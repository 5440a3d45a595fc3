"""What the command itself costs before it does anything: help, and completion of names that asks the database."""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.figures import Figure

DROVER = str(Path(sys.executable).with_name("drover"))
NOTHING = [sys.executable, "-c", "pass"]
AT_MOST_S, FAR_S = 0.3, 0.45
"""Of CPU, on a machine where an empty Python takes 0.01 s."""
EMPTY_PYTHON_S = 0.01


def measure(runs: int) -> list[Figure]:
    """The least of several runs of each. Machines differ: an empty Python shows how fast this one is now."""
    slowness = _least(NOTHING, {}, runs) / EMPTY_PYTHON_S
    completing = {"_DROVER_COMPLETE": "complete_bash", "COMP_WORDS": "drover migrate ", "COMP_CWORD": "2"}
    nowhere = {"DROVER_DATABASE_URL": "postgresql+psycopg://drover@127.0.0.1:1/drover"}
    asked: list[tuple[str, str, list[str], Mapping[str, str]]] = [
        ("cli-help", "drover --help", [DROVER, "--help"], {}),
        ("cli-command-help", "drover migrate --help", [DROVER, "migrate", "--help"], {}),
        ("cli-completion", "completion of a guest's name", [DROVER], completing | nowhere),
    ]
    return [
        Figure(
            name=name,
            what=f"{what}, CPU: {taken:.2f} s here, where an empty Python takes {slowness * EMPTY_PYTHON_S:.3f} s",
            value=taken / slowness,
            unit="s",
            at_most=AT_MOST_S,
            far=FAR_S,
        )
        for name, what, argv, more in asked
        for taken in [_least(argv, more, runs)]
    ]


def _least(argv: list[str], more: Mapping[str, str], runs: int) -> float:
    return min(_cpu_s(argv, more) for _ in range(max(runs, 3)))


def _cpu_s(argv: list[str], more: Mapping[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, env=os.environ | more, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
