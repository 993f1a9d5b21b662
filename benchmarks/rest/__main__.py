"""Measure an authenticated GET through Envoy against other ways, and print a table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import uvloop

from benchmarks.executions.figures import Figure, table
from benchmarks.rest.measuring import calls
from benchmarks.rest.processes import fastapi
from benchmarks.rest.readers import allow_open_files, slow_readers
from benchmarks.stack import Stack, stack


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        calls: Calls of a round, of each way.
        in_flight: How many are under way at any time.
        rounds: How often each way is measured.
        readers: Slow readers of server-sent events.
        reading_seconds: How long they read.
    """

    calls: int = 5_000
    in_flight: int = 32
    rounds: int = 5
    readers: int = 1_000
    reading_seconds: float = 8.0


QUICK: Final = Sizes(50, 4, 1, 10, 0.5)


async def measure(under: Stack, sizes: Sizes) -> Sequence[Figure]:
    """All figures."""
    # First, for what a process has once taken and given back would hide it.
    memory = await slow_readers(under.remote, sizes.readers, sizes.reading_seconds)
    async with fastapi(under.projects) as service:
        figures = await calls(under.remote, service, sizes.calls, sizes.in_flight, sizes.rounds)
    return [*figures, *memory]


async def run(under: Stack, sizes: Sizes) -> int:
    """Measure and print. Returns the exit code."""
    before = os.getloadavg()[0]
    figures = await measure(under, sizes)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"{sizes.rounds} rounds of {sizes.calls:,} calls, {sizes.in_flight} in flight")
    print(f"load of the machine: {before:.1f} before, {os.getloadavg()[0]:.1f} after")
    print(table(figures), flush=True)
    return 0


async def run_alone(sizes: Sizes) -> int:
    """Start what is measured, measure and print. Returns the exit code."""
    allow_open_files(4 * sizes.readers)
    async with stack() as under:
        return await run(under, sizes)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rest", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that everything can be measured")
    options = parser.parse_args()
    return uvloop.run(run_alone(QUICK if options.quick else Sizes()))


if __name__ == "__main__":
    sys.exit(main())
