"""Executions: started, looked at, cancelled, recovered, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import NoReturn

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import CostLimits, ExceededLimit, LimitCheckResult, TokenUsage, Usage
from cloutagent_server.domain.errors import (
    ExecutionNotFinished,
    ExecutionNotFound,
    IdempotencyKeyReused,
    InvalidRequest,
    ProjectNotFound,
    QueueFull,
    ServerUnavailable,
    StorageUnavailable,
    StoredDataDamaged,
)
from cloutagent_server.domain.events import (
    Cancelled,
    Event,
    Failed,
    FailureReason,
    Payload,
    Queued,
    Started,
    TextDelta,
    TokenUsed,
)
from cloutagent_server.domain.execution import Execution, ExecutionOptions, Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Limits, Project, ProjectChanges
from cloutagent_server.service import executions, idempotent_starts, runner, unstored
from cloutagent_server.service.requests import ExecutionRequest
from tests.support import fake_engine as fake
from tests.support.fake_engine import FakeEngine
from tests.support.fake_prices import CHEAP_MODEL, MODEL
from tests.support.hooked_storage import HookedStorage
from tests.support.service_world import DEADLINE_SECONDS, World, agent, make_world

HANG = "hang on"


@pytest.fixture
def storage() -> HookedStorage:
    return HookedStorage()


@pytest.fixture
def world(storage: HookedStorage) -> World:
    return make_world(storage=storage)


def refuse(*kinds: str) -> Callable[[Sequence[Event]], Awaitable[None]]:
    async def hook(events: Sequence[Event]) -> None:
        if events[0].payload.kind in kinds:
            raise StorageUnavailable("disk full")

    return hook


async def unfinished(world: World) -> list[str]:
    return [execution.id for execution in await world.storage.executions.list_unfinished()]


async def settled(world: World, *executions: Execution) -> None:
    """Cancel what still runs, so that the test leaves nothing behind."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        for execution in executions:
            await world.executions.cancel(execution.id)


async def turns() -> None:
    """Let everything happen that can without what the test holds back."""
    for _ in range(20):
        await asyncio.sleep(0)


async def being_made(world: World) -> tuple[Execution, asyncio.Event]:
    """An execution that the queue has let go and whose run is not there before the event is set."""
    making, go_on = asyncio.Event(), asyncio.Event()
    read = world.storage.projects.read
    looks = 0

    async def slow(project_id: str) -> Project | None:
        nonlocal looks
        looks += 1
        if looks == 2:
            making.set()
            await go_on.wait()
        return await read(project_id)

    project = await world.project()
    world.storage.projects.read = slow  # type: ignore[method-assign]
    execution = await world.start(project, HANG)
    await asyncio.wait_for(making.wait(), DEADLINE_SECONDS)
    return execution, go_on


# Starting.


async def test_an_execution_starts_queued_with_a_snapshot_of_its_project(world: World) -> None:
    project = await world.project(limits=Limits(1000, Decimal(1), 5000), temperature=0.0)
    request = ExecutionRequest(project.id, "say {{x}}", ExecutionOptions(variables={"x": "hi"}))
    execution, created = await world.executions.start(request)
    assert created
    assert (execution.project_id, execution.status, execution.queue_position) == (project.id, Status.QUEUED, 0)
    assert (execution.agent, execution.limits) == (project.agent, project.limits)
    assert (execution.prompt, execution.variables) == ("say {{x}}", {"x": "hi"})
    ended = await world.until(execution.id, Status.COMPLETED)
    assert ended.result == "echo: say hi"
    assert (await world.kinds(execution.id))[:3] == ["queued", "started", "token_usage"]


async def test_a_change_of_the_project_does_not_touch_what_was_started(world: World) -> None:
    project = await world.project()
    running = [await world.start(project, HANG) for _ in range(3)]
    waiting = await world.start(project)
    await world.storage.projects.update(project.id, ProjectChanges(agent=agent(model=CHEAP_MODEL), limits=Limits(1)))
    await settled(world, *running)
    assert (await world.until(waiting.id, Status.COMPLETED)).agent.model == MODEL
    assert world.engine.executors[waiting.id].model == MODEL


async def test_a_project_with_a_tool_that_the_machine_does_not_offer_starts_nothing(world: World) -> None:
    project = await world.project()
    await world.storage.projects.update(project.id, ProjectChanges(agent=agent(enabled_tools=("Read", "Bash"))))
    with pytest.raises(InvalidRequest, match="the tool 'Bash' is not available on this server: it was told so"):
        await world.start(project)
    assert (await world.executions.list(project.id, 10, None)).items == ()


async def test_a_run_without_its_project_is_not_started(world: World) -> None:
    with pytest.raises(ProjectNotFound):
        await world.executions.start(ExecutionRequest(new_id(), "p"))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (ExecutionOptions(max_tokens=1001), "options.maxTokens"),
        (ExecutionOptions(max_cost=Decimal("1.01")), "options.maxCost"),
        (ExecutionOptions(timeout=5001), "options.timeout"),
    ],
)
async def test_a_limit_cannot_be_raised(world: World, options: ExecutionOptions, field: str) -> None:
    project = await world.project(limits=Limits(1000, Decimal(1), 5000))
    with pytest.raises(InvalidRequest) as caught:
        await world.start(project, options=options)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert await unfinished(world) == []


