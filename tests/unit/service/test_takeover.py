"""Two servers' services on one folder: each keeps to its own executions, and takes over those of a dead one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.domain.events import FailureReason
from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.service.takeover import Takeover
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.service_world import DEADLINE_SECONDS, World, make_world

HANG = "hang on"
Claim = Callable[[str], Awaitable[Execution | None]]


@pytest.fixture
async def worlds(tmp_path: Path) -> AsyncIterator[list[World]]:
    """Two servers on a folder; each runs one execution at a time and looks after the other all the time."""
    storages = [FileSystemStorage(tmp_path / "projects") for _ in range(2)]
    found, looking = [], []
    for storage in storages:
        await storage.start()
        world = make_world(storage=storage, max_running=1)
        found.append(world)
        looking.append(Takeover(world.executions, interval_seconds=0.05))
        looking[-1].start()
    yield found
    for takeover in looking:
        await takeover.stop()
    for world, storage in zip(found, storages, strict=True):
        await world.executions.stop(grace=0)
        await storage.stop()


async def running_and_waiting(world: World) -> tuple[Execution, Execution]:
    project = await world.project()
    running = await world.start(project, HANG)
    await world.until(running.id, lambda execution: execution.usage.total_tokens > 0)
    return running, await world.start(project)


async def test_each_keeps_to_its_own(worlds: list[World]) -> None:
    ours, theirs = worlds
    running, waiting = await running_and_waiting(ours)
    for _ in range(5):
        await theirs.executions.recover()
    assert (await theirs.read(running.id)).status is Status.RUNNING
    assert (await theirs.read(waiting.id)).status is Status.QUEUED
    assert theirs.engine.executors == {}


async def test_the_executions_of_a_dead_server_are_taken_over_by_one(worlds: list[World], tmp_path: Path) -> None:
    dead = FileSystemStorage(tmp_path / "projects")
    await dead.start()
    project = await worlds[0].project()
    running, waiting = [
        await dead.executions.create(builders.execution(project.id, agent=project.agent, prompt="say hello"))
        for _ in range(2)
    ]
    await dead.executions.append(builders.events(running.id, [builders.queued(), builders.started()]))
    await dead.executions.append(builders.events(waiting.id, [builders.queued()]))
    await dead.stop()
    ended = await worlds[1].until(running.id, Status.FAILED)
    assert ended.failure is not None and ended.failure.reason is FailureReason.INTERRUPTED
    for world in worlds:
        await world.until(waiting.id, Status.COMPLETED)
    kinds = await worlds[0].kinds(waiting.id)
    assert (kinds.count("started"), kinds.count("completed")) == (1, 1)
    assert sum(len(world.engine.executors) for world in worlds) == 1


@pytest.mark.parametrize("which", [0, 1], ids=["running", "waiting"])
async def test_cancelling_what_another_server_runs(worlds: list[World], which: int) -> None:
    ours, theirs = worlds
    execution = (await running_and_waiting(ours))[which]
    cancelled = await asyncio.wait_for(theirs.executions.cancel(execution.id), DEADLINE_SECONDS)
    assert cancelled.status is Status.CANCELLED
    assert (await ours.kinds(execution.id)).count("cancelled") == 1
    await ours.executions.cancel_requested()
    assert list(await ours.storage.executions.list_cancel_requests()) == []


async def test_cancelling_what_another_server_runs_while_this_one_asks_for_it(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = worlds
    claim, asked, go_on = theirs.storage.executions.claim, asyncio.Event(), asyncio.Event()

    waiting = (await running_and_waiting(ours))[1]

    async def held_up(execution_id: str) -> Execution | None:
        asked.set()
        await go_on.wait()
        return await claim(execution_id)

    async def only_waiting() -> Sequence[str]:
        return [waiting.id]

    monkeypatch.setattr(theirs.storage.executions, "claim", held_up)
    monkeypatch.setattr(theirs.storage.executions, "list_abandoned", only_waiting)
    await asyncio.wait_for(asked.wait(), DEADLINE_SECONDS)
    cancelling = asyncio.create_task(theirs.executions.cancel(waiting.id))
    await ours.until(waiting.id, Status.CANCELLED)
    go_on.set()
    assert (await asyncio.wait_for(cancelling, DEADLINE_SECONDS)).status is Status.CANCELLED


@pytest.mark.parametrize("state", [Status.RUNNING, Status.QUEUED])
async def test_what_is_started_during_a_look_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Status
) -> None:
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    world = make_world(storage=storage, max_running=1 if state is Status.RUNNING else 0)
    project = await world.project()
    look, asked, go_on = storage.executions.list_abandoned, asyncio.Event(), asyncio.Event()

    async def held_up() -> Sequence[str]:
        asked.set()
        await go_on.wait()
        return await look()

    monkeypatch.setattr(storage.executions, "list_abandoned", held_up)
    recovering = asyncio.create_task(world.executions.recover())
    await asyncio.wait_for(asked.wait(), DEADLINE_SECONDS)
    execution = await world.start(project, HANG)
    await world.until(execution.id, state)
    go_on.set()
    await asyncio.wait_for(recovering, DEADLINE_SECONDS)
    assert (await world.read(execution.id)).status is state
    assert (await world.kinds(execution.id)).count("queued") == 1
    # The queue still takes and gives.
    assert (await world.executions.cancel(execution.id)).status is Status.CANCELLED
    await world.executions.stop(grace=0)
    await storage.stop()


async def test_one_that_cannot_be_claimed_holds_up_no_other(
    worlds: list[World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = FileSystemStorage(tmp_path / "projects")
    await dead.start()
    project = await worlds[0].project()
    left = [
        await dead.executions.create(builders.execution(project.id, agent=project.agent, prompt="say hello"))
        for _ in range(3)
    ]
    for execution in left:
        await dead.executions.append(builders.events(execution.id, [builders.queued()]))
    refused: list[str] = []
    for world in worlds:
        claim = world.storage.executions.claim

        async def claim_some(execution_id: str, claim: Claim = claim) -> Execution | None:
            if execution_id == left[1].id and len(refused) < 3:
                refused.append(execution_id)
                raise StorageUnavailable("No space left on device")
            return await claim(execution_id)

        monkeypatch.setattr(world.storage.executions, "claim", claim_some)
    await dead.stop()
    for execution in left:
        await worlds[0].until(execution.id, Status.COMPLETED)
    assert len(refused) == 3
