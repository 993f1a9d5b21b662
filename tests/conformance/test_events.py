"""Promises of `ExecutionStorage` about the log: appending and reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal

import pytest

from cloutagent_server.domain import event_json
from cloutagent_server.domain.errors import RevisionConflict
from cloutagent_server.domain.events import Event, Payload, StoredEvent
from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.base import Storage
from tests.support import builders


@pytest.fixture
async def execution(storage: Storage, project: Project) -> Execution:
    return await storage.executions.create(builders.execution(project.id))


async def read_all(storage: Storage, execution_id: str, after_sequence: int = 0, limit: int = 7) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    while batch := await storage.executions.read_events(execution_id, after_sequence, limit):
        assert len(batch) <= limit
        found += batch
        after_sequence = batch[-1].sequence
    return found


async def test_append_returns_the_execution_after_the_events(storage: Storage, execution: Execution) -> None:
    events = builders.events(execution.id, builders.payloads_of_a_run())
    expected = execution
    for event in events:
        expected = expected.after(event)
        assert await storage.executions.append([event]) == expected
        assert await storage.executions.read(execution.id) == expected


async def test_append_takes_many_events_at_once(storage: Storage, execution: Execution) -> None:
    events = builders.events(execution.id, builders.payloads_of_a_run(builders.failed()))
    after = await storage.executions.append(events)
    assert after.status is Status.FAILED
    assert after.failure == builders.failure()
    assert await read_all(storage, execution.id) == [event_json.encode(event) for event in events]


@pytest.mark.parametrize(
    "payload",
    [*builders.payloads_of_a_run(), builders.failed(), builders.cancelled()],
    ids=lambda payload: payload.kind,
)
async def test_every_kind_of_event_is_read_as_it_was_written(
    storage: Storage, execution: Execution, payload: Payload
) -> None:
    before = [] if payload.kind in ("queued", "started") else [builders.started()]
    events = builders.events(execution.id, [*before, payload])
    await storage.executions.append(events)
    stored = (await storage.executions.read_events(execution.id, len(before), 1))[0]
    assert (stored.sequence, stored.kind) == (len(before) + 1, payload.kind)
    assert event_json.decode(stored.data) == events[-1]
    assert b"\n" not in stored.data
    assert json.loads(stored.data)["kind"] == payload.kind


async def test_read_events_from_any_cursor_in_any_batch(storage: Storage, execution: Execution) -> None:
    events = builders.texts(execution.id, 200)
    for start in range(0, 200, 40):
        await storage.executions.append(events[start : start + 40])
    expected = [event_json.encode(event) for event in events]
    for after_sequence in (0, 1, 63, 64, 65, 127, 198, 199):
        for limit in (1, 50, 64, 1000):
            batch = await storage.executions.read_events(execution.id, after_sequence, limit)
            assert list(batch) == expected[after_sequence : after_sequence + limit][: len(batch)]
            assert batch
        assert await read_all(storage, execution.id, after_sequence) == expected[after_sequence:]


async def test_read_events_at_and_behind_the_end_is_empty(storage: Storage, execution: Execution) -> None:
    assert list(await storage.executions.read_events(execution.id, 0, 10)) == []
    await storage.executions.append(builders.texts(execution.id, 3))
    assert list(await storage.executions.read_events(execution.id, 3, 10)) == []
    assert list(await storage.executions.read_events(execution.id, 99, 10)) == []


async def test_a_cursor_below_0_stands_for_the_beginning(storage: Storage, execution: Execution) -> None:
    await storage.executions.append(builders.texts(execution.id, 3))
    assert [event.sequence for event in await storage.executions.read_events(execution.id, -5, 10)] == [1, 2, 3]


async def test_large_events(storage: Storage, execution: Execution) -> None:
    texts = [builders.text_delta(letter * 700_000) for letter in "abcde"]
    events = builders.events(execution.id, texts)
    await storage.executions.append(events[:3])
    await storage.executions.append(events[3:])
    assert await read_all(storage, execution.id, limit=256) == [event_json.encode(event) for event in events]


@pytest.mark.parametrize("sequence", [0, 1, 3, 5])
async def test_append_refuses_all_but_the_next_sequence(storage: Storage, execution: Execution, sequence: int) -> None:
    await storage.executions.append(builders.texts(execution.id, 3))
    with pytest.raises(RevisionConflict):
        await storage.executions.append([builders.event(execution.id, sequence)])
    assert len(await read_all(storage, execution.id)) == 3


def faulty(execution_id: str) -> Sequence[tuple[str, Sequence[Event]]]:
    other = "0f0e0d0c-0b0a-4908-8706-050403020100"
    return (
        ("gap", [builders.event(execution_id, 1), builders.event(execution_id, 3)]),
        ("other execution", [builders.event(execution_id, 1), builders.event(other, 2)]),
        ("completed before it ran", builders.events(execution_id, [builders.text_delta(), builders.completed()])),
        ("started twice", builders.events(execution_id, [builders.started(), builders.started()])),
        ("after the end", builders.events(execution_id, [builders.cancelled(), builders.text_delta()])),
        ("queued while running", builders.events(execution_id, [builders.started(), builders.queued()])),
    )


@pytest.mark.parametrize("number", range(6))
async def test_append_stores_all_or_none(storage: Storage, execution: Execution, number: int) -> None:
    _, events = faulty(execution.id)[number]
    with pytest.raises(ValueError, match=execution.id):
        await storage.executions.append(events)
    assert await storage.executions.read(execution.id) == execution
    assert await read_all(storage, execution.id) == []
    await storage.executions.append([builders.event(execution.id, 1)])


async def test_append_refuses_no_events(storage: Storage) -> None:
    with pytest.raises(ValueError, match="no events"):
        await storage.executions.append([])


async def test_nothing_follows_the_end(storage: Storage, execution: Execution) -> None:
    ended = await storage.executions.append(builders.events(execution.id, [builders.cancelled()]))
    with pytest.raises(ValueError, match="nothing can follow"):
        await storage.executions.append([builders.event(execution.id, 2)])
    assert await storage.executions.read(execution.id) == ended


async def test_of_concurrent_appends_with_one_sequence_one_wins(storage: Storage, execution: Execution) -> None:
    contenders = [builders.events(execution.id, [builders.text_delta(f"writer {n}")] * 2) for n in range(8)]
    results = await asyncio.gather(*map(storage.executions.append, contenders), return_exceptions=True)
    winners = [number for number, result in enumerate(results) if isinstance(result, Execution)]
    assert len(winners) == 1
    assert sum(isinstance(result, RevisionConflict) for result in results) == 7
    assert await read_all(storage, execution.id) == [event_json.encode(event) for event in contenders[winners[0]]]


async def test_writers_that_retry_leave_no_gap(storage: Storage, execution: Execution) -> None:
    async def write(name: str) -> None:
        for number in range(10):
            while True:
                seen = await storage.executions.read(execution.id)
                assert seen is not None
                event = builders.event(execution.id, seen.last_sequence + 1, builders.text_delta(f"{name}{number}"))
                try:
                    await storage.executions.append([event])
                    break
                except RevisionConflict:
                    continue

    await asyncio.gather(*map(write, "abc"))
    stored = await read_all(storage, execution.id)
    assert [event.sequence for event in stored] == list(range(1, 31))
    texts = [json.loads(event.data)["textDelta"]["text"] for event in stored]
    assert sorted(texts) == sorted(f"{name}{number}" for name in "abc" for number in range(10))
    assert [text for text in texts if text[0] == "a"] == [f"a{number}" for number in range(10)]


async def test_logs_do_not_mix(storage: Storage, project: Project) -> None:
    executions = [await storage.executions.create(builders.execution(project.id)) for _ in range(5)]
    await asyncio.gather(
        *(storage.executions.append(builders.texts(execution.id, 20 + n)) for n, execution in enumerate(executions))
    )
    for number, execution in enumerate(executions):
        stored = await read_all(storage, execution.id)
        assert len(stored) == 20 + number
        assert all(json.loads(event.data)["executionId"] == execution.id for event in stored)


async def test_usage_survives_to_the_last_digit(storage: Storage, execution: Execution) -> None:
    usage = builders.usage(total_cost=Decimal("1234.567890123"), prompt_tokens=2**40)
    events = builders.events(execution.id, [builders.started(), builders.token_used(usage=usage)])
    assert (await storage.executions.append(events)).usage == usage
    read = await storage.executions.read(execution.id)
    assert read is not None
    assert read.usage == usage


async def test_a_cancelled_caller_leaves_the_log_consistent(storage: Storage, execution: Execution) -> None:
    appending = asyncio.create_task(storage.executions.append(builders.texts(execution.id, 5)))
    await asyncio.sleep(0)
    appending.cancel()
    await asyncio.wait({appending})
    stored = await read_all(storage, execution.id)
    assert len(stored) in (0, 5)
    await storage.executions.append([builders.event(execution.id, len(stored) + 1)])
    assert len(await read_all(storage, execution.id)) == len(stored) + 1
