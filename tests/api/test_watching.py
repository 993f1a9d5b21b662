"""Watching: every event once and in order, from any cursor, at any time."""

from __future__ import annotations

import asyncio
import io
import re
from contextlib import aclosing
from datetime import datetime
from typing import Any

import pytest

from tests.support.api import Api, Json, failing
from tests.support.api.scenario import MODEL, ProjectHandle, Projects, eventually, kinds
from tests.support.api.stage import DEPTHS, MEMORY
from tests.support.fake_engine import FakeEngine, answer, ask, message, report, wait_for, write

PLAIN_RUN = ["queued", "started", "token_usage", "text_delta", "text_delta", "message", "completed"]


async def _take(events: Any, number: int) -> list[Json]:
    return [await anext(events) for _ in range(number)]


def _without_time(event: Json) -> Json:
    return {name: value for name, value in event.items() if name != "time"}


@pytest.mark.depths(*DEPTHS)
async def test_a_run_is_watched_from_its_first_event_to_its_last(projects: Projects) -> None:
    project = await projects()
    execution = await project.start("hello")
    events = await project.watch(execution["id"])
    usage = {
        "promptTokens": 100,
        "completionTokens": 20,
        "cacheReadTokens": 0,
        "cacheWriteTokens": 0,
        "totalCost": 0.0006,
        "modelCalls": 1,
    }
    payloads: list[Json] = [
        {"kind": "queued", "queued": {"position": 0}},
        {"kind": "started", "started": {"model": MODEL}},
        {
            "kind": "token_usage",
            "tokenUsage": {
                "usage": usage,
                "percentOfTokenLimit": pytest.approx(0.12),
                "percentOfCostLimit": pytest.approx(0.006),
                "model": MODEL,
            },
        },
        {"kind": "text_delta", "textDelta": {"text": "echo"}},
        {"kind": "text_delta", "textDelta": {"text": ": hello"}},
        {"kind": "message", "message": {"text": "echo: hello"}},
        {
            "kind": "completed",
            "completed": {
                "result": "echo: hello",
                "usage": usage,
                "duration": events[-1]["completed"]["duration"],
            },
        },
    ]
    assert [_without_time(event) for event in events] == [
        {"executionId": execution["id"], "sequence": sequence, **payload}
        for sequence, payload in enumerate(payloads, start=1)
    ]
    times = [datetime.fromisoformat(event["time"]) for event in events]
    assert times == sorted(times) and times[0].tzinfo is not None


async def test_tools_are_shown_as_they_are_used(projects: Projects) -> None:
    project = await projects()
    execution = await project.start("tool")
    events = await project.watch(execution["id"])
    assert kinds(events)[2:6] == ["token_usage", "tool_use", "tool_result", "token_usage"]
    assert events[3]["toolUse"] == {"toolUseId": "toolu_1", "name": "Read", "input": {"file_path": "notes.txt"}}
    assert events[4]["toolResult"] == {"toolUseId": "toolu_1", "content": "the notes", "isError": False}


async def test_three_model_calls_are_three_rising_usages_whose_sum_is_the_cost(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="three calls")
    reports = [event["tokenUsage"] for event in await project.watch(result["id"]) if event["kind"] == "token_usage"]
    assert [report["usage"]["promptTokens"] for report in reports] == [100, 200, 300]
    assert [report["usage"]["completionTokens"] for report in reports] == [20, 40, 60]
    assert [report["usage"]["modelCalls"] for report in reports] == [1, 2, 3]
    assert result["cost"]["totalCost"] == pytest.approx(3 * (100 * 3e-6 + 20 * 15e-6), abs=1e-9)
    assert reports[-1]["usage"]["totalCost"] == result["cost"]["totalCost"]


async def test_execute_stream_starts_and_watches(projects: Projects) -> None:
    project = await projects()
    body = {"projectId": project.id, "prompt": "hello"}
    events = [event async for event in project.api.events("ExecuteStream", body, project.key)]
    assert kinds(events) == PLAIN_RUN
    assert await project.watch(events[0]["executionId"]) == events


