"""`executions`: list, show, receipt, delete."""

from __future__ import annotations

from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from cloutagent.cli.confirming import confirm
from cloutagent.cli.execution_view import show_execution, show_receipt
from cloutagent.cli.output import as_dict
from cloutagent.cli.progress import status_name
from cloutagent.cli.run_commands import ExecutionId
from cloutagent.cli.session import Session, command
from cloutagent.cli.shapes import Group
from cloutagent.cli.summary import status_text
from cloutagent.cli.text import age, count, money, one_line
from cloutagent.cli.values import LARGEST, moment, pairs
from cloutagent.types import Execution


class Status(StrEnum):
    """States of an execution."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class _ListByDefault(Group):
    """A group that lists when nothing else is asked for."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """As `list` unless another command or help is named."""
        if not args or (args[0].startswith("-") and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=_ListByDefault, help="List executions, show one, its receipt; delete one.")
    command(group, "list")(list_executions)
    command(group, "show")(show)
    command(group, "receipt")(receipt)
    command(group, "delete")(delete)
    cli.add_typer(group, name="executions")


def list_executions(
    session: Session,
    status: Annotated[list[Status] | None, typer.Option(help="Only those in this state; may be repeated.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Only those with this label.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Created then or later: 2026-01-31, or 2h for 2 hours ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Created before that.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=LARGEST, help="How many at most.")] = 20,
) -> None:
    """List executions, newest first."""
    found = session.client.executions.list(
        statuses=[Execution.Status.Value(each.value) for each in status or ()],
        labels=pairs(label or (), "--label"),
        created_after=moment(since, "--since"),
        created_before=moment(until, "--until"),
        page_size=min(limit, 1000),
    )
    listed = list(islice(found, limit))
    if session.output.json:
        session.output.document({"executions": [as_dict(each) for each in listed]})
        return
    session.output.table(
        ("execution", "status", "age", "tokens", "cost", "prompt"),
        [
            (
                each.id,
                status_text(status_name(each)),
                age(each.created_at),
                count(each.usage.prompt_tokens + each.usage.completion_tokens),
                money(each.usage.total_cost),
                one_line(each.prompt, 60),
            )
            for each in listed
        ],
        right=("age", "tokens", "cost"),
    )


def show(session: Session, execution_id: ExecutionId) -> None:
    """Show an execution: its state, what it used, its result."""
    show_execution(session.output, session.client.executions.get(execution_id))


def receipt(session: Session, execution_id: ExecutionId) -> None:
    """Show the model calls of an execution that has ended, what each cost, and the digest of its events."""
    show_receipt(session.output, session.client.executions.receipt(execution_id))


def delete(
    session: Session,
    execution_id: ExecutionId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an execution that has ended, and its events."""
    confirm(session.output, f"Delete execution {execution_id} and its events?", yes)
    session.client.executions.delete(execution_id)
    session.output.done("deleted", execution_id)
