"""Was it one guest that ran all the time? The order of its ticks and acknowledgements shows it."""

from collections.abc import Iterator
from itertools import pairwise

from lab.guest.console import Tick, Transcript

MAX_QUOTED = 5

NO_TICK, NO_WRITE = "no tick", "no acknowledged write to"
"""What a problem states of a guest that stopped, or was killed before its first tick or write there."""


def continuity_problems(transcript: Transcript) -> list[str]:
    return [
        *_start_problems(transcript),
        *_tick_problems(transcript.ticks),
        *_ack_problems(transcript),
        *_silent_consoles(transcript),
        *(f"the guest printed: {line}" for line in transcript.complaints[:MAX_QUOTED]),
    ]


def _start_problems(transcript: Transcript) -> Iterator[str]:
    if transcript.starts == 0:
        yield "the guest never printed that it is ready"
    if transcript.starts > 1:
        yield f"the guest started {transcript.starts} times: it was restarted, not migrated"


def _tick_problems(ticks: list[Tick]) -> Iterator[str]:
    wrong = [(earlier, later) for earlier, later in pairwise(ticks) if later.number != earlier.number + 1]
    for earlier, later in wrong[:MAX_QUOTED]:
        if later.number <= earlier.number:
            yield f"tick {later.number} came after {earlier.number}: two copies of the guest were running"
        else:
            yield f"no ticks between {earlier.number} and {later.number}: it also ran where no console shows"
    if any(later.ms < earlier.ms for earlier, later in pairwise(ticks)):
        yield "the guest's monotonic clock went backwards"


def _ack_problems(transcript: Transcript) -> Iterator[str]:
    for disk in transcript.geometry:
        sequences = [ack.sequence for ack in transcript.acks if ack.disk == disk]
        back = next((pair for pair in pairwise(sequences) if pair[1] <= pair[0]), None)
        if back:
            yield f"{disk}: sequence {back[1]} was acknowledged after {back[0]}: two copies were running"


def _silent_consoles(transcript: Transcript) -> Iterator[str]:
    """Each host after the first must have seen the guest go on."""
    for console in range(1, transcript.consoles):
        if not any(tick.console == console for tick in transcript.ticks):
            yield f"console {console + 1} shows {NO_TICK}: the guest did not go on after it was moved"
        heard = {ack.disk for ack in transcript.acks if ack.console == console}
        for disk, geometry in transcript.geometry.items():
            if geometry.rate and disk not in heard:
                yield f"console {console + 1} shows {NO_WRITE} {disk} after the guest was moved"
