"""What each role may do in the database, and what it may not: `drover db roles`. That each may do all it needs is seen
by every test with a lab, whose services have roles of their own.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Enum, func, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

import migrations
from drover import logs
from drover.broker.app import app
from drover.cli.checks import services as doctors
from drover.controller import loop
from drover.errors import PreconditionFailed
from drover.settings import settings
from lab import services
from lab.directory import Lab
from migrations import rights
from migrations.rights import Purpose
from models import database as connections
from models.access import ApiToken, Scope
from models.base import Base
from models.columns import Typed
from models.database import transaction
from models.documents import AllowedHosts
from models.drain import Drain, DrainKind, DrainState
from models.guest import Guest
from models.host import Host, HostRequest
from models.job import Attempt, Direction, Event, Job, JobState
from models.sample import Rates
from models.storage import Storage
from tests import factories, roles
from tests.cli.support import drover
from workers import registration
from workflows import access, budgets, fleet_limits, leader_election
from workflows.drain import commands
from workflows.drain.planner import DrainRequest
from workflows.migration import claims

ROOT = Path(__file__).parents[2]
HOSTS = ("one", "two", "three")


@pytest.fixture
def _granted(database_lab: Lab, database: None) -> None:
    with transaction() as session:
        session.execute(text("GRANT ALL ON SCHEMA public TO CURRENT_USER"))  # a test before may have made it anew
    services.make_roles(database_lab, HOSTS)


@pytest.fixture
def moving(_granted: None) -> int:
    """A move from one host to another, and a guest that a third host has."""
    for name in HOSTS:
        factories.host(name)
    factories.guest("web", "one")
    factories.guest("db", "three")
    return factories.job("web", "two", state=JobState.RUNNING)


@contextmanager
def _as(role: str) -> Iterator[None]:
    """This process logs in with that role."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DROVER_DATABASE_URL", settings().database_url.replace("//drover@", f"//{role}@"))
        settings.cache_clear()
        try:
            yield
        finally:
            settings.cache_clear()


def _denied(statement: str) -> bool:
    """The database refuses it, or it finds no row that it could change."""
    try:
        with transaction() as session:
            return session.connection().exec_driver_sql(statement).rowcount == 0
    except ProgrammingError as error:
        return isinstance(error.orig, psycopg.errors.InsufficientPrivilege)


EVERYBODY = [
    "DROP TABLE job",
    "ALTER TABLE job DISABLE ROW LEVEL SECURITY",
    "TRUNCATE job CASCADE",
    "UPDATE alembic_version SET version_num = '0001'",
    "CREATE TABLE mine (x int)",
    "CREATE TEMPORARY TABLE mine (x int)",
    "CREATE ROLE mine",
    "DELETE FROM job",
    "DELETE FROM event",
    "DELETE FROM sample",
    "UPDATE event SET sentence = 'it never happened'",
    "COPY job TO PROGRAM 'cat'",
]
A_HOST = [
    *EVERYBODY,
    "UPDATE job SET plan = '{}'",
    "UPDATE job SET source = 'one'",
    "UPDATE disk SET destination_path = '/etc/passwd'",
    "UPDATE host SET state = 'maintenance'",
    "UPDATE host SET trusted_key = public_key",
    "UPDATE host SET heartbeat_at = now() WHERE name <> 'one'",
    "UPDATE guest SET host = 'two' WHERE name = 'web'",
    "UPDATE guest SET host = 'one' WHERE name = 'db'",
    "INSERT INTO job (guest, source, destination, state) VALUES ('web', 'two', 'one', 'queued')",
    "INSERT INTO host (name, address, guest_root, incarnation, heartbeat_at, facts)"
    " SELECT 'four', address, guest_root, incarnation, heartbeat_at, facts FROM host",
    "UPDATE fleet_limits SET max_moves = 0",
    "SELECT * FROM drain",
    "INSERT INTO said (level, sentence, fields) VALUES (20, 'an operator trusts two', '{}')",
    *(
        f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"
        for table in ("host", "job", "guest", "storage", "delivery", "sample")
    ),
    "SELECT * FROM api_token",
    "SELECT * FROM webhook_secret",
    "SELECT pg_try_advisory_lock(1)",
]
THE_CONTROLLER = [*EVERYBODY, "DELETE FROM step", "DELETE FROM host", "UPDATE pg_authid SET rolsuper = true"]
A_READER = [
    *EVERYBODY,
    "UPDATE job SET state = 'done'",
    "INSERT INTO console_user VALUES ('me', 'approve')",
    "UPDATE api_token SET scope = 'approve'",
    "UPDATE fleet_limits SET max_moves = 0",
    "INSERT INTO said (level, sentence, fields) VALUES (20, 'an operator trusts two', '{}')",
    "SELECT * FROM webhook_secret",
    "SELECT pg_try_advisory_lock(1)",
]
TRIED = {"one": A_HOST, services.CONTROLLER: THE_CONTROLLER, services.READER: A_READER}


