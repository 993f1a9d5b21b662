"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from cloutagent.cli import (
    doctor,
    executions,
    keys,
    login,
    models,
    profile_commands,
    project,
    run_commands,
    secrets,
    usage,
)
from cloutagent.cli.endings import CommandError, ExitCode, exit_code, told
from cloutagent.cli.text import one_line
from cloutagent.errors import CloutAgentError


class _Commands(TyperGroup):
    """Tells errors on one line of standard error, each kind with its exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            _end(error.message, error.code)
        except CloutAgentError as error:
            _end(told(error), exit_code(error))
        except (typer.Abort, KeyboardInterrupt):
            _end("interrupted", ExitCode.INTERRUPTED)
        except BrokenPipeError:
            raise
        except OSError as error:
            _end(f"{error.filename or 'input or output'}: {error.strerror}", ExitCode.USAGE)


cli = typer.Typer(
    name="cloutagent",
    cls=_Commands,
    help="Run and watch Claude agents on a CloutAgent server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        import cloutagent

        typer.echo(f"cloutagent {cloutagent.__version__}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for module in (login, run_commands, executions, usage, project, keys, secrets, models, profile_commands, doctor):
    module.add_to(cli)


def run() -> NoReturn:
    """Run the command and end the process: no fault of the command itself is told with a traceback either."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal without Unicode shows what it cannot as `\\u....`.
                stream.reconfigure(errors="backslashreplace")
        cli()
    except Exception as error:
        typer.echo(f"cloutagent: a fault of the command itself: {one_line(repr(error))}", err=True)
    sys.exit(ExitCode.FAILED)


def _end(message: str, code: ExitCode) -> NoReturn:
    typer.echo(f"cloutagent: {one_line(message)}", err=True)
    raise typer.Exit(code)
