"""A process killed at any of its calls: what it acknowledged is there, what it did not is done or not done."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Count
from tests.support.faults.check import losses
from tests.support.faults.story import STEPS, lengths, states

REPOSITORY = Path(__file__).parents[2]
PARTS = 8
DEADLINE = 60

Order = Callable[..., Awaitable[Mapping[str, Any]]]


@pytest.fixture
async def order() -> AsyncIterator[Order]:
    """Has a child tell the story in a folder, and be killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.faults.killed"),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def give(root: Path, number: int, moment: str = "before", **more: object) -> Mapping[str, Any]:
        stdin.write(json.dumps({"root": str(root), "number": number, "moment": moment, **more}).encode() + b"\n")
        answer: Mapping[str, Any] = json.loads(await asyncio.wait_for(stdout.readline(), DEADLINE))
        return answer

    yield give
    stdin.close()
    assert await asyncio.wait_for(process.wait(), DEADLINE) == 0


async def kill_at(order: Order, folder: Path, points: Sequence[tuple[int, str]]) -> list[str]:
    """Kill a child at each of these moments and look at what it left."""
    steps = list(STEPS.values())
    known = await states(steps)
    found = []
    for number, moment in points:
        root = folder / f"{number}-{moment}" / "projects"
        root.parent.mkdir()
        end = await order(root, number, moment)
        assert end["killed"]
        reached = end["acknowledged"]
        lost = await losses(root, steps, known, reached, lengths(known[reached]), rebuild_first=bool(number % 2))
        found += [f"call {number}, {moment}, {reached} acknowledged: {loss}" for loss in lost]
        shutil.rmtree(root.parent)
    return found


async def kill_points(order: Order, folder: Path) -> Sequence[tuple[int, str]]:
    """Every moment of the story: before and after each call, and in the middle of each write."""
    root = folder / "whole" / "projects"
    root.parent.mkdir()
    whole = await order(root, 0)
    assert not whole["killed"]
    assert whole["acknowledged"] == len(STEPS)
    calls, writes = range(1, whole["calls"] + 1), whole["writes"]
    assert len(calls) > 300
    assert len(writes) > 30
    moments = {"before": calls, "half": writes, "after": calls}
    return sorted((number, moment) for moment, numbers in moments.items() for number in numbers)


async def kill_while_recovering(order: Order, folder: Path, points: Sequence[tuple[int, str]]) -> tuple[int, list[str]]:
    """Kill a child at each of these moments, then one that recovers at each of its calls."""
    steps = list(STEPS.values())
    known = await states(steps)
    found: list[str] = []
    tried = 0
    for number, moment in points:
        crashed = folder / f"{number}-{moment}"
        crashed.mkdir()
        reached = (await order(crashed / "projects", number, moment))["acknowledged"]
        again = 0
        killed = True
        while killed:
            again += 1
            copy = folder / f"{number}-{moment}-{again}"
            shutil.copytree(crashed, copy)
            killed = (await order(copy / "projects", again, "before", recover=True))["killed"]
            lost = await losses(copy / "projects", steps, known, reached, lengths(known[reached]))
            found += [f"call {number}, {moment}, then call {again} of recovering: {loss}" for loss in lost]
            tried += killed
            shutil.rmtree(copy)
        shutil.rmtree(crashed)
    return tried, found


async def test_killed_at_some_of_its_calls(order: Order, folder: Path, count: Count) -> None:
    points = (await kill_points(order, folder))[3::41]
    count("kill points", len(points), await kill_at(order, folder, points))


async def test_killed_again_while_recovering(order: Order, folder: Path, count: Count) -> None:
    points = (await kill_points(order, folder))[60::230]
    count("kill points", *await kill_while_recovering(order, folder, points))


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
    points = (await kill_points(order, folder))[7 + part * 3 :: PARTS * 3]
    count("kill points", *await kill_while_recovering(order, folder, points))