async def test_all_limits_that_are_too_high_are_named(world: World) -> None:
    project = await world.project(limits=Limits(1000, Decimal(1), 5000))
    with pytest.raises(InvalidRequest) as caught:
        await world.start(project, options=ExecutionOptions(1001, Decimal(2), 5001))
    assert len(caught.value.violations) == 3


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        (ExecutionOptions(), Limits(1000, Decimal(1), 5000)),
        (ExecutionOptions(1000, Decimal(1), 5000), Limits(1000, Decimal(1), 5000)),
        (ExecutionOptions(max_tokens=500), Limits(500, Decimal(1), 5000)),
        (ExecutionOptions(max_cost=Decimal("0.5")), Limits(1000, Decimal("0.5"), 5000)),
        (ExecutionOptions(timeout=2000), Limits(1000, Decimal(1), 2000)),
    ],
)
async def test_limits_can_be_lowered(world: World, options: ExecutionOptions, limits: Limits) -> None:
    project = await world.project(limits=Limits(1000, Decimal(1), 5000))
    execution = await world.run(project, options=options)
    assert execution.limits == limits
    given = world.engine.executors[execution.id].options
    assert given is not None and (given.max_tokens, given.max_cost, given.timeout) == (
        limits.max_tokens,
        limits.max_cost,
        limits.timeout,
    )


async def test_a_faulty_prompt_is_refused_before_anything_is_stored(world: World) -> None:
    project = await world.project()
    for prompt in ("{{", "{{unknown}}", "{{secret:NONE}}"):
        with pytest.raises(InvalidRequest):
            await world.start(project, prompt)
    assert (await world.executions.list(project.id, 10, None)).items == ()


async def test_the_prompt_is_stored_as_it_was_given(world: World) -> None:
    project = await world.project()
    await world.secrets.set_secret(project.id, "TOKEN", "s3cret-value")
    execution = await world.run(project, "use {{secret:TOKEN}}")
    assert execution.prompt == "use {{secret:TOKEN}}"
    assert world.engine.executors[execution.id].prompt == "use s3cret-value"
    assert execution.result == "echo: use [REDACTED]"


# Order and bounds.


async def test_executions_run_in_order_and_a_bounded_number_at_a_time(world: World) -> None:
    project = await world.project()
    running = [await world.start(project, f"{HANG} {n}") for n in range(3)]
    waiting = [await world.start(project, f"later {n}") for n in range(3)]
    for execution in running:
        await world.until(execution.id, Status.RUNNING)
    assert [(await world.executions.get(one.id)).queue_position for one in waiting] == [0, 1, 2]
    assert [one.queue_position for one in waiting] == [0, 1, 2]
    listed = (await world.executions.list(project.id, 10, None)).items
    assert {one.id: one.queue_position for one in listed} == {
        **{one.id: None for one in running},
        **{one.id: place for place, one in enumerate(waiting)},
    }
    await settled(world, *running)
    for execution in waiting:
        await world.until(execution.id, Status.COMPLETED)
    assert world.engine.most_running == 3
    assert world.engine.prompts[3:] == ["later 0", "later 1", "later 2"]


async def test_a_full_queue_refuses_and_stores_nothing(storage: HookedStorage) -> None:
    world = make_world(storage=storage, max_running=1, max_waiting=1)
    project = await world.project()
    accepted = [await world.start(project, HANG) for _ in range(2)]
    for key in (None, "a key"):
        with pytest.raises(QueueFull):
            await world.start(project, HANG, idempotency_key=key)
    assert sorted(await unfinished(world)) == sorted(execution.id for execution in accepted)
    await settled(world, *reversed(accepted))


async def test_the_bound_holds_for_requests_that_come_at_once(storage: HookedStorage) -> None:
    """All of them look at the queue before the first one is in it."""

    async def slow(_: object) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    storage.executions.before_create = storage.executions.before_append = slow
    world = make_world(storage=storage, max_running=1, max_waiting=2)
    project = await world.project()
    outcomes = await asyncio.gather(*(world.start(project, HANG) for _ in range(10)), return_exceptions=True)
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Execution)]
    assert len(accepted) == 3
    assert all(isinstance(outcome, Execution | QueueFull) for outcome in outcomes)
    assert sorted(await unfinished(world)) == sorted(execution.id for execution in accepted)
    await settled(world, *reversed(accepted))


async def test_a_caller_that_goes_away_leaves_a_whole_execution(storage: HookedStorage, world: World) -> None:
    creating, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: object) -> None:
        creating.set()
        await go_on.wait()

    storage.executions.before_create = slow
    project = await world.project()
    starting = asyncio.ensure_future(world.start(project))
    await creating.wait()
    starting.cancel()
    await asyncio.wait([starting])
    go_on.set()
    await turns()
    items = (await world.executions.list(project.id, 10, None)).items
    assert (await world.until(items[0].id, Status.COMPLETED)).result == "echo: say hello"


async def test_an_execution_that_cannot_be_queued_is_not_left_behind(storage: HookedStorage, world: World) -> None:
    project = await world.project()
    storage.executions.before_append = refuse("queued")
    with pytest.raises(StorageUnavailable):
        await world.start(project)
    assert await unfinished(world) == []


# Idempotency.


async def test_the_same_request_with_the_same_key_is_the_same_execution(world: World) -> None:
    project = await world.project()
    request = ExecutionRequest(project.id, "p {{x}} {{y}}", ExecutionOptions(variables={"x": "1", "y": "2"}), "key")
    first, created = await world.executions.start(request)
    again, created_again = await world.executions.start(
        replace(request, options=ExecutionOptions(variables={"y": "2", "x": "1"}))
    )
    assert (created, created_again) == (True, False)
    assert again.id == first.id
    ended = await world.until(first.id, Status.COMPLETED)
    assert (await world.executions.start(request))[0] == ended
    assert len(world.engine.order) == 1


