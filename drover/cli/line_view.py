"""The view of a job without a terminal: a line for each change, at most one a second."""

import sys
import time
from typing import TextIO

from drover import words
from drover.escaping import escaped
from drover.views.progress import Bar, Progress
from drover.views.queries import Snapshot, elapsed_s
from drover.views.sentences import headline, left, pace, remark, standing
from drover.words import size, span
from models.job import Step, StepState

INTERVAL_S = 1.0
IN_MOTION = {StepState.RUNNING, StepState.ROLLING_BACK}


class PlainLines:
    """Writes what changed since the line before."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self._progress = Progress()
        self._said: dict[str, str] = {}
        self._next_at = 0.0

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, shot: Snapshot) -> None:
        """Write a line if it is time to and there is something new; the end of a job is always written."""
        bars = self._progress.bars(shot)
        if time.monotonic() < self._next_at and not shot.job.state.settled:
            return
        facts = _facts(shot, bars)
        news = [shown for key, (trigger, shown) in facts.items() if self._said.get(key) != trigger]
        if not news:
            return
        print(escaped("; ".join(news)), file=self._file, flush=True)
        self._said = {key: trigger for key, (trigger, _) in facts.items()}
        self._next_at = time.monotonic() + INTERVAL_S


def _facts(shot: Snapshot, bars: list[Bar]) -> dict[str, tuple[str, str]]:
    """The facts to print, in order: {subject: (what causes a line when it changes, the line's text)}."""
    job = ", ".join(filter(None, (f"{headline(shot.job)}: {standing(shot.job)}", left(shot))))
    facts = {"job": (f"{shot.job.state} {words.gist(shot.job.wait_reason)}", job)}
    for step in shot.job.steps:
        if step.state not in {StepState.PENDING, StepState.TO_ROLL_BACK} or step.error:
            facts[f"step {step.seq}"] = (_step(step), _step(step))
    for bar in bars:
        if bar.complete:
            text = f"{bar.label}: {size(bar.total_bytes)} copied"
            facts[bar.label] = (text, text)
        elif bar.done_bytes:
            text = f"{bar.label}: {bar.percent} % of {size(bar.total_bytes)}"
            facts[bar.label] = (text, text if bar.ended else f"{text} ({pace(bar)})")
    return facts


def _step(step: Step) -> str:
    took = None if step.state in IN_MOTION else elapsed_s(step.started_at, step.finished_at)
    duration = f" ({span(took)})" if took is not None else ""
    unusual = f" [{remark(step)}]" if remark(step) else ""
    return f"{step.name} on {step.host} {step.state}{duration}{unusual}"
