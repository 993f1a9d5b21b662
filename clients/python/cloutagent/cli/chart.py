"""A project's usage as a chart in the terminal: a bar for each day, a colour for each model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cloutagent.cli.happenings import limit_name
from cloutagent.cli.text import count, money, one_line, percent
from cloutagent.types import BudgetExceeded, BudgetState, LimitCheckResult, UsageReport, UsageSum

_COLOURS: Final = ("blue", "magenta", "cyan", "yellow", "green", "red")
_MOST_DAYS: Final = 62
_BESIDE_THE_BAR: Final = 26
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"

Measure = Callable[[UsageSum], float]


def chart(report: UsageReport, measure: Measure, written: Callable[[float], str], width: int) -> RenderableType:
    """The bars, and what each model used."""
    models = sorted({day.model for day in report.days})
    colours = {model: _COLOURS[index % len(_COLOURS)] for index, model in enumerate(models)}
    by_day: dict[str, dict[str, float]] = {day: {} for day in _days(report)}
    for day in report.days:
        by_day[day.day][day.model] = measure(day.usage)
    most = max((sum(parts.values()) for parts in by_day.values()), default=0)
    bars = Table.grid(padding=(0, 1))
    for name, parts in by_day.items():
        total = sum(parts.values())
        bar = _bar([(parts[model], colours[model]) for model in parts], most, max(10, width - _BESIDE_THE_BAR))
        bars.add_row(Text(one_line(name), "dim"), bar.append(f" {written(total)}" if total else ""))
    heading = Text(f"{one_line(report.from_day)} to {one_line(report.to_day)}", "bold")
    return Group(heading, bars, Text(""), _legend(report, colours))


def gauges(report: UsageReport) -> RenderableType:
    """How the budgets stand."""
    table = Table.grid(padding=(0, 1))
    for budget in report.budgets:
        written = money if budget.limits == LimitCheckResult.Exceeded.cost else count
        taken = budget.used + budget.reserved
        part = percent(taken, budget.limit)
        style = "green" if part < 80 else "yellow" if part < 100 else "red"
        bar = ProgressBar(total=100, completed=min(part, 100), width=30, complete_style=style, finished_style=style)
        under_way = f", {written(budget.reserved)} under way" if budget.reserved else ""
        table.add_row(_name(budget), bar, f"{written(budget.used)} of {written(budget.limit)}{under_way}")
    return Group(Text(""), Text("Budgets", "bold"), table)


def _legend(report: UsageReport, colours: dict[str, str]) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for index, name in enumerate(("model", "calls", "tokens in", "out", "cost")):
        table.add_column(name, justify="right" if index else "left")
    for model, colour in colours.items():
        sums = [day.usage for day in report.days if day.model == model]
        table.add_row(Text.assemble(("■ ", colour), one_line(model)), *_amounts(sums))
    table.add_section()
    table.add_row("all", *_amounts([report.sum]))
    return table


def _amounts(sums: Sequence[UsageSum]) -> Iterator[str]:
    yield count(sum(each.model_calls for each in sums))
    yield count(sum(each.prompt_tokens for each in sums))
    yield count(sum(each.completion_tokens for each in sums))
    estimated = "about " if any(each.estimated_cost for each in sums) else ""
    yield f"{estimated}{money(sum(each.total_cost for each in sums))}"


def _bar(parts: Sequence[tuple[float, str]], most: float, width: int) -> Text:
    """One bar of parts; the last one ends within an eighth of a cell."""
    bar = Text()
    drawn, total = 0, 0.0
    for index, (amount, colour) in enumerate(parts):
        total += amount
        eighths = round(8 * width * total / most) if most else 0
        whole, rest = divmod(eighths, 8)
        bar.append("█" * (whole - drawn), colour)
        drawn = max(drawn, whole)
        if rest and index == len(parts) - 1:
            bar.append(_EIGHTHS[rest], colour)
    return bar


def _days(report: UsageReport) -> Sequence[str]:
    """The days from the first with usage on; where they are too many for a chart, those with usage."""
    used = sorted({day.day for day in report.days})
    try:
        first, last = date.fromisoformat(used[0]), date.fromisoformat(report.to_day)
    except (IndexError, ValueError):
        return used
    length = (last - first).days + 1
    if length > _MOST_DAYS:
        return used
    return sorted({*used, *((first + timedelta(days=index)).isoformat() for index in range(length))})


def _name(budget: BudgetState) -> Text:
    try:
        scope = BudgetExceeded.Scope.Name(budget.scope)
    except ValueError:
        scope = str(budget.scope)
    return Text(f"  {scope} {limit_name(budget.limits)}", "dim")
