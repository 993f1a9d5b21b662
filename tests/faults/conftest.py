"""What the fault suite counts, and the lines in which it says so at its end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from tests.support.faults.asked import STAGES
from tests.support.faults.at_once import work_at_once
from tests.support.faults.refusing import KINDS_OF_REFUSAL

KINDS: Final = (
    "kill points",
    "kill points while recovering",
    "kill points of backup and restore",
    *(f"injected faults: {kind}" for kind in KINDS_OF_REFUSAL),
    "power-loss moments",
    "power-loss states",
    "random steps",
    "race rounds",
    "racing operations",
    "server kills",
    "server kills while recovering",
    "processes under a killed server",
    "starts not answered at a server kill",
    "runs under way at a server kill",
    *(f"runs under way at a server kill: {stage}" for stage in STAGES),
)
LOSSES: Final = "losses"

REPOSITORY: Final = Path(__file__).parents[2]
DEADLINE: Final = 60

_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 1 << 28

Count = Callable[..., None]
Order = Callable[..., Awaitable[Mapping[str, Any]]]


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Notes how many of something were tried, and what was lost, and fails when anything was."""

    def note(kind: str, number: int, lost: list[str] | None = None) -> None:
        assert kind in KINDS
        assert number > 0
        record_property(kind, number)
        record_property(LOSSES, len(lost or ()))
        assert not lost, "\n".join(lost[:20])

    return note


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder for thousands of trials: in memory, where the machine has some to give.

    What a killed process, a refused call or a modelled loss of power leaves does not depend on the medium.
    """
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _ROOM:
        yield tmp_path
        return
    with TemporaryDirectory(prefix="cloutagent-faults-", dir=_MEMORY) as directory:
        yield Path(directory)


@pytest.fixture
async def at_once() -> None:
    """No threads in this test's trials. See `work_at_once`."""
    work_at_once(asyncio.get_running_loop())


@pytest.fixture
async def order() -> AsyncIterator[Order]:
    """Has a child do a task in a folder, and be killed. See `tests.support.faults.killed`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.faults.killed"),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def give(
        task: str, root: Path, number: int = 0, moment: str = "before", *, moving: bool = False, **more: object
    ) -> Mapping[str, Any]:
        told = {"task": task, "root": str(root), "number": number, "moment": moment, "moving": moving, **more}
        stdin.write(json.dumps(told).encode() + b"\n")
        answer: Mapping[str, Any] = json.loads(await asyncio.wait_for(stdout.readline(), DEADLINE))
        return answer

    yield give
    stdin.close()
    assert await asyncio.wait_for(process.wait(), DEADLINE) == 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each kind of fault, from the reports of the tests that tried it, whichever process ran them."""
    totals: Counter[str] = Counter()
    failed = 0
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            noted = Counter[str]()
            for name, number in getattr(report, "user_properties", ()):
                if name in KINDS or name == LOSSES:
                    noted[name] += number
            totals += noted
            failed += outcome != "passed" and not noted[LOSSES]
    terminalreporter.section("faults tried")
    for kind in KINDS:
        terminalreporter.line(f"{totals[kind]} {kind}")
    terminalreporter.line(
        f"{totals[LOSSES]} losses" + (f", and {failed} tests that did not get so far" if failed else "")
    )
