"""The events as text: server-sent events and JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest

from cloutagent_server.service.watch import WatchService
from tests.support.api import ApiFailure, Json, failing
from tests.support.api.frames import Frame, json_lines, sse_frames
from tests.support.api.in_process import InProcessApi
from tests.support.api.json_form import event_from_text
from tests.support.api.scenario import ProjectHandle, Projects, kinds
from tests.support.api.stage import DEPTHS, GRPC, GRPC_ENVOY, MEMORY, Stage
from tests.support.fake_engine import FakeEngine, answer, message, wait_for, write

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
OPENING = b": open\nretry: 1000\n"


async def _frames(
    project: ProjectHandle, execution_id: str, last_event_id: str | None = None, accept: str | None = SSE, **fields: int
) -> list[Frame]:
    body = {"executionId": execution_id, **fields}
    stream = project.api.text("StreamExecutionEvents", body, project.key, accept=accept, last_event_id=last_event_id)
    async with stream as opened:
        assert opened.content_type == SSE
        return [frame async for frame in sse_frames(opened.chunks)]


async def _lines(
    project: ProjectHandle, execution_id: str, last_event_id: str | None = None, **fields: int
) -> list[Json]:
    body = {"executionId": execution_id, **fields}
    stream = project.api.text("StreamExecutionEvents", body, project.key, accept=NDJSON, last_event_id=last_event_id)
    async with stream as opened:
        assert opened.content_type == NDJSON
        return [event_from_text(line) async for line in json_lines(opened.chunks)]


@pytest.mark.depths(*DEPTHS)
async def test_server_sent_events_have_id_kind_and_document(projects: Projects) -> None:
    project = await projects()
    execution = await project.start("hello")
    frames = await _frames(project, execution["id"])
    events = await project.watch(execution["id"])
    assert [frame.id for frame in frames] == [str(number) for number in range(1, 8)]
    assert [frame.event for frame in frames] == kinds(events)
    assert [event_from_text(frame.document) for frame in frames] == events


@pytest.mark.depths(*DEPTHS)
async def test_json_lines_have_one_event_a_line(projects: Projects) -> None:
    project = await projects()
    execution = await project.start("hello")
    assert await _lines(project, execution["id"]) == await project.watch(execution["id"])


async def test_the_accept_header_chooses(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    for accept in ("*/*", f"{NDJSON}, {SSE}", "application/json"):
        assert len(await _frames(project, result["id"], accept=accept)) == 7


@pytest.mark.depths(*DEPTHS)
async def test_from_event_is_the_first_event_that_comes(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    for first in range(1, 9):
        expected = list(range(first, 8))
        assert [int(frame.id) for frame in await _frames(project, result["id"], fromEvent=first)] == expected
        assert [line["sequence"] for line in await _lines(project, result["id"], fromEvent=first)] == expected


@pytest.mark.depths(*DEPTHS)
async def test_last_event_id_resumes_after_that_event_and_takes_precedence(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    for last in (0, 3, 6):
        expected = list(range(last + 1, 8))
        assert [int(frame.id) for frame in await _frames(project, result["id"], str(last))] == expected
        assert [line["sequence"] for line in await _lines(project, result["id"], str(last), fromEvent=2)] == expected


@pytest.mark.depths(*DEPTHS)
async def test_whoever_reconnects_after_the_end_is_told_to_stop(projects: Projects, stage: Stage) -> None:
    project = await projects()
    over = (await project.call("Execute", prompt="hello"))["id"]
    going_on = (await project.start("hang"))["id"]
    await project.reaches(going_on, "token_usage")
    no_content = 200 if stage.api.depth in (GRPC, GRPC_ENVOY) else 204
    for execution_id, last, fields, http in (
        (over, "7", {}, no_content),
        (over, "6", {}, 200),
        (over, None, {"fromEvent": 8}, 200),
        (going_on, "3", {}, 200),
    ):
        for accept in (SSE, NDJSON):
            body = {"executionId": execution_id, **fields}
            stream = project.api.text("StreamExecutionEvents", body, project.key, accept=accept, last_event_id=last)
            async with stream as opened:
                assert opened.http == http


@pytest.mark.depths(*DEPTHS)
async def test_whoever_repeats_a_call_after_the_end_gets_an_empty_stream(projects: Projects) -> None:
    project = await projects()
    body = {"projectId": project.id, "prompt": "hello", "idempotencyKey": "k"}
    async with project.api.text("ExecuteEventStream", body, project.key) as opened:
        assert len([frame async for frame in sse_frames(opened.chunks)]) == 7
    async with project.api.text("ExecuteEventStream", body, project.key, last_event_id="7") as opened:
        assert (opened.http, opened.content_type) == (200, SSE)
        assert [frame async for frame in sse_frames(opened.chunks)] == []


async def test_the_id_comes_last_in_its_frame(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    async with project.api.text("StreamExecutionEvents", {"executionId": result["id"]}, project.key) as opened:
        text = b"".join([chunk async for chunk in opened.chunks]).decode()
    assert text.startswith(OPENING.decode())
    frames = text.removeprefix(OPENING.decode()).removesuffix("\n\n").split("\n\n")
    names = [[line.partition(":")[0] for line in frame.split("\n")] for frame in frames]
    assert names == [["event", "data", "id"]] * 7


async def test_cursors_that_cannot_be_are_refused(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    with failing("OUT_OF_RANGE", 400, "CURSOR_OUT_OF_RANGE"):
        await _frames(project, result["id"], "8")
    with failing("OUT_OF_RANGE", 400, "CURSOR_OUT_OF_RANGE"):
        await _frames(project, result["id"], fromEvent=9)
    for malformed in ("-1", "x", "1.5", "99999999999"):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await _frames(project, result["id"], malformed)
        assert list(caught.failure.violations) == ["Last-Event-ID"]
    for number in (0, -1):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await _frames(project, result["id"], fromEvent=number)
        assert list(caught.failure.violations) == ["fromEvent"]


@pytest.mark.depths(*DEPTHS)
async def test_execute_event_stream_starts_and_streams(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    body = {"projectId": project.id, "prompt": "hello", "idempotencyKey": "k"}
    async with project.api.text("ExecuteEventStream", body, project.key, accept=SSE) as opened:
        frames = [frame async for frame in sse_frames(opened.chunks)]
    events = await project.watch(frames[0].document["executionId"])
    assert [event_from_text(frame.document) for frame in frames] == events
    async with project.api.text("ExecuteEventStream", body, project.key, accept=NDJSON, last_event_id="3") as opened:
        assert [event_from_text(line) async for line in json_lines(opened.chunks)] == events[3:]
    assert len(engine.order) == 1


async def test_a_resumed_execute_event_stream_needs_a_key_and_starts_nothing_without(
    projects: Projects, engine: FakeEngine
) -> None:
    project = await projects()
    body = {"projectId": project.id, "prompt": "hello"}
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        async with project.api.text("ExecuteEventStream", body, project.key, last_event_id="3"):
            pass
    assert list(caught.failure.violations) == ["Last-Event-ID"]
    assert engine.executors == {}


async def test_resuming_what_is_not_there_any_more_starts_no_second_run(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    body = {"projectId": project.id, "prompt": "hello", "idempotencyKey": "new"}
    with failing("OUT_OF_RANGE", 400, "CURSOR_OUT_OF_RANGE"):
        async with project.api.text("ExecuteEventStream", body, project.key, last_event_id="99"):
            pass
    assert engine.executors == {}
    async with project.api.text("ExecuteEventStream", body, project.key, accept=NDJSON, last_event_id="0") as opened:
        first = await anext(json_lines(opened.chunks))
    assert first["sequence"] == 1


async def test_execute_event_stream_answers_errors_with_their_status(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    for body in ({"prompt": ""}, {"prompt": "{{nope}}"}, {"prompt": "x", "options": {"maxTokens": 999_999}}):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST"):
            async with project.api.text("ExecuteEventStream", {"projectId": project.id, **body}, project.key):
                pass
    assert engine.executors == {}


@pytest.mark.depths(*DEPTHS)
async def test_events_come_as_they_happen(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    gate = asyncio.Event()
    engine.script = lambda prompt: [write("a"), wait_for(gate), answer("a")]
    execution = await project.start("hello")
    body = {"executionId": execution["id"]}
    for accept in (SSE, NDJSON):
        async with project.api.text("StreamExecutionEvents", body, project.key, accept=accept) as opened:
            text = ""
            async for chunk in opened.chunks:
                text += chunk.decode()
                if '"text_delta"' in text:
                    break
        assert '"completed"' not in text
    gate.set()
    assert (await _lines(project, execution["id"]))[-1]["completed"]["result"] == "a"


async def test_text_of_any_kind_survives(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    text = 'line\r\nnext\n\nid: 9\ndata: x\u2028\u0000\u007f é 日本 😀 "quoted" \\ </script>'
    engine.script = lambda prompt: [write(text), message(text), answer(text)]
    execution = await project.start("hello")
    events = await project.watch(execution["id"])
    assert events[2]["textDelta"] == {"text": text} and events[3]["message"] == {"text": text}
    assert [event_from_text(frame.document) for frame in await _frames(project, execution["id"])] == events
    assert await _lines(project, execution["id"]) == events


async def test_a_long_history_comes_whole(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    engine.script = lambda prompt: [*(write("x" * 2000) for _ in range(300)), answer("done")]
    execution = await project.start("hello")
    events = await project.watch(execution["id"])
    assert [event["sequence"] for event in events] == list(range(1, 304))
    assert await _lines(project, execution["id"]) == events
    assert [event_from_text(frame.document) for frame in await _frames(project, execution["id"])] == events


@pytest.mark.depths(MEMORY)
async def test_a_quiet_stream_gives_signs_of_life(stage: Stage, projects: Projects) -> None:
    project = await projects()
    execution = await project.start("hang")
    await project.reaches(execution["id"], "token_usage")
    watches = WatchService(stage.storage.executions, heartbeat_seconds=0.01)
    api = InProcessApi(replace(stage.app.services, watches=watches))
    quiet = replace(project, api=api)
    beat = {"executionId": execution["id"], "sequence": 3, "kind": "heartbeat", "heartbeat": {}}
    async for event in quiet.watching(execution["id"], 3):
        assert {name: event[name] for name in beat} == beat
        break
    body = {"executionId": execution["id"], "fromEvent": 4}
    async with api.text("StreamExecutionEvents", body, project.key, accept=SSE) as opened:
        assert [await anext(opened.chunks) for _ in range(3)][1:] == [b": heartbeat\n"] * 2
    async with api.text("StreamExecutionEvents", body, project.key, accept=NDJSON) as opened:
        for _ in range(2):
            line = await anext(json_lines(opened.chunks))
            assert {name: line[name] for name in beat} == beat


@pytest.mark.depths(*DEPTHS)
@pytest.mark.parametrize("accept", [SSE, NDJSON])
async def test_a_stream_that_breaks_off_says_why(projects: Projects, stage: Stage, accept: str) -> None:
    project = await projects()
    execution = await project.start("hang")
    await project.reaches(execution["id"], "token_usage")
    body = {"executionId": execution["id"], "fromEvent": 4}
    text = b""
    async with project.api.text("StreamExecutionEvents", body, project.key, accept=accept) as opened:
        text += await anext(opened.chunks) if accept == SSE else b""
        await stage.storage.executions.delete(execution["id"])
        # gRPC has the status besides; HTTP/1.1 has nothing but the text.
        with contextlib.suppress(ApiFailure):
            async for chunk in opened.chunks:
                text += chunk
    document = json.loads(text.partition(b"event: error\ndata: ")[2] if accept == SSE else text)
    failure = ApiFailure(document if accept == SSE else document["error"])
    assert (failure.code, failure.reason) == ("NOT_FOUND", "EXECUTION_NOT_FOUND")
