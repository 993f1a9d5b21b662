"""What is secret comes from a hidden prompt, from the standard input or from a file, and never from the arguments."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from getpass import getpass
from pathlib import Path
from typing import Final

import typer

from cloutagent.cli.endings import CommandError
from cloutagent.cli.values import SECRET_BYTES, file_text, stdin_text, without_line_end

_GLANCE_SECONDS: Final = 0.2


def typed() -> bool:
    """Whether the standard input is somebody who types. There may be none: a process can be started with it closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def secret_input(name: str, file: Path | None = None, *, twice: bool = False) -> str:
    """The text of a file as it is; without one, what is typed unseen, or, where no terminal is, the standard input.

    Of the latter one line end is taken off, and it may not be empty: that is a command before it that failed, or a
    variable that is not set. `twice` has it typed twice.
    """
    if file is not None and str(file) != "-":
        return file_text(file, SECRET_BYTES)
    if file is None and typed():
        while True:
            given = _unseen(f"{name}: ")
            if given and (not twice or _unseen("Repeat for confirmation: ") == given):
                return given
            typer.echo("nothing was typed" if not given else "the two are not the same", err=True)
    given = without_line_end(stdin_text(SECRET_BYTES + len("\r\n")))
    if not given:
        raise CommandError("the standard input is empty")
    return given


def typed_line() -> str:
    """The next line that is typed. Raises typer.Abort at the end of the input.

    A signal that comes just before a read begins is not handled until the read ends. So it is waited for a little at a
    time.
    """
    with suppress(io.UnsupportedOperation, OSError, ValueError):
        while not select.select([sys.stdin], [], [], _GLANCE_SECONDS)[0]:
            pass
    line = sys.stdin.readline()
    if not line:
        raise typer.Abort
    return without_line_end(line)


def _unseen(prompt: str) -> str:
    """A line that is typed unseen. The echo is off before the prompt is there; what was typed before it counts.

    Raises typer.Abort at the end of the input.
    """
    if os.name != "posix":
        return getpass(prompt)
    with _no_echo():
        sys.stderr.write(prompt)
        sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError:
            raise CommandError("what was typed is not text in UTF-8") from None
        finally:
            sys.stderr.write("\n")
            sys.stderr.flush()
    if not line:
        raise typer.Abort
    return without_line_end(line)


@contextmanager
def _no_echo() -> Iterator[None]:
    import termios

    try:
        descriptor = sys.stdin.fileno()
    except io.UnsupportedOperation:  # It is no terminal, which alone echoes.
        yield
        return
    before = termios.tcgetattr(descriptor)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    # Not TCSAFLUSH, which throws away what was typed ahead.
    termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
