"""Watching what was trimmed: a cursor in the history that is gone is refused at once, with where the log begins now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.api import Json, failing
from tests.support.api.frames import json_lines, sse_frames
from tests.support.api.json_form import event_from_text
from tests.support.api.scenario import ProjectHandle, Projects
from tests.support.api.stage import DEPTHS, REST, Stage
from tests.support.fake_engine import FakeEngine

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
KEY = "once"
LAST = 7

pytestmark = pytest.mark.depths(*DEPTHS)


@asynccontextmanager
async def _refused(depth: str) -> AsyncIterator[None]:
    """The block is refused as a whole: over HTTP with status 400, not inside of an answer that began."""
    with failing("OUT_OF_RANGE", 400, "CURSOR_OUT_OF_RANGE") as caught:
        yield
    assert caught.failure.http == (400 if depth == REST else None)
    assert caught.failure.metadata == {"first_sequence": str(LAST), "last_sequence": str(LAST)}


async def _trimmed(projects: Projects, stage: Stage) -> tuple[ProjectHandle, Json, list[Json]]:
    """A project, its execution that has ended and was trimmed, and all the events that this had."""
    project = await projects()
    result = await project.call("Execute", prompt="hello", idempotencyKey=KEY)
    events = await project.watch(result["id"])
    assert len(events) == LAST
    assert await stage.storage.executions.trim(result["id"])
    return project, await project.execution(result["id"]), events


async def _never_opened(project: ProjectHandle, rpc: str, body: Json, **how: Any) -> None:
    async with project.api.text(rpc, body, project.key, **how):
        pytest.fail("the stream was opened")


async def test_a_watch_of_trimmed_history(projects: Projects, stage: Stage, depth: str) -> None:
    project, execution, events = await _trimmed(projects, stage)
    for after in (0, 1, LAST - 2):
        seen: list[Json] = []
        async with _refused(depth):
            async for event in project.watching(execution["id"], after):
                seen.append(event)
        assert seen == []
    assert await project.watch(execution["id"], LAST - 1) == events[-1:]
    assert await project.watch(execution["id"], LAST) == []


@pytest.mark.parametrize("accept", [SSE, NDJSON])
async def test_a_text_stream_of_trimmed_history(projects: Projects, stage: Stage, depth: str, accept: str) -> None:
    project, execution, events = await _trimmed(projects, stage)
    body = {"executionId": execution["id"]}

    async def refused(**how: Any) -> None:
        from_event = how.pop("from_event", None)
        asked = body if from_event is None else {**body, "fromEvent": from_event}
        async with _refused(depth):
            await _never_opened(project, "StreamExecutionEvents", asked, accept=accept, **how)

    await refused()
    await refused(from_event=1)
    await refused(from_event=LAST - 1)
    for last in ("0", "1", str(LAST - 2)):
        await refused(last_event_id=last)
        await refused(last_event_id=last, from_event=LAST)
    read = _reader(project, accept)
    assert await read("StreamExecutionEvents", {**body, "fromEvent": LAST}) == events[-1:]
    assert await read("StreamExecutionEvents", body, last_event_id=str(LAST - 1)) == events[-1:]
    assert await read("StreamExecutionEvents", body, last_event_id=str(LAST)) == []


@pytest.mark.parametrize("accept", [SSE, NDJSON])
async def test_resuming_a_run_whose_history_was_trimmed(
    projects: Projects, stage: Stage, engine: FakeEngine, depth: str, accept: str
) -> None:
    project, _, events = await _trimmed(projects, stage)
    body = {"projectId": project.id, "prompt": "hello", "idempotencyKey": KEY}
    for last in (None, "0", "3", str(LAST - 2)):
        async with _refused(depth):
            await _never_opened(project, "ExecuteEventStream", body, accept=accept, last_event_id=last)
    async with _refused(depth):
        async for _ in project.api.events("ExecuteStream", body, project.key):
            pytest.fail("an event came")
    read = _reader(project, accept)
    assert await read("ExecuteEventStream", body, last_event_id=str(LAST - 1)) == events[-1:]
    assert (await project.call("Execute", prompt="hello", idempotencyKey=KEY))["id"] == events[0]["executionId"]
    assert len(engine.order) == 1, "no second run was started"


async def test_a_cursor_beyond_the_end_of_a_trimmed_log(projects: Projects, stage: Stage, depth: str) -> None:
    project, execution, _ = await _trimmed(projects, stage)
    body = {"executionId": execution["id"]}
    again = {"projectId": project.id, "prompt": "hello", "idempotencyKey": KEY}
    for after in (LAST + 1, 900_000_000):
        async with _refused(depth):
            await project.watch(execution["id"], after)
        async with _refused(depth):
            await _never_opened(project, "StreamExecutionEvents", {**body, "fromEvent": after + 1}, accept=SSE)
        async with _refused(depth):
            await _never_opened(project, "StreamExecutionEvents", body, accept=NDJSON, last_event_id=str(after))
        async with _refused(depth):
            await _never_opened(project, "ExecuteEventStream", again, accept=SSE, last_event_id=str(after))


def _reader(project: ProjectHandle, accept: str) -> Callable[..., Awaitable[list[Json]]]:
    """Reads a text stream to its end, as events."""

    async def read(rpc: str, body: Json, **how: Any) -> list[Json]:
        async with project.api.text(rpc, body, project.key, accept=accept, **how) as opened:
            if accept == NDJSON:
                return [event_from_text(line) async for line in json_lines(opened.chunks)]
            return [event_from_text(frame.document) async for frame in sse_frames(opened.chunks)]

    return read