async def test_concurrent_requests_with_one_key_run_once(world: World) -> None:
    project = await world.project()
    request = ExecutionRequest(project.id, "p", idempotency_key="key")
    outcomes = await asyncio.gather(*(world.executions.start(request) for _ in range(5)))
    assert len({execution.id for execution, _ in outcomes}) == 1
    assert sorted(created for _, created in outcomes) == [False] * 4 + [True]
    await world.until(outcomes[0][0].id, Status.COMPLETED)
    assert len(world.engine.order) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "other"},
        {"options": ExecutionOptions(max_tokens=500)},
        {"options": ExecutionOptions(max_cost=Decimal("0.5"))},
        {"options": ExecutionOptions(timeout=2000)},
        {"options": ExecutionOptions(variables={"x": "1"})},
    ],
)
async def test_another_request_with_the_same_key_is_refused(world: World, change: dict[str, object]) -> None:
    project = await world.project()
    request = ExecutionRequest(project.id, "p", idempotency_key="key")
    first, _ = await world.executions.start(request)
    with pytest.raises(IdempotencyKeyReused) as caught:
        await world.executions.start(replace(request, **change))  # type: ignore[arg-type]
    assert caught.value.metadata == {"execution_id": first.id}
    await world.until(first.id, Status.COMPLETED)


async def test_a_key_belongs_to_its_project(world: World) -> None:
    one, other = await world.project(), await world.project()
    executions = [await world.start(project, idempotency_key="key") for project in (one, other)]
    assert executions[0].id != executions[1].id
    for execution in executions:
        await world.until(execution.id, Status.COMPLETED)


async def test_a_known_key_is_answered_by_a_full_queue(storage: HookedStorage) -> None:
    world = make_world(storage=storage, max_running=1, max_waiting=0)
    project = await world.project()
    first = await world.start(project, HANG, idempotency_key="key")
    assert (await world.start(project, HANG, idempotency_key="key")).id == first.id
    await settled(world, first)


# Looking.


async def test_what_does_not_exist_is_not_found(world: World) -> None:
    for call in (
        world.executions.get(new_id()),
        world.executions.finished(new_id()),
        world.executions.cancel(new_id()),
        world.executions.delete(new_id()),
        world.executions.cost(new_id(), None),
    ):
        with pytest.raises(ExecutionNotFound):
            await call
    assert await world.executions.find(new_id()) is None


async def test_list_is_newest_first_and_paged(world: World) -> None:
    project, other = await world.project(), await world.project()
    await world.run(other)
    ids = [(await world.run(project)).id for _ in range(3)]
    seen: list[str] = []
    token = None
    for _ in range(2):
        page = await world.executions.list(project.id, 2, token)
        seen += [execution.id for execution in page.items]
        token = page.next_page_token
    assert token is None
    assert sorted(seen) == sorted(ids)


async def test_finished_waits_for_the_end(world: World) -> None:
    project = await world.project()
    execution = await world.start(project, HANG)
    waiting = asyncio.ensure_future(world.executions.finished(execution.id))
    await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    assert not waiting.done()
    await world.executions.cancel(execution.id)
    assert (await asyncio.wait_for(waiting, DEADLINE_SECONDS)).status is Status.CANCELLED
    assert (await world.executions.finished(execution.id)).status is Status.CANCELLED


async def test_finished_tells_when_the_execution_is_deleted_meanwhile(world: World) -> None:
    project = await world.project()
    execution = await world.start(project, HANG)
    await world.until(execution.id, Status.RUNNING)
    waiting = asyncio.ensure_future(world.executions.finished(execution.id))
    await asyncio.sleep(0)
    await world.storage.executions.delete(execution.id)
    with pytest.raises(ExecutionNotFound):
        await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    await world.engine.executors[execution.id].stop()


# Cancelling.


async def test_cancel_while_it_waits(world: World) -> None:
    project = await world.project()
    running = [await world.start(project, HANG) for _ in range(3)]
    waiting = await world.start(project)
    cancelled = await world.executions.cancel(waiting.id)
    assert (cancelled.status, cancelled.duration, cancelled.started_at) == (Status.CANCELLED, 0, None)
    assert await world.kinds(waiting.id) == ["queued", "cancelled"]
    await settled(world, *running)
    assert waiting.id not in world.engine.executors


async def test_cancel_while_the_agent_starts(world: World) -> None:
    world.engine.initialize_gate = asyncio.Event()
    execution = await world.start(await world.project())
    await world.until(execution.id, Status.RUNNING)
    cancelling = asyncio.ensure_future(world.executions.cancel(execution.id))
    await asyncio.sleep(0)
    world.engine.initialize_gate.set()
    assert (await asyncio.wait_for(cancelling, DEADLINE_SECONDS)).status is Status.CANCELLED
    assert await world.kinds(execution.id) == ["queued", "started", "cancelled"]


async def test_cancel_between_the_queue_and_the_run(world: World) -> None:
    """It waits no more, and its run has not been made."""
    execution, go_on = await being_made(world)
    cancelling = asyncio.ensure_future(world.executions.cancel(execution.id))
    await turns()
    go_on.set()
    assert (await asyncio.wait_for(cancelling, DEADLINE_SECONDS)).status is Status.CANCELLED
    assert await world.kinds(execution.id) == ["queued", "started", "cancelled"]


