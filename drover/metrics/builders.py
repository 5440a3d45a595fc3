"""Kinds of metrics, and how their figures get Prometheus' form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A metric, as Prometheus and its page know it."""

    KIND: ClassVar[str]
    name: str
    meaning: str
    labels: str = ""
    """With spaces between them."""


class Gauge(Family):
    """A figure as it is now."""

    KIND = "gauge"

    def of(self, values: Mapping[Any, float] | float) -> Metric:
        """The figure, or one per label value, or per tuple of them."""
        family = GaugeMetricFamily(self.name, self.meaning, labels=self.labels.split())
        for key, value in (values if isinstance(values, Mapping) else {(): values}).items():
            family.add_metric([str(label) for label in (key if isinstance(key, tuple) else (key,))], value)
        return family


class Counter(Family):
    """A figure that only grows."""

    KIND = "counter"

    def of(self, values: Mapping[Labels, float]) -> Metric:
        """The figure per tuple of label values."""
        family = CounterMetricFamily(self.name, self.meaning, labels=self.labels.split())
        for key, value in values.items():
            family.add_metric(key, value)
        return family


class Histogram:
    """Counts per bucket and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.total = bounds, 0.0
        self.counts = [0] * (len(bounds) + 1)

    def add(self, bucket: int, count: int, total: float) -> None:
        """So many values between bound `bucket` - 1 and bound `bucket`, and what they add up to."""
        self.counts[bucket] += count
        self.total += total

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound with the number of values up to it."""
        names = [*map(str, self.bounds), "+Inf"]
        return [(name, sum(self.counts[: index + 1])) for index, name in enumerate(names)]


class Durations(Family):
    """How often something took how long."""

    KIND = "histogram"

    def of(self, values: Mapping[Labels, Histogram]) -> Metric:
        """A histogram per tuple of label values."""
        family = HistogramMetricFamily(self.name, self.meaning, labels=self.labels.split())
        for key, histogram in values.items():
            family.add_metric(list(key), histogram.buckets(), histogram.total)
        return family
