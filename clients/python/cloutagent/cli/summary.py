"""How a run ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cloutagent.cli.progress import Progress
from cloutagent.cli.text import count, duration, money, one_line, percent

STYLES: Final = {
    "queued": "yellow",
    "running": "blue",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
}


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(one_line(status), STYLES.get(status, ""))


def summary_line(progress: Progress) -> str:
    """How it ended, on one line."""
    usage = progress.usage
    parts = [
        f"{progress.status} after {duration(progress.elapsed)}",
        f"{count(usage.prompt_tokens)} tokens in, {count(usage.completion_tokens)} out",
        f"{'about ' if usage.estimated else ''}{money(usage.total_cost)}",
    ]
    if progress.failure is not None:
        parts.append(one_line(progress.failure.message))
    return f"execution {progress.execution_id} {', '.join(parts)}"


def summary_table(progress: Progress) -> Table:
    """How it ended, as a table: what it used, and how much of its limits that is."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("")
    for name in ("used", "limit", "used of it"):
        table.add_column(name, justify="right", overflow="fold")
    for row in _rows(progress):
        table.add_row(*row)
    return table


def heading(progress: Progress) -> Text:
    """How it ended and which it is."""
    ended = status_text(progress.status)
    ended.stylize("bold")
    text = Text.assemble(ended, f"  execution {one_line(progress.execution_id)}", f"  {one_line(progress.model)}")
    if progress.failure is not None:
        text.append(f"\n{one_line(progress.failure.message)}", "red")
    return text


def _rows(progress: Progress) -> Iterator[tuple[str, str, str, str]]:
    usage, limits = progress.usage, progress.limits
    about = "about " if usage.estimated else ""
    yield "tokens", count(progress.tokens), *_limit(progress.tokens, limits.max_tokens, count(limits.max_tokens))
    yield "  in", count(usage.prompt_tokens), "", ""
    yield "  out", count(usage.completion_tokens), "", ""
    yield "cost", about + money(usage.total_cost), *_limit(usage.total_cost, limits.max_cost, money(limits.max_cost))
    yield "time", duration(progress.elapsed), *_limit(progress.elapsed, limits.timeout, duration(limits.timeout))
    yield "model calls", count(usage.model_calls), "", ""
    yield "tool calls", count(progress.tools), "", ""


def _limit(used: float, limit: float, written: str) -> tuple[str, str]:
    return (written, f"{percent(used, limit):.0f} %") if limit > 0 else ("", "")
