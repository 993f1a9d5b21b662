"""Asking before something is gone."""

from __future__ import annotations

import typer

from cloutagent.cli.endings import CommandError, ExitCode
from cloutagent.cli.output import Output
from cloutagent.cli.text import one_line


def confirm(output: Output, question: str, yes: bool) -> None:
    """Return if the user agrees. Raises CommandError if not, and where there is nobody to ask."""
    if yes:
        return
    if not output.asks:
        raise CommandError("nobody can be asked here: say --yes")
    if not typer.confirm(one_line(question), err=True):
        raise CommandError("nothing was changed", ExitCode.FAILED)
