"""Postgres refuses a state that the tables of `models.transitions` do not lead to, whoever writes it and how."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, inspect, text

from models.database import transaction
from models.job import Job, Step
from models.transitions import JOB, STEP

GUARDED: dict[type[Job] | type[Step], frozenset[tuple[Any, Any]]] = {Job: JOB.pairs(), Step: STEP.pairs()}


@contextmanager
def guarded() -> Iterator[None]:
    """For the time of a `with` block, all that changes the state of a job or step has to be in its table."""
    for row, pairs in GUARDED.items():
        event.listen(row.state, "set", _show_each)
        _execute(*_trigger(row.__tablename__, pairs))
    try:
        yield
    finally:
        for row in GUARDED:
            event.remove(row.state, "set", _show_each)
            _execute(f"DROP FUNCTION refuse_{row.__tablename__} CASCADE")


def _show_each(row: object, _after: Any, _before: Any, _initiator: object) -> None:
    """Of two changes in one transaction Postgres would see only the second."""
    kept = inspect(row)
    if kept.session is not None and kept.attrs.state.history.has_changes():
        kept.session.flush()


def _execute(*statements: str) -> None:
    with transaction() as session:
        for statement in statements:
            session.execute(text(statement))


def _trigger(table: str, pairs: frozenset[tuple[Any, Any]]) -> tuple[str, str]:
    legal = ", ".join(f"('{before.value}', '{after.value}')" for before, after in sorted(pairs))
    return (
        f"""
        CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (OLD.state, NEW.state) NOT IN ({legal}) THEN
                RAISE EXCEPTION 'a {table} cannot go from % to %', OLD.state, NEW.state;
            END IF;
            RETURN NEW;
        END $$
        """,
        f"""
        CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW
        WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION refuse_{table}()
        """,
    )
