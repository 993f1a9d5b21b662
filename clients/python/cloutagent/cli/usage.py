"""`usage`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cloutagent.cli.chart import chart, gauges
from cloutagent.cli.session import Session, command
from cloutagent.cli.text import count, money
from cloutagent.types import UsageReport, UsageSum


class Measure(StrEnum):
    """What the chart measures."""

    COST = "cost"
    TOKENS = "tokens"


def add_to(cli: typer.Typer) -> None:
    """Add the command."""
    command(cli, "usage")(usage)


def usage(
    session: Session,
    from_day: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="First day in UTC, such as 2026-01-31.")
    ] = None,
    to_day: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day in UTC. Default: today.")] = None,
    by: Annotated[Measure, typer.Option(help="What the bars of the chart are.")] = Measure.COST,
) -> None:
    """Show what the project used by day and model, by default in 30 days, and how its budgets stand."""
    report = session.client.usage.get(from_day=from_day, to_day=to_day)
    output = session.output
    if output.json:
        output.document(report)
    elif output.out.is_terminal:
        amount = _cost if by is Measure.COST else _tokens
        output.out.print(chart(report, amount, money if by is Measure.COST else count, output.out.width))
        if report.budgets:
            output.out.print(gauges(report))
    else:
        _table(session, report)


def _table(session: Session, report: UsageReport) -> None:
    session.output.table(
        ("day", "model", "calls", "in", "out", "cost"),
        [
            (
                day.day,
                day.model,
                count(day.usage.model_calls),
                count(day.usage.prompt_tokens),
                count(day.usage.completion_tokens),
                money(day.usage.total_cost),
            )
            for day in report.days
        ],
    )
    total = report.sum
    session.output.line(
        f"{report.from_day} to {report.to_day}: {count(total.model_calls)} calls, "
        f"{count(total.prompt_tokens)} tokens in, {count(total.completion_tokens)} out, {money(total.total_cost)}"
    )


def _cost(usage: UsageSum) -> float:
    return usage.total_cost


def _tokens(usage: UsageSum) -> float:
    return usage.prompt_tokens + usage.completion_tokens
