"""The same work by several ways, in turns: how long each takes, and how much of this process's processor time."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import Final

from benchmarks.clients.order import Order

Samples = Sequence[float]
"""Seconds of each piece of work in a round."""
Work = Callable[[], Awaitable[Samples]]
Round = tuple[float, float]
"""Microseconds for one call or event: as time passes (p50), and of the processor."""
Measured = Mapping[str, Mapping[str, Sequence[Round]]]
"""By what was done, and by the way, the client's first: rounds."""

EVENT: Final = "an event"
_MICROSECONDS: Final = 1e6


async def everything(order: Order, calls: Mapping[str, Mapping[str, Work]], replays: Mapping[str, Work]) -> Measured:
    """Measure the calls, by their name, and the replays, each by all ways."""
    measured = {name: await _in_turns(ways, order.rounds) for name, ways in calls.items()}
    return {**measured, EVENT: await _in_turns(replays, order.replays, order.last)}


async def _in_turns(ways: Mapping[str, Work], rounds: int, units: int = 1) -> Mapping[str, Sequence[Round]]:
    """Measure each way so many times, after one time that does not count.

    `units` is how many calls or events one piece of work is.
    """
    measured: dict[str, list[Round]] = {way: [] for way in ways}
    order = list(ways)
    for number in range(rounds + 1):
        for way in order if number % 2 else reversed(order):
            gc.collect()
            begun = time.process_time()
            seconds = await ways[way]()
            cpu = time.process_time() - begun
            if number > 0:
                scale = _MICROSECONDS / units
                measured[way].append((median(seconds) * scale, cpu / len(seconds) * scale))
    return measured
