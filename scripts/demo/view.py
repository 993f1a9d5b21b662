"""Shows a run in the terminal as it happens: its text, its tool calls, and gauges against its limits."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

SHOWN_CHARACTERS: Final = 300


class RunView:
    """What is seen of one execution. Use it as a context manager and give it each event."""

    def __init__(self, console: Console, title: str, limits: Json) -> None:
        """`limits` are the execution's: maxTokens, maxCost in US dollars, timeout in milliseconds."""
        self._title = title
        self._limits = limits
        self._lines: list[Text] = []
        self._text = Text()
        self._usage: Json = {"promptTokens": 0, "completionTokens": 0, "totalCost": 0.0, "modelCalls": 0}
        self._status = "queued"
        self._started: float | None = None
        self._duration: int | None = None
        self._live = Live(self._render(), console=console, refresh_per_second=12, vertical_overflow="visible")

    def __enter__(self) -> RunView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(self._render(), refresh=True)
        self._live.stop()
        if not self._live.console.is_terminal:
            self._live.console.print()

    def show(self, event: Json) -> None:
        """Take one event in."""
        match event:
            case {"started": _}:
                self._status, self._started = "running", time.monotonic()
            case {"textDelta": {"text": text}}:
                self._text.append(text)
            case {"message": _}:
                self._lines.append(self._text)
                self._text = Text()
            case {"toolUse": {"name": name, "input": arguments}}:
                self._lines.append(Text(f"→ {name} {_short(arguments)}", style="cyan"))
            case {"toolResult": {"content": content, "isError": is_error}}:
                style = "red" if is_error else "green"
                self._lines.append(Text(f"← {_short(content)}", style=style))
            case {"tokenUsage": {"usage": usage}}:
                self._usage = usage
            case {"limitWarning": {"limit": limit, "percent": percent}}:
                self._lines.append(Text(f"! {percent:.0f} % of the limit on {limit} is used", style="yellow"))
            case {"completed": end} | {"failed": end} | {"cancelled": end}:
                self._status = event["kind"]
                self._usage, self._duration = end["usage"], end["duration"]
                if "failure" in end:
                    self._lines.append(Text(end["failure"]["message"], style="red"))
        self._live.update(self._render())

    def _render(self) -> RenderableType:
        used = self._usage["promptTokens"] + self._usage["completionTokens"]
        elapsed = self._duration
        if elapsed is None:
            elapsed = 0 if self._started is None else round((time.monotonic() - self._started) * 1000)
        gauges = Table.grid(padding=(0, 1))
        rows = (
            ("tokens", used, self._limits["maxTokens"], f"{used:,} of {self._limits['maxTokens']:,}"),
            (
                "cost",
                self._usage["totalCost"],
                self._limits["maxCost"],
                f"${self._usage['totalCost']:.6f} of ${self._limits['maxCost']:.2f}",
            ),
            (
                "time",
                elapsed,
                self._limits["timeout"],
                f"{elapsed / 1000:.1f} s of {self._limits['timeout'] / 1000:.0f} s",
            ),
        )
        for name, value, limit, text in rows:
            style = "red" if value > limit else "yellow" if value >= 0.8 * limit else "green"
            bar = ProgressBar(total=limit, completed=min(value, limit), width=30, complete_style=style)
            gauges.add_row(name, bar, text)
        body = Group(*map(_tail, self._lines), _tail(self._text), Text(), gauges)
        return Panel(body, title=self._title, subtitle=self._status, title_align="left", subtitle_align="right")


def _tail(text: Text) -> Text:
    """The end of a long text: what was written last."""
    return text if len(text) <= SHOWN_CHARACTERS else Text("… ") + text[-SHOWN_CHARACTERS:]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"
