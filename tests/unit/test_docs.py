"""The documents: the site has no broken link, commands in them are ones, and messages that they quote are said."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from drover.cli import plugins
from drover.cli.root import Root, app
from lab import man

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = (ROOT / "README.md", *(DOCS / "how-to").iterdir(), *(DOCS / "tutorial").iterdir())
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
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


def test_the_site_is_built_and_a_link_to_nowhere_ends_the_build(tmp_path: Path) -> None:
    done = build(DOCS, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/how-to/when.html").read_text()
    assert "What do I do when" in page
    assert not re.search(r"""(src|href)=["']https?://(?!127|www.mkdocs|squidfunk|[^"']*example)""", page)
    settings = (tmp_path / "site/reference/settings.html").read_text()
    assert "<td><code>DROVER_<wbr>LEASE_<wbr>TTL_<wbr>S</code></td>" in settings, "a narrow screen breaks it there"
    copied = shutil.copytree(DOCS, tmp_path / "docs")
    (copied / "how-to/drain.md").write_text(
        "# x\n\n[nowhere](../nothing.md) [no such part](../reference/cli.md#nothing)\n"
    )
    broken = build(copied, tmp_path / "broken")
    assert broken.returncode == 1
    assert "nothing.md" in broken.stderr
    assert "#nothing" in broken.stderr


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
    """The words of each `drover` command in a page."""
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:
                words.pop(0)  # a variable for this command
            if words[:1] == ["drover"]:
                ends = [n for n, word in enumerate(words) if n > 1 and re.match(r"[|&>]", word)]
                yield words[1 : min(ends, default=len(words))]


def taken(command: Any, name: str, words: list[str], parent: Any = None) -> None:
    """Have a command read its words without doing anything.

    Raises:
        TyperException: it does not take them.
    """
    context = command.make_context(name, words, parent=parent)
    if hasattr(command, "commands"):
        name, below, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        taken(below, name, rest, context)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_command_line_takes_every_command_of_a_guide(page: Path) -> None:
    for words in commands(page):
        taken(typer.main.get_command(app), "drover", words)


def test_a_command_that_is_none_would_be_found() -> None:
    for words in (["job", "display", "7"], ["drain", "pause", "4", "--hold"], ["job", "show", "seven"]):
        with pytest.raises(typer.TyperException):
            taken(typer.main.get_command(app), "drover", words)


def said() -> str:
    """All of the program's text; literals that stand one below the other are one."""
    sources = [path for room in ("drover", "workers", "workflows") for path in (ROOT / room).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


@pytest.mark.parametrize("name", QUOTING)
def test_messages_that_are_quoted_are_those_of_the_program(name: str) -> None:
    rows = re.findall(r"^\| `([^|]+)` \|", (DOCS / name).read_text(), flags=re.MULTILINE)
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