@pytest.mark.parametrize("role", TRIED)
def test_nobody_may_do_what_is_not_its_purpose(moving: int, role: str) -> None:
    access.add("ada", Scope.READ, None)
    with transaction() as session:
        session.add(Event(job_id=moving, by="test", action="test", sentence="it happened"))
    with _as(role):
        assert [statement for statement in TRIED[role] if not _denied(statement)] == []


def test_a_host_neither_sees_nor_changes_the_moves_of_others(moving: int) -> None:
    factories.guest("mail", "two")
    other = factories.job("mail", "three", state=JobState.RUNNING)
    with _as("one"):
        with transaction() as session:
            assert session.scalars(select(Host.name)).all() == ["one"]
            assert session.scalars(select(Job.id)).all() == [moving]
        about_it = (f"{what} WHERE job_id = {other}" for what in ("UPDATE step SET attempts = 9", "SELECT FROM disk"))
        assert all(map(_denied, (f"UPDATE job SET state = 'done' WHERE id = {other}", *about_it)))
        assert _denied(f"INSERT INTO event (job_id, by, action, sentence) VALUES ({other}, 'one', 'x', 'x')")
        assert _denied(f"INSERT INTO sample VALUES ({other}, false, now(), 1, 1)")


def test_a_host_neither_sees_nor_changes_what_is_of_another_host(moving: int) -> None:
    with transaction() as session:
        session.add(Attempt(job_id=moving, token=1, seq=1, direction=Direction.DO, owner="two"))
        session.add(HostRequest(host="two", kind="look_for_guest", question={}))
        session.add(Storage(host="two", name="pool", driver="lvm", place="vg0", free_bytes=1))
    with _as("three"):
        with transaction() as session:
            assert session.scalars(select(Guest.name)).all() == ["db"]
            assert session.scalars(select(HostRequest.id)).all() == []
            assert session.scalars(select(Attempt.token)).all() == []
            assert session.scalars(select(Storage.name)).all() == ["pool"]  # where there is room all may know
        assert [statement for statement in OF_ANOTHER_HOST if not _denied(statement)] == []


OF_ANOTHER_HOST = [
    "UPDATE attempt SET outcome = 'done'",
    "UPDATE host_request SET reply = '{}'",
    "UPDATE storage SET free_bytes = 9",
    "INSERT INTO storage (host, name, driver, place) VALUES ('two', 'mine', 'lvm', 'vg0')",
]


def test_a_host_has_nothing_sent_to_an_address_that_nobody_submitted(moving: int) -> None:
    with transaction() as session:
        session.get_one(Job, moving).webhook = "https://a.example/"
    insert = "INSERT INTO delivery (job_id, url, body, state, tries) VALUES ({}, '{}', '{{}}', 'pending', 0)"
    with _as("one"):
        assert _denied(insert.format(moving, "https://b.example/"))
        assert not _denied(insert.format(moving, "https://a.example/"))


def test_a_role_that_is_stolen_leaves_connections_to_others(moving: int) -> None:
    with transaction() as session:
        limits = session.execute(text("SELECT rolconnlimit FROM pg_roles WHERE rolname IN ('one', 'two', 'three')"))
        assert limits.scalars().all() == [100, 100, 100]


@pytest.mark.parametrize("role", TRIED)
def test_doctor_finds_the_schema_whatever_the_role(moving: int, role: str) -> None:
    with _as(role):
        assert doctors.database().sentence.startswith("it answers")


