"""What guests, hosts and groups may be called, wherever a name comes in; what becomes of names of earlier versions."""

from collections.abc import Callable
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

import migrations
from drover import names
from drover.errors import PreconditionFailed, UnreadableDocument
from drover.settings import settings
from models.database import engine, transaction
from models.drain import DrainKind
from models.guest import Guest
from models.host_rpc import PlanDestination
from models.job import Attempt, Direction, Job, JobState
from tests import factories
from workers import executor, registration
from workers.steps import STEPS
from workflows import guests
from workflows.drain import commands
from workflows.drain.planner import DrainRequest
from workflows.migration import claims
from workflows.submissions import DrainMove, DrainSubmission, MigrationSubmission

pytestmark = pytest.mark.usefixtures("database")

ODD = ("", "../../../pwn", ".hidden", "-rf", "a b", "a/b", "a\nb", "web\n", "\x1b[2J", "wéb", "w" * 64, "a\0b")
BEFORE = "0012"
"""The revision before names were checked."""
FINE = ("web", "9", "_x", "web-1.example.org", "w" * 63, "A_b-c.D")


@pytest.mark.parametrize("name", FINE)
def test_a_name_of_letters_digits_dots_dashes_and_underscores_is_taken(name: str) -> None:
    names.check(name, "a guest")
    names.check(name, "a host")


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(
    "takes",
    [
        lambda name: guests.adopt(name, "one", "/q"),
        guests.known_guest,
        lambda name: MigrationSubmission.read({"guest": name, "to": "two"}),
        lambda name: MigrationSubmission.read({"guest": "web", "to": name}),
        lambda name: DrainSubmission.read({"host": name}),
        lambda name: DrainSubmission.read({"host": "one", "to": ["two", name]}),
        lambda name: DrainSubmission.read({"host": "one", "exclude": [name]}),
        lambda name: DrainMove.read({"drain_id": 1, "guest": name}),
    ],
)
def test_another_name_is_refused_in_one_sentence_that_says_what_is_allowed(
    takes: Callable[[str], Any], name: str
) -> None:
    with pytest.raises(PreconditionFailed, match=r"has 1 to 63 letters") as refused:
        takes(name)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", [name for name in ODD if name])
def test_groups_have_such_names_too(name: str) -> None:
    factories.host("one")
    factories.guest("web", "one")
    for affinity, anti_affinity in ((name, None), (None, name)):
        with pytest.raises(PreconditionFailed, match=r"a group of guests cannot be called .*: a name has 1"):
            guests.describe("web", priority=None, affinity=affinity, anti_affinity=anti_affinity)
    assert guests.describe("web", priority=None, affinity="", anti_affinity="db").anti_affinity == "db"


def test_no_host_is_called_control() -> None:
    with pytest.raises(PreconditionFailed, match="and is not `control`"):
        MigrationSubmission.read({"guest": "control", "to": "control"})
    with pytest.raises(PreconditionFailed, match="and is not `control`"):
        names.check("control", "a host")


@pytest.mark.parametrize("name", ODD)
def test_a_host_does_not_look_at_a_question_about_such_a_guest(name: str) -> None:
    with pytest.raises(UnreadableDocument, match="guest: a name has 1 to 63 letters"):
        PlanDestination.read({"guest": name, "source_root": "/", "source": {}})


def test_a_worker_does_not_start_for_a_queue_whose_host_has_such_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DROVER_HOST", "")
    settings.cache_clear()
    with pytest.raises(SystemExit, match=r"a host cannot be called '\.\./x': a host's name has 1 to 63 letters"):
        registration.take_host_from_queue(conf={}, options={"queues": "drover.../x"})
    settings.cache_clear()


@pytest.mark.parametrize("name", [name for name in ODD if "\0" not in name])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE guest SET name = :name",
        "UPDATE guest SET affinity = :name",
        "UPDATE guest SET anti_affinity = :name",
        "UPDATE job SET guest = :name",
        "UPDATE host SET name = :name WHERE name = 'three'",
    ],
)
def test_postgres_takes_no_such_name(statement: str, name: str) -> None:
    for host in ("one", "two", "three"):
        factories.host(host)
    factories.guest("web", "one")
    factories.job("web", "two")
    with pytest.raises(IntegrityError, match="violates check constraint"), engine().begin() as connection:
        connection.execute(text(statement), {"name": name})


