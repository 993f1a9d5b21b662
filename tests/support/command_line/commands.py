"""Runs commands in this process, which is quick."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner, Result

from cloutagent.cli.app import cli
from cloutagent.cli.session import Consoles

WIDTH = 100
# Typer would build it again for each call, which takes longer than most commands.
BUILT = get_command(cli)


@dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
        code: Its exit code.
        out: What it wrote to the standard output.
        err: What it wrote to the standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document that it wrote."""
        return json.loads(self.out)

    @property
    def events(self) -> list[Any]:
        """The documents that it wrote, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Commands:
    """Runs commands with an environment.

    Attributes:
        environment: Variables that are set for each; None takes one away.
    """

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        self.environment = dict(environment)

    def __call__(self, *arguments: str, stdin: str | bytes = "", **environment: str | None) -> Done:
        """Run a command, however it ends. A fault of the command itself is raised."""
        variables = {**self.environment, **environment}
        result = _invoke(arguments, input=stdin, env=variables)
        return Done(result.exit_code, result.stdout, result.stderr)

    def ok(self, *arguments: str, stdin: str | bytes = "", **environment: str | None) -> Done:
        """Run a command that succeeds."""
        done = self(*arguments, stdin=stdin, **environment)
        assert done.code == 0, done
        return done

    def drawn(self, *arguments: str, stdin: str = "", colour: bool = False) -> Done:
        """Run a command on a terminal that is `WIDTH` wide."""
        out = Console(
            file=io.StringIO(),
            force_terminal=True,
            width=WIDTH,
            height=40,
            markup=False,
            emoji=False,
            highlight=False,
            color_system="truecolor" if colour else None,
        )
        err = Console(file=io.StringIO(), width=WIDTH, markup=False, emoji=False, highlight=False)
        consoles = Consoles(out, err)
        result = _invoke(arguments, input=stdin, env=self.environment, obj=consoles)
        assert isinstance(out.file, io.StringIO) and isinstance(err.file, io.StringIO)
        return Done(result.exit_code, out.file.getvalue() + result.stdout, err.file.getvalue() + result.stderr)


def _invoke(arguments: tuple[str, ...], **settings: Any) -> Result:
    with patch("typer.testing._get_command", return_value=BUILT):
        return CliRunner().invoke(cli, arguments, catch_exceptions=False, **settings)
