"""Measure what the clients add to bare stubs, and print a table. Exits with 1 when a target is missed."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import uvloop

from benchmarks.clients import processes
from benchmarks.clients.figures import Row, rows, table
from benchmarks.clients.order import Order
from benchmarks.stack import Stack, stack


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        calls: Calls of a round, of each kind and each way.
        rounds: How often each way is measured.
        events: Events of the log that is replayed.
        replays: How often it is, by each way.
    """

    calls: int = 100
    rounds: int = 30
    events: int = 20_000
    replays: int = 15


QUICK: Final = Sizes(3, 2, 200, 2)


async def measure(under: Stack, sizes: Sizes) -> Sequence[Row]:
    """All rows."""
    remote = under.remote
    log = await remote.order("log", events=sizes.events, ended=True)
    order = Order(
        host=f"127.0.0.1:{remote.rest_port}",
        api_key=remote.api_key,
        project_id=remote.project_id,
        execution_id=log["execution_id"],
        last=log["last"],
        calls=sizes.calls,
        rounds=sizes.rounds,
        replays=sizes.replays,
    )
    measured = [
        await processes.blocking(order),
        await processes.concurrent(order),
        await processes.typescript(order, under.folder),
    ]
    return [row for one in measured for row in rows(one)]


async def run(under: Stack, sizes: Sizes) -> int:
    """Measure and print. Returns the exit code."""
    before = os.getloadavg()[0]
    made = await measure(under, sizes)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"{sizes.rounds} rounds of {sizes.calls:,} calls, {sizes.replays} replays of {sizes.events:,} events")
    print(f"load of the machine: {before:.1f} before, {os.getloadavg()[0]:.1f} after")
    print(table(made), flush=True)
    return 1 if any(row.missed for row in made) else 0


async def run_alone(sizes: Sizes) -> int:
    """Start what is measured, measure and print. Returns the exit code."""
    async with stack() as under:
        return await run(under, sizes)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that everything can be measured")
    options = parser.parse_args()
    return uvloop.run(run_alone(QUICK if options.quick else Sizes()))


if __name__ == "__main__":
    sys.exit(main())
