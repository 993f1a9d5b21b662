"""Measure executions and their watchers, and print a table. Exits with 1 when a target is missed."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from benchmarks.executions import runs, watching
from benchmarks.executions.figures import Figure, table
from benchmarks.executions.remote import serving


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        replayed: Events of the log that is replayed.
        watchers: To how many watchers events are spread.
        spread: Events times watchers of one such measurement.
        spread_events: The most events of it.
        latency_watchers: How many watch while the latency is measured.
        latency_events: Events of a round of that, 10 a second.
        stalled: Events that are sent while one watcher reads nothing.
        runs: Runs of the real agent, each against the SDK alone.
        calls: Model calls, each direct and through the gateway.
        rounds: How often everything else is measured.
    """

    replayed: int = 50_000
    watchers: Sequence[int] = (1, 100, 1_000)
    spread: int = 500_000
    spread_events: int = 50_000
    latency_watchers: int = 100
    latency_events: int = 100
    stalled: int = 4_000
    runs: int = 7
    calls: int = 200
    rounds: int = 5


QUICK = Sizes(2_000, (1, 10), 2_000, 2_000, 10, 5, 2_500, 1, 5, 1)


async def measure(sizes: Sizes, wanted: Sequence[str] = ()) -> Sequence[Figure]:
    """All figures, or those of the `wanted` measurements."""
    figures: list[Figure] = []
    with TemporaryDirectory(prefix="benchmarks-") as folder:
        async with (
            runs.local_model() as model,
            serving(Path(folder) / "cold", model.base_url, {"warm_agents": "0"}) as remote,
        ):
            # First: what a process has once taken and given back would hide it.
            if not wanted or "memory" in wanted:
                figures += await watching.memory(remote, sizes.watchers[-1])
            if not wanted or "replay" in wanted:
                figures += await watching.replay(remote, sizes.replayed, sizes.rounds)
            if not wanted or "latency" in wanted:
                figures += await watching.latency(remote, sizes.latency_watchers, sizes.latency_events, sizes.rounds)
            for watchers in sizes.watchers if not wanted or "fan-out" in wanted else ():
                figures += await watching.fan_out(
                    remote, watchers, min(sizes.spread_events, max(64, sizes.spread // watchers)), sizes.rounds
                )
            if not wanted or "stalled" in wanted:
                count = sizes.latency_watchers - 1
                figures += await watching.stalled(remote, count, sizes.stalled, sizes.rounds)
            if not wanted or "runs" in wanted:
                figures += await runs.agents(remote, model, sizes.runs, warm=False)
                async with serving(Path(folder) / "warm", model.base_url, {"warm_agents": "1"}) as ready:
                    figures += await runs.agents(ready, model, sizes.runs, warm=True)
            if not wanted or "gateway" in wanted:
                figures += await runs.gateway(remote, model, sizes.calls)
    return figures


async def run(sizes: Sizes, wanted: Sequence[str] = ()) -> int:
    """Measure and print. Returns the exit code."""
    before = os.getloadavg()[0]
    figures = await measure(sizes, wanted)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {sizes.rounds} rounds")
    print(f"load of the machine: {before:.1f} before, {os.getloadavg()[0]:.1f} after")
    print(table(figures), flush=True)
    return 1 if any(figure.missed for figure in figures) else 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executions", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that everything can be measured")
    parser.add_argument("--only", default="", help="replay, latency, fan-out, memory, stalled, runs, gateway")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name]
    return uvloop.run(run(QUICK if options.quick else Sizes(), wanted))


if __name__ == "__main__":
    sys.exit(main())
