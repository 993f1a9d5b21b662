"""Executions' events as text: cursors, chunks, heartbeats, errors before and after the first byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody

from cloutagent_server.domain.errors import CursorOutOfRange, ExecutionNotFound, InvalidRequest
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.transport import context as call
from cloutagent_server.transport import shared_answers
from cloutagent_server.transport.text_stream import TextEvents, last_event_id
from tests.support import fake_engine as fake
from tests.support.fake_engine import FakeEngine
from tests.support.service_world import DEADLINE_SECONDS, World, make_world


class Calling:
    """The part of a servicer's context that is used."""

    def __init__(self, metadata: dict[str, str]) -> None:
        self._metadata = tuple(metadata.items())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the caller sent."""
        return self._metadata


def calling(**metadata: str) -> Any:
    """A context with this metadata. Underscores stand for hyphens."""
    context: Any = Calling({name.replace("_", "-"): value for name, value in metadata.items()})
    call.begin(context)
    return context


async def text_events(world: World, context: Any, execution_id: str, after: int = 0) -> AsyncGenerator[HttpBody, None]:
    """What the caller gets, decoded."""
    async with aclosing(TextEvents(world.watches).after(context, execution_id, after)) as answers:
        async for answer in answers:
            yield HttpBody.FromString(answer) if isinstance(answer, bytes) else answer


async def bodies(world: World, context: Any, execution_id: str, after: int = 0) -> list[HttpBody]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [body async for body in text_events(world, context, execution_id, after)]


def lines(parts: list[HttpBody]) -> list[dict[str, Any]]:
    data = b"".join(part.data for part in parts)
    return [json.loads(line) for line in data.decode().split("\n") if line]


# The cursor.


@pytest.mark.parametrize(("text", "expected"), [(None, None), ("", None), ("0", 0), ("7", 7), ("999999999", 999999999)])
def test_last_event_id(text: str | None, expected: int | None) -> None:
    assert last_event_id(calling() if text is None else calling(last_event_id=text)) == expected


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "1 ", "1000000000", "٣", "0x1", "+1"])
def test_a_malformed_last_event_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        last_event_id(calling(last_event_id=text))
    assert [violation.field for violation in caught.value.violations] == ["Last-Event-ID"]


# Streams.


async def test_server_sent_events_unless_asked_otherwise() -> None:
    world = make_world()
    execution = await world.run(await world.project())
    parts = await bodies(world, calling(), execution.id)
    assert parts[0].content_type == "text/event-stream"
    text = b"".join(part.data for part in parts).decode()
    frames = [frame.split("\n")[-3:] for frame in text.removesuffix("\n\n").split("\n\n")]
    kinds = [frame[0].removeprefix("event: ") for frame in frames]
    assert [frame[2] for frame in frames] == [f"id: {number}" for number in range(1, len(frames) + 1)]
    assert kinds == await world.kinds(execution.id)
    assert all(
        json.loads(frame[1].removeprefix("data: "))["kind"] == kind for frame, kind in zip(frames, kinds, strict=True)
    )


async def test_json_lines_when_asked_for() -> None:
    world = make_world()
    execution = await world.run(await world.project())
    parts = await bodies(world, calling(accept="application/x-ndjson"), execution.id)
    assert parts[0] == HttpBody(content_type="application/x-ndjson")
    assert [event["kind"] for event in lines(parts)] == await world.kinds(execution.id)


async def test_a_stream_goes_on_after_a_sequence_number() -> None:
    world = make_world()
    execution = await world.run(await world.project())
    context = calling(accept="application/x-ndjson")
    after = lines(await bodies(world, context, execution.id, 3))
    assert [event["sequence"] for event in after] == list(range(4, execution.last_sequence + 1))
    assert lines(await bodies(world, context, execution.id, execution.last_sequence)) == []


async def test_a_batch_is_cut_into_chunks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_answers, "MAX_PART_BYTES", 3000)
    texts = ["x" * 1000, "x" * 1000, "x" * 5000, "x" * 10, "x" * 1000]
    world = make_world(engine=FakeEngine(lambda prompt: [*(fake.write(text) for text in texts), fake.answer("done")]))
    execution = await world.run(await world.project())
    parts = await bodies(world, calling(accept="application/x-ndjson"), execution.id)
    assert [event["sequence"] for event in lines(parts)] == list(range(1, execution.last_sequence + 1))
    for part in parts[1:]:
        assert len(part.data) < 3100 or part.data.count(b"\n") == 1
    assert len(parts) >= 4


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_events_are_encoded_once_for_all_who_watch(accept: str) -> None:
    world = make_world()
    execution = await world.run(await world.project())
    text = TextEvents(world.watches)
    context = calling(accept=accept)
    first, second = [[one async for one in text.after(context, execution.id, 0)] for _ in range(2)]
    encoded = [(one, other) for one, other in zip(first, second, strict=True) if isinstance(one, bytes)]
    assert encoded
    assert all(one is other for one, other in encoded)


async def test_a_heartbeat_comes_while_nothing_happens() -> None:
    world = make_world(heartbeat_seconds=0.01)
    execution = await world.start(await world.project(), "hang")
    last = (await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)).last_sequence
    stream = text_events(world, calling(), execution.id, last)
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(stream):
        assert (await anext(stream)).content_type
        assert (await anext(stream)).data == b": heartbeat\n"
        assert (await anext(stream)).data == b": heartbeat\n"
        await world.executions.cancel(execution.id)
        ended = [body.data async for body in stream]
    assert b"event: cancelled" in b"".join(ended)


async def test_an_error_before_the_first_byte_is_raised() -> None:
    world = make_world()
    execution = await world.run(await world.project())
    with pytest.raises(ExecutionNotFound):
        await bodies(world, calling(), new_id())
    with pytest.raises(CursorOutOfRange):
        await bodies(world, calling(), execution.id, execution.last_sequence + 1)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_a_later_error_is_written_to_the_stream_and_raised(accept: str) -> None:
    world = make_world()
    execution = await world.start(await world.project(), "hang")
    await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    context = calling(accept=accept, x_request_id="mine-1")
    parts: list[HttpBody] = []

    async def read() -> None:
        async for body in text_events(world, context, execution.id, 0):
            parts.append(body)
            if len(parts) == 2:
                await world.storage.executions.delete(execution.id)

    with pytest.raises(ExecutionNotFound):
        await asyncio.wait_for(read(), DEADLINE_SECONDS)
    last = parts[-1].data.decode()
    if accept == "text/event-stream":
        assert last.startswith("event: error\ndata: ") and last.endswith("\n\n")
        error = json.loads(last.splitlines()[1].removeprefix("data: "))
    else:
        error = json.loads(last)["error"]
    assert (error["code"], error["message"]) == (5, "the execution does not exist")
    assert {"EXECUTION_NOT_FOUND", "mine-1"} <= {
        detail.get("reason", detail.get("requestId")) for detail in error["details"]
    }
    await world.engine.executors[execution.id].stop()
