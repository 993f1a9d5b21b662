"""Asking before something is gone."""

from __future__ import annotations

import typer

from cloutagent.cli.endings import CommandError, ExitCode
from cloutagent.cli.output import Output
from cloutagent.cli.text import one_line


def confirm(output: Output, question: str, yes: bool, option: str = "--yes") -> None:
    """Return if the user agrees, as `option` does. Raises CommandError if not, and where there is nobody to ask."""
    if yes:
        return
    if not output.asks:
        raise CommandError(f"{question} Nobody can be asked here: say {option}")
    if not typer.confirm(one_line(question), err=True):
        raise CommandError("nothing was changed", ExitCode.FAILED)
