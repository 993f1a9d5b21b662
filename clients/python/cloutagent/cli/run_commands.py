"""`run`, `watch` and `cancel`."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from cloutagent.cli.endings import CommandError, ExitCode
from cloutagent.cli.execution_view import show_estimate
from cloutagent.cli.interrupts import OnInterrupt
from cloutagent.cli.progress import status_name
from cloutagent.cli.session import Session, command
from cloutagent.cli.showing import show_run
from cloutagent.cli.summary import status_text
from cloutagent.cli.text import money
from cloutagent.cli.values import LARGEST, PROMPT_BYTES, length, pairs, stdin_text
from cloutagent.errors import ApiError
from cloutagent.types import Execution, StartOptions

ExecutionId = Annotated[str, typer.Argument(metavar="EXECUTION", help="The execution's id.", show_default=False)]
Interrupt = Annotated[
    OnInterrupt, typer.Option("--on-interrupt", help="What Ctrl-C does to the run. Without a terminal, ask is detach.")
]


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    command(cli, "run")(run)
    command(cli, "watch")(watch)
    command(cli, "cancel")(cancel)


def run(
    session: Session,
    prompt: Annotated[str, typer.Argument(help="The prompt, a template; - is the standard input.", show_default=False)],
    var: Annotated[
        list[str] | None, typer.Option("--var", metavar="NAME=VALUE", help="Value for {{NAME}} in the prompts.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="Limit on prompt and completion tokens.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="Limit on cost in US dollars.")] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Limit on the run's time, such as 90s or 5min.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Label to find the execution by.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key and request are the same run, however often sent.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run, write its id, and leave.")] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check the request and estimate the cost; start nothing.")
    ] = False,
    on_interrupt: Interrupt = OnInterrupt.ASK,
) -> None:
    """Run the agent and watch it.

    The agent's text goes to the standard output. With --json that has one event a line.
    """
    text = stdin_text(PROMPT_BYTES) if prompt == "-" else prompt
    options = StartOptions(
        variables=pairs(var or (), "--var"),
        labels=pairs(label or (), "--label"),
        idempotency_key=idempotency_key or str(uuid.uuid4()),
    )
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if max_cost is not None:
        options["max_cost"] = max_cost
    duration = length(timeout, "--timeout")
    if duration is not None:
        options["max_duration"] = duration
    if validate_only:
        estimate = session.client.executions.estimate(text, **options)
        show_estimate(session.output, estimate)
        raise typer.Exit(ExitCode.OK if estimate.limit_check.within_limits else ExitCode.LIMIT)
    execution = _start(session, text, options)
    if not detach:
        raise typer.Exit(show_run(session, execution, 0, on_interrupt))
    if session.output.json:
        session.output.document(execution)
    else:
        session.output.line(execution.id)


def watch(
    session: Session,
    execution_id: ExecutionId,
    from_event: Annotated[int, typer.Option(min=1, max=LARGEST, help="Number of the first event to show.")] = 1,
    on_interrupt: Interrupt = OnInterrupt.ASK,
) -> None:
    """Watch an execution from its first event, be it queued, running or ended."""
    execution = session.client.executions.get(execution_id)
    raise typer.Exit(show_run(session, execution, from_event - 1, on_interrupt))


def cancel(session: Session, execution_id: ExecutionId) -> None:
    """Cancel an execution, queued or running, and wait for its end. One that has ended stays as it is."""
    execution = session.client.executions.cancel(execution_id)
    if session.output.json:
        session.output.document(execution)
        return
    status = status_text(status_name(execution))
    session.output.line(status.append(f" {execution.id}, {money(execution.usage.total_cost)} used", ""))


def _start(session: Session, prompt: str, options: StartOptions) -> Execution:
    repeat = f"; it may have begun all the same: repeat it with --idempotency-key {options['idempotency_key']}"
    try:
        return session.client.executions.start(prompt, **options)
    except KeyboardInterrupt:
        raise CommandError(f"interrupted while the run was started{repeat}", ExitCode.INTERRUPTED) from None
    except ApiError as error:
        if error.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE") and error.reason is None:
            error.message += repeat
        raise
