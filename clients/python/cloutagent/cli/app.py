"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any, NoReturn, TextIO

import typer

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
from cloutagent.cli.shapes import Group
from cloutagent.cli.text import one_line
from cloutagent.errors import CloutAgentError


class _Commands(Group):
    """Tells errors on one line of standard error, each kind with its exit code."""

    def make_context(self, *given: Any, **named: Any) -> typer.Context:
        """Read the arguments."""
        try:
            return super().make_context(*given, **named)  # type: ignore[return-value]
        except KeyboardInterrupt:
            _end("interrupted", ExitCode.INTERRUPTED)

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
            if error.filename is None:
                _end(f"input or output: {error.strerror}", ExitCode.FAILED)
            _end(f"{error.filename}: {error.strerror}", ExitCode.USAGE)
        except UnicodeEncodeError:
            # Of bytes that are no UTF-8, in an argument or a variable, Python makes what cannot be written as such.
            _end("what was given is not text in UTF-8", ExitCode.USAGE)


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
    code: Any = ExitCode.FAILED
    # Typer may put something else in its place, which is silent about a reader who left.
    out = sys.stdout
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal without Unicode shows what it cannot as `\\u....`.
                stream.reconfigure(errors="backslashreplace")
        # `python -m cloutagent` is the same command, also for the shell that completes it.
        cli(prog_name="cloutagent")
    except SystemExit as ended:
        code = ended.code
    except OSError as error:
        typer.echo(f"cloutagent: input or output: {error.strerror}", err=True)
    except Exception as error:
        typer.echo(f"cloutagent: a fault of the command itself: {one_line(repr(error))}", err=True)
    fault = _flushed(out)
    if fault is not None and not code:
        code = ExitCode.FAILED
        if not isinstance(fault, BrokenPipeError):
            typer.echo(f"cloutagent: input or output: {fault.strerror}", err=True)
    sys.exit(code)


def _flushed(out: TextIO | None) -> OSError | None:
    """What hinders the output from going where it should."""
    if out is None:
        return None
    try:
        out.flush()
    except OSError as error:
        # Python would try again at its end, and say so with a code of its own.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)
        return error
    return None


def _end(message: str, code: ExitCode) -> NoReturn:
    typer.echo(f"cloutagent: {one_line(message)}", err=True)
    raise typer.Exit(code)
