"""Makes the pictures in docs/pictures: `python -m scripts.pictures [FOLDER]`.

They are what the command line draws of real runs: the stack is started with the local model, a project runs its agent,
and the command's own views draw the events that came. Ids, times and ports are other ones each time, so fixed ones are
put in their places. Two things are set for the eye: prompts are shown without the directives that tell the local model
what to say, and the usage of the one day that there is is spread over two weeks.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Final
from unittest.mock import patch

from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from cloutagent import Client
from cloutagent.cli.app import cli
from cloutagent.cli.chart import chart, gauges
from cloutagent.cli.live_view import LiveView
from cloutagent.cli.profiles import Profile, Profiles
from cloutagent.cli.progress import Progress
from cloutagent.cli.session import Consoles
from cloutagent.cli.summary import heading, summary_table
from cloutagent.cli.text import money
from cloutagent.types import AgentConfig, Budget, BudgetLimit, Execution, ExecutionEvent, Limits, UsageReport
from cloutagent.v1.execution_pb2 import TextDeltaEvent
from scripts.demo.stack import Stack, StackFailed

PICTURES: Final = Path(__file__).parents[1] / "docs/pictures"
WIDTH: Final = 96
ADDRESS: Final = "http://127.0.0.1:3001"
EXECUTION_ID: Final = "6d0f2c1e-93b4-4a57-8f0e-2b7d5c9a1e34"
LAST_DAY: Final = date(2026, 1, 31)
SECONDS_PER_EVENT: Final = 0.35

# How much of the last text is there in the picture of a run.
WRITTEN: Final = 0.7

# Parts of the usage that a day of the chart has.
DAYS: Final = (0.3, 0.5, 0.45, 0.1, 0.05, 0.7, 0.9, 0.6, 0.75, 0.8, 0.2, 0.1, 1.0, 0.85)
COMMAND: Final = 'cloutagent run "Answer {{customer}}: where is my order?" --var customer=Ada --max-cost 0.05'
PROMPT: Final = (
    "Answer {{customer}}: where is my order? [[say: I look the order up first.]] "
    '[[tool: TodoWrite {"todos": [{"content": "Find the order", "status": "in_progress", "activeForm": "Finding"}]}]] '
    "[[say: Dear Ada, your order left our warehouse yesterday. The carrier expects to deliver it on Thursday, "
    "between nine and noon. If nobody is at home, it will wait for you at the post office for a week.]]"
)

# No font is fetched from anywhere: the reader's own is taken.
SVG: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px ui-monospace, Menlo, Consolas, monospace; }}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main(arguments: Sequence[str]) -> int:
    """Make all pictures, in docs/pictures or in the folder that is given."""
    target = Path(arguments[0]) if arguments else PICTURES
    with tempfile.TemporaryDirectory(prefix="cloutagent-pictures-") as folder:
        try:
            with Stack(Path(folder), live=False) as stack:
                pictures = make(stack.url)
        except StackFailed as fault:
            print(fault, file=sys.stderr)
            return 1
    target.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        (target / f"{name}.svg").write_text(picture, encoding="utf-8")
    return 0


def make(url: str) -> dict[str, str]:
    """The pictures of a stack, by name."""
    with Client(address=url) as anyone:
        created = anyone.projects.create(
            name="Support",
            agent=AgentConfig(
                name="assistant",
                system_prompt="You answer customers.",
                model="claude-sonnet-4-5",
                enabled_tools=["TodoWrite"],
            ),
            limits=Limits(max_tokens=20_000, max_cost=0.05, timeout=60_000),
            budget=Budget(daily=BudgetLimit(max_cost=0.05)),
        )
    with Client(address=url, api_key=created.api_key) as client:
        execution = client.executions.run(PROMPT, variables={"customer": "Ada"})
        events = list(client.executions.watch(execution.id))
        client.projects.update(agent=AgentConfig(model="claude-haiku-4-5"))
        client.executions.run(PROMPT, variables={"customer": "Ada"})
        report = client.usage.get()
    return {
        "run": draw_run(execution, events),
        "finished": draw_end(execution, events),
        "usage": draw_usage(report),
        "doctor": draw_doctor(url, created.api_key),
    }


def draw_run(execution: Execution, events: Sequence[ExecutionEvent]) -> str:
    """A run shortly before its end."""
    console = recording(COMMAND)
    progress = _begun(execution)
    view = LiveView(console, progress)
    timed = _in_time(events)
    last = max(event.sequence for event in timed if event.kind == "message")
    for event in timed:
        if event.sequence < last:
            progress.take(event)
            view.show(event)
        elif event.sequence == last:
            text = event.message.text[: round(WRITTEN * len(event.message.text))]
            view.show(ExecutionEvent(kind="text_delta", text_delta=TextDeltaEvent(text=text)))
    console.print(view)
    return svg(console, "run")


def draw_end(execution: Execution, events: Sequence[ExecutionEvent]) -> str:
    """What is shown after the end of a run."""
    console = recording(f"cloutagent watch {EXECUTION_ID}")
    progress = _begun(execution)
    view = LiveView(console, progress)
    for event in _in_time(events):
        progress.take(event)
        view.show(event)
    console.print(Text(""))
    console.print(heading(progress))
    console.print(summary_table(progress))
    return svg(console, "finished")


def draw_usage(report: UsageReport) -> str:
    """Two weeks of usage."""
    console = recording("cloutagent usage")
    spread = UsageReport(from_day="2026-01-02", to_day=LAST_DAY.isoformat(), budgets=report.budgets)
    for index, part in enumerate(DAYS):
        for used in report.days:
            day = spread.days.add(day=(LAST_DAY - timedelta(days=len(DAYS) - 1 - index)).isoformat(), model=used.model)
            # What is whole stays whole.
            day.usage.model_calls = round(10 * part * used.usage.model_calls)
            for name in ("prompt_tokens", "completion_tokens"):
                setattr(day.usage, name, round(10 * part * getattr(used.usage, name)))
            day.usage.total_cost = 10 * part * used.usage.total_cost
    for field in ("model_calls", "prompt_tokens", "completion_tokens", "total_cost"):
        setattr(spread.sum, field, sum(getattr(day.usage, field) for day in spread.days))
    for budget in spread.budgets:
        today = sum(day.usage.total_cost for day in spread.days if day.day == spread.to_day)
        budget.limit, budget.used, budget.left = 0.75, today, 0.75 - today
    console.print(chart(spread, lambda usage: usage.total_cost, money, WIDTH))
    console.print(gauges(spread))
    return svg(console, "usage")


def draw_doctor(url: str, api_key: str) -> str:
    """What the doctor says."""
    console = recording("cloutagent doctor")
    nobody = {name: "" for name in os.environ if name.startswith("CLOUTAGENT_")}
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {**nobody, "XDG_CONFIG_HOME": folder}):
        Profiles().put("support", Profile(url, api_key))
        Profiles().use("support")
        CliRunner().invoke(cli, ["doctor"], obj=Consoles(console, Console(stderr=True)), catch_exceptions=False)
    return svg(console, "doctor").replace(url, ADDRESS)


def recording(command: str) -> Console:
    """A console that remembers what is drawn, with a command typed in."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=WIDTH,
        force_terminal=True,
        color_system="truecolor",
        markup=False,
        emoji=False,
        highlight=False,
        # What turns stands still.
        get_time=lambda: 0.0,
    )
    console.print(Text.assemble(("$ ", "green"), (command, "bold")), soft_wrap=True)
    return console


def svg(console: Console, name: str) -> str:
    """The picture of what was drawn, without what differs each time."""
    picture = console.export_svg(title="cloutagent", code_format=SVG, unique_id=name)
    picture = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", EXECUTION_ID, picture)
    return "\n".join(line.rstrip() for line in picture.splitlines() if line.strip()) + "\n"


def _begun(execution: Execution) -> Progress:
    shown = Execution()
    shown.CopyFrom(execution)
    shown.id = EXECUTION_ID
    return Progress(shown, clock=lambda: 0.0)


def _in_time(events: Sequence[ExecutionEvent]) -> list[ExecutionEvent]:
    """The events at fixed times, without pieces of text, whose number differs: whole messages have it, too."""
    timed = []
    for index, each in enumerate(event for event in events if event.kind != "text_delta"):
        event = ExecutionEvent()
        event.CopyFrom(each)
        event.time.FromMilliseconds(round(1000 * index * SECONDS_PER_EVENT))
        if event.kind == "completed":
            event.completed.duration = round(1000 * index * SECONDS_PER_EVENT)
        timed.append(event)
    return timed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
