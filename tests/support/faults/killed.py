"""Processes that are killed by SIGKILL at one of their calls.

Started as `python -m tests.support.faults.killed`. Reads orders from its input, one JSON object a line, and carries
each out in a child of its own: `task` (one of `TASKS`), `root` (the folder), `number` (of the call, from 1; 0 for none)
and `moment`: "before" the call, "half" way through it, for a write, or "after" it. Calls count that concern the folder
or what lies beside it; with `moving` only those that change what a later process sees. Answers with a JSON object:
whether the child was `killed`, `acknowledged`: how many steps it had written into a pipe as returned, and, when it came
to its end, how many `calls` it made and which of them were `writes`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.backup.create import back_up
from cloutagent_server.storage.filesystem.backup.restore import restore
from tests.support.faults.at_once import work_at_once
from tests.support.faults.story import STEPS
from tests.support.faults.syscalls import Call, intercepted, without_syncing

_write = os.write

Returned = Callable[[], None]


class _Killer:
    """Counts calls and kills this process at one of them."""

    def __init__(self, number: int, moment: str, moving: bool) -> None:
        self._number = number
        self._moment = moment
        self._moving = moving
        self._guard = threading.Lock()
        self.calls = 0
        self.writes: list[int] = []

    def __call__(self, call: Call) -> Any:
        if not call.changes:
            return call.complete()
        with self._guard:
            if self._moving and not call.moves:
                return without_syncing(call)
            self.calls += 1
            if call.name == "write":
                self.writes.append(self.calls)
            if self.calls != self._number:
                return without_syncing(call)
            if self._moment == "after":
                with suppress(OSError):
                    call.complete()
            elif self._moment == "half" and call.name == "write":
                # In another order than when they were counted, the calls may have put another one here.
                call.write_half()
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("the process outlived SIGKILL")


async def _tell(root: Path, _: dict[str, Any], returned: Returned) -> None:
    """Tell the whole story in the folder."""
    storage = FileSystemStorage(root)
    await storage.start()
    for step in STEPS.values():
        await step(storage)
        returned()


async def _start(root: Path, _: dict[str, Any], returned: Returned) -> None:
    """Start a storage on the folder."""
    await FileSystemStorage(root).start()
    returned()


async def _back_up(root: Path, order: dict[str, Any], returned: Returned) -> None:
    """Make the backup `archive` of the folder."""
    back_up(root, Path(order["archive"]), "1.2.3", executions=True)
    returned()


async def _restore(root: Path, order: dict[str, Any], returned: Returned) -> None:
    """Put the backup `archive` in the place of what is in the folder."""
    restore(Path(order["archive"]), root, replace_existing=True, dry_run=False)
    returned()


TASKS: Final[dict[str, Callable[[Path, dict[str, Any], Returned], Awaitable[None]]]] = {
    "tell": _tell,
    "start": _start,
    "back up": _back_up,
    "restore": _restore,
}


async def _work(order: dict[str, Any], killer: _Killer, acknowledgements: int) -> None:
    def returned() -> None:
        _write(acknowledgements, b"returned\n")

    root = Path(order["root"])
    work_at_once(asyncio.get_running_loop())
    with intercepted(root.parent, killer):
        await TASKS[order["task"]](root, order, returned)
    _write(acknowledgements, json.dumps([killer.calls, killer.writes]).encode())


def _child(order: dict[str, Any], acknowledgements: int) -> int:
    try:
        asyncio.run(_work(order, _Killer(order["number"], order["moment"], order["moving"]), acknowledgements))
    except BaseException as fault:
        print(f"{order}: {fault!r}", file=sys.stderr)
        return 1
    return 0


def _carry_out(order: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_child(order, writing))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"the child failed: {order}")
    killed = code != 0
    calls, writes = (0, []) if killed else json.loads(lines[-1])
    return {"killed": killed, "acknowledged": lines.count(b"returned"), "calls": calls, "writes": writes}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(_carry_out(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
