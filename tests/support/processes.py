"""Processes that may not outlive another one. What descends from it is noted while it lives."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import psutil

_DEADLINE: Final = 30.0


def lives(process: psutil.Process) -> bool:
    """Whether this very process, and not another one with its id, is there and not a zombie."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Tree:
    """What descends from a process.

    No mark shows the processes in a sandbox: they are told nothing of the server. Who descends from whom does, but
    only as long as the one above lives: so the tree is taken before that is killed. What one of it starts later is
    found as well.
    """

    def __init__(self, top: int, but: Iterable[psutil.Process] = ()) -> None:
        """`but` are left out."""
        found = set(psutil.Process(top).children(recursive=True)) - set(but)
        self._names = {process: _name(process) for process in found}

    @property
    def names(self) -> list[str]:
        """What they are called, also those that live no more."""
        return sorted(self._names.values())

    def living(self) -> list[psutil.Process]:
        """Those that live."""
        for process in filter(lives, tuple(self._names)):
            with suppress(psutil.Error):
                self._names.update({child: _name(child) for child in process.children(recursive=True)})
        return [process for process in self._names if lives(process)]

    def left(self) -> list[str]:
        """Those that live, in words."""
        return [f"{process.pid} {self._names[process]}" for process in self.living()]


def frozen(pid: int) -> Tree:
    """Have a process stand still, so that it starts nothing more, and look at what descends from it."""
    top = psutil.Process(pid)
    top.suspend()
    until = time.monotonic() + _DEADLINE
    while top.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
        assert time.monotonic() < until, f"{pid} does not stand still"
    return Tree(pid)


def killed(pid: int) -> Tree:
    """Kill a process by SIGKILL; what descended from it."""
    tree = frozen(pid)
    os.kill(pid, signal.SIGKILL)
    return tree


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name()
    return "?"
