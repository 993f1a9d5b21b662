"""A run on a terminal: its text as it comes, and below it gauges of what it has used of its limits."""

from __future__ import annotations

from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cloutagent.cli.happenings import happening
from cloutagent.cli.progress import Progress
from cloutagent.cli.summary import heading, summary_table
from cloutagent.cli.text import clean, count, duration, money, one_line, percent
from cloutagent.types import ExecutionEvent

_REFRESHES_PER_SECOND: Final = 8
_NEAR: Final = 80.0
_BAR_WIDTH: Final = 30
_BESIDE_THE_BAR: Final = 38


class LiveView:
    """Draws on the terminal. What is whole goes above the gauges and stays there; the last line grows beside them."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._spinner = Spinner("dots", style="blue")
        self._line = ""
        self._streamed = False
        self._live = self._make_live()

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What is below the text that is whole."""
        if self._line:
            yield Text(self._line)
        yield Group(Text(""), self._head(), self._gauges())

    def show(self, event: ExecutionEvent) -> None:
        """Another event has come."""
        match event.kind:
            case "text_delta":
                self._write(event.text_delta.text)
                self._streamed = True
            case "message":
                if not self._streamed:
                    self._write(event.message.text)
                self._streamed = False
                self._end_line()
            case _:
                line = happening(event)
                if line is not None:
                    self._end_line()
                    self._print(line)

    def pause(self) -> None:
        """Let something else write."""
        self._live.stop()

    def resume(self) -> None:
        """Draw again."""
        self._live = self._make_live()
        self._live.start()

    def finish(self) -> None:
        """Take the gauges away and show how the run ended."""
        self._end_line()
        self._live.stop()
        self._console.print()
        self._console.print(heading(self._progress))
        self._console.print(summary_table(self._progress))

    def _make_live(self) -> Live:
        return Live(self, console=self._console, refresh_per_second=_REFRESHES_PER_SECOND, transient=True)

    def _write(self, text: str) -> None:
        *whole, last = (self._line + clean(text).expandtabs(4)).split("\n")
        # Of a long line all but its end is whole, too: the terminal's last rows are for the end and the gauges.
        *begun, end = Text(last).wrap(self._console, self._console.width) or [Text("")]
        self._line = end.plain if begun else last
        for line in (*map(Text, whole), *begun):
            self._print(line)

    def _end_line(self) -> None:
        if self._line:
            line, self._line = self._line, ""
            self._print(Text(line))

    def _print(self, text: Text) -> None:
        self._console.print(text)

    def _head(self) -> Table:
        progress = self._progress
        state = "queued" if progress.status == "queued" else "running"
        behind = f" behind {count(progress.ahead)}" if state == "queued" and progress.ahead else ""
        line = Text.assemble((state + behind, "bold"), f"  execution {one_line(progress.execution_id)}  ")
        line.append(one_line(progress.model), "dim")
        head = Table.grid(padding=(0, 1))
        head.add_row(self._spinner, line)
        return head

    def _gauges(self) -> Table:
        progress, limits = self._progress, self._progress.limits
        width = max(5, min(_BAR_WIDTH, self._console.width - _BESIDE_THE_BAR))
        gauges = Table.grid(padding=(0, 1))
        for name, used, limit, written in (
            ("tokens", progress.tokens, limits.max_tokens, count),
            ("cost", progress.usage.total_cost, limits.max_cost, money),
            ("time", progress.elapsed, limits.timeout, duration),
        ):
            gauges.add_row(*_gauge(name, percent(used, limit), width, f"{written(used)} of {written(limit)}"))
        return gauges


def _gauge(name: str, part: float, width: int, written: str) -> tuple[Text, ProgressBar, Text]:
    style = "green" if part < _NEAR else "yellow" if part < 100 else "red"
    bar = ProgressBar(total=100, completed=min(part, 100), width=width, complete_style=style, finished_style=style)
    return Text(f"  {name:<6}", "dim"), bar, Text(written)
