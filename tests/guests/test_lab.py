"""The lab from the command line: up, guest, migrate, verify, Flower, and nothing left after down."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from drover.broker.app import app
from lab import fleet
from lab.directory import Lab
from tests import consoles
from tests.guides import DOCS, HOW_TO, ROOT, blocks, scripts
from tests.helpers import until
from workers.process import processes

pytestmark = pytest.mark.guests


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="dl", dir="/tmp"))
    yield made
    fleet.down(Lab(made))


def drover(folder: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON document that a command prints, and nothing else."""
    environment = os.environ | {"DROVER_LAB_DIR": str(folder)}
    if (folder / "drover-lab").exists():
        environment |= Lab(folder).environment
    command = [fleet._program("drover"), *words, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _mentioned_by(folder: Path) -> list[str]:
    """Command lines of living processes that have to do with the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def _shared_memory(folder: Path) -> set[Path]:
    """What the lab's own Postgres shares by files: others' comes and goes meanwhile."""
    [postmaster] = processes.find(Lab(folder).mark("postgres"))
    lines = Path(f"/proc/{postmaster.pid}/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if "/dev/shm/PostgreSQL." in line}


def test_a_guest_moves_in_a_lab_and_nothing_is_left_of_it(folder: Path) -> None:
    up = drover(folder, "lab", "up", "--hosts", "2")
    memory = _shared_memory(folder)
    assert memory
    assert all(path.exists() for path in memory)
    drover(folder, "lab", "guest", "web", "--host", "host-a", "--disk", "64M", "--disk", "32M:raw:drive:virtio-scsi")
    moved = drover(folder, "migrate", "web", "--to", "host-b", "--wait")
    assert moved["state"] == "done"
    assert moved["downtime_ms"] > 0
    verdict = drover(folder, "lab", "verify", "web")
    assert (verdict["ok"], verdict["host"]) == (True, "host-b")
    _flower_shows_the_steps(up["flower"])
    drover(folder, "lab", "down")
    assert not folder.exists()
    assert processes.find_below(folder) == []
    assert _mentioned_by(folder) == []
    assert [path for path in memory if path.exists()] == []


OTHERWISE = {
    "/tmp/drover-lab-$(id -u)": "$DROVER_LAB_DIR",
    ">job-6.html": ">$DROVER_LAB_DIR/job-6.html",
    "--fill-mib 300": "--fill-mib 32",
}
"""What is not done as it is typed: the lab lies elsewhere, the report too, and there is less to copy."""
CODES = {"drover job cancel 6 --wait": {3}, "drover doctor": {0, 1}}
"""Exit codes of commands; of others 0. `doctor` finds fault with some machines that a test runs on."""


def typed(folder: Path, line: str, codes: Collection[int] = (0,)) -> str:
    """What a line that a page has typed prints, in the checkout and for the lab in this folder."""
    lab = Lab(folder)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | (lab.environment if lab.exists else {}) | {"DROVER_LAB_DIR": str(folder), "PATH": path}
    for said, done_instead in OTHERWISE.items():
        line = line.replace(said, done_instead)
    words = ["sh", "-e", "-c", line]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in codes, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def _another_terminal(folder: Path, script: str) -> Iterator[Callable[[str], Any]]:
    """The tutorial's console runs there, at a port that is free. Answers what waits until its inbox has a text."""
    address = f"127.0.0.1:{fleet.free_port()}"
    environment = os.environ | {"DROVER_LAB_DIR": str(folder)}
    typed_there = script.replace("drover console", f"exec drover console --listen {address}")
    with subprocess.Popen(["sh", "-e", "-c", typed_there], cwd=ROOT, env=environment) as console:
        try:
            yield lambda text: until(f"the inbox has {text}", lambda: text in _page(f"http://{address}/inbox"))
        finally:
            console.terminate()


def _page(url: str) -> str:
    """Nothing as long as nobody answers there yet."""
    try:
        with urllib.request.urlopen(url) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.thorough
def test_the_tutorial_is_followed_from_its_lab_to_the_end(folder: Path) -> None:
    said = {}
    with ExitStack() as beside:
        for kind, _, script in blocks(DOCS / "tutorial/first-move.md"):
            if kind == "console":
                inbox_has = beside.enter_context(_another_terminal(folder, script))
            for line in script.splitlines() if kind == "lab" else ():
                said[line] = typed(folder, line, CODES.get(line, {0}))
                if line.endswith("--hold"):
                    inbox_has("drover job release 1")
    assert "web lives on host-b" in said["drover job watch 1"]
    assert "intact" in said["drover lab verify web"]
    assert "127.0.0.1:9" in said["drover job show 7"]
    assert "web lives on host-b" in said["drover migrate web --back --wait"]
    assert not folder.exists()


@pytest.mark.thorough
@pytest.mark.skipif(consoles.BROWSER is None, reason="no chromium (Debian's package) on this machine")
def test_a_roll_is_watched_in_a_browser_from_its_first_move_to_its_end(folder: Path) -> None:
    [script] = scripts(HOW_TO / "roll.md", "lab")
    up, _, guest, roll, down = script.splitlines()
    typed(folder, up)
    typed(folder, guest)
    with fleet.pointed_at(Lab(folder)), consoles.serving() as address, consoles.browsing() as browser:
        page = browser.new_page()
        page.goto(f"{address}/rolls")
        with ThreadPoolExecutor(1) as beside:
            ends = beside.submit(typed, folder, roll)
            page.get_by_role("link", name="roll 1").click(timeout=30_000)
            for state in ("draining", "done"):
                expect(page.locator("#host-host-a").get_by_text(state, exact=True)).to_be_visible(timeout=120_000)
            expect(page.get_by_text("3 of 3 hosts")).to_be_visible(timeout=180_000)
            assert "done" in ends.result()
        if pictures := os.environ.get("DROVER_PICTURES"):
            page.screenshot(path=f"{pictures}/roll.png", full_page=True)
        page.goto("about:blank")
    typed(folder, down)


def _flower_shows_the_steps(url: str) -> None:
    def metrics() -> str:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            return str(answer.read().decode())

    until("Flower has seen the last step", lambda: 'task="drover.step.cleanup"' in metrics(), 20)
    assert 'task="drover.step.migrate_ram"' in metrics()


def test_a_second_lab_in_the_same_folder_is_refused(folder: Path) -> None:
    (folder / "drover-lab").touch()
    refusal = drover(folder, "lab", "up", code=2)
    assert "there is a lab in" in refusal["error"]["message"]


def test_a_folder_that_is_not_a_lab_is_never_deleted(folder: Path) -> None:
    (folder / "precious").touch()
    refusal = drover(folder, "lab", "down", code=2)
    assert "there is no lab in" in refusal["error"]["message"]
    assert (folder / "precious").exists()
    (folder / "precious").unlink()
    folder.rmdir()


def test_a_command_that_is_to_be_typed_names_the_folder_of_a_lab_that_lies_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DROVER_LAB_DIR", "/tmp/usual")
    assert Lab(Path("/tmp/usual")).command("env") == "drover lab env"
    assert Lab(Path("/tmp/own lab")).command("env") == "drover lab env --dir '/tmp/own lab'"


def _may_make_namespaces() -> bool:
    """Root may, but in a container it mostly may not."""
    return (
        os.geteuid() == 0
        and not subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode
    )


@pytest.mark.skipif(not _may_make_namespaces(), reason="this user may not make network namespaces here")
def test_a_cut_link_heals_without_a_new_copy(folder: Path) -> None:
    drover(folder, "lab", "up", "--namespaces", "--no-flower")
    drover(folder, "lab", "guest", "web", "--host", "host-a", "--disk", "64M", "--fill-mib", "32")
    job = drover(folder, "migrate", "web", "--to", "host-b", "--bandwidth", "8M/s")["id"]
    until("some of it is copied", lambda: _disk(folder, job)["bytes_copied"] > 4 << 20)
    drover(folder, "lab", "cut", "host-b")
    before = _disk(folder, job)["bytes_copied"]
    drover(folder, "lab", "cut", "host-b", "--mend")
    ended = drover(folder, "job", "watch", str(job))
    assert ended["state"] == "done"
    assert all(step["attempts"] == 1 for step in ended["steps"] if step["name"] in {"start_nbd", "mirror_disks"})
    assert before > 0
    assert drover(folder, "lab", "verify", "web")["ok"]


def _disk(folder: Path, job: int) -> dict[str, Any]:
    disk: dict[str, Any] = drover(folder, "job", "show", str(job))["disks"][0]
    return disk


def test_a_process_that_was_pointed_at_a_lab_for_a_while_is_back_at_the_former_one(lab: Lab, database_lab: Lab) -> None:
    assert app.conf.broker_url == lab.environment["DROVER_BROKER_URL"]
    with fleet.pointed_at(database_lab):
        assert app.conf.broker_url == database_lab.environment["DROVER_BROKER_URL"]
    assert app.conf.broker_url == lab.environment["DROVER_BROKER_URL"]
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