def _written_by_hosts(columns: str, constraints: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Tables and columns that a hypervisor's role may write, and those of them that no such constraint bounds."""
    may = text(
        "SELECT table_name, column_name FROM information_schema.column_privileges"
        " JOIN information_schema.columns USING (table_schema, table_name, column_name)"
        " WHERE grantee = 'drover_host' AND privilege_type IN ('UPDATE', 'INSERT') AND table_schema = 'public'"
        f" AND {columns}"
    )
    checked = text(
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
        f" WHERE conname ~ '{constraints}$'"
    )
    with transaction() as session:
        held = {str(row[0]): str(row[1]) for row in session.execute(checked)}
        written = {(str(table), str(column)) for table, column in session.execute(may)}
    return written, {(table, column) for table, column in written if f"({column} >= " not in held.get(table, "")}


def test_a_host_writes_no_time_that_no_process_can_hold(moving: int) -> None:
    written, unbounded = _written_by_hosts("data_type = 'timestamp with time zone'", "_times")
    assert written
    assert not unbounded
    for never in ("infinity", "-infinity", "10000-01-01", "0044-03-15 BC"):
        with _as("one"), pytest.raises(IntegrityError, match="ck_host_times"), transaction() as session:
            session.execute(text(f"UPDATE host SET heartbeat_at = '{never}'"))


def test_a_host_writes_no_figure_that_no_sum_can_hold(moving: int) -> None:
    """Room and estimates are reckoned of what all hosts have written."""
    figures = "data_type = 'bigint' AND column_name ~ '_bytes|bytes_|_per_s'"
    written, unbounded = _written_by_hosts(figures, "_figures")
    assert ("guest", "allocated_bytes") in written
    assert not unbounded
    with _as("one"), pytest.raises(IntegrityError, match="ck_guest_figures"), transaction() as session:
        session.execute(text(f"UPDATE guest SET allocated_bytes = {-(2**63)}"))


@pytest.mark.parametrize(("column", "figure"), [("downtime", "ms"), ("ram", "transferred")])
def test_a_host_writes_no_document_by_which_nobody_can_reckon(moving: int, column: str, figure: str) -> None:
    write = text(f"UPDATE job SET {column} = CAST(:told AS jsonb)")
    for never in ('"x"', "1e400", "true", "{}"):
        with _as("one"), pytest.raises(IntegrityError, match=f"ck_job_{column}"), transaction() as session:
            session.execute(write, {"told": f'{{"{figure}": {never}}}'})
    for told in (f'{{"{figure}": 31.5}}', f'{{"{figure}": null}}', "{}", "[]", "null"):
        with _as("one"), transaction() as session:
            session.execute(write, {"told": told})


@pytest.mark.usefixtures("_granted")
def test_a_host_that_registers_says_nothing_that_operators_decide() -> None:
    decided = {"state": "'maintenance'", "labels": "'[]'", "bandwidth_hours": "'[]'", "trusted_key": "'x'"}
    first = "INSERT INTO host (name, address, guest_root, incarnation, heartbeat_at, facts"
    with _as("one"):
        for column, value in decided.items():
            assert _denied(f"{first}, {column}) VALUES ('one', '', '', '', now(), '{{}}', {value})")
        registration.register(factories.ours(host="one", address="127.0.0.1"))


@pytest.mark.usefixtures("_granted")
def test_what_a_host_writes_and_nobody_can_read_keeps_nobody_from_the_rest() -> None:
    """A document of its own counts as another then, or is loaded for who asks for it alone."""
    may = text("SELECT has_column_privilege('drover_host', :of, :column, 'INSERT, UPDATE')")
    with transaction() as session:
        for mapper in Base.registry.mappers:
            for read in mapper.column_attrs:
                column = read.columns[0]
                if isinstance(column.type, Typed) and column.type.otherwise is None and not read.deferred:
                    where = {"of": mapper.class_.__tablename__, "column": column.name}
                    assert not session.scalar(may, where), where


def test_a_host_writes_no_state_that_nobody_knows(moving: int) -> None:
    """It would keep everybody from reading what is read together with its row."""
    may = text(
        "SELECT table_name, column_name FROM information_schema.column_privileges"
        " WHERE grantee = 'drover_host' AND privilege_type IN ('UPDATE', 'INSERT') AND table_schema = 'public'"
    )
    checked = text("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'")
    with transaction() as session:
        written = {(str(table), str(column)) for table, column in session.execute(may)}
        held = {str(name): set(re.findall(r"'(\w+)'", definition)) for name, definition in session.execute(checked)}
    columns = [column for table in Base.metadata.sorted_tables for column in table.columns]
    states = {
        f"ck_{column.table.name}_{column.name}": set(column.type.enums)
        for column in columns
        if isinstance(column.type, Enum) and (column.table.name, column.name) in written
    }
    assert states
    assert {name: held.get(name) for name in states} == states
    with _as("one"), pytest.raises(IntegrityError, match="ck_job_state"), transaction() as session:
        session.execute(text("UPDATE job SET state = 'elsewhere'"))


def test_a_host_cannot_keep_controllers_from_leading(moving: int) -> None:
    with _as("one"), connections.autocommitting() as connection, pytest.raises(ProgrammingError, match="denied"):
        leader_election.acquire(connection)
    with _as(services.CONTROLLER), connections.unpooled() as connection:
        assert leader_election.acquire(connection)


def test_a_host_that_holds_its_rows_locked_does_not_keep_the_controller_from_the_others(
    moving: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LONGEST_WAIT_MS", 300)
    monkeypatch.setattr(connections, "_engines", {})  # pools that were made before have the former one
    monkeypatch.setattr(app, "send_task", lambda *_, **__: None)
    locking = "SELECT FROM host FOR UPDATE; SELECT FROM job FOR UPDATE; SELECT FROM step FOR UPDATE; "
    locking += "SELECT FROM host_request FOR UPDATE; SELECT FROM storage WHERE host = 'one' FOR UPDATE"
    with transaction() as session:
        long_ago = func.clock_timestamp() - timedelta(days=9)
        session.add(Storage(host="one", name="old", driver="filesystem", place="/old", seen_at=long_ago))
        session.add(HostRequest(host="one", kind="observe", question={}, created_at=long_ago))
    to = AllowedHosts(to=("two",))
    numbers = [commands.submit(DrainRequest(kind=DrainKind.DRAIN, host=name, where=to)).id for name in ("one", "three")]
    login = settings().database_url.replace("//drover@", "//one@").replace("+psycopg", "")
    with psycopg.connect(login) as thief, _as(services.CONTROLLER):
        thief.execute(locking)
        loop.tick(settings())
        with transaction() as session:
            states = [session.get_one(Drain, number).state for number in numbers]
    connections.disconnect()
    assert states == [DrainState.QUEUED, DrainState.RUNNING]


def test_a_storage_that_a_host_does_not_report_any_more_is_forgotten(moving: int) -> None:
    with transaction() as session:
        for name, days in (("old", 2), ("new", 0)):
            at = func.clock_timestamp() - timedelta(days=days)
            session.add(Storage(host="one", name=name, driver="filesystem", place=f"/{name}", seen_at=at))
    with _as(services.CONTROLLER):
        loop.tick(settings())
    with transaction() as session:
        assert session.scalars(select(Storage.name)).all() == ["new"]


def test_a_reader_sees_lists_and_whose_token_it_is(moving: int) -> None:
    _, token = access.add("ada", Scope.READ, None)
    with _as(services.READER):
        for words in (["job", "list"], ["job", "show", str(moving)], ["host", "list"], ["drain", "list"]):
            assert drover(*words).exit_code == 0
        holder = access.holder(token)
        assert holder is not None
        assert holder.user == "ada"
        refused = drover("job", "cancel", str(moving))
    assert refused.exit_code == 2
    assert "does not permit that to this role" in refused.stderr


def test_a_reader_that_holds_tokens_locked_keeps_nobody_from_using_them(moving: int) -> None:
    made, token = access.add("ada", Scope.READ, None)
    login = settings().database_url.replace("//drover@", f"//{services.READER}@").replace("+psycopg", "")
    with psycopg.connect(login) as thief:
        thief.execute("SELECT FROM api_token FOR UPDATE")
        holder = access.holder(token)
        assert holder is not None
        with transaction() as session:
            assert session.get_one(ApiToken, made.id).used_at is None
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            session.get_one(Job, moving).submitted_with = made.id
    access.holder(token)
    with transaction() as session:
        assert session.get_one(ApiToken, made.id).used_at is not None


def test_an_upgrade_renews_the_rights_of_the_version_before(moving: int) -> None:
    with transaction() as session:
        session.execute(text("REVOKE ALL ON step FROM drover_host"))
        session.execute(text("GRANT DELETE ON job TO drover_controller"))
        session.execute(text("DROP POLICY host_all ON step"))
    migrations.upgrade()
    with _as("one"), transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM step"))
    with _as(services.CONTROLLER):
        assert _denied("DELETE FROM job")


def test_roles_can_be_made_again_while_others_work(moving: int, database_lab: Lab) -> None:
    with _as("one"), transaction() as session:
        session.execute(text("UPDATE job SET pace = pace"))
        services.make_roles(database_lab, [*HOSTS, "four"])


def test_a_role_has_the_purpose_that_was_named_last(moving: int, database_lab: Lab) -> None:
    roles.run(database_lab, rights.script({Purpose.READER: ["two"]}, {}))
    with _as("two"):
        assert _denied("UPDATE job SET error = 'x'")


@pytest.mark.parametrize("name", ["postgres", "pg_monitor", "drover_host", "a b", "x'; DROP TABLE job; --"])
def test_a_role_that_has_another_use_is_refused(name: str) -> None:
    with pytest.raises(PreconditionFailed, match="cannot be called"):
        rights.script({Purpose.READER: [name]}, {})


def test_the_owner_of_the_tables_is_not_made_anything_less(moving: int, database_lab: Lab) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="the role drover is a superuser's, or owns tables"):
        roles.run(database_lab, rights.script({Purpose.CONTROLLER: ["drover"]}, {}))


def test_a_new_password_is_shown_once_and_is_not_in_the_script(moving: int, database_lab: Lab) -> None:
    made = drover("db", "roles", "--host", "one", "--password", "one")
    [password] = re.findall(r"the password of one is (\S+)", made.stderr)
    assert password not in made.stdout
    roles.run(database_lab, made.stdout)
    with roles.asked_for_passwords(database_lab, "one"):
        login = f"host={database_lab.postgres} dbname=drover user=one"
        psycopg.connect(login, password=password).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(login, password="another")  # pragma: allowlist secret


def test_a_new_password_is_written_above_the_former_one_and_ends_when_it_is_to(
    moving: int, database_lab: Lab, tmp_path: Path
) -> None:
    words = ("db", "roles", "--host", "one", "--password", "one", "--into", str(tmp_path))
    for more in ((), ("--expires", "90d")):
        made = drover(*words, *more)
        roles.run(database_lab, made.stdout)
    file = tmp_path / "one.postgres"
    new, former = file.read_text().split()
    assert (file.stat().st_mode & 0o777, new in made.output, f"the first line of {file}" in made.stderr) == (
        *(0o600, False, True),
    )
    with roles.asked_for_passwords(database_lab, "one"):
        login = f"host={database_lab.postgres} dbname=drover user=one"
        psycopg.connect(login, password=new).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(login, password=former)
    with transaction() as session:
        left = session.scalar(text("SELECT rolvaliduntil - now() FROM pg_roles WHERE rolname = 'one'"))
    assert timedelta(days=89) < left <= timedelta(days=90)


def test_a_password_is_for_a_role_that_is_named(moving: int) -> None:
    refused = drover("db", "roles", "--host", "one", "--password", "two")
    assert refused.exit_code == 2
    assert "two is none of the roles that are named here" in refused.stderr


@pytest.mark.usefixtures("_granted")
def test_a_worker_may_write_every_column_that_steps_note() -> None:
    noted = set(_noted())
    assert {"switchover", "file_copy"} <= noted
    with transaction() as session:
        may = text("SELECT has_column_privilege('drover_host', 'job', :column, 'UPDATE')")
        assert [column for column in noted if not session.scalar(may, {"column": column})] == []


def _noted() -> Iterator[str]:
    """The names in `note(name=...)`, all over the workers."""
    for path in (ROOT / "workers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "note":
                yield from (keyword.arg for keyword in node.keywords if keyword.arg)


def test_a_worker_may_write_how_far_its_copy_is(moving: int) -> None:
    claim = factories.claim(settings(), moving, 0)
    rates = Rates(of_ram=False, sent_per_s=2, changed_per_s=1)
    with _as("one"):
        claims.progress(claim, settings(), rates)
    with transaction() as session:
        more = "SELECT job_id, of_ram, at - i * interval '5s', 1, 1 FROM sample, generate_series(1, 299) i"
        session.execute(text(f"INSERT INTO sample {more}"))
        session.execute(text("UPDATE sample SET at = at - interval '11s'"))
    with _as("one"):
        claims.progress(claim, settings(), rates)
    with transaction() as session:
        counted = text("SELECT count(*), count(*) FILTER (WHERE sent_per_s = 2) FROM sample")
        assert session.execute(counted).one() == (300, 2)


def test_a_worker_knows_its_share_of_what_moves_take_that_it_does_not_see(moving: int) -> None:
    other = factories.job("db", "two", state=JobState.RUNNING)
    factories.prepared(moving, other)
    fleet_limits.describe_host("three", {}, ["rack=r3"])
    budgets.define("all", None, None, 10**8, None)
    budgets.define("slow", "rack=r3", None, 10**7, None)
    job = factories.load(moving)
    with _as("one"):
        with transaction() as session:
            assert session.get(Job, other) is None
        assert budgets.rate_of(job) == 9 * 10**7


def test_a_worker_that_is_back_may_say_so_in_the_stories_of_its_moves(
    moving: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "configured", lambda: True)  # as a worker's is
    with transaction() as session:
        session.get_one(Host, "one").heartbeat_at = func.clock_timestamp() - timedelta(minutes=5)
        session.get_one(Job, moving).created_at = func.clock_timestamp() - timedelta(hours=1)
    with _as("one"):
        registration.register(factories.ours(host="one", address="127.0.0.1"))
        with transaction() as session:
            told = session.scalars(select(Event.sentence).where(Event.job_id == moving, Event.action == "outage")).all()
    assert [one.startswith("one was silent for 5:0") for one in told] == [True]
