"""What is typed unseen."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator

import pytest
import typer

from cloutagent.cli.asking import secret_input


class Terminal:
    """Who types.

    Attributes:
        shown: What is written to the terminal, with whether it would have echoed what is typed.
    """

    def __init__(self) -> None:
        self.keyboard, self.inside = pty.openpty()
        self.shown: list[tuple[str, bool]] = []

    @property
    def echoes(self) -> bool:
        """Whether it shows what is typed."""
        return bool(termios.tcgetattr(self.inside)[3] & termios.ECHO)

    def type(self, keys: bytes) -> None:
        """Type something."""
        os.write(self.keyboard, keys)

    def write(self, text: str) -> None:
        """Take what is written."""
        self.shown.append((text, self.echoes))

    def flush(self) -> None:
        """Nothing is kept back."""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal()
    with open(made.inside, closefd=False, encoding="utf-8") as reading:
        monkeypatch.setattr("sys.stdin", reading)
        yield made
    os.close(made.inside)
    os.close(made.keyboard)


def test_the_echo_is_off_before_the_prompt_and_what_was_typed_ahead_counts(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", terminal)
    terminal.type(b"s3cret\n")
    assert secret_input("Key") == "s3cret"
    assert terminal.shown == [("Key: ", False), ("\n", False)]
    assert terminal.echoes


def test_what_is_typed_twice_must_be_the_same(terminal: Terminal) -> None:
    terminal.type(b"\none\ntwo\none\none\n")
    assert secret_input("Value", twice=True) == "one"
    terminal.type(b"\x04")
    with pytest.raises(typer.Abort):
        secret_input("Value")
    assert terminal.echoes