async def test_execute_stream_with_an_idempotency_key_streams_again(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    body = {"projectId": project.id, "prompt": "hello", "idempotencyKey": "k"}
    first, again = [[event async for event in project.api.events("ExecuteStream", body, project.key)] for _ in "12"]
    assert again == first
    assert len(engine.order) == 1


@pytest.mark.depths(*DEPTHS)
async def test_a_watch_after_the_end_gets_exactly_what_follows_its_cursor(projects: Projects) -> None:
    project = await projects()
    events = await project.watch((await project.start("three calls"))["id"])
    execution_id = events[0]["executionId"]
    for after in range(len(events) + 1):
        assert await project.watch(execution_id, after) == events[after:]


async def test_a_cursor_beyond_the_end_is_refused(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    for after in (len(PLAIN_RUN) + 1, 2_000_000_000):
        with failing("OUT_OF_RANGE", 400, "CURSOR_OUT_OF_RANGE") as caught:
            await project.watch(result["id"], after)
        assert caught.failure.metadata == {"first_sequence": "1", "last_sequence": str(len(PLAIN_RUN))}


async def test_a_cursor_before_the_beginning_is_refused(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST"):
        await project.watch(result["id"], -1)


@pytest.mark.depths(*DEPTHS)
async def test_who_joins_late_sees_what_was_and_then_what_happens(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    gate = asyncio.Event()
    engine.script = lambda prompt: [
        ask(),
        report(1, 1),
        write("a"),
        wait_for(gate),
        write("b"),
        message("ab"),
        answer("ab"),
    ]
    execution = await project.start("hello")
    await project.reaches(execution["id"], "text_delta")
    async with (
        aclosing(_watching(project, execution["id"])) as late,
        aclosing(_watching(project, execution["id"], 2)) as later,
    ):
        seen = await _take(late, 4)
        assert kinds(seen) == ["queued", "started", "token_usage", "text_delta"]
        assert await _take(later, 2) == seen[2:]
        gate.set()
        rest = [event async for event in late]
        assert [event async for event in later] == rest
    assert kinds(rest) == ["text_delta", "message", "completed"]
    assert await project.watch(execution["id"]) == seen + rest


async def test_a_watcher_resumes_where_it_left(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    gates = [asyncio.Event() for _ in range(3)]
    engine.script = lambda prompt: [step for gate in gates for step in (write("x"), wait_for(gate))]
    execution = await project.start("hello")
    seen: list[Json] = []
    for gate in gates:
        async with aclosing(_watching(project, execution["id"], len(seen))) as events:
            async for event in events:
                seen.append(event)
                if event["kind"] == "text_delta":
                    break
        gate.set()
    seen += await project.watch(execution["id"], len(seen))
    assert [event["sequence"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen == await project.watch(execution["id"])


async def test_watchers_do_not_hinder_each_other_nor_the_run(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    gate = asyncio.Event()
    engine.script = lambda prompt: [wait_for(gate), *(write("x") for _ in range(600)), answer("done")]
    execution = await project.start("hello")
    async with aclosing(_watching(project, execution["id"])) as idle:
        await _take(idle, 1)
        watchers = [asyncio.ensure_future(project.watch(execution["id"])) for _ in range(5)]
        gate.set()
        seen = await asyncio.gather(*watchers)
    replayed = await project.watch(execution["id"])
    assert [event["sequence"] for event in replayed] == list(range(1, 604))
    assert all(events == replayed for events in seen)


async def test_the_end_of_a_queued_execution_is_seen(projects: Projects) -> None:
    project = await projects()
    running = [await project.start("hang") for _ in range(3)]
    queued = await project.start("hello")
    watching = asyncio.ensure_future(project.watch(queued["id"]))
    await project.about("CancelExecution", queued["id"])
    assert kinds(await watching) == ["queued", "cancelled"]
    for execution in running:
        await project.about("CancelExecution", execution["id"])


@pytest.mark.depths(*DEPTHS)
async def test_a_watcher_that_leaves_is_let_go_and_the_run_goes_on(
    projects: Projects, engine: FakeEngine, server_log: io.StringIO
) -> None:
    project = await projects()
    execution = await project.start("hang")
    async with aclosing(_watching(project, execution["id"])) as events:
        await _take(events, 3)

    async def let_go() -> bool:
        return re.search(r'Execution(Events)?", "code": "CANCELLED"', server_log.getvalue()) is not None

    await eventually(let_go)
    assert engine.running == [execution["id"]]
    await project.about("CancelExecution", execution["id"])


@pytest.mark.depths(MEMORY)
async def test_watching_leaves_nothing_behind(api: Api, projects: Projects) -> None:
    project = await projects()
    execution = await project.start("hang")
    await project.reaches(execution["id"], "token_usage")
    before = len(asyncio.all_tasks())
    for _ in range(20):
        async with aclosing(_watching(project, execution["id"])) as events:
            await anext(events)
    assert len(asyncio.all_tasks()) == before


def _watching(project: ProjectHandle, execution_id: str, after_sequence: int = 0) -> Any:
    return project.watching(execution_id, after_sequence)
