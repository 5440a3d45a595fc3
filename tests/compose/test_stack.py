"""`make compose`: the compose stack from a clean clone moves a guest, whichever of its services is restarted."""

from collections.abc import Iterator

import httpx
import pytest

from lab.guest.boot_files import BootFiles
from tests.compose import stack as stacks
from tests.compose.stack import Stack
from tests.helpers import until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

MOVED = {"postgres", "redis", "controller", "flower", "prometheus"}
"""A restart of these is no reason to roll back a move."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with stacks.up() as running:
        yield running


@pytest.fixture(scope="module")
def files(stack: Stack) -> BootFiles:
    return stacks.boot_files_for(stack)


def begin(stack: Stack, guest: str, to: str) -> str:
    """A move that copies, and stays in sync until `release`, however long commands take here; returns the job's id."""
    job = str(stack.drover("migrate", guest, "--to", to, "--hold", "--bandwidth", "8M")["id"])
    until("the copy runs", lambda: step(stack, job, "await_sync")["state"] == "running", every_s=0.2)
    return job


def step(stack: Stack, job: str, name: str) -> dict[str, str]:
    steps: list[dict[str, str]] = stack.drover("job", "show", job)["steps"]
    return next(step for step in steps if step["name"] == name)


def ended(stack: Stack, job: str) -> str:
    """How the job ended, once it was released; it may also end before."""

    def ended() -> str | None:
        told = stack.drover("job", "show", job)
        if told["state"] == "running" and told["hold"]:
            stack.docker("exec", stack.container(stacks.DRIVER), "drover", "job", "release", job, check=False)
        return str(told["state"]) if told["state"] in {"done", "rolled_back", "needs_operator"} else None

    return str(until("the job ends", ended, 300, every_s=1))


def test_the_command_line_in_a_container_moves_a_guest_and_prometheus_hears_of_it(
    stack: Stack, files: BootFiles
) -> None:
    stack.boot("web", files)
    moved = stack.drover("migrate", "web", "--to", "host-b", "--wait")
    assert moved["state"] == "done"
    assert moved["downtime_ms"] > 0
    stack.intact("web", "host-b")
    [port] = stack.docker("port", stack.container("prometheus"), "9090").splitlines()[:1]
    asked = f"http://{port}/api/v1/query"

    def heard() -> bool:
        answer = httpx.get(asked, params={"query": 'max(drover_jobs_ended_total{state="done"})'}).json()
        return any(float(result["value"][1]) >= 1 for result in answer["data"]["result"])

    until("Prometheus heard of it", heard, 90, every_s=1)


def test_flower_asks_for_its_password(stack: Stack) -> None:
    [port] = stack.docker("port", stack.container("flower"), "5555").splitlines()[:1]
    assert httpx.get(f"http://{port}/tasks").status_code == 401
    user, _, password = stack.environment["FLOWER_BASIC_AUTH"].partition(":")
    assert httpx.get(f"http://{port}/tasks", auth=(user, password)).status_code == 200


@pytest.mark.parametrize("service", [*sorted(MOVED), "host-b"])
def test_a_restart_of_any_service_during_a_move_costs_neither_guest_nor_write(
    stack: Stack, files: BootFiles, service: str
) -> None:
    guest = f"g-{service}"
    stack.boot(guest, files)
    job = begin(stack, guest, "host-b")
    stack.compose("restart", "--timeout", "5", service)
    state = ended(stack, job)
    assert state == "done" if service in MOVED else state in {"done", "rolled_back"}
    stack.intact(guest, "host-b" if state == "done" else "host-a")
    until("every service is well again", stack.healthy, 180, every_s=1)


def test_a_restart_of_the_source_ends_its_guests_and_their_moves_and_loses_no_write(
    stack: Stack, files: BootFiles
) -> None:
    stack.boot("last", files)
    job = begin(stack, "last", "host-b")
    stack.compose("restart", "--timeout", "5", "host-a")
    assert ended(stack, job) == "rolled_back"
    stack.lost_nothing("last", "host-a")
