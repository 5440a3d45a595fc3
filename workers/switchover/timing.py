"""How long each part of the pause takes."""

import time


class Timer:
    """Adds the duration of a `with` block, in ms, to a dictionary of phases."""

    def __init__(self, phases: dict[str, float], phase: str) -> None:
        self._phases, self._phase = phases, phase

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._phases[self._phase] = 1000 * (time.perf_counter() - self._begun)


def uptime() -> float:
    """Seconds since this host was started: the same in all its processes, and no change of its clock touches it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
