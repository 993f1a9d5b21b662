"""Work that is done once a day: at its hour, again after a failure, made up for after a pause, never twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from cloutagent_server.service.daily import FIRST, Daily

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


class World:
    """A clock that sleeping moves on, until the end; then sleeping takes for ever."""

    def __init__(self, days: float) -> None:
        self.now = NOON
        self.end = NOON + timedelta(days=days)
        self.done: list[datetime] = []
        self.fail: Callable[[], bool] = lambda: False
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        if self.now >= self.end:
            self.over.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    async def work(self) -> None:
        self.done.append(self.now)
        if self.fail():
            raise OSError("no space left")

    async def run(self, hour: int, last: Callable[[], datetime | None] = lambda: None) -> list[datetime]:
        daily = Daily("backup", hour, self.work, last, lambda: self.now, self.sleep)
        daily.start()
        await asyncio.wait_for(self.over.wait(), 20)
        await daily.stop()
        return self.done


def at(day: int, hour: int) -> datetime:
    return NOON.replace(hour=hour) + timedelta(days=day)


async def test_every_day_at_the_hour() -> None:
    assert await World(3).run(3, lambda: NOON) == [at(1, 3), at(2, 3), at(3, 3)]
    assert await World(1.5).run(13, lambda: NOON) == [at(0, 13), at(1, 13)]
    assert await World(1.5).run(12, lambda: NOON) == [at(1, 12)]


async def test_what_was_never_done_is_done_soon_after_the_start() -> None:
    assert await World(1).run(3) == [NOON + FIRST, at(1, 3)]
    soon = World(1)
    soon.now = at(0, 13) - FIRST / 2
    assert await soon.run(13) == [at(0, 13)]


async def test_a_server_that_is_down_at_the_hour_works_each_day() -> None:
    done: list[datetime] = []

    def last() -> datetime | None:
        return done[-1] if done else None

    for day in range(5):
        world = World(day + 5 / 24)
        world.now = at(day, 9)
        done.extend(await world.run(3, last))
    assert done == [at(0, 9) + FIRST, *(at(day, 9) for day in range(1, 5))]


async def test_what_was_missed_is_made_up_for() -> None:
    assert await World(1).run(3, lambda: at(-1, 3)) == [at(0, 12), at(1, 3)]
    assert await World(1).run(3, lambda: at(0, 4)) == [at(1, 3)]


async def test_a_failure_is_tried_again_in_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    world = World(2)
    world.fail = lambda: len(world.done) < 3
    assert await world.run(3, lambda: NOON) == [at(1, 3), at(1, 4), at(1, 5), at(2, 3)]
    assert [record.message for record in caplog.records] == ["daily_work_failed"] * 2


async def test_a_folder_that_cannot_be_read_counts_as_never_done() -> None:
    def refuse() -> datetime | None:
        raise PermissionError

    assert await World(1).run(3, refuse) == [NOON + FIRST, at(1, 3)]


async def test_stopping_cancels_the_work_under_way() -> None:
    started, ended = asyncio.Event(), False

    async def work() -> None:
        nonlocal ended
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    daily = Daily("backup", 3, work, lambda: NOON - timedelta(days=9), lambda: NOON)
    daily.start()
    await asyncio.wait_for(started.wait(), 5)
    await daily.stop()
    assert ended


async def test_stopping_what_never_began() -> None:
    await Daily("backup", 3, World(1).work, lambda: None).stop()
