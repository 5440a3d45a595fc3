"""Runs many trials, several at a time: every lane is a process with a stage of its own."""

import multiprocessing
import queue
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.chaos import stage, trial
from tests.chaos.points import Durations
from tests.chaos.stage import Stage
from tests.chaos.trial import Outcome

Work = Callable[[Stage, Durations, Any], Outcome]
"""Does one item on a stage. A function of a module: it is sent to another process."""

FRESH_AFTER = 40
"""A stage is thrown away after so many trials, or after one that found a problem: the next begins on clean ground."""


def outcomes(work: Work, items: Sequence[Any], lanes: int, *, with_standby: bool = False) -> Iterator[Outcome]:
    """The outcome of each item, as they come."""
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    for item in items:
        todo.put(item)
    workers = [context.Process(target=_lane, args=(work, todo, done, with_standby)) for _ in range(lanes)]
    for worker in workers:
        worker.start()
    try:
        for _ in items:
            yield _next(done, workers)
    finally:
        for worker in workers:
            if not todo.empty():
                worker.terminate()
            worker.join()


def _next(done: Any, workers: list[Any]) -> Outcome:
    while True:
        try:
            found = done.get(timeout=5)
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers):
                raise RuntimeError("all lanes ended before their work was done") from None
            continue
        if isinstance(found, Outcome):
            return found
        raise RuntimeError(found)


def _lane(work: Work, todo: Any, done: Any, with_standby: bool) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the stage is taken down
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while not todo.empty():
            with stage.raised(with_standby=with_standby) as here:
                _on_one_stage(work, here, todo, done)
    except Exception:
        done.put(traceback.format_exc())


def _on_one_stage(work: Work, here: Stage, todo: Any, done: Any) -> None:
    durations = trial.measure(here)
    for _ in range(FRESH_AFTER):
        try:
            item = todo.get(timeout=1)
        except queue.Empty:
            return
        outcome = work(here, durations, item)
        done.put(outcome)
        if outcome.problems:
            return
