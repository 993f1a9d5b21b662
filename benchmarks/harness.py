"""What all measurements share: interleaved runs, ratios with their spread, and the table."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final

Work = Callable[[], Awaitable[object]]

MICROSECONDS: Final = 1e6
MILLISECONDS: Final = 1e3


@dataclass(frozen=True, slots=True)
class Ratio:
    """How much dearer the largest store is than the smallest: median, and the quartiles, of the ratios of one round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        name: What was measured, with its unit.
        values: What came of it, by number of projects.
        ratio: The largest store's value by the smallest's, if both were measured in the same rounds.
        most_ratio: What the ratio may be at most; None for no target.
        most: What each value may be at most; None for no target.
    """

    name: str
    values: Mapping[int, float]
    ratio: Ratio | None = None
    most_ratio: float | None = None
    most: float | None = None

    @property
    def missed(self) -> bool:
        """Whether a target is missed."""
        too_dear = self.most_ratio is not None and self.ratio is not None and self.ratio.median > self.most_ratio
        return too_dear or (self.most is not None and max(self.values.values()) > self.most)

    @property
    def target(self) -> str:
        """The target, and whether it is met."""
        if self.most_ratio is None and self.most is None:
            return ""
        wanted = f"ratio <= {self.most_ratio}" if self.most is None else f"<= {self.most:g}"
        return f"{wanted}: {'MISSED' if self.missed else 'met'}"


async def compare(
    name: str,
    works: Mapping[int, Work],
    *,
    rounds: int,
    operations: int = 1,
    scale: float = MICROSECONDS,
    most_ratio: float | None = None,
) -> Row:
    """Time the same work on stores of different sizes, in turns, so that what else the machine does meets all alike.

    Args:
        name: What it is, with the unit.
        works: What does all the operations of one round, by number of projects.
        rounds: How often each is done, after one time that does not count.
        operations: How many operations one call does.
        scale: Units in a second.
        most_ratio: The target.
    """
    seconds: dict[int, list[float]] = {size: [] for size in works}
    for work in works.values():
        await work()
    for number in range(rounds):
        order = list(works)
        for size in order if number % 2 else reversed(order):
            gc.collect()
            begun = time.perf_counter()
            await works[size]()
            seconds[size].append((time.perf_counter() - begun) / operations * scale)
    values = {size: median(times) for size, times in seconds.items()}
    ratio = None
    if len(works) > 1:
        ratio = ratio_of(seconds[max(works)], seconds[min(works)])
    return Row(name, values, ratio, most_ratio)


def ratio_of(large: Sequence[float], small: Sequence[float]) -> Ratio:
    """The ratio of what was measured in the same rounds."""
    ratios = [one / other for one, other in zip(large, small, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, low, high)


def table(rows: Sequence[Row], sizes: Sequence[int]) -> str:
    """The rows as text."""
    lines = [["", *(f"{size:,}" for size in sizes), "ratio (quartiles)", "target"]]
    for row in rows:
        values = [f"{row.values[size]:,.1f}" if size in row.values else "" for size in sizes]
        lines.append([row.name, *values, "" if row.ratio is None else str(row.ratio), row.target])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(_line(line, widths).rstrip() for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = len(cells) - 2
    aligned = [
        cell.rjust(width) if 0 < column < numbers else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned)
