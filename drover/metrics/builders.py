"""Builders of metrics in Prometheus' form."""

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Labels = tuple[str, ...]


def gauge(name: str, meaning: str, value: float) -> Metric:
    """A figure without labels."""
    return GaugeMetricFamily(name, meaning, value=value)


def labelled(name: str, meaning: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    """A figure per label value, or per tuple of them."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for key, value in values.items():
        family.add_metric([str(label) for label in (key if isinstance(key, tuple) else (key,))], value)
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


def counter(name: str, meaning: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    """A figure that only grows."""
    family = CounterMetricFamily(name, meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
