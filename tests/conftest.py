"""Real servers for the tests, started by the tests: Postgres, Redis, workers, guests. Never the machine's."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover import logs
from drover.settings import settings
from lab import fleet, services
from lab.directory import Lab
from tests import factories, labs, saved_guests
from tests.helpers import Moves

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of the many processes would compile all of Drover anew


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before any worker of pytest-xdist starts: all share the guests that were booted once, and leave out the same."""
    saved_guests.share_folder()
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:  # whatever is named is run
        config.option.markexpr = f"({config.option.markexpr}) and not (thorough or all_lines or compose)"


ROUND_TRIPS = 2
BEGUN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What takes long is done a few times, or as often as is asked for."""
    parser.addoption("--round-trips", type=int, default=ROUND_TRIPS, help="of the guest in test_way_back.py")
    parser.addoption("--thorough-for", type=float, metavar="MINUTES", help="no thorough test begins later")


@pytest.fixture(scope="session")
def round_trips(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--round-trips"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a machine is too slow for is left out and said to be: a suite that is ended says nothing of any test."""
    most = item.config.getoption("--thorough-for")
    if most is not None and item.get_closest_marker("thorough") and time.monotonic() - BEGUN > 60 * most:
        pytest.skip(f"the {most:g} minutes in which thorough tests may begin are over")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """More than there are CPUs: most tests wait most of the time, for guests, copies and leases."""
    return min(8, 2 * (os.cpu_count() or 1))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what must run in one process of pytest-xdist, and what begins first.

    A test that needs a whole lab may run anywhere: each process has one. What shares a fixture of its module stays
    together. Long groups begin first, so that none is left to run alone at the end, but what is thorough comes last.
    """
    for item in items:
        if (group := _group(item)) is not None:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_turn)


def _group(item: pytest.Item) -> str | None:
    if item.get_closest_marker("xdist_group") is not None:
        return None  # it has one
    fixtures = getattr(item, "fixturenames", ())
    module = Path(item.path).stem
    if "lab" in fixtures and module not in FILES_WITH_FIXTURES:
        return None
    return module


FILES_WITH_FIXTURES = {"test_drain"}
"""Whose module's fixtures take long."""
FIRST = (
    *("test_crash_matrix", "test_drain", "test_failover", "test_deploy", "test_upgrade", "test_gc", "test_lab"),
    *("test_guests_own_doings", "test_controller", "test_garbage_messages", "test_faults"),
)
"""Files that take longest, the longest first."""


def _turn(item: pytest.Item) -> tuple[bool, int]:
    module = Path(item.path).stem
    thorough = item.get_closest_marker("thorough") is not None
    return thorough, FIRST.index(module) if module in FIRST else len(FIRST)


@pytest.fixture(autouse=True)
def _no_log_of_its_own() -> Iterator[None]:
    """Commands run in this process, and one that becomes a service would take over where pytest looks at log lines.

    Not by the fixture `monkeypatch`: it would be set up first and torn down last, and then put back the variables of a
    database that a test was pointed at after it was pointed back.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "configure", lambda host, **fields: None)
        yield


@pytest.fixture(autouse=True)
def _settings_are_read_anew() -> Iterator[None]:
    """What a test set in the environment is put back before this; what was read from it must not outlive it."""
    yield
    settings.cache_clear()


@pytest.fixture(scope="session")
def lab(round_trips: int) -> Iterator[Lab]:
    """Two hosts with their workers and a controller; `drover` in this process is pointed at them.

    For many round trips they have a network of their own, which can be cut, and counts what crosses it.
    """
    with labs.temporary(namespaces=round_trips > ROUND_TRIPS) as made:
        yield made


@pytest.fixture
def moves(lab: Lab) -> Iterator[Moves]:
    """Boots guests and moves them; ends what a test leaves behind."""
    made = Moves(lab)
    yield made
    made.end()


@pytest.fixture(scope="session")
def database_lab() -> Iterator[Lab]:
    """A Postgres with the newest schema, and nothing else."""
    made = Lab(Path(tempfile.mkdtemp(prefix="dl", dir="/tmp")), durable=False)
    made.path.chmod(0o711)
    try:
        services.start_postgres(made)
        yield made
    finally:
        services.stop_postgres(made)
        shutil.rmtree(made.path, ignore_errors=True)


@pytest.fixture
def database(database_lab: Lab) -> Iterator[None]:
    """An empty database; this process is pointed at it."""
    with fleet.pointed_at(database_lab):
        factories.empty_database()
        yield
