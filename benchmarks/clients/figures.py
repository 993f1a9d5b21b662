"""The table: what a client adds to what it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.clients.rounds import EVENT, Measured, Round

# Many times what it takes to look at an event, on any machine: more would be a fault of the client.
MOST_OF_AN_EVENT: Final = 100.0

_HEAD: Final = ("p50: bare", "client", "added", "ratio", "CPU: bare", "client", "added", "ratio")


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of one call or event, the same rounds of both ways held against each other.

    Attributes:
        bare: The median without the client.
        client: The median with it.
        added: The median of the differences.
        ratio: The median of the ratios.
    """

    bare: float
    client: float
    added: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        name: What was measured.
        wall: As time passes.
        cpu: Of the processor, in the client's process.
        most: What may be added to `cpu` at most; None for no target.
    """

    name: str
    wall: Cost
    cpu: Cost
    most: float | None

    @property
    def missed(self) -> bool:
        """Whether the target is missed."""
        return self.most is not None and self.cpu.added > self.most

    @property
    def target(self) -> str:
        """The target, and whether it is met."""
        return "" if self.most is None else f"CPU added <= {self.most:g}: {'MISSED' if self.missed else 'met'}"


def rows(measured: Measured) -> Sequence[Row]:
    """The rows of one measuring process: its client over each of the other ways."""
    made = []
    for name, ways in measured.items():
        client, *others = ways
        for bare in others:
            wall, cpu = (_cost(ways[client], ways[bare], which) for which in (0, 1))
            made.append(Row(f"{client}, {name}, over {bare}", wall, cpu, MOST_OF_AN_EVENT if name == EVENT else None))
    return made


def table(made: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [["microseconds", *_HEAD, "target"]]
    lines += [[row.name, *_cells(row.wall), *_cells(row.cpu), row.target] for row in made]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < at <= len(_HEAD) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cost(client: Sequence[Round], bare: Sequence[Round], which: int) -> Cost:
    pairs = [(one[which], two[which]) for one, two in zip(client, bare, strict=True)]
    return Cost(
        bare=median(two for _, two in pairs),
        client=median(one for one, _ in pairs),
        added=median(one - two for one, two in pairs),
        ratio=median(one / two for one, two in pairs),
    )


def _cells(cost: Cost) -> Sequence[str]:
    digits = 0 if cost.client >= 100 else 2
    values = [f"{value:,.{digits}f}" for value in (cost.bare, cost.client, cost.added)]
    return [*values, f"{cost.ratio:.2f}"]
