"""The live view of a job on a terminal: one line per step, one bar per disk and one for the RAM."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from drover.cli.output import cell
from drover.escaping import escaped
from drover.views.progress import Bar, Progress
from drover.views.queries import Snapshot, elapsed_s
from drover.views.sentences import headline, left, pace, remark, standing
from drover.words import size, span
from models.job import StepState

LOOKS = {  # state: (mark, style)
    StepState.PENDING: ("·", "dim"),
    StepState.RUNNING: ("▶", "bold cyan"),
    StepState.DONE: ("✓", "green"),
    StepState.FAILED: ("✗", "bold red"),
    StepState.TO_ROLL_BACK: ("·", "yellow"),
    StepState.ROLLING_BACK: ("◀", "bold yellow"),
    StepState.ROLLED_BACK: ("↺", "yellow"),
}
BAR_WIDTH = 20


class Screen:
    """Draws snapshots in place."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress()
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, shot: Snapshot) -> None:
        """Draw the job as it is now."""
        bars = self._progress.bars(shot)
        self._live.update(Group(_title(shot), _steps(shot), _bars(bars)), refresh=True)


def _title(shot: Snapshot) -> Text:
    times = ", ".join(filter(None, (span(shot.total_s), left(shot))))
    return cell(f"{headline(shot.job)}   {standing(shot.job)}   {times}", "bold")


def _steps(shot: Snapshot) -> Table:
    lines = Table.grid(padding=(0, 2))
    for step in shot.job.steps:
        mark, style = LOOKS[step.state]
        duration = span(elapsed_s(step.started_at, step.finished_at or shot.at))
        cells = (f"  {mark}", step.name, step.host, step.state.value, duration, remark(step))
        lines.add_row(*[Text(escaped(shown), style=style) for shown in cells])
    return lines


def _bars(bars: Sequence[Bar]) -> Table:
    """Where the terminal is narrow it is the bar that is shorter."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column(max_width=BAR_WIDTH)
    for _ in range(3):
        lines.add_column(no_wrap=True)
    lines.add_column()
    for bar in bars:
        lines.add_row(
            cell(f"  {bar.label}"),
            ProgressBar(total=1.0, completed=bar.fraction),
            Text(f"{bar.percent} %", justify="right"),
            Text(f"{size(bar.done_bytes)} of {size(bar.total_bytes)}"),
            Text("" if bar.ended else pace(bar)),
            Text(escaped(bar.note), style="dim"),
        )
    return lines
