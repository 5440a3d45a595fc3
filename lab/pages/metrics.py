"""Parts of the page about metrics: all of them, and what is to be done at each alert."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from drover.metrics import families
from drover.metrics.builders import Family
from lab.pages.markdown import replaced, table

RULES = Path(__file__).parents[2] / "deploy/prometheus/rules/moves.yml"
LABEL = re.compile(r"\{\{ \$(?:labels\.)?(\w+) \}\}")


def page(text: str) -> str:
    """The page, with the tables as they are now."""
    text = replaced(text, "metrics", table(("name", "type, labels", "meaning"), _metrics()))
    return replaced(text, "alerts", table(("alert", "when", "what to do"), _alerts()))


def _metrics() -> Iterator[tuple[str, str, str]]:
    for one in vars(families).values():
        if isinstance(one, Family):
            labels = f", `{one.labels}`" if one.labels else ""
            yield f"`{one.name}`", f"{one.KIND}{labels}", one.meaning


def _alerts() -> Iterator[tuple[str, str, str]]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            told = rule["annotations"]
            yield f"`{rule['alert']}`", _filled_in(told["summary"]), _filled_in(told["description"])


def _filled_in(text: str) -> str:
    """With words in capitals where Prometheus puts values."""
    return LABEL.sub(lambda label: label[1].upper().replace("JOB_ID", "ID"), text)
