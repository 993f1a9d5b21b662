"""The command as a user runs it: a process of its own, on a terminal or without one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import psutil

COMMAND: Final = (sys.executable, "-m", "cloutagent")
DEADLINE_SECONDS: Final = 30.0
CTRL_C: Final = "\x03"


class Terminal:
    """A command on a terminal of 100 columns and 30 rows.

    Attributes:
        shown: All that was written to the terminal, with its control sequences.
    """

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.shown = ""
        self._process = process
        self._screen = screen
        self._read = 0

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until something is shown behind what was waited for last."""
        until = time.monotonic() + DEADLINE_SECONDS
        while True:
            found = re.compile(pattern).search(self.shown, self._read)
            if found is not None:
                self._read = found.end()
                return found
            assert self._more(until), f"{pattern!r} does not come: {self.shown!r}"

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self._screen, keys.encode())

    def terminate(self) -> None:
        """Send the command SIGTERM."""
        for child in psutil.Process(self._process.pid).children():
            child.terminate()

    def end(self) -> int:
        """Wait for the end; the exit code."""
        until = time.monotonic() + DEADLINE_SECONDS
        while self._more(until):
            pass
        return self._process.wait(DEADLINE_SECONDS)

    def _more(self, until: float) -> bool:
        """Read more. False if nothing more comes."""
        ready, _, _ = select.select([self._screen], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"nothing more is shown: {self.shown!r}"
        try:
            got = os.read(self._screen, 65_536)
        except OSError:  # Linux says so at the end of what has the terminal.
            return False
        self.shown += got.decode(errors="replace")
        return bool(got)


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """That of this process, with changes; None takes a variable away."""
    merged: dict[str, str | None] = {**os.environ, "TERM": "xterm-256color", **changes}
    return {name: value for name, value in merged.items() if value is not None}


@contextmanager
def on_terminal(*arguments: str, variables: Mapping[str, str | None]) -> Iterator[Terminal]:
    """Run a command on a terminal that is its own."""
    screen, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *COMMAND, *arguments],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment(variables),
        start_new_session=True,
    )
    os.close(inside)
    try:
        yield Terminal(process, screen)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(screen)


@contextmanager
def without_terminal(*arguments: str, variables: Mapping[str, str | None]) -> Iterator[subprocess.Popen[str]]:
    """Run a command whose output is read by a program."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(variables),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