def _in_the_revision_before(*statements: str) -> None:
    """Names as an earlier version took them; the rows are made by this one, which knows all columns."""
    command.downgrade(migrations.config(), BEFORE)
    with engine().begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.usefixtures("database")
def test_the_upgrade_gives_guests_and_groups_of_earlier_versions_such_names_and_loses_none() -> None:
    for host in ("one", "two"):
        factories.host(host)
    called = {"a": "web server", "b": "web.server", "c": "../pwn", "d": "wéb", "e": "w" * 100}
    for name in called:
        factories.guest(name, "one", affinity="web")
    job = factories.job("a", "two", state=JobState.RUNNING)
    _in_the_revision_before(
        "UPDATE guest SET affinity = 'the web'",
        "UPDATE job SET guest = 'web server'",
        *(f"UPDATE guest SET name = '{name}' WHERE name = '{short}'" for short, name in called.items()),
    )
    migrations.upgrade()
    with transaction() as session:
        found = {guest.name: guest.affinity for guest in session.query(Guest)}
        [event] = session.execute(text("SELECT sentence FROM event")).scalars()
    assert all(names.name(name) for name in found)
    assert len(found) == 5
    assert "web.server" in found, "what was right stays"
    assert len(set(found.values())) == 1, "a group stays one"
    renamed = factories.load(job).guest
    assert renamed in found
    assert renamed.startswith("web_server-")
    assert event == f'its guest was called "web server", which is no name any more, and is called {renamed}'


@pytest.mark.usefixtures("database")
def test_the_upgrade_leaves_a_host_of_another_name_as_it_is_and_lets_no_other_in() -> None:
    factories.host("one")
    _in_the_revision_before("UPDATE host SET name = 'my host'")
    migrations.upgrade()
    with engine().begin() as connection:
        assert connection.execute(text("SELECT name FROM host")).scalars().all() == ["my host"]
    with pytest.raises(IntegrityError, match="ck_host_name"):
        factories.host("your host")


def test_a_worker_touches_nothing_for_a_job_whose_row_was_forged(tmp_path: Any) -> None:
    for host in ("one", "two"):
        factories.host(host)
    factories.guest("web", "one")
    job = factories.job("web", "two", state=JobState.RUNNING)
    ours = factories.ours(host="two", directory=tmp_path / "worker", guest_root=tmp_path)
    with engine().begin() as connection:
        connection.execute(text("ALTER TABLE job DROP CONSTRAINT ck_job_guest"))
        connection.execute(text("UPDATE job SET guest = '../../../pwn'"))
    try:
        claim = claims.claim(
            job_id=job,
            seq=1,
            name="prepare_dest_image",
            epoch=0,
            direction=Direction.DO,
            host="two",
            owner="x",
            settings=ours,
        )
        assert claim is not None
        with pytest.raises(Exception, match=r"touched nothing: a guest cannot be called '\.\./\.\./\.\./pwn'"):
            executor.run(STEPS[claim.name, claim.side], claim, ours)
        assert list(tmp_path.iterdir()) == []
        with transaction() as session:
            found = session.get_one(Job, job)
            assert found.state is JobState.NEEDS_OPERATOR
            assert session.query(Attempt).one().ended_at is not None
    finally:
        factories.empty_database()
        with engine().begin() as connection:
            connection.execute(
                text(f"ALTER TABLE job ADD CONSTRAINT ck_job_guest CHECK (guest COLLATE \"C\" ~ '^{names.PATTERN}$')")
            )


def test_a_drain_is_refused_before_anything_is_changed() -> None:
    factories.host("one")
    with pytest.raises(PreconditionFailed):
        commands.submit(DrainRequest.of(DrainKind.DRAIN, DrainSubmission.read({"host": "one", "to": ["../two"]})))
