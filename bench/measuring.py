"""What a process takes, from /proc."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self


def memory_mib(pid: int) -> float:
    """Its memory, pages that it shares with others counted by its share of them (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def cpu_s(pid: int) -> float:
    """CPU time that it has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cpu:
    """CPU time, for a `with` block, of all processes whose command lines name something in a folder: of a host of a lab
    its guests' QEMUs and all that carries a move, but not its worker. What one takes after the last look at it is lost.
    """

    LOOK_S = 0.1

    def __init__(self, folder: Path) -> None:
        self.words = f"{folder}/".encode()
        self.before = self._look()
        self.seen = dict(self.before)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.seen |= self._look()

    @property
    def used_s(self) -> float:
        """By all of them together, those that have ended too."""
        return sum(self.seen.values()) - sum(self.before.values())

    def _watch(self) -> None:
        while not self.over.wait(self.LOOK_S):
            self.seen |= self._look()

    def _look(self) -> dict[int, float]:
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if self.words in (entry / "cmdline").read_bytes():
                    found[int(entry.name)] = cpu_s(int(entry.name))
        return found
