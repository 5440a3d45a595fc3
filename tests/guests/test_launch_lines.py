"""Guests as people launch them move with what is on their disks, or are refused beforehand with the reason."""

import os
import re
from collections.abc import Iterator

import pytest

from lab.directory import Lab
from tests import labs, launch_lines
from tests.launch_lines import Line, Row

pytestmark = pytest.mark.thorough

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces, loop devices and users need root")


def test_every_kind_of_line_is_tried_in_every_run() -> None:
    tried = {line.row for line in launch_lines.all_lines() if line.everyday}
    assert tried == set(Row)


def test_lines_have_one_name_each() -> None:
    names = [line.name for line in launch_lines.all_lines()]
    assert len(names) == len(set(names)) >= 59


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Hosts with networks of their own, whose policy allows what the lines need."""
    with labs.temporary(namespaces=True) as made:
        launch_lines.write_policy(made)
        yield made


def _of(line: Line) -> object:
    marks = [pytest.mark.guests, as_root] + ([] if line.everyday else [pytest.mark.all_lines])
    return pytest.param(line, id=line.name, marks=marks)


@pytest.mark.parametrize("line", [_of(line) for line in launch_lines.all_lines()])
def test_a_launched_guest_moves_there_and_back_or_is_refused(lab: Lab, line: Line) -> None:
    if lacking := line.lacks():
        pytest.skip(f"this machine has no {', '.join(lacking)}")
    outcome = launch_lines.tried(lab, line)
    if line.refused is None:
        assert outcome == launch_lines.Outcome("moved"), outcome.sentence
    else:
        assert outcome.verdict in {"refused", "not adopted"}, outcome
        assert re.search(line.refused, outcome.sentence), outcome
