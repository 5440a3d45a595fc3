"""The documents: the site has no broken link, commands in them are ones, and messages that they quote are said."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any

import pytest
import typer
from playwright.sync_api import expect

from drover.cli import plugins
from drover.cli.root import Root, app
from lab import man
from tests.consoles import BROWSER, browsing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
NAMED = re.compile(r"`(?:/opt/drover/bin/)?drover ([^`]+)`")
"""In a sentence, whose reader fills in what stands in capitals."""
SUBMISSION = ["submission"]
"""What the signature of one begins with, see docs/reference/cli.md: no command."""
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
QUOTING = ("how-to/error-messages.md", "how-to/recovery.md")


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """What `make check` does."""
    config = site.parent / "mkdocs.yml"
    text = (ROOT / "mkdocs.yml").read_text().replace("docs_dir: docs", f"docs_dir: {docs}")
    config.write_text(text.replace("lab/site.py", str(ROOT / "lab/site.py")))
    where = ["--config-file", str(config), "--site-dir", str(site)]
    command = [sys.executable, "-m", "lab.site", *where]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def unread(html: str) -> list[str]:
    """What was meant as a list or as code, and stands in the text as it was typed."""
    text = re.sub(r"<(pre|script|style|code)\b.*?</\1>", "", html, flags=re.DOTALL)
    return re.findall(r"^ *- .{0,60}|.{0,60}`.{0,60}", text, re.MULTILINE)


@pytest.mark.thorough
def test_the_site_is_built_and_a_link_to_nowhere_ends_the_build(tmp_path: Path) -> None:
    done = build(DOCS, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/how-to/when.html").read_text()
    assert "What do I do when" in page
    assert not re.search(r"""(src|href)=["']https?://(?!127|www.mkdocs|squidfunk|[^"']*example)""", page)
    for name, variable in (("settings", "LEASE_<wbr>TTL_<wbr>S"), ("support", "GUEST_<wbr>ROOT")):
        there = (tmp_path / f"site/reference/{name}.html").read_text()
        assert f"DROVER_<wbr>{variable}" in there, "a narrow screen breaks it there"
    links = (tmp_path / "site/how-to/deploy.html").read_text()
    assert ">Settings</a>" in links, "a link that is named by its file is named by its heading"
    units = (tmp_path / "site/how-to/shortest-set-up.html").read_text()
    assert "deploy/systemd (" not in units, "a file that is not on the site is named once"
    for path in DOCS.rglob("*.md"):
        typed = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        shown = (tmp_path / "site" / path.relative_to(DOCS)).with_suffix(".html").read_text().partition("<article")[2]
        assert unread(shown) == [], path
        assert shown.count("<ol") == len(re.findall(r"^ *1\. ", typed, re.MULTILINE)), f"{path}: a list begins anew"
    copied = shutil.copytree(DOCS, tmp_path / "docs")
    (copied / "how-to/drain.md").write_text(
        "# x\n\n[nowhere](../nothing.md) [no such part](../reference/cli.md#nothing)\n"
    )
    broken = build(copied, tmp_path / "broken")
    assert broken.returncode == 1
    assert "nothing.md" in broken.stderr
    assert "#nothing" in broken.stderr


@pytest.mark.thorough
@pytest.mark.skipif(BROWSER is None, reason="no chromium (Debian's package) on this machine")
def test_commands_fit_a_phone_with_options_in_one_piece_and_are_copied_as_they_were_typed(tmp_path: Path) -> None:
    assert build(DOCS, tmp_path / "site").returncode == 0
    typed = BLOCK.findall((DOCS / "how-to/deploy.md").read_text())
    with browsing() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800}, permissions=["clipboard-read"])
        page.goto((tmp_path / "site/how-to/deploy.html").as_uri())
        blocks = page.locator(".language-sh")
        wide = "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.textContent)"
        assert blocks.locator("code").evaluate_all(wide) == []
        torn = "all => all.filter(one => one.getClientRects().length > 1).map(one => one.textContent)"
        assert page.locator("code .option").evaluate_all(torn) == []
        for block, text in zip(blocks.all(), typed, strict=True):
            block.get_by_role("button", name="Copy").click()
            expect(page.get_by_text("Copied to clipboard")).to_be_visible()
            assert page.evaluate("navigator.clipboard.readText()") == text.rstrip()
        page.close()


def test_every_link_between_files_of_the_repository_leads_somewhere() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    pages = [ROOT / name for name in listed.stdout.split()]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in LINK.findall(re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL))
        if not (page.parent / link).exists()
    ]
    assert broken == []


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `drover` command in a page's blocks."""
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").replace("docker compose exec controller ", "").splitlines():
            yield from in_line(line)


