"""Starting on a folder that was left in order, and on one whose server was killed at work; and the memory of a server.

Each start is a process of its own, so that nothing is known of the folder and memory can be compared.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from statistics import median
from typing import Any, Final

from benchmarks.harness import MILLISECONDS, Row
from benchmarks.stores import Store, Stores

# The issue's, in milliseconds.
MOST: Final = 2_000.0

_STARTS: Final = 3


async def measure(stores: Stores, rounds: int) -> Sequence[Row]:
    """Time and memory, at most three times each."""
    clean, killed, memory, memory_of_lists = {}, {}, {}, {}
    for size, store in stores.items():
        answers = [await _serve(store) for _ in range(min(rounds, _STARTS))]
        clean[size] = median(answer["start"] for answer in answers) * MILLISECONDS
        memory[size] = median(answer["started"] for answer in answers)
        memory_of_lists[size] = median(answer["listed"] for answer in answers)
        times = []
        for _ in range(min(rounds, _STARTS)):
            await _kill_at_work(store)
            times.append((await _serve(store))["start"])
        killed[size] = median(times) * MILLISECONDS
    return [
        Row("start, folder in order (ms)", clean, most=MOST),
        Row("start after kill -9 at work (ms)", killed, most=MOST),
        Row("memory after the start (MiB)", memory),
        Row("memory at most, every project listed (MiB)", memory_of_lists),
    ]


async def _serve(store: Store) -> dict[str, Any]:
    process = await _process(store, "serve")
    answer, _ = await process.communicate()
    assert process.returncode == 0
    return dict(json.loads(answer))


async def _kill_at_work(store: Store) -> None:
    """Kill a server in the middle of its writes, wherever it is then."""
    process = await _process(store, "work")
    assert process.stdout is not None
    await process.stdout.readline()
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.communicate()
    assert process.returncode == -signal.SIGKILL


async def _process(store: Store, task: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "benchmarks.server", str(store.root), task)
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
