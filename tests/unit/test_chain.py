"""From where a step may begin anew is part of the workflow, beside the order of its links."""

import ast
import asyncio
from pathlib import Path
from typing import cast

import pytest

from models.job import Side, Step
from models.transitions import IllegalTransition
from workers.step import Context
from workers.steps import STEPS
from workflows.migration import links
from workflows.migration.links import RESTARTS, Restart, StepName

FOLDER = Path(__file__).parents[2] / "workers" / "steps"


def _raised() -> dict[str, set[Restart]]:
    """{step: what its module names}."""
    return {
        name: {
            Restart[node.attr]
            for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Restart"
        }
        for name in {name for name, _ in STEPS}
    }


def test_the_steps_begin_anew_from_where_the_workflow_lets_them_and_from_nowhere_else() -> None:
    allowed = {name: set[Restart]() for name, _ in STEPS}
    for (name, _), targets in RESTARTS.items():
        allowed[name] |= targets
    assert _raised() == allowed


def test_a_cancellation_stops_no_step_that_is_left_once_the_destination_owns_the_guest() -> None:
    by_its_journal = links.StepName.MIGRATE_RAM
    stopped = {name for name, side in STEPS if name != by_its_journal and _may_be_stopped(name, side)}
    assert stopped == {name for name, _ in STEPS} - links.ONCE_COMMITTED - {by_its_journal}


def _may_be_stopped(name: str, side: Side) -> bool:
    return asyncio.run(STEPS[name, side].abandon(cast("Context", None)))


def test_every_link_of_the_chain_has_its_step() -> None:
    assert set(STEPS) == set(links.LINKS)


@pytest.mark.parametrize(
    ("link", "restart"),
    [
        ((StepName.START_NBD, Side.DESTINATION), Restart.MIRRORS),
        ((StepName.MIRROR_DISKS, Side.SOURCE), Restart.MIRRORS),
        ((StepName.MIRROR_DISKS, Side.DESTINATION), Restart.NBD_SERVER),
    ],
    ids=["a later one", "the step itself", "from no link"],
)
def test_a_way_back_that_does_not_lead_to_an_earlier_link_is_refused_at_import(
    link: links.Link, restart: Restart
) -> None:
    with pytest.raises(IllegalTransition):
        links.check({link: frozenset({restart})})


def test_a_step_that_begins_anew_from_where_it_may_not_is_refused() -> None:
    with pytest.raises(IllegalTransition, match="cutover on the source cannot begin anew from start_nbd"):
        links.done_again(Step(name="cutover", side=Side.SOURCE), Restart.NBD_SERVER, [])


def _rows(numbers: range) -> list[Step]:
    return [Step(seq=seq, name=name, side=side) for seq, (name, side) in zip(numbers, links.LINKS, strict=True)]


@pytest.mark.parametrize(
    "numbers",
    [range(1, len(links.LINKS) + 1), range(11, len(links.LINKS) + 11)],
    ids=["of today", "of a version with other links"],
)
def test_two_links_of_one_name_begin_anew_from_the_first_whatever_the_numbers_of_the_rows(numbers: range) -> None:
    rows = _rows(numbers)
    [sent] = [row for row in rows if (row.name, row.side) == ("migrate_ram", Side.SOURCE)]
    assert links.done_again(sent, Restart.RAM, rows) == [rows[6]]
    assert links.done_again(sent, Restart.NBD_SERVER, rows) == rows[3:7]
