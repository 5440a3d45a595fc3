"""The tables of states: whole, and kept to by everybody."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from models.database import transaction
from models.job import Job, JobState, Step
from models.transitions import (
    DRAIN,
    DRAIN_GUEST,
    FINISHED,
    JOB,
    ROLL,
    ROLL_HOST,
    STEP,
    Actor,
    IllegalTransition,
    JobEvent,
    StepEvent,
    StepState,
    Table,
)
from tests.factories import guest, host, job
from tests.transition_guard import guarded

ROOT = Path(__file__).parents[2]
TABLES: dict[str, Table[Any, Any]] = {
    "job": JOB,
    "step": STEP,
    "drain": DRAIN,
    "guest": DRAIN_GUEST,
    "roll": ROLL,
    "host of a roll": ROLL_HOST,
}
FIRST = {
    "job": "queued",
    "step": "pending",
    "drain": "queued",
    "guest": "waiting",
    "roll": "running",
    "host of a roll": "waiting",
}
ALLOWED = {
    "models/job.py",
    "models/drain.py",
    "models/roll.py",
    "workflows/migration/claim_statements.py",
}
"""Where a state is written: by `Table.apply`, and by the statements of claims, which take theirs from `WAYS`."""
OTHER_STATES = {"HostState", "RequestState", "DeliveryState"}


@pytest.mark.parametrize("name", TABLES)
def test_every_state_can_be_reached(name: str) -> None:
    table, reached = TABLES[name], {FIRST[name]}
    for _ in table.rows:
        reached |= {row.after for row in table.rows if row.state in reached}
    assert [state for state in type(table.rows[0].state) if state not in reached] == []


def test_a_job_is_finished_where_no_event_leads_on() -> None:
    assert set(FINISHED) == {JobState.DONE, JobState.ROLLED_BACK}
    assert [state for state in JobState if state.settled] == [
        JobState.DONE,
        JobState.ROLLED_BACK,
        JobState.NEEDS_OPERATOR,
    ]
    assert not JobState.NEEDS_OPERATOR.finished


def test_no_event_takes_a_claim_away_from_a_step_but_those_that_end_claims() -> None:
    ends = {StepEvent.FINISH, StepEvent.RETRY, StepEvent.HAND_BACK, StepEvent.EXPIRE, StepEvent.FAIL}
    claimed = {StepState.RUNNING, StepState.ROLLING_BACK}
    assert {row.event for row in STEP.rows if row.state in claimed} == ends | {StepEvent.GO_FORWARD}


def test_what_no_row_lists_is_refused() -> None:
    with pytest.raises(IllegalTransition, match="there is no 'claim' for a step that is done"):
        STEP.apply(StepState.DONE, StepEvent.CLAIM, Actor.WORKER)
    with pytest.raises(IllegalTransition, match="there is no 'roll back' for a job that is done"):
        JOB.apply(JobState.DONE, JobEvent.ROLL_BACK, Actor.OPERATOR)


def test_who_may_not_is_refused() -> None:
    with pytest.raises(IllegalTransition, match="is not for worker"):
        JOB.apply(JobState.QUEUED, JobEvent.BEGIN, Actor.WORKER)
    with pytest.raises(IllegalTransition, match="is not for controller"):
        Step(state=StepState.PENDING).apply(StepEvent.CLAIM, Actor.CONTROLLER)


@pytest.mark.usefixtures("database")
def test_the_guard_of_the_tests_refuses_what_no_table_lists() -> None:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")
    number = job("web", "two")
    for statement in ("UPDATE job SET state = 'done'", "UPDATE step SET state = 'rolling_back'"):
        with guarded(), pytest.raises(SQLAlchemyError, match="cannot go from"), transaction() as session:
            session.execute(text(statement))
    with guarded(), pytest.raises(SQLAlchemyError, match="cannot go from queued to needs_operator"):
        _assign(number, JobState.NEEDS_OPERATOR, JobState.RUNNING)


def _assign(job_id: int, *states: JobState) -> None:
    """All in one transaction, past the tables."""
    with transaction() as session:
        row = session.get_one(Job, job_id)
        for state in states:
            row.state = state


def _writes(source: str) -> Iterator[ast.AST]:
    """Where a module sets `state`: by an assignment, or as an argument of `values`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and any(_is_state(part) for goal in node.targets for part in ast.walk(goal)):
            if not _names(node.value) & OTHER_STATES:
                yield node
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) in {"values", "update"}:
            yield from (word for word in node.keywords if word.arg == "state" and not _names(word.value) & OTHER_STATES)


def _is_state(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "state" and isinstance(node.ctx, ast.Store)


def _names(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def _modules() -> Iterator[Path]:
    for package in ("models", "workers", "workflows", "drover"):
        yield from (ROOT / package).rglob("*.py")


def test_nobody_writes_a_state_but_the_tables() -> None:
    found = {
        f"{name}:{getattr(node, 'lineno', 0)}"
        for path in _modules()
        if (name := str(path.relative_to(ROOT))) not in ALLOWED
        for node in _writes(path.read_text())
    }
    assert not found


def test_where_states_are_written_they_come_from_the_tables() -> None:
    """None is spelled out there."""
    for name in ALLOWED:
        for node in _writes((ROOT / name).read_text()):
            value = node.value if isinstance(node, (ast.Assign, ast.keyword)) else node
            assert not _names(value) & {
                "JobState",
                "StepState",
                "DrainState",
                "GuestState",
                "RollState",
                "RollHostState",
            }, name