async def test_cancel_before_it_is_in_the_queue(storage: HookedStorage, world: World) -> None:
    queueing, go_on = asyncio.Event(), asyncio.Event()

    async def slow(events: Sequence[Event]) -> None:
        if isinstance(events[0].payload, Queued):
            queueing.set()
            await go_on.wait()

    storage.executions.before_append = slow
    project = await world.project()
    starting = asyncio.ensure_future(world.start(project))
    await queueing.wait()
    [execution] = (await world.executions.list(project.id, 10, None)).items
    cancelling = asyncio.ensure_future(world.executions.cancel(execution.id))
    await asyncio.sleep(0)
    go_on.set()
    await starting
    assert (await asyncio.wait_for(cancelling, DEADLINE_SECONDS)).status is Status.CANCELLED


async def test_cancel_while_it_runs(world: World) -> None:
    execution = await world.start(await world.project(), HANG)
    await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    cancelled = await world.executions.cancel(execution.id)
    assert cancelled.status is Status.CANCELLED
    assert cancelled.usage.total_tokens == 120
    assert (await world.kinds(execution.id))[-1] == "cancelled"
    assert world.engine.running == []


async def test_cancel_of_what_has_ended_changes_nothing(world: World) -> None:
    execution = await world.run(await world.project())
    assert await world.executions.cancel(execution.id) == execution
    assert execution.status is Status.COMPLETED


async def test_two_who_cancel_get_the_same_answer(world: World) -> None:
    project = await world.project()
    running = [await world.start(project, HANG) for _ in range(3)]
    waiting = await world.start(project)
    for execution in (waiting, *running):
        both = await asyncio.gather(*(world.executions.cancel(execution.id) for _ in range(2)))
        assert both[0] == both[1]
        assert both[0].status is Status.CANCELLED


async def test_cancel_all_ends_one_projects_executions(world: World) -> None:
    project, other = await world.project(), await world.project()
    mine = [await world.start(project, HANG) for _ in range(2)]
    others = await world.start(other, HANG)
    mine.append(await world.start(project, HANG))
    await asyncio.wait_for(world.executions.cancel_all(project.id), DEADLINE_SECONDS)
    assert [(await world.read(one.id)).status for one in mine] == [Status.CANCELLED] * 3
    assert await unfinished(world) == [others.id]
    await settled(world, others)


