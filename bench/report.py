"""The results as JSON, a table and charts, beside what they were the last time."""

import json
import os
import platform
import re
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figures import Figure

FOLDER = Path(__file__).with_name("results")


def machine() -> dict[str, Any]:
    """What it was measured on, and how busy that was meanwhile."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "kernel": platform.release(),
        "qemu": qemu.splitlines()[0].removeprefix("QEMU emulator version "),
        "python": platform.python_version(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(figures: list[Figure], *, runs: int, folder: Path = FOLDER) -> str:
    """Write `results.json`, `results.md` and a chart per figure; returns the table.

    Figures that were not measured this time stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "results.json"
    before = _rows(document)
    now = {"machine": machine(), "runs": runs}
    rows = before | {figure.name: _row(figure, before, now) for figure in figures}
    document.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    (folder / "results.md").write_text(_page(list(rows.values())))
    for figure in figures:
        if figure.series:
            _chart(figure, folder / f"{figure.name}.svg")
    return _table([rows[figure.name] for figure in figures])


def _rows(document: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(document.read_text())} if document.exists() else {}


def _row(figure: Figure, before: dict[str, dict[str, Any]], now: dict[str, Any]) -> dict[str, Any]:
    verdict = {"target": figure.target, "met": figure.met, "before": before.get(figure.name, {}).get("value")}
    return asdict(figure) | verdict | now


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| what | measured | target | met | before | runs | load |", "| --- | --- | --- | --- | --- | --- | --- |"]
    words = {True: "yes", False: "**no**", None: ""}
    for row in rows:
        before = "" if row["before"] is None else f"{row['before']:.3g}"
        value, load = f"{row['value']:.3g} {row['unit']}".strip(), row["machine"]["load_average"][0]
        cells = (row["what"], value, row["target"], words[row["met"]], before, row["runs"], load)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _page(rows: list[dict[str, Any]]) -> str:
    on = max((row["machine"] for row in rows), key=lambda machine: machine["date"])
    about = (
        f"{on['date'][:10]}: {on['cpus']} x {on['cpu']}, {on['memory_gib']} GiB, guests under TCG, "
        f"Linux {on['kernel']}, QEMU {on['qemu']}, Python {on['python']}. `runs` is the moves of each kind, in turns; "
        "`load` the load average at the end: what else the machine did meanwhile."
    )
    charts = "\n".join(f"![{row['what']}]({row['name']}.svg)" for row in rows if row["series"])
    return f"# Results of `make bench`\n\nMade by it; not written by hand. {about}\n\n{_table(rows)}\n\n{charts}\n"


def _chart(figure: Figure, path: Path) -> None:
    """All values of each series as dots, and their median as a line."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "drover"  # the same values make the same file
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
    for place, values in enumerate(figure.series.values()):
        axes.plot([place] * len(values), values, "o", alpha=0.5)
        axes.hlines(sorted(values)[len(values) // 2], place - 0.2, place + 0.2)
    axes.set_xticks(range(len(figure.series)), list(figure.series))
    axes.set_xlim(-0.5, len(figure.series) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(figure.axis)
    drawing.savefig(path, metadata={"Date": None})
    pyplot.close(drawing)
