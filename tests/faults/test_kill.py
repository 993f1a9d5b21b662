"""A process killed at any of its calls: what it acknowledged is there, what it did not is done or not done."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.conftest import Count, Order
from tests.support.faults.check import REBUILDS, losses
from tests.support.faults.story import STEPS, lengths, states

pytestmark = pytest.mark.usefixtures("at_once")

PARTS = 8
# Of how many moments one is followed by the whole rest of the story.
TO_THE_END = 10


async def kill_at(order: Order, folder: Path, points: Sequence[tuple[int, str]]) -> list[str]:
    """Kill a child at each of these moments and look at what it left; now and then tell the story to its end there."""
    steps = list(STEPS.values())
    known = await states(steps)
    found = []
    for place, (number, moment) in enumerate(points):
        root = folder / f"{number}-{moment}" / "projects"
        root.parent.mkdir()
        end = await order("tell", root, number, moment)
        assert end["killed"]
        reached = end["acknowledged"]
        until = len(steps) if place % TO_THE_END == 0 else reached + 1
        lost = await losses(
            root,
            steps[:until],
            known[: until + 1],
            reached,
            lengths(known[reached]),
            rebuild=REBUILDS[number % 3],
        )
        found += [f"call {number}, {moment}, {reached} acknowledged: {loss}" for loss in lost]
        shutil.rmtree(root.parent)
    return found


async def kill_points(order: Order, folder: Path, *, moving: bool = False) -> Sequence[tuple[int, str]]:
    """Every moment of the story: before each call, in the middle of each write, and after the last call.

    What is there after a call is what is there before the next one.
    """
    root = folder / "whole" / "projects"
    root.parent.mkdir()
    whole = await order("tell", root, moving=moving)
    assert not whole["killed"]
    assert whole["acknowledged"] == len(STEPS)
    calls, writes = whole["calls"], whole["writes"]
    assert calls > 250
    assert len(writes) > 30
    before = [(number, "before") for number in range(1, calls + 1)]
    return sorted([*before, *((number, "half") for number in writes), (calls, "after")])


async def kill_while_recovering(order: Order, folder: Path, points: Sequence[tuple[int, str]]) -> tuple[int, list[str]]:
    """Kill a child at each of these moments, then one that recovers at each of its calls.

    Both count only the calls that change what a later process sees: most moments leave nothing to be recovered.
    """
    steps = list(STEPS.values())
    known = await states(steps)
    found: list[str] = []
    tried = 0
    for number, moment in points:
        crashed = folder / f"{number}-{moment}"
        crashed.mkdir()
        reached = (await order("tell", crashed / "projects", number, moment, moving=True))["acknowledged"]
        again = 0
        killed = True
        while killed:
            again += 1
            copy = folder / f"{number}-{moment}-{again}"
            shutil.copytree(crashed, copy)
            killed = (await order("start", copy / "projects", again, moving=True))["killed"]
            if killed:
                tried += 1
                lost = await losses(
                    copy / "projects", steps[: reached + 1], known[: reached + 2], reached, lengths(known[reached])
                )
                found += [f"call {number}, {moment}, then call {again} of recovering: {loss}" for loss in lost]
            shutil.rmtree(copy)
        shutil.rmtree(crashed)
    return tried, found


async def test_killed_at_some_of_its_calls(order: Order, folder: Path, count: Count) -> None:
    points = (await kill_points(order, folder))[3::41]
    count("kill points", len(points), await kill_at(order, folder, points))


async def test_killed_again_while_recovering(order: Order, folder: Path, count: Count) -> None:
    points = (await kill_points(order, folder, moving=True))[7::40]
    count("kill points while recovering", *await kill_while_recovering(order, folder, points))


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
async def test_killed_at_every_call(order: Order, folder: Path, count: Count, part: int) -> None:
    points = (await kill_points(order, folder))[part::PARTS]
    count("kill points", len(points), await kill_at(order, folder, points))


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
async def test_killed_again_at_every_call_of_recovering(order: Order, folder: Path, count: Count, part: int) -> None:
    points = (await kill_points(order, folder, moving=True))[part::PARTS]
    count("kill points while recovering", *await kill_while_recovering(order, folder, points))
