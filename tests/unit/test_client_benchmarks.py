"""What a client adds is told from rounds that belong together, and held against the target."""

from __future__ import annotations

import pytest

from benchmarks.clients.figures import rows, table
from benchmarks.clients.rounds import EVENT, Measured


def test_what_is_added_is_the_median_of_rounds_that_belong_together() -> None:
    # The second round met a machine that was busy, both ways.
    measured: Measured = {"a call": {"Client": [(12, 3), (52, 9), (13, 3)], "grpc": [(10, 2), (50, 8), (10, 1)]}}
    (row,) = rows(measured)
    assert row.name == "Client, a call, over grpc"
    assert (row.wall.bare, row.wall.client, row.wall.added, row.wall.ratio) == (10, 13, 2, 1.2)
    assert (row.cpu.bare, row.cpu.client, row.cpu.added, row.cpu.ratio) == (2, 3, 1, 1.5)
    assert not row.missed


@pytest.mark.parametrize(("added", "missed"), [(100.0, False), (101.0, True)])
def test_an_event_that_is_too_dear_misses_the_target(added: float, missed: bool) -> None:
    (row,) = rows({EVENT: {"Client": [(500, 10 + added)], "grpc": [(10, 10)]}})
    assert row.missed is missed
    assert ("MISSED" in table([row])) is missed
