"""The table of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table.

    Attributes:
        name: What was measured.
        value: What came of it, in `unit`.
        unit: The unit, for people.
        most: What the value may be at most; None for no such target.
        least: What it must be at least; None for no such target.
        note: What the value was held against, for people.
    """

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether a target is missed."""
        return (self.most is not None and self.value > self.most) or (
            self.least is not None and self.value < self.least
        )

    @property
    def target(self) -> str:
        """The target, and whether it is met."""
        bounds = [("<=", self.most), (">=", self.least)]
        wanted = " and ".join(f"{sign} {bound:,g}" for sign, bound in bounds if bound is not None)
        return f"{wanted}: {'MISSED' if self.missed else 'met'}" if wanted else ""


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of some values, at least two."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def table(figures: Sequence[Figure]) -> str:
    """The figures as text."""
    lines = [["", "measured", "", "target", ""]]
    lines += [[one.name, f"{one.value:,.{_digits(one.value)}f}", one.unit, one.target, one.note] for one in figures]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(cell.rjust(width) if column == 1 else cell.ljust(width) for column, (cell, width) in row).rstrip()
        for row in (enumerate(zip(line, widths, strict=True)) for line in lines)
    )


def _digits(value: float) -> int:
    return 0 if abs(value) >= 1_000 else 2
