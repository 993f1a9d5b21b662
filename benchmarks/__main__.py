"""Measure the store and print a table. Exits with 1 when a target is missed, or the doctor finds a fault in a store."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Sequence

from benchmarks import listing, looking_up, starting, writing
from benchmarks.harness import Row, table
from benchmarks.stores import Stores, filled
from cloutagent_server.storage.filesystem.doctor import Folder, examine

MEASUREMENTS = (looking_up.measure, listing.measure, writing.measure, starting.measure)


async def run(sizes: Sequence[int], rounds: int) -> int:
    """Fill the stores, measure, print. Returns the exit code."""
    begun = time.perf_counter()
    async with filled(sizes) as stores:
        print(f"stores filled in {time.perf_counter() - begun:.0f} s", flush=True)
        rows: list[Row] = []
        for measure in MEASUREMENTS:
            rows += await measure(stores, rounds)
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {rounds} rounds; projects:")
        print(table(rows, sizes), flush=True)
        faults = await asyncio.to_thread(_faults, stores)
    for fault in faults:
        print(fault)
    return 1 if faults or any(row.missed for row in rows) else 0


def _faults(stores: Stores) -> Sequence[str]:
    """What the doctor has to say when all is done, the kills included."""
    begun = time.perf_counter()
    found = [
        f"{store.root}: {finding.path}: {finding.fault}"
        for store in stores.values()
        for finding in examine(Folder(store.root))
    ]
    print(f"doctor: {len(found)} findings in {time.perf_counter() - begun:.0f} s")
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--projects", default="10,1000,100000", help="sizes of the stores (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="how often each is measured (default: %(default)s)")
    options = parser.parse_args()
    sizes = sorted({int(size) for size in options.projects.split(",")})
    return asyncio.run(run(sizes, options.rounds))


if __name__ == "__main__":
    sys.exit(main())
