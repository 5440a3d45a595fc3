"""How results are printed, which of them, and what is guessed of a name that is wrong."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from sqlalchemy import update

from drover.cli import options, output
from drover.words import duration
from models.database import transaction
from models.job import Job, JobState
from tests.cli.support import document, drover, insert_job

YAML = ("host list --output yaml", "host --output=yaml list", "--output yaml host list")


@pytest.mark.parametrize("words", YAML)
def test_yaml_is_the_document_of_json_wherever_it_is_asked_for(database: None, words: str) -> None:
    told = drover(*words.split())
    assert told.exit_code == 0
    assert yaml.safe_load(told.stdout) == document("host", "list")


def test_json_is_json_and_a_table_is_what_it_was(database: None) -> None:
    assert json.loads(drover("host", "list", "--output", "json").stdout) == document("host", "list")
    assert drover("host", "list", "--output", "table").stdout == drover("host", "list").stdout
    assert output.form is output.Form.TABLE


def test_an_error_has_the_form_that_was_asked_for(database: None) -> None:
    told = drover("job", "show", "7", "--output", "yaml")
    assert told.exit_code == 2
    assert yaml.safe_load(told.stdout)["error"]["code"] == "refused"


def test_a_form_that_is_none_is_refused(database: None) -> None:
    for words in (["job", "show", "7", "--output", "xml"], ["job", "list", "--output"]):
        told = drover(*words)
        assert told.exit_code == 2
        assert "table, wide, json, yaml" in told.stderr


def test_a_list_has_the_columns_that_are_named_in_that_order(database: None) -> None:
    told = drover("guest", "list", "--output", "qmp-socket,guest").stdout.splitlines()
    assert [line.split() for line in told] == [["QMP", "SOCKET", "GUEST"], ["/run/web.sock", "web"]]
    assert drover("guest", "list", "--output=HOST").stdout.split() == ["HOST", "hv1"]
    refused = drover("guest", "list", "--output", "guest,colour")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "there is no column 'colour': there are guest, host, state, " in refused.stderr
    assert drover("guest", "list").stdout.split()[:3] == ["GUEST", "HOST", "STATE"], "the next command has all again"


def test_jobs_of_the_last_days_are_listed_those_that_have_ended_too(database: None) -> None:
    old, new = (insert_job(JobState.DONE) for _ in range(2))
    with transaction() as session:
        session.execute(update(Job).where(Job.id == old).values(created_at=datetime.now(UTC) - timedelta(days=8)))
    found = document("job", "list", "--since", "7d")["jobs"]
    assert [job["id"] for job in found] == [new]
    assert document("job", "list")["jobs"] == []
    assert document("drain", "list", "--since", "7d")["drains"] == []
    assert "is not a duration" in drover("job", "list", "--since", "soon").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["migrate", "wbe", "--to", "hv2"], "there is no guest 'wbe': did you mean web? see `drover guest list`"),
        (["migrate", "zzz", "--to", "hv2"], "there is no guest 'zzz': see `drover guest list`"),
        (["job", "list", "--guest", "wbe"], "there is no guest 'wbe': did you mean web?"),
        (["image", "list", "--guest", "wbe"], "there is no guest 'wbe': did you mean web?"),
        (["image", "list", "--host", "hv3"], "there is no host 'hv3': did you mean hv2 or hv1?"),
        (["host", "cordon", "hv3"], "there is no host 'hv3': did you mean hv2 or hv1? see `drover host list`"),
    ],
)
def test_a_name_that_is_alike_is_named(database: None, words: list[str], said: str) -> None:
    told = drover(*words)
    assert told.exit_code == 2
    assert said in told.stderr


WATCHED = "--timeout is how long --wait watches: give both, or leave it out"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("migrat web", "no such command 'migrat': did you mean 'migrate'? see `drover --help`"),
        ("job shw 3", "no such command 'shw': did you mean 'show'? see `drover job --help`"),
        ("job list --selctor a", "no such option: --selctor: did you mean --selector? see `drover job list --help`"),
        ("migrate", "missing argument 'GUEST'; see `drover migrate --help`"),
        ("migrate web --bandwidth 100", "has no unit: write 100M/s for megabytes per second, or 100K/s; see `drover"),
        ("job show x", "invalid value for 'ID': a whole number is wanted, not 'x'; see `drover job show --help`"),
        ("job list --limit 0", "invalid value for '--limit': 1 or more is wanted, not '0'; see `drover job list"),
        ("job watch 3 --timeout -1", "invalid value for '--timeout': 0 or more is wanted, not '-1'; see `drover job"),
        (
            "job resolve 3 --owner both",
            "invalid value for '--owner': 'both' is not one of 'source', 'destination'; see",
        ),
        ("job set 3 --max-downtime-ms 2000001", "max-downtime-ms cannot be 2000001: allowed is 1 to 2000000"),
        ("migrate web --to hv2 --max-downtime-ms 2000001", "a whole number of milliseconds from 1 to 2000000"),
        ("image purge --older-than 7", "7 has no unit: write 7h for hours, 7d for days, or 7s"),
        ("migrate web --to hv2 --to hv1", "--to is given more than once: leave one out"),
        ("drain hv1 --window 22:00-23:00 --window=01:00-02:00", "--window is given more than once"),
        ("drain set 3 --bandwidth 1G/s --bandwidth 2G/s", "--bandwidth is given more than once"),
        ("migrate web --to hv2 --verify --no-verify", "--verify/--no-verify is given more than once"),
        ("migrate web --to hv2 --timeout 5", WATCHED),
        ("drain hv1 --timeout 5", WATCHED),
        ("return hv1 --timeout 5", WATCHED),
        ("roll --host hv1 --hook x --timeout 5", WATCHED),
        ("plan apply 3 --timeout 5", WATCHED),
        ("job cancel 3 --timeout 5", WATCHED),
        ("drain cancel 3 --timeout 5", WATCHED),
        ("roll cancel 3 --timeout 5", WATCHED),
        ("job set 3 --priority 1 --timezone Europe/Berlin", "the time zone Europe/Berlin is given, and no time in it"),
        ("drain set 3 --priority 1 --timezone Europe/Berlin", "and no time in it: give the time as well"),
        ("host set hv1 --bandwidth 1G/s --timezone Europe/Berlin", "and no time in it: give the time as well"),
        ("host set hv1 --bandwidth-at 1-2 --bandwidth-at=", "--bandwidth-at '' is none: give it alone"),
        ("host ok-to-drain hv1 --timezone Europe/Berlin", "and no time in it: give the time as well"),
        ("host headroom --timezone Europe/Berlin", "and no time in it: give the time as well"),
        ("budget set all --bandwidth 0 --timezone Europe/Berlin", "and no time in it: give the time as well"),
        ("guest set web --priority 1 --timezone Europe/Berlin", "and no time in it: give the time as well"),
        ("guest set web --until 2099-01-01", "--never-drain REASON and --until TIME go together"),
        ("policy set db --priority 1 --verify --notice-deadline 5s", "are about --notice: give that as well"),
        ("policy set db --priority 1 --verify --notice-silence go-on", "are about --notice: give that as well"),
        ("migrate web --to hv2 --storage a --storage b", "--storage names a and b for the same: leave one out"),
        ("migrate web --to hv2 --format 0=raw --format 0=qcow2", "--format names raw and qcow2 for the same"),
        ("migrate web --to hv2 --disk 0=/a --disk 0=/b", "--disk names /a and /b for disk 0: leave one out"),
        ("db roles --host hv1 --into /tmp", "--into and --expires are about new passwords"),
        ("db roles --host hv1 --expires 9d", "--into and --expires are about new passwords"),
        ("broker acl --host hv1 --remove hv1", "hv1 is to be left out, and is named as a user that there is to be"),
        ("token add ada --only drain", "add it with --scope operate"),
        ("job set 3", "say what to change: --bandwidth, --max-downtime-ms, --window or --priority; see `drover"),
    ],
)
def test_what_is_typed_wrong_is_one_sentence_like_every_other_error(words: str, said: str) -> None:
    told = drover(*words.split())
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr.startswith("error: ")
    assert said in told.stderr
    assert told.stderr.count("\n") == 1


def test_a_number_that_no_row_can_have_is_refused(database: None) -> None:
    told = drover("job", "show", "9" * 30)
    assert told.exit_code == 2
    assert told.stderr == "error: a number is larger than any that Drover can store; nothing was changed\n"


@pytest.mark.parametrize("seconds", [0, 0.5, 90, 600, 5400, 86400, 90061, 604800])
def test_a_duration_can_be_typed_as_it_is_shown(seconds: float) -> None:
    assert options.duration(duration(seconds)) == timedelta(seconds=seconds)


def test_a_duration_is_shown_as_people_read_it() -> None:
    told = [duration(n) for n in (-5400, 0, 0.5, 20, 90, 600, 5400, 86400, 95040.00000000001, 604800)]
    assert told == [
        "-1 h 30 min",
        "0 s",
        "0.5 s",
        "20 s",
        "1 min 30 s",
        "10 min",
        "1 h 30 min",
        "1 d",
        "1 d 2 h 24 min",
        "7 d",
    ]