async def test_an_end_that_the_storage_did_not_take_is_stored_when_it_takes_writes_again(
    storage: HookedStorage, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    world.engine.script = lambda prompt: [fake.report(100, 20), fake.wait_for(gate), fake.answer("dear result")]
    execution = await world.start(await world.project())
    await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    monkeypatch.setattr(runner, "END_RETRY_SECONDS", ())
    monkeypatch.setattr(unstored, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(executions, "CANCEL_SECONDS", 0.01)
    storage.executions.before_append = refuse("completed", "cancelled")
    gate.set()
    await world.engine.executors[execution.id].ended.wait()
    await turns()
    as_it_stands = await asyncio.wait_for(world.executions.cancel(execution.id), DEADLINE_SECONDS)
    assert (as_it_stands.status, as_it_stands.usage.total_tokens) == (Status.RUNNING, 120)
    # Its place is free for others meanwhile.
    others = [await world.start(await world.project(), HANG) for _ in range(3)]
    for other in others:
        await world.until(other.id, Status.RUNNING)
    storage.executions.before_append = _nothing
    assert (await world.until(execution.id, Status.COMPLETED)).result == "dear result"
    await settled(world, *others)


async def test_a_stop_tries_once_more_to_store_an_end_and_then_leaves_it_to_the_recovery(
    storage: HookedStorage, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "END_RETRY_SECONDS", ())
    storage.executions.before_append = refuse("completed")
    execution = await world.start(await world.project())
    await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    await world.engine.executors[execution.id].ended.wait()
    await turns()
    await asyncio.wait_for(world.executions.stop(grace=1), DEADLINE_SECONDS)
    assert (await world.read(execution.id)).status is Status.RUNNING
    storage.executions.before_append = _nothing
    after = make_world(storage=storage)
    await after.executions.recover()
    ended = await world.read(execution.id)
    assert ended.failure is not None and ended.failure.reason is FailureReason.INTERRUPTED


async def test_a_caller_that_goes_away_cancels_only_if_it_asked_to(world: World) -> None:
    project = await world.project()
    for cancels, status in ((True, Status.CANCELLED), (False, Status.RUNNING)):
        started: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()

        async def follow(cancels: bool, started: asyncio.Future[Execution]) -> None:
            request = ExecutionRequest(project.id, HANG)
            async with world.executions.attached(request, cancel_when_gone=lambda: cancels) as (execution, _):
                started.set_result(execution)
                await world.executions.finished(execution.id)

        following = asyncio.ensure_future(follow(cancels, started))
        execution = await started
        await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
        following.cancel()
        await asyncio.wait([following])
        assert (await world.until(execution.id, status)).usage.total_tokens == 120
        await settled(world, execution)


async def test_a_caller_that_goes_away_before_its_run_is_stored_cancels_it_too(
    storage: HookedStorage, world: World
) -> None:
    creating, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: object) -> None:
        creating.set()
        await go_on.wait()

    storage.executions.before_create = slow
    project = await world.project()

    async def follow() -> None:
        async with world.executions.attached(ExecutionRequest(project.id, HANG), cancel_when_gone=lambda: True):
            raise AssertionError("the caller is gone")

    following = asyncio.ensure_future(follow())
    await creating.wait()
    following.cancel()
    await asyncio.wait([following])
    go_on.set()
    await turns()
    (execution,) = (await world.executions.list(project.id, 10, None)).items
    await world.until(execution.id, Status.CANCELLED)


async def test_a_stop_of_the_server_cancels_nothing_that_waits(world: World) -> None:
    project = await world.project()
    running = [await world.start(project, HANG) for _ in range(3)]
    started: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()

    async def follow() -> None:
        request = ExecutionRequest(project.id, "later")
        async with world.executions.attached(request, cancel_when_gone=lambda: True) as (execution, _):
            started.set_result(execution)
            await world.executions.finished(execution.id)

    following = asyncio.ensure_future(follow())
    waiting = await started
    await world.until(running[-1].id, Status.RUNNING)
    await asyncio.wait_for(world.executions.stop(grace=0), DEADLINE_SECONDS)
    following.cancel()
    await asyncio.wait([following])
    await turns()
    assert (await world.read(waiting.id)).status is Status.QUEUED


async def test_the_waiting_are_told_how_their_place_changes(storage: HookedStorage) -> None:
    world = make_world(storage=storage, max_running=1, place_pause_seconds=0.01)
    project = await world.project()
    running, *waiting = [await world.start(project, HANG) for _ in range(4)]
    await world.executions.cancel(waiting[0].id)
    last = await world.until(waiting[2].id, lambda stored: stored.queue_position == 1)
    assert (await world.payloads(last.id)) == [Queued(2), Queued(1)]
    await world.executions.cancel(running.id)
    await world.until(waiting[1].id, Status.RUNNING)
    await world.until(last.id, lambda stored: stored.queue_position == 0)
    assert (await world.executions.cancel(last.id)).status is Status.CANCELLED
    await settled(world, waiting[1])
    assert await world.kinds(waiting[1].id) == ["queued", "queued", "started", "token_usage", "cancelled"]


async def test_a_place_told_at_the_same_moment_does_not_stop_a_run_from_starting(storage: HookedStorage) -> None:
    world = make_world(storage=storage, max_running=1, place_pause_seconds=0)
    telling, go_on = asyncio.Event(), asyncio.Event()

    async def slow(events: Sequence[Event]) -> None:
        if events[0].sequence > 1 and isinstance(events[0].payload, Queued):
            telling.set()
            await go_on.wait()

    project = await world.project()
    running, gone, waiting = [await world.start(project, HANG) for _ in range(3)]
    storage.executions.before_append = slow
    await world.executions.cancel(gone.id)
    await asyncio.wait_for(telling.wait(), DEADLINE_SECONDS)
    await world.executions.cancel(running.id)
    await turns()
    go_on.set()
    await world.until(waiting.id, Status.RUNNING)
    assert (await world.kinds(waiting.id))[:3] == ["queued", "queued", "started"]
    await settled(world, waiting)


async def test_a_known_key_is_answered_whatever_has_changed_since(world: World) -> None:
    project = await world.project(limits=Limits(1000, Decimal(1), 5000))
    await world.secrets.set_secret(project.id, "TOKEN", "value")
    request = ExecutionRequest(project.id, "use {{secret:TOKEN}}", ExecutionOptions(max_tokens=900), "key")
    first, _ = await world.executions.start(request)
    await world.until(first.id, Status.COMPLETED)
    await world.secrets.delete_secret(project.id, "TOKEN")
    await world.storage.projects.update(project.id, ProjectChanges(limits=Limits(10)))
    again, created = await world.executions.start(request)
    assert (again.id, created, again.secret_names) == (first.id, False, ("TOKEN",))
    await world.executions.stop(grace=0)
    assert (await world.executions.start(request))[0].id == first.id


async def test_cancel_tells_of_a_run_that_cannot_end_yet(
    storage: HookedStorage, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = await world.start(await world.project(), HANG)
    await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    monkeypatch.setattr(runner, "END_RETRY_SECONDS", ())
    monkeypatch.setattr(unstored, "FIRST_PAUSE_SECONDS", 0.01)
    storage.executions.before_append = refuse("failed", "cancelled", "completed", "text_delta")
    await world.engine.executors[execution.id].stop()
    await turns()
    assert (await world.read(execution.id)).status is Status.RUNNING
    monkeypatch.setattr(executions, "CANCEL_SECONDS", 0.01)
    standing = await asyncio.wait_for(world.executions.cancel(execution.id), DEADLINE_SECONDS)
    assert (standing.status, standing.usage.total_tokens) == (Status.RUNNING, 120)
    storage.executions.before_append = _nothing
    monkeypatch.setattr(executions, "CANCEL_SECONDS", DEADLINE_SECONDS)
    ended = await asyncio.wait_for(world.executions.cancel(execution.id), DEADLINE_SECONDS)
    assert (ended.status.terminal, ended.usage.total_tokens) == (True, 120)


async def test_cancel_can_be_repeated_when_the_storage_refused_it(storage: HookedStorage) -> None:
    world = make_world(storage=storage, max_running=1)
    project = await world.project()
    running, waiting = await world.start(project, HANG), await world.start(project)
    storage.executions.before_append = refuse("cancelled")
    with pytest.raises(StorageUnavailable):
        await world.executions.cancel(waiting.id)
    storage.executions.before_append = _nothing
    assert (await world.executions.cancel(waiting.id)).status is Status.CANCELLED
    await settled(world, running)


async def test_cancel_of_a_run_that_ends_during_the_look_gives_its_end(storage: HookedStorage, world: World) -> None:
    """The look sees it running; when it returns, the run is over."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    world.engine.script = lambda prompt: [fake.signal(reached), fake.wait_for(go_on), fake.answer("done")]
    execution = await world.start(await world.project())
    await asyncio.wait_for(reached.wait(), DEADLINE_SECONDS)
    inner = storage.executions

    async def end_meanwhile(execution_id: str) -> None:
        inner.after_read = _nothing
        go_on.set()
        await world.until(execution_id, Status.COMPLETED)
        await turns()

    inner.after_read = end_meanwhile
    assert (await asyncio.wait_for(world.executions.cancel(execution.id), DEADLINE_SECONDS)).result == "done"


async def _nothing(_: object) -> None:
    """No hook."""


# Deleting.


async def test_only_what_has_ended_is_deleted(world: World) -> None:
    project = await world.project()
    running = [await world.start(project, HANG) for _ in range(3)]
    waiting = await world.start(project, HANG)
    await world.until(running[0].id, Status.RUNNING)
    for execution in (running[0], waiting):
        with pytest.raises(ExecutionNotFinished):
            await world.executions.delete(execution.id)
    await settled(world, waiting, *running)
    await world.executions.delete(waiting.id)
    with pytest.raises(ExecutionNotFound):
        await world.executions.get(waiting.id)
    assert (await world.executions.get(running[0].id)).status is Status.CANCELLED


# Cost.


async def test_cost_is_checked_against_own_or_given_limits(world: World) -> None:
    execution = await world.run(await world.project(limits=Limits(1200, Decimal("0.006"))))
    usage, check = await world.executions.cost(execution.id, None)
    assert usage == Usage(100, 20, 0, 0, Decimal("0.0006"), 1)
    assert check == LimitCheckResult(True, 10.0, 10.0)
    _, check = await world.executions.cost(execution.id, CostLimits(max_tokens=60))
    assert check == LimitCheckResult(False, 200.0, None, ExceededLimit.TOKENS)
    _, check = await world.executions.cost(execution.id, CostLimits())
    assert check == LimitCheckResult(True)


async def test_cost_of_a_run_is_known_while_it_runs(world: World) -> None:
    execution = await world.start(await world.project(), HANG)
    await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    usage, _ = await world.executions.cost(execution.id, None)
    assert (usage.total_tokens, usage.total_cost) == (120, Decimal("0.0006"))
    await settled(world, execution)


async def test_estimate_takes_the_projects_model(world: World) -> None:
    dear, cheap = await world.project(), await world.project(model=CHEAP_MODEL)
    assert await world.executions.estimate(dear.id, 1_000_000, 0) == 3
    assert await world.executions.estimate(dear.id, 1_000_000, 1_000_000) == 18
    assert await world.executions.estimate(cheap.id, 1_000_000, 0) == 1
    assert await world.executions.estimate(dear.id, 0, 0) == 0
    with pytest.raises(ProjectNotFound):
        await world.executions.estimate(new_id(), 1, 0)


def test_models_are_those_of_the_price_list(world: World) -> None:
    assert MODEL in [model.id for model in world.executions.models()]


# Faults at the start of a run.


@pytest.mark.parametrize("place", ["prompt", "system prompt"])
async def test_only_an_agent_whose_configuration_holds_secrets_is_said_to(world: World, place: str) -> None:
    use = "use {{secret:TOKEN}}"
    project = await world.project(system_prompt=use if place == "system prompt" else "You help.")
    await world.secrets.set_secret(project.id, "TOKEN", "s3cret-value")
    execution = await world.run(project, use if place == "prompt" else "say hello")
    assert world.engine.executors[execution.id].holds_secrets is (place == "system prompt")


async def test_a_secret_that_went_while_it_waited_ends_it_as_failed(world: World) -> None:
    project = await world.project()
    await world.secrets.set_secret(project.id, "TOKEN", "v")
    running = [await world.start(project, HANG) for _ in range(3)]
    waiting = await world.start(project, "use {{secret:TOKEN}}")
    await world.secrets.delete_secret(project.id, "TOKEN")
    await settled(world, *running)
    failed = await world.until(waiting.id, Status.FAILED)
    assert failed.failure is not None
    assert failed.failure.reason is FailureReason.AGENT_ERROR
    assert "no secret named TOKEN" in failed.failure.message
    assert (failed.duration, failed.started_at) == (0, None)


async def test_an_engine_without_an_executor_ends_it_as_failed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def broken(execution_id: str, listener: object) -> object:
        raise RuntimeError("boom with a path /etc")

    world.engine.executor = broken  # type: ignore[assignment, method-assign]
    execution = await world.run(await world.project())
    assert execution.failure is not None and "boom" not in execution.failure.message
    assert "a run could not start" in caplog.text


async def test_a_failed_start_that_cannot_be_stored_is_stored_later(
    storage: HookedStorage, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(execution_id: str, listener: object) -> object:
        raise RuntimeError("boom")

    world.engine.executor = broken  # type: ignore[assignment, method-assign]
    storage.executions.before_append = refuse("failed")
    monkeypatch.setattr(unstored, "FIRST_PAUSE_SECONDS", 0.001)
    execution = await world.start(await world.project())
    await turns()
    assert (await world.read(execution.id)).status is Status.QUEUED
    storage.executions.before_append = _nothing
    ended = await world.until(execution.id, Status.FAILED)
    assert ended.failure is not None and "could not start" in ended.failure.message


async def test_a_run_whose_project_is_gone_is_passed_over(world: World) -> None:
    project, other = await world.project(), await world.project()
    running = [await world.start(other, HANG) for _ in range(3)]
    orphan, last = await world.start(project), await world.start(other)
    await world.storage.projects.delete(project.id)
    await settled(world, *running)
    await world.until(last.id, Status.COMPLETED)
    assert orphan.id not in world.engine.executors


# After a crash.


async def stored_execution(world: World, project: Project, *payloads: Payload) -> Execution:
    """An execution as a dead server left it: these events, a second apart."""
    start = timestamps.now() - timedelta(hours=1)
    execution = await world.storage.executions.create(
        Execution(new_id(), project.id, "say hello", project.agent, project.limits, start)
    )
    for number, payload in enumerate(payloads, 1):
        event = Event(execution.id, number, start + timedelta(seconds=number), payload)
        execution = await world.storage.executions.append([event])
    return execution


async def test_what_ran_is_ended_as_interrupted_with_its_last_known_usage(world: World) -> None:
    project = await world.project()
    usage = Usage(100, 20, 0, 0, Decimal("0.0006"), 1)
    ran = await stored_execution(world, project, Queued(0), Started(MODEL), TokenUsed(usage, 1, 1, MODEL))
    await world.executions.recover()
    ended = await world.read(ran.id)
    assert ended.status is Status.FAILED
    assert ended.failure is not None and ended.failure.reason is FailureReason.INTERRUPTED
    assert (ended.usage, ended.duration) == (usage, 1000)
    assert ran.id not in world.engine.executors


@pytest.mark.parametrize(("jump", "told"), [(timedelta(days=400), 300_000), (timedelta(days=-400), 0)])
async def test_a_clock_that_was_set_gives_what_died_no_impossible_duration(
    world: World, jump: timedelta, told: int
) -> None:
    ran = await stored_execution(world, await world.project(), Queued(0), Started(MODEL))
    later = timestamps.now() + jump
    await world.storage.executions.append([Event(ran.id, ran.last_sequence + 1, later, TextDelta("a"))])
    await world.executions.recover()
    assert (await world.read(ran.id)).duration == told


async def test_what_had_just_started_ran_no_time(world: World) -> None:
    ran = await stored_execution(world, await world.project(), Queued(0), Started(MODEL))
    await world.executions.recover()
    assert (await world.read(ran.id)).duration == 0


async def test_what_was_queued_is_queued_again_in_its_order(storage: HookedStorage) -> None:
    world = make_world(storage=storage, max_running=1)
    project = await world.project()
    queued = [await stored_execution(world, project, Queued(n)) for n in range(3)]
    expected = [one.id for one in await world.storage.executions.list_unfinished()]
    await world.executions.recover()
    for one in queued:
        ended = await world.until(one.id, Status.COMPLETED)
        assert (await world.kinds(one.id)).count("queued") == 1
        assert ended.result == "echo: say hello"
    assert world.engine.order == expected


async def test_what_was_not_queued_yet_is_removed(storage: HookedStorage) -> None:
    world = make_world(storage=storage)
    refused = await stored_execution(world, await world.project())
    await world.executions.recover()
    assert await storage.executions.read(refused.id) is None
    assert world.engine.order == []


async def test_a_start_that_was_refused_never_runs(
    storage: HookedStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where the storage does not let it be removed at once; then its key is free again, too."""
    world = make_world(storage=storage)
    project = await world.project()

    async def full(_: object) -> None:
        raise StorageUnavailable("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(storage.executions, "before_append", full)
        broken.setattr(storage.executions, "delete", full)
        with pytest.raises(StorageUnavailable):
            await world.start(project, idempotency_key="key")
        assert "was not removed yet" in caplog.text
        [left] = await storage.executions.list_unfinished()
        await world.executions.recover()
        assert "was not taken over" in caplog.text
    await world.executions.recover()
    assert await storage.executions.read(left.id) is None
    again = await world.start(project, idempotency_key="key")
    assert (await world.until(again.id, Status.COMPLETED)).id != left.id
    assert world.engine.order == [again.id]


@pytest.mark.parametrize("queues", [True, False])
@pytest.mark.parametrize("late", [True, False])
async def test_a_repeated_start_waits_for_the_other_server(storage: HookedStorage, queues: bool, late: bool) -> None:
    """Until it has queued what it has stored, or has taken it back; also where it comes in the last moment."""
    theirs, ours = make_world(storage=storage), make_world(storage=storage)
    project = await theirs.project()
    stored, go_on = asyncio.Event(), asyncio.Event()
    first: list[str] = []

    async def hold(events: Sequence[Event]) -> None:
        if not first:
            first.append(events[0].execution_id)
            stored.set()
            await go_on.wait()
            if not queues:
                raise StorageUnavailable("No space left on device")

    async def let_the_other_first(execution: Execution) -> None:
        storage.executions.before_create = nothing
        other.append(asyncio.create_task(theirs.start(project, HANG, idempotency_key="key")))
        await stored.wait()

    async def nothing(_: Execution) -> None:
        pass

    other: list[asyncio.Task[Execution]] = []
    storage.executions.before_append = hold
    if late:
        storage.executions.before_create = let_the_other_first
    else:
        other.append(asyncio.create_task(theirs.start(project, HANG, idempotency_key="key")))
        await stored.wait()
    repeated = asyncio.create_task(ours.start(project, HANG, idempotency_key="key"))
    await stored.wait()
    await asyncio.wait({repeated}, timeout=0.05)
    assert not repeated.done()
    go_on.set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        started = await repeated
        await asyncio.gather(*other, return_exceptions=True)
    assert (started.id == first[0]) is queues
    assert (await storage.executions.read(first[0]) is not None) is queues
    assert started.last_sequence > 0
    await (theirs if queues else ours).executions.cancel(started.id)


async def test_a_repeated_start_does_not_wait_for_ever(storage: HookedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotent_starts, "ADMIT_SECONDS", 0.05)
    world = make_world(storage=storage)
    project = await world.project()
    request = ExecutionRequest(project.id, "p", idempotency_key="key")
    stored = Execution(new_id(), project.id, "p", project.agent, project.limits, timestamps.now())
    await storage.executions.create(replace(stored, idempotency=request.idempotency))
    with pytest.raises(ServerUnavailable, match="another server"):
        await world.executions.start(request)


async def test_an_end_does_not_depend_on_the_ledger(storage: HookedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither that of an execution whose server died, nor one that is cancelled in its place."""
    world = make_world(storage=storage)
    project = await world.project()

    async def damaged(*_: object) -> NoReturn:
        raise StoredDataDamaged("ledger/2026-11.jsonl", "its checksum does not fit")

    monkeypatch.setattr(storage.ledger, "totals", damaged)
    cancelled, taken = [await stored_execution(world, project, Queued(0), Started("m")) for _ in range(2)]
    assert (await world.executions.cancel(cancelled.id)).status is Status.CANCELLED
    await world.executions.recover()
    ended = await world.read(taken.id)
    assert ended.failure is not None and ended.failure.reason is FailureReason.INTERRUPTED
    assert ended.usage.estimated and (await world.read(cancelled.id)).usage.estimated


async def test_what_was_queued_again_can_be_cancelled(storage: HookedStorage) -> None:
    world = make_world(storage=storage, max_running=1)
    project = await world.project()
    executions = [await stored_execution(world, project, Queued(n)) for n in range(2)]
    await world.executions.recover()
    for one in executions:
        cancelled = await asyncio.wait_for(world.executions.cancel(one.id), DEADLINE_SECONDS)
        assert cancelled.status is Status.CANCELLED


async def test_recovery_leaves_alone_what_has_ended(world: World) -> None:
    ended = await world.run(await world.project())
    await world.executions.recover()
    assert await world.read(ended.id) == ended


# Stopping.


async def test_stop_lets_runs_end_by_themselves_within_the_grace(world: World) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    world.engine.script = lambda prompt: [fake.signal(reached), fake.wait_for(go_on), fake.answer("done")]
    project = await world.project()
    execution = await world.start(project)
    await asyncio.wait_for(reached.wait(), DEADLINE_SECONDS)
    stopping = asyncio.ensure_future(world.executions.stop(grace=60))
    await asyncio.sleep(0)
    with pytest.raises(ServerUnavailable):
        await world.start(project)
    with pytest.raises(ServerUnavailable):
        await world.start(project, idempotency_key="key")
    go_on.set()
    await asyncio.wait_for(stopping, DEADLINE_SECONDS)
    assert (await world.read(execution.id)).result == "done"
    assert len((await world.executions.list(project.id, 10, None)).items) == 1


async def test_stop_interrupts_what_runs_on_and_leaves_what_waits_queued(world: World) -> None:
    project = await world.project()
    running = [await world.start(project, HANG) for _ in range(3)]
    waiting = await world.start(project, "later")
    for execution in running:
        await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    await asyncio.wait_for(world.executions.stop(grace=0.01), DEADLINE_SECONDS)
    for execution in running:
        ended = await world.read(execution.id)
        assert ended.failure is not None and ended.failure.reason is FailureReason.INTERRUPTED
        assert ended.usage.total_tokens == 120
    assert (await world.read(waiting.id)).status is Status.QUEUED
    assert world.engine.running == []
    after = make_world(storage=world.storage)
    await after.executions.recover()
    assert (await after.until(waiting.id, Status.COMPLETED)).result == "echo: later"


async def test_stop_reaches_a_run_that_is_only_being_made(world: World) -> None:
    execution, go_on = await being_made(world)
    stopping = asyncio.ensure_future(world.executions.stop(grace=0))
    await turns()
    go_on.set()
    await asyncio.wait_for(stopping, DEADLINE_SECONDS)
    end = (await world.payloads(execution.id))[-1]
    assert isinstance(end, Failed) and end.failure.reason is FailureReason.INTERRUPTED


async def test_the_waiting_can_be_cancelled_while_the_server_stops(world: World) -> None:
    project = await world.project()
    running = [await world.start(project, HANG) for _ in range(3)]
    waiting = await world.start(project)
    stopping = asyncio.ensure_future(world.executions.stop(grace=60))
    await asyncio.sleep(0)
    assert (await world.executions.cancel(waiting.id)).status is Status.CANCELLED
    await settled(world, *running)
    await asyncio.wait_for(stopping, DEADLINE_SECONDS)
    assert isinstance((await world.payloads(waiting.id))[-1], Cancelled)


async def test_usage_of_runs_at_the_same_time_is_kept_apart(storage: HookedStorage) -> None:
    script = {"a": [fake.report(10, 1, "same id")], "b": [fake.report(500, 5, "same id"), fake.report(1, 1)]}
    world = make_world(storage=storage, engine=FakeEngine(lambda prompt: script[prompt]))
    project = await world.project()
    executions = [await world.start(project, prompt) for prompt in ("a", "b")]
    usages = [(await world.until(one.id, Status.COMPLETED)).usage for one in executions]
    assert [usage.total_tokens for usage in usages] == [11, 507]
    assert TokenUsage(10, 1).prompt_tokens == usages[0].prompt_tokens


async def test_a_key_used_several_times_at_once_starts_one_execution_or_none() -> None:
    world = make_world(max_running=1, max_waiting=1)
    project = await world.project()
    running = await world.start(project, "hang on")
    await world.until(running.id, Status.RUNNING)
    found = await asyncio.gather(*(world.start(project, idempotency_key="a") for _ in range(4)))
    assert {execution.id for execution in found} == {found[0].id}
    refused = await asyncio.gather(
        *(world.start(project, idempotency_key="b") for _ in range(4)), return_exceptions=True
    )
    assert [type(fault) for fault in refused] == [QueueFull] * 4
    assert len((await world.executions.list(project.id, 10, None)).items) == 2
    await world.executions.stop(grace=0)