def in_line(line: str) -> Iterator[list[str]]:
    """Likewise of a line for the shell: alone, after another one, in a pipe, in `$( )`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for between, words in groupby(lexer, lambda word: bool(re.fullmatch(r"[();<>|&]+", word))):
        called = list(dropwhile(lambda word: "=" in word, words))  # variables for this command
        if not between and called and Path(called[0]).name == "drover":
            yield called[1:]


def taken(command: Any, name: str, words: list[str], parent: Any = None) -> None:
    """Have a command read its words without doing anything.

    Raises:
        TyperException: it does not take them.
    """
    context = command.make_context(name, words, parent=parent)
    if hasattr(command, "commands"):
        name, below, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        taken(below, name, rest, context)


def unknown(words: list[str]) -> str | None:
    """What of a command, as a sentence names it, there is not: a command or an option."""
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands") and words and re.match(r"[a-z0-9]", words[0]):
        context = command.make_context("drover", [], parent=context, resilient_parsing=True)
        if words[0] not in command.commands and "submit" in command.commands:
            break
        _, command, rest = command.resolve_command(context, words)
        if command is None:
            return words[0]
        words = rest
    short = getattr(command, "commands", {}).get("submit", command)  # as `drover.cli.lazy.ShortForSubmit` has it
    options = {option for one in (*command.params, *short.params) for option in (*one.opts, *one.secondary_opts)} | {
        "--help",
        "--output",
    }
    return next((word for word in words if re.match(r"--[a-z]", word) and word.split("=")[0] not in options), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_line_takes_every_command_of_a_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_HOST", "hv1")  # variables that stand before a command are not set for it
    for words in commands(page):
        if any(word.startswith("$") for word in words):  # what stands there is known when the page is followed
            assert unknown(words) is None, words
        else:
            taken(typer.main.get_command(app), "drover", words)


def test_every_command_that_a_page_or_a_message_names_is_one_with_such_options() -> None:
    text = said() + "".join(re.sub("```.*?```", "", page.read_text(), flags=re.DOTALL) for page in PAGES)
    filled_in = {re.sub(r"\{[^}]*\}+", "X", words).replace("\\|", "|") for words in NAMED.findall(text)}
    named = [words.split() for words in filled_in if not words.startswith("X ")]
    assert len(named) > 300
    assert [(words, wrong) for words in named if words != SUBMISSION and (wrong := unknown(words))] == []


def test_a_command_that_is_none_would_be_found() -> None:
    for words in (["job", "display", "7"], ["drain", "pause", "4", "--hold"], ["job", "show", "seven"]):
        with pytest.raises(typer.TyperException):
            taken(typer.main.get_command(app), "drover", words)
    assert unknown(["job", "display", "7"]) == "display"
    assert unknown(["drain", "hv1", "--nowhere"]) == "--nowhere"
    line = "eval $(drover lab env) && X=1 /opt/drover/bin/drover job list | grep drover >jobs"
    assert list(in_line(line)) == [["lab", "env"], ["job", "list"]]


def said() -> str:
    """All of the program's text; literals that stand one below the other are one."""
    sources = [path for room in ("drover", "workers", "workflows") for path in (ROOT / room).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


@pytest.mark.parametrize("name", QUOTING)
def test_messages_that_are_quoted_are_those_of_the_program(name: str) -> None:
    rows = re.findall(r"^ *\| `([^|]+)` \|", (DOCS / name).read_text(), flags=re.MULTILINE)
    assert len(rows) > 8
    text = said()
    assert [row for row in rows if row not in text] == []


def test_there_is_a_manual_page_for_each_command_with_all_of_its_options(tmp_path: Path) -> None:
    pages = man.pages()
    for name, lazy in Root.table.items():
        page = pages[f"drover-{name}.1"]
        command = lazy.load()
        for one in (*getattr(command, "commands", {}).values(), command):
            for parameter in one.params if not hasattr(one, "commands") else ():
                assert man._text(parameter.opts[0]) in page or parameter.param_type_name == "argument", parameter.name
    assert f"drover\\-{next(iter(plugins.found()), 'lab')}" not in pages["drover.1"], "of the program alone"
    if shutil.which("groff"):
        for name, page in pages.items():
            path = tmp_path / name
            path.write_text(page)
            shown = subprocess.run(["groff", "-man", "-Tutf8", "-ww", path], capture_output=True, text=True, check=True)
            assert shown.stderr == "", name
