"""What pages have people type besides `drover` is run, or what it names is there."""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import metadata
from pathlib import Path

import pytest

from drover.settings import OTHER_VARIABLES, variables
from tests.guides import BLOCK, DOCS, HOW_TO, ROOT, scripts
from tests.unit.test_docs import PAGES

DROVER = re.compile(r"#|([A-Z_]+=\S+ )*(/opt/drover/bin/)?drover ")
LINES = (
    {"level": "info", "job": 7, "step": "mirror_disks", "message": "begins (try 1)"},
    {"level": "info", "job": 7, "step": "mirror_disks", "message": "ends", "outcome": "failed"},
    {"level": "error", "job": 8, "step": "cleanup", "message": "it broke", "error": "Traceback"},
)
ALWAYS = {"time": "2026-11-27T06:44:35.473Z", "host": "hv1"}


def run(script: str, folder: Path, programs: Mapping[str, str]) -> str:
    """By a shell, with these programs in the place of real ones."""
    there = folder / "bin"
    there.mkdir(exist_ok=True)
    for name, text in programs.items():
        (there / name).write_text(f"#!/bin/sh\n{text}\n")
        (there / name).chmod(0o755)
    path = os.environ | {"PATH": f"{there}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-e", "-c", script], cwd=folder, env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_block_with_more_than_commands_of_drover_says_where_it_is_run() -> None:
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            lines = [line.strip() for line in block.replace("\\\n", " ").splitlines()]
            assert [line for line in lines if line and not DROVER.match(line)] == [], page.name


def test_the_hook_of_the_guide_has_a_host_upgraded_and_rebooted_by_its_own_key(tmp_path: Path) -> None:
    [script] = scripts(HOW_TO / "roll.md", "hook")
    programs = {"ssh": 'printf "%s\\n" "$@"', "ssh-keyscan": 'echo "$3 ssh-ed25519 AAAA"', "chown": "true"}
    run(script.replace("/etc/drover", str(tmp_path)), tmp_path, programs)
    assert (tmp_path / "roll.hosts").read_text() == "10.0.0.1 ssh-ed25519 AAAA\n"
    assert (tmp_path / "roll.key.pub").read_text().startswith("ssh-ed25519 ")
    told = run(f"DROVER_ROLL_ADDRESS=10.0.0.2 {tmp_path}/hooks/upgrade-and-reboot", tmp_path, programs).splitlines()
    *options, whom, what = told
    assert options == ["-i", f"{tmp_path}/roll.key", "-o", f"UserKnownHostsFile={tmp_path}/roll.hosts"]
    assert whom == "root@10.0.0.2"
    assert what.endswith("systemctl reboot")


def test_lines_about_logs_find_a_move_what_failed_and_errors(tmp_path: Path) -> None:
    as_json = "".join(json.dumps({**ALWAYS, "outcome": None, **line}) + "\n" for line in LINES)
    (tmp_path / "worker.log").write_text(as_json)
    text, *_ = scripts(DOCS / "reference/logging.md", "log")
    as_text = {"journalctl": "echo '... hv1 [job=7 guest=web] begins'; echo '... hv1 [job=8 guest=db] begins'"}
    assert run(text, tmp_path, as_text) == "... hv1 [job=7 guest=web] begins\n"
    one, all_files, failed, errors = scripts(DOCS / "reference/logging.md", "log")[1].splitlines()
    of_move = [f'["{ALWAYS["time"]}","hv1","mirror_disks","{what}"]' for what in ("begins (try 1)", "ends")]
    assert run(one, tmp_path, {"journalctl": "cat worker.log"}).splitlines() == of_move
    assert run(all_files, tmp_path, {}).splitlines() == of_move
    assert run(failed, tmp_path, {}) == '["2026-11-27T06:44:35.473Z","hv1",7,"mirror_disks","failed"]\n'
    assert run(errors, tmp_path, {}) == '"it broke"\n"Traceback"\n'


def test_traces_are_switched_on_by_a_line_of_the_environment_and_an_extra(tmp_path: Path) -> None:
    [script] = scripts(DOCS / "reference/logging.md", "traces")
    told = run(script.replace("/etc/drover", str(tmp_path)), tmp_path, {"pip": 'echo "$@"'})
    assert re.fullmatch(r"install drover\[(\w+)\]\n", told)[1] in metadata("drover").get_all("Provides-Extra", [])  # type: ignore[index]
    assert (tmp_path / "environment").read_text() == "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_and_units_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    known = {*variables(), *OTHER_VARIABLES}
    assert {name for name in re.findall(r"\b(DROVER_[A-Z_]+)=", text) if name not in known} == set()
    named = re.findall(r"systemctl (?:stop|start|restart|enable|disable)((?: --\w+| drover-[a-z@-]+)+)", text)
    units = {re.sub("@.*", "@", unit) for words in named for unit in words.split() if not unit.startswith("--")}
    there = {path.stem for path in (ROOT / "deploy/systemd").glob("*.service")}
    assert {unit for unit in units if unit not in there} == set()
