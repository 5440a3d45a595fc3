"""The results of a benchmark: one figure per target."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

P95 = 0.95


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table, and its chart."""

    name: str
    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    far: float | None = None
    """Beyond this the quick form fails: far outside whatever noise a shared machine makes."""
    series: dict[str, list[float]] = field(default_factory=dict)
    """What the value was made of, for the chart."""
    axis: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target holds; None where there is none."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def far_outside(self) -> bool:
        """So bad that no noise explains it."""
        if self.far is None:
            return False
        return self.value < self.far if self.at_least is not None else self.value > self.far

    @property
    def target(self) -> str:
        """As text."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else ""


def median(values: Sequence[float]) -> float:
    """Of at least one value."""
    return statistics.median(values)


def quantile(values: Sequence[float], part: float) -> float:
    """The value that this part of the others does not exceed."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]
