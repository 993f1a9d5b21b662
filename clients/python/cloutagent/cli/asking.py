"""What is secret comes from a hidden prompt, from the standard input or from a file, and never from the arguments."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from cloutagent.cli.values import file_text, stdin_text, without_line_end


def typed() -> bool:
    """Whether the standard input is somebody who types. There may be none: a process can be started with it closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def secret_input(name: str, file: Path | None = None, *, twice: bool = False) -> str:
    """The text of a file as it is; without one, what is typed unseen, or, where no terminal is, the standard input.

    Of the latter one line end is taken off. `twice` has it typed twice.
    """
    if file is not None and str(file) != "-":
        return file_text(file)
    if file is None and typed():
        given: str = typer.prompt(name, hide_input=True, confirmation_prompt=twice, err=True)
        return given
    return without_line_end(stdin_text())
