"""What a project used, by day and model, once and as it changes; and the receipts of its executions."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from cloutagent.v1 import execution_pb2, execution_pb2_grpc
from cloutagent_server.engine.prices import GenaiPriceList
from tests.support.api import Json, failing
from tests.support.api.frames import json_lines, sse_frames
from tests.support.api.scenario import NO_ID, ProjectHandle, Projects, eventually
from tests.support.api.stage import DEPTHS, GRPC, GRPC_ENVOY, IN_PROCESS, REST, Stage
from tests.support.fake_engine import FakeEngine, answer, ask, report, wait_for

SSE, NDJSON = "text/event-stream", "application/x-ndjson"
NOTHING = {
    "modelCalls": 0,
    "promptTokens": 0,
    "completionTokens": 0,
    "cacheReadTokens": 0,
    "cacheWriteTokens": 0,
    "totalCost": 0,
    "estimatedCost": 0,
}


async def _usage(project: ProjectHandle, **fields: Any) -> Json:
    found: Json = (await project.call("GetUsage", **fields))["report"]
    return found


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _days_ago(days: int) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}"


@pytest.mark.depths(*DEPTHS)
async def test_usage_is_told_by_day_and_model_and_outlives_executions(projects: Projects) -> None:
    project = await projects()
    empty = await _usage(project)
    assert (empty["days"], empty["budgets"], empty["sum"]) == ([], [], NOTHING)
    assert empty["projectId"] == project.id
    assert (empty["from"], empty["to"]) == (_days_ago(29), _today())
    results = [await project.call("Execute", prompt=prompt) for prompt in ("hello", "three calls")]
    told = await _usage(project)
    (day,) = told["days"]
    assert (day["day"], day["model"]) == (_today(), "claude-sonnet-4-5")
    assert day["usage"] == told["sum"]
    assert day["usage"] == {
        **NOTHING,
        "modelCalls": 4,
        "promptTokens": 400,
        "completionTokens": 80,
        "totalCost": pytest.approx(4 * (100 * 3e-6 + 20 * 15e-6)),
    }
    for result in results:
        await project.about("DeleteExecution", result["id"], http=204)
    assert await _usage(project) == told
    assert (await _usage(project, **{"from": _today(), "to": _today()}))["days"] == [day]
    assert (await _usage(project, to=_days_ago(1)))["days"] == []


async def test_budgets_show_what_is_used_reserved_and_left(projects: Projects, engine: FakeEngine) -> None:
    project = await projects(budget={"daily": {"maxTokens": 1000}, "total": {"maxTokens": 5000, "maxCost": 1}})
    gate = asyncio.Event()
    engine.script = lambda prompt: [
        *([ask(20, input_tokens=100), report(100, 20)] if prompt == "first" else []),
        ask(200, input_tokens=100),
        wait_for(gate),
        answer("done"),
    ]
    execution = await project.start("first")

    async def reserved() -> bool:
        return bool((await _usage(project))["budgets"][0]["reserved"])

    await project.reaches(execution["id"], "token_usage")
    await eventually(reserved)
    daily, total, cost = (await _usage(project))["budgets"]
    assert daily == {"scope": "daily", "limits": "tokens", "limit": 1000, "used": 120, "reserved": 300, "left": 580}
    assert total == {**daily, "scope": "total", "limit": 5000, "left": 4580}
    assert (cost["scope"], cost["limits"]) == ("total", "cost")
    assert cost["used"] == pytest.approx(100 * 3e-6 + 20 * 15e-6)
    assert cost["left"] == pytest.approx(1 - cost["used"] - cost["reserved"]) and cost["reserved"] > 0
    gate.set()
    await project.ended(execution["id"])
    assert [state["reserved"] for state in (await _usage(project))["budgets"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("fields", "violated"),
    [
        ({"from": "2026-1-2"}, {"from"}),
        ({"from": "20260102", "to": "2026-02-30"}, {"from", "to"}),
        ({"to": ""}, {"to"}),
        ({"from": "2026-02-02", "to": "2026-02-01"}, {"from"}),
        ({"from": "2025-01-01", "to": "2026-01-02"}, {"from"}),
    ],
)
@pytest.mark.depths(IN_PROCESS, REST)
async def test_bad_ranges_are_refused_by_name(projects: Projects, fields: dict[str, str], violated: set[str]) -> None:
    project = await projects()
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await _usage(project, **fields)
    assert caught.failure.violations.keys() == violated
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST"):
        async with project.api.text("StreamUsage", {"projectId": project.id, **fields}, project.key):
            pass


async def test_a_year_may_be_asked_for(projects: Projects) -> None:
    project = await projects()
    told = await _usage(project, **{"from": "2025-01-01", "to": "2026-01-01"})
    assert (told["from"], told["to"]) == ("2025-01-01", "2026-01-01")
    assert (await _usage(project, to="0001-01-01"))["from"] == "0001-01-01"


@pytest.mark.depths(*DEPTHS)
async def test_others_see_neither_usage_nor_receipt(projects: Projects) -> None:
    project, other = await projects(), await projects()
    result = await project.call("Execute", prompt="hello")
    stolen = {"projectId": project.id}
    with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
        await other.api.call("GetUsage", stolen, other.key)
    with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
        async with other.api.text("StreamUsage", stolen, other.key):
            pass
    with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
        await other.about("GetReceipt", result["id"])
    with failing("UNAUTHENTICATED", 401, "API_KEY_MISSING"):
        await other.api.call("GetUsage", stolen)
    with failing("NOT_FOUND", 404, "EXECUTION_NOT_FOUND"):
        await project.about("GetReceipt", NO_ID)


@pytest.mark.depths(*DEPTHS)
@pytest.mark.parametrize("accept", [SSE, NDJSON])
async def test_a_text_stream_tells_the_usage_at_once_and_after_each_change(projects: Projects, accept: str) -> None:
    project = await projects()

    async def updates(chunks: Any) -> Any:
        if accept == NDJSON:
            async for line in json_lines(chunks):
                yield line
        else:
            async for frame in sse_frames(chunks):
                assert (frame.event, frame.id) == ("usage", "")
                yield frame.document

    async with project.api.text("StreamUsage", {"projectId": project.id}, project.key, accept=accept) as opened:
        assert opened.content_type == accept
        told = updates(opened.chunks)
        async with aclosing(told):
            first = await anext(told)
            assert first["report"]["sum"] == NOTHING and first["time"]
            await project.call("Execute", prompt="hello")
            async with asyncio.timeout(20):
                async for update in told:
                    if update["report"]["sum"]["modelCalls"]:
                        break
    assert update["report"] == await _usage(project)


@pytest.mark.depths(GRPC, GRPC_ENVOY)
async def test_grpc_streams_the_usage_until_the_project_is_gone(projects: Projects, stage: Stage) -> None:
    project = await projects(budget={"total": {"maxTokens": 1000}})
    assert stage.address is not None
    async with grpc.aio.insecure_channel(stage.address) as channel:
        stub: Any = execution_pb2_grpc.ExecutionServiceStub(channel)
        request = execution_pb2.WatchUsageRequest(project_id=project.id)
        call = stub.WatchUsage(request, metadata=(("x-api-key", project.key),), timeout=20)
        assert (await call.read()).report.sum.model_calls == 0
        await project.call("Execute", prompt="hello")
        while not (update := await call.read()).report.sum.model_calls:
            pass
        (state,) = update.report.budgets
        assert (state.used, state.left) == (120, 880)
        await project.call("DeleteProject", http=204)
        assert await call.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.depths(*DEPTHS)
async def test_a_receipt_adds_up_and_its_digest_is_that_of_the_text_stream(
    projects: Projects, engine: FakeEngine
) -> None:
    project = await projects()
    engine.script = lambda prompt: [ask(), report(100, 20), ask(), report(50, 7), ask(), answer("grüße")]
    result = await project.call("Execute", prompt="hello")
    receipt = (await project.about("GetReceipt", result["id"]))["receipt"]
    execution = await project.execution(result["id"])
    assert (receipt["executionId"], receipt["projectId"], receipt["status"]) == (result["id"], project.id, "completed")
    for time in ("createdAt", "startedAt", "finishedAt"):
        assert receipt[time] == execution[time]
    calls = receipt["calls"]
    assert [(call["promptTokens"], call["completionTokens"], call["estimated"]) for call in calls] == [
        (100, 20, False),
        (50, 7, False),
    ]
    assert receipt["usage"] == execution["usage"]
    assert sum(call["cost"] for call in calls) == pytest.approx(execution["usage"]["totalCost"])
    (price,) = receipt["prices"]
    assert {call["priceVersion"] for call in calls} == {price["version"]} and price["model"] == calls[0]["model"]
    assert calls[1]["cost"] == pytest.approx(
        50 * price["prices"]["promptTokenPrice"] + 7 * price["prices"]["completionTokenPrice"]
    )
    text = await _log(project, result["id"])
    log = receipt["log"]
    assert log["sha256"] == hashlib.sha256(text).hexdigest()
    assert (log["firstSequence"], log["lastSequence"], log["size"]) == (1, execution["lastSequence"], len(text))
    assert log["firstKeptSequence"] == 1
    assert receipt == (await project.about("GetReceipt", result["id"]))["receipt"]


@pytest.mark.parametrize("name", ["claude-sonnet-4-5", "claude-sonnet-4-5-20250929"])
async def test_the_prices_of_a_receipt_outlast_their_version(
    projects: Projects, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    agent = {"name": "helper", "systemPrompt": "You help.", "model": name}
    project = await projects(agent=agent)
    result = await project.call("Execute", prompt="hello")
    before = (await project.about("GetReceipt", result["id"]))["receipt"]
    (price,), (call,) = before["prices"], before["calls"]
    assert (price["model"], price["prices"]["id"]) == (name, "claude-sonnet-4-5")
    assert (price["prices"]["promptTokenPrice"], price["prices"]["completionTokenPrice"]) == (3e-6, 15e-6)
    assert price["prices"]["cacheReadTokenPrice"] == pytest.approx(0.3e-6)
    assert call["cost"] == pytest.approx(100 * 3e-6 + 20 * 15e-6)
    monkeypatch.setattr(GenaiPriceList, "version", property(lambda _: "another version"))
    monkeypatch.setattr(GenaiPriceList, "model", lambda *_: None)
    assert (await project.about("GetReceipt", result["id"]))["receipt"] == before


async def test_a_receipt_comes_after_the_end_and_before_the_deletion(projects: Projects) -> None:
    project = await projects()
    execution = await project.start("hang")
    await project.reaches(execution["id"], "token_usage")
    with failing("FAILED_PRECONDITION", 400, "EXECUTION_NOT_FINISHED"):
        await project.about("GetReceipt", execution["id"])
    await project.about("CancelExecution", execution["id"])
    receipt = (await project.about("GetReceipt", execution["id"]))["receipt"]
    assert (receipt["status"], receipt["usage"]["modelCalls"]) == ("cancelled", 1)
    await project.about("DeleteExecution", execution["id"], http=204)
    with failing("NOT_FOUND", 404, "EXECUTION_NOT_FOUND"):
        await project.about("GetReceipt", execution["id"])
    assert (await _usage(project))["sum"]["modelCalls"] == 1


@pytest.mark.depths(*DEPTHS)
async def test_the_receipt_of_a_trimmed_log_has_the_digest_of_all_of_it(projects: Projects, stage: Stage) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    last = (await project.execution(result["id"]))["lastSequence"]
    before = (await project.about("GetReceipt", result["id"]))["receipt"]
    text = await _log(project, result["id"])
    assert await stage.storage.executions.trim(result["id"])
    after = (await project.about("GetReceipt", result["id"]))["receipt"]
    assert before["log"]["firstKeptSequence"] == 1
    assert after == {**before, "log": {**before["log"], "firstKeptSequence": last}}
    assert (after["log"]["firstSequence"], after["log"]["lastSequence"]) == (1, last)
    assert after["log"]["sha256"] == hashlib.sha256(text).hexdigest()
    assert after["log"]["size"] == len(text)
    assert text.endswith(await _log(project, result["id"], fromEvent=last))


async def _log(project: ProjectHandle, execution_id: str, **fields: int) -> bytes:
    """The event log as its bytes come, without what would be a heartbeat."""
    body = {"executionId": execution_id, **fields}
    async with project.api.text("StreamExecutionEvents", body, project.key, accept=NDJSON) as opened:
        text = b"".join([chunk async for chunk in opened.chunks])
    assert all(json.loads(line)["kind"] != "heartbeat" for line in text.splitlines())
    return text
