"""Tables fit a terminal of 80 columns, and no word of them is broken."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO

import pytest

from drover.cli import drain_view, job_view, output

NAME = "a-guest-whose-name-has-all-of-the-63-characters-that-it-may-hav"
HOST = "hypervisor-in-the-second-row-of-a-data-centre-far-from-here-017"
WAITS = "hv2 takes no more than 2 moves at a time; a slot is free in about 3 min"
TABLES: dict[str, tuple[Sequence[str], Sequence[Sequence[object]]]] = {
    "jobs": (
        job_view.TITLES,
        [
            (
                12345,
                NAME,
                HOST,
                HOST,
                "needs_operator",
                "prepare_dest_image",
                "1.5 GB of 2.0 TB",
                "36 ms",
                "1:02:03",
                WAITS,
            ),
            (7, "web", "hv1", "hv2", "running", "await_sync", "12 MB of 80 MB", None, "12 s", None),
        ],
    ),
    "guests of a drain": (
        drain_view.TITLES,
        [(NAME, "moving", HOST, HOST, 12345, "1.5 GB of 2.0 TB", "1:02:03", WAITS)],
    ),
    "few": (("GUEST", "HOST"), [("web", "hv1")]),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_80_columns_and_breaks_no_word(name: str) -> None:
    titles, rows = TABLES[name]
    made = output.lines(titles, rows, 80)
    assert max(map(len, made)) <= 80
    words = " ".join(made).split()
    for row in rows:
        for cell in filter(None, row):
            assert all(word in words or f"{word};" in words for word in str(cell).split()), cell


def test_short_names_stay_in_one_line_and_a_pipe_has_one_for_each_row() -> None:
    titles: Sequence[str] = ("JOB", "GUEST", "WAITS FOR")
    assert output.lines(titles, [(7, "web", "hv2")], 80) == ["JOB  GUEST  WAITS FOR", "7    web    hv2"]
    jobs, rows = TABLES["jobs"]
    assert len(output.lines(jobs, rows, output.PIPE_WIDTH)) == 1 + len(rows)


def test_a_cell_that_is_longer_than_others_of_its_column_stands_below_alone() -> None:
    rows = [("PORTS", "default", "49152-49215"), ("URL", "environment", "redis://a.very.long.name/0"), ("KEY", "", "")]
    made = output.lines(("VARIABLE", "FROM", "VALUE"), rows, 40)
    assert made == [
        "VARIABLE  FROM         VALUE",
        "PORTS     default      49152-49215",
        "URL       environment",
        "    value redis://a.very.long.name/0",
        "KEY       -            -",
    ]


def test_what_has_no_room_beside_stands_below_with_its_title() -> None:
    made = output.lines(("JOB", "GUEST", "WAITS FOR"), [(7, "web", "a slot of hv2"), (8, "db", None)], 12)
    assert made == ["JOB  GUEST", "7    web", "    waits", "    for a", "    slot of", "    hv2", "8    db"]


class Terminal(StringIO):
    """What a process on a terminal prints to."""

    def isatty(self) -> bool:
        return True


def test_a_sentence_breaks_no_word_of_it_on_a_terminal_and_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    printed = Terminal()
    with redirect_stdout(printed):
        output.say("  there is no guest 'webb': see `drover guest list`, or adopt it")
    assert printed.getvalue() == "  there is no guest 'webb':\n    see `drover guest list`,\n    or adopt it\n"
