"""Flower in a real browser: a move is seen there by guest, hosts, step, progress and what it waits for."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lab import fleet
from lab.cli import flower_url
from lab.directory import Lab
from models.job import Side
from tests.helpers import MIB, Moves, until
from workflows.migration import links

pytestmark = [
    pytest.mark.guests,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium (Debian's package) on this machine"),
]


@pytest.fixture
def flower(lab: Lab) -> Iterator[str]:
    """The address of a Flower that watches the lab."""
    process = fleet.start_flower(lab)
    yield flower_url(lab)
    process.kill()


def page(url: str, profile: Path) -> str:
    """What a browser has made of a page once its scripts have run."""
    browser = ["chromium", "--headless", "--no-sandbox", "--window-size=1800,1000", f"--user-data-dir={profile}"]
    command = [*browser, "--virtual-time-budget=3000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/tasks").is_success
    except httpx.TransportError:
        return False


@pytest.mark.thorough
def test_a_browser_shows_guest_hosts_step_progress_and_wait_of_a_move_and_the_newest_first(
    flower: str, moves: Moves, tmp_path: Path
) -> None:
    until("Flower answers", lambda: answers(flower))
    guest = moves.boot(fill_mib=32)
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=MIB)
    until("the disk is copied", lambda: moves.job(job.id).disks[0].bytes_copied > 0)
    link = links.LINKS.index((links.StepName.AWAIT_SYNC, Side.SOURCE)) + 1
    place = f"job {job.id}, link {link} of {len(links.LINKS)} on host-a: "
    waits = " %, limited to 1.0 MB/s, "
    wanted = ("drover.step.await_sync", "drover.step.prepare_dest_image", f"{guest}: host-a to host-b", place, waits)

    def shown(*wanted: str) -> str:
        seen = page(f"{flower}/tasks", tmp_path)
        return seen if all(word in seen for word in wanted) else ""

    seen = until("the copy is seen to go on", lambda: shown(*wanted))
    assert seen.index("drover.step.await_sync") < seen.index("drover.step.prepare_dest_image")
    moves.hurry(job.id)
    moves.done(moves.ended(job.id))
    assert waits not in until("its end is seen", lambda: shown("drover.step.cleanup"))
