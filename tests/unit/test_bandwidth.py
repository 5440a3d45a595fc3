"""The rate of each mirror: set in QEMU when it changes, and lifted only for one that would never end."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.helpers import MIB
from workers.disks import mirrors
from workers.disks.mirrors import Bandwidth
from workers.disks.pace import RateLimiter
from workers.qemu.block import Mirror
from workers.qemu.monitor import Monitor

RATE = 10 * MIB


class Told(Monitor):
    """Stands for a monitor; records the commands."""

    def __init__(self) -> None:
        self.rates: list[int] = []

    async def execute_each(self, command: str, arguments: Iterable[Mapping[str, Any]]) -> None:
        for each in arguments:
            assert (command, each["device"]) == ("block-job-set-speed", "drover-1-0")
            self.rates.append(each["speed"])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(mirrors, "share", lambda _: RATE)
    return Told()


def mirror(copied_mib: int) -> dict[str, Mirror]:
    """Of 1000 MiB."""
    sizes = {"copied_bytes": copied_mib * MIB, "total_bytes": 1000 * MIB}
    return {"drover-1-0": Mirror(status="running", ready=False, healthy=True, no_room=False, error=None, **sizes)}


def after(told: Told, *copied_mib: int) -> list[int]:
    """The commands after the mirror was seen in each of these states."""

    async def look() -> None:
        ours: Any = None
        bandwidth = Bandwidth(ours, told)
        for copied in copied_mib:
            await bandwidth.share(mirror(copied))

    asyncio.run(look())
    return told.rates


def test_a_rate_is_told_once_because_qemu_lets_a_burst_pass_each_time(told: Told) -> None:
    assert after(told, 0, 100, 200) == [RATE]


def test_another_rate_is_told_when_other_disks_begin_or_end(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([RATE, RATE, RATE // 2, RATE])
    monkeypatch.setattr(mirrors, "share", lambda _: next(rates))
    assert after(told, 0, 100, 200, 300) == [RATE, RATE // 2, RATE]


def test_the_last_stretch_is_limited_like_the_rest(told: Told) -> None:
    assert after(told, 0, 985, 995) == [RATE]


def test_a_mirror_that_does_not_end_its_last_stretch_in_time_is_not_limited_any_more(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "PATIENCE_WITH_LAST_STRETCH_S", 0.0)
    assert after(told, 0, 985, 985) == [RATE, 0]


def test_what_waits_under_a_limit_goes_on_when_that_is_lifted() -> None:
    async def several() -> None:
        limiter = RateLimiter(1)
        waiting = [asyncio.create_task(limiter.keep(MIB)) for _ in range(3)]
        await asyncio.wait(waiting, timeout=0.01)
        limiter.bytes_per_s = 0
        async with asyncio.timeout(60):
            await asyncio.gather(*waiting)

    asyncio.run(several())


def test_several_who_wait_keep_to_one_rate_together() -> None:
    async def several() -> float:
        begun, limiter = time.monotonic(), RateLimiter(MIB)
        await asyncio.gather(*(limiter.keep(MIB // 10) for _ in range(4)))
        return time.monotonic() - begun

    assert asyncio.run(several()) > 0.39
