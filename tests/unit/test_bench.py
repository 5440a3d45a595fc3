"""What `make bench` makes of what it has measured; the measuring itself needs an hour and is no test."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Figure
from bench.measuring import Cpu
from bench.observer import latency_ms
from bench.statements import Transaction


@pytest.mark.parametrize(("value", "met", "far_outside"), [(1.1, True, False), (1.2, False, False), (3.1, False, True)])
def test_a_missed_target_is_told_and_only_what_no_noise_explains_fails_the_quick_form(
    value: float, met: bool, far_outside: bool
) -> None:
    figure = Figure(name="downtime", what="downtime", value=value, at_most=1.1, far=3.0)
    assert (figure.met, figure.far_outside) == (met, far_outside)


def test_what_has_to_be_large_is_far_outside_when_it_is_small() -> None:
    assert Figure(name="throughput", what="throughput", value=0.3, at_least=0.97, far=0.4).far_outside


def latency_of_most_ms(bins: list[int]) -> float:
    found = latency_ms(bins, 0.99)
    assert found is not None, "too few writes"
    return found


def test_a_percentile_is_that_of_all_writes_together() -> None:
    one_way, other_way = [990, 10, 0], [900, 0, 100]
    pooled = [sum(bins) for bins in zip(one_way, other_way, strict=True)]
    assert latency_of_most_ms(one_way) < latency_of_most_ms(pooled) == latency_of_most_ms(other_way)


def test_too_few_writes_tell_nothing() -> None:
    assert latency_ms([100, 0, 0], 0.99) is None


def test_the_record_of_a_copy_is_told_from_other_statements() -> None:
    progress = "WITH noted AS (UPDATE job SET progress_at=$1), told AS (UPDATE disk SET bytes_copied=$2) SELECT hold"
    assert Transaction(0.0, "worker", [progress]).is_progress
    assert not Transaction(0.0, "worker", ["UPDATE job SET NBD server=$1"]).is_progress


def test_the_cpu_of_each_side_is_told_apart_also_of_what_has_ended(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    with Cpu(tmp_path / "source") as source, Cpu(tmp_path / "destination") as destination:
        subprocess.run([sys.executable, "-c", burn, f"{tmp_path}/source/streams.json"], check=True)
    assert 0.2 < source.used_s <= 0.6
    assert destination.used_s == 0
