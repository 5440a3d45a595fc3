"""Help, JSON and completion of every command; subcommands of other packages."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import EntryPoint

import pytest
import typer

from drover.cli import completion, groups, plugins
from drover.cli.root import Root
from drover.errors import PreconditionFailed
from drover.views import serializers
from models.job import JobState
from tests.cli.support import DROVER, NONCE, drover, insert_job, point_at


def every_command() -> list[tuple[str, ...]]:
    """The words of each of our commands, plugins left out."""
    found: list[tuple[str, ...]] = []
    for name, lazy in Root.table.items():
        found += [(name, sub) for sub in getattr(lazy.load(), "commands", {})] or [(name,)]
    return found


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_has_help_with_an_example_and_json(words: tuple[str, ...]) -> None:
    result = drover(*words, "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "--json" in result.stdout
    assert f"$ drover {' '.join(words)}" in result.stdout


@pytest.mark.parametrize(
    "group", ["", *(name for name, lazy in Root.table.items() if hasattr(lazy.load(), "commands"))]
)
def test_groups_have_help(group: str) -> None:
    result = drover(*group.split(), "-h")
    assert result.exit_code == 0
    assert "Commands" in result.stdout or "Moving guests" in result.stdout


def test_the_list_of_commands_is_the_documented_one() -> None:
    expected = "migrate worker controller console flower db/upgrade db/roles broker/acl fleet/show fleet/set"
    expected += " budget/set budget/list budget/remove policy/set policy/list policy/show policy/remove"
    expected += " storage/list storage/set storage/map storage/unmap image/list image/purge"
    expected += " host/list host/set host/key host/trust host/cordon host/uncordon host/forget"
    expected += " host/ok-to-drain host/headroom"
    expected += " webhook/allow webhook/list webhook/rotate webhook/remove"
    expected += " token/add token/list token/person token/revoke doctor config/check config/show"
    expected += " guest/adopt guest/scan guest/set guest/forget guest/list guest/show"
    expected += " guest/start guest/stop"
    expected += " job/list job/show job/watch job/complete-now job/set job/cancel job/release job/retry job/resolve"
    expected += " job/explain job/report"
    expected += (
        " drain/submit drain/list drain/show drain/watch drain/pause drain/set drain/release drain/resume drain/cancel"
    )
    expected += " drain/report drain/overrule"
    expected += " plan/drain plan/return plan/show plan/list plan/submit plan/approve plan/withdraw plan/apply"
    expected += " roll/submit roll/list roll/show roll/watch roll/pause roll/resume roll/set roll/cancel"
    expected += " return reconcile gc"
    assert {"/".join(words) for words in every_command()} == set(expected.split())


def test_root_help_tells_the_exit_codes() -> None:
    told = drover("--help").stdout
    for code in range(6):
        assert re.search(rf"^ {code} \w", told, re.MULTILINE)


def test_version() -> None:
    result = drover("--version")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"drover \d+\.\d+\.\d+\n", result.stdout)


def offer(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Have entry points `name="module:attribute"`."""
    made = [EntryPoint(name=name, value=value, group=plugins.GROUP) for name, value in points.items()]
    plugins.found.cache_clear()
    monkeypatch.setattr(plugins, "entry_points", lambda **_: made)


@pytest.fixture
def plugin_cache() -> Iterator[None]:
    yield
    plugins.found.cache_clear()


extra = typer.Typer()


@extra.command()
def greet(name: str) -> None:
    """Greet somebody."""
    if name == "nobody":
        raise PreconditionFailed("nobody is there")
    print(f"hello {name}")


@extra.callback()
def _group() -> None:
    """Something from elsewhere."""


@pytest.mark.usefixtures("plugin_cache")
def test_a_plugin_and_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(
        monkeypatch,
        extra="tests.cli.test_help:extra",
        broken="no.such.module:app",
        wrong="tests.cli.test_help:NONCE",
    )
    told = drover("--help")
    assert told.exit_code == 0
    assert "Something from elsewhere" in told.stdout
    assert "cannot be loaded" in told.stdout
    assert drover("extra", "greet", "you").stdout == "hello you\n"
    refused = drover("extra", "greet", "nobody")
    assert (refused.exit_code, refused.stderr) == (2, "error: nobody is there\n")
    for name in ("broken", "wrong"):
        failed = drover(name, "up", "--hosts", "2")
        assert failed.exit_code == 1
        assert f"error: `drover {name}`" in failed.stderr


@pytest.mark.usefixtures("plugin_cache")
def test_a_plugin_cannot_replace_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, job="tests.cli.test_help:extra")
    assert "explain" in drover("job", "--help").stdout


def test_plugins_are_not_loaded_for_other_commands() -> None:
    code = "import sys, drover.cli; print('lab.cli' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_completion(database: None) -> None:
    number = insert_job(JobState.RUNNING)
    assert [name for name, _ in completion.hosts("hv")] == ["hv1", "hv2"]
    assert completion.guests("w") == [("web", "hv1")]
    assert completion.guests("x") == []
    assert completion.jobs("") == [(str(number), "web hv2 running")]


def test_completion_swallows_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch)
    assert completion.hosts("") == []


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("drover migrate ", ["web"]),
        ("drover migrate web --to hv1 --to ", ["gone", "hv1", "hv2"]),
        ("drover migrate --to hv1 --to hv2 ", ["web"]),
    ],
)
def test_the_shell_completes_names(database: None, typed: str, names: list[str]) -> None:
    environment = {
        **os.environ,
        "_DROVER_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    done = subprocess.run([DROVER], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (names, "")


def test_a_secret_is_what_looks_like_one() -> None:
    assert serializers.public(f"export {NONCE}-0") == "export <secret>-0"
    assert (
        serializers.public("uuid 123e4567-e89b-12d3-a456-426614174000") == "uuid 123e4567-e89b-12d3-a456-426614174000"
    )


@pytest.mark.parametrize("words", [("migrate",), ("drain", "submit"), ("return",)], ids=" ".join)
def test_options_of_a_group_are_those_of_each_command_that_takes_it(words: tuple[str, ...]) -> None:
    shown = set(re.findall(r"--[a-z-]+", drover(*words, "--help").stdout))
    declared = {field.name for group in (groups.How, groups.When, groups.Execution) for field in fields(group)}
    named = {"as_json": "json"}
    assert {f"--{named.get(name, name).replace('_', '-')}" for name in declared} <= shown
