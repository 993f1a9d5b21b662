"""Starting, finding and leaving executions: idempotency keys, labels and filters, dry runs, callers that go away."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from cloutagent_server.domain.execution import MAX_RESULT_BYTES
from cloutagent_server.engine.prices import GenaiPriceList
from tests.support.api import failing
from tests.support.api.frames import json_lines
from tests.support.api.scenario import MODEL, Projects, eventually
from tests.support.api.stage import DEPTHS
from tests.support.fake_engine import FakeEngine, answer, hang, message, report, signal, use_tool

NDJSON = "application/x-ndjson"


@pytest.mark.depths(*DEPTHS)
async def test_the_header_is_a_key_on_every_call_that_starts_a_run(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    body = {"projectId": project.id, "prompt": "hello"}
    result = await project.api.call("Execute", body, project.key, idempotency_key="k")
    again = await project.api.call("Execute", body, project.key, idempotency_key="k")
    assert again == result
    both = {**body, "idempotencyKey": "k"}
    started = await project.api.call("StartExecution", both, project.key, idempotency_key="k")
    assert started["execution"]["id"] == result["id"]
    events = [event async for event in project.api.events("ExecuteStream", both, project.key)]
    assert events == await project.watch(result["id"])
    stream = project.api.text(
        "ExecuteEventStream", body, project.key, accept=NDJSON, last_event_id="4", idempotency_key="k"
    )
    async with stream as opened:
        assert [line["sequence"] async for line in json_lines(opened.chunks)] == [5, 6, 7]
    assert len(engine.order) == 1


@pytest.mark.depths(*DEPTHS)
async def test_keys_that_contradict_are_refused(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    body = {"projectId": project.id, "prompt": "hello"}
    for rpc in ("Execute", "StartExecution"):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.api.call(rpc, {**body, "idempotencyKey": "a"}, project.key, idempotency_key="b")
        assert list(caught.failure.violations) == ["Idempotency-Key"]
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST"):
            await project.api.call(rpc, body, project.key, idempotency_key="x" * 256)
    assert engine.executors == {}
    await project.api.call("Execute", body, project.key, idempotency_key="a")
    for change in ({"prompt": "other"}, {"labels": {"a": "b"}}):
        with failing("ALREADY_EXISTS", 409, "IDEMPOTENCY_KEY_REUSED"):
            await project.api.call("Execute", {**body, **change}, project.key, idempotency_key="a")


@pytest.mark.depths(*DEPTHS)
async def test_executions_are_found_by_label_state_and_time(projects: Projects) -> None:
    project = await projects()
    first = await project.start("hello", labels={"team": "search", "env": "a=b & c"})
    assert first["labels"] == {"team": "search", "env": "a=b & c"}
    await project.ended(first["id"])
    second = await project.start("hang", labels={"team": "search"})
    third = await project.start("hang", labels={"team": "ads"})
    for execution in (second, third):
        await project.reaches(execution["id"], "token_usage")

    async def found(**filters: Any) -> list[str]:
        return [one["id"] for one in (await project.call("ListExecutions", **filters))["executions"]]

    ids = [third["id"], second["id"], first["id"]]
    assert await found() == ids
    assert await found(labels=["team=search"]) == ids[1:]
    assert await found(labels=["team=search", "env=a=b & c"]) == ids[2:]
    assert await found(labels=["team=none"]) == []
    assert await found(statuses=["running"]) == ids[:2]
    assert await found(statuses=["running", "completed"], labels=["team=search"]) == ids[1:]
    assert await found(createdAfter=second["createdAt"]) == ids[:2]
    assert await found(createdBefore=second["createdAt"]) == ids[2:]
    assert await found(createdAfter=second["createdAt"], createdBefore=third["createdAt"]) == ids[1:2]
    page = await project.call("ListExecutions", labels=["team=search"], pageSize=1)
    assert [one["id"] for one in page["executions"]] == ids[1:2]
    rest = await project.call("ListExecutions", labels=["team=search"], pageSize=1, pageToken=page["nextPageToken"])
    assert [one["id"] for one in rest["executions"]] == ids[2:] and "nextPageToken" not in rest
    for execution in (second, third):
        await project.about("CancelExecution", execution["id"])


async def test_filters_and_labels_that_cannot_be_are_refused(projects: Projects) -> None:
    project = await projects()
    refused: list[dict[str, Any]] = [{"labels": ["team"]}, {"labels": ["=x"]}, {"statuses": ["unspecified"]}]
    for filters in refused:
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST"):
            await project.call("ListExecutions", **filters)
    many = {f"k{number}": "v" for number in range(33)}
    for labels in ({"1": "x"}, {"a b": "x"}, {"a": "x" * 257}, {"a" * 64: "x"}, many):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST"):
            await project.call("StartExecution", prompt="hello", labels=labels)
    assert (await project.call("ListExecutions"))["executions"] == []


async def test_pages_are_bounded_in_bytes(projects: Projects) -> None:
    project = await projects()
    ids = [(await project.start("x" * 1_000_000))["id"] for _ in range(5)]
    found: list[str] = []
    sizes: list[int] = []
    token: dict[str, Any] = {}
    while True:
        page = await project.call("ListExecutions", **token)
        found += [one["id"] for one in page["executions"]]
        sizes.append(len(page["executions"]))
        if "nextPageToken" not in page:
            break
        token = {"pageToken": page["nextPageToken"]}
    assert found == ids[::-1]
    assert max(sizes) <= 2
    for execution_id in ids:
        await project.ended(execution_id)


@pytest.mark.depths(*DEPTHS)
async def test_a_dry_run_tells_and_leaves_no_trace(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value="12345678")
    request: dict[str, Any] = {
        "prompt": "{{x}} {{secret:TOKEN}}",
        "options": {"variables": {"x": "1234567"}, "maxTokens": 1000},
        "idempotencyKey": "k",
    }
    answered = await project.call("StartExecution", validateOnly=True, **request)
    assert set(answered) == {"estimate"}
    estimate = answered["estimate"]
    assert estimate["limits"]["maxTokens"] == 1000
    # `You help.` has 9 bytes, the filled prompt 16.
    assert (estimate["promptTokens"], estimate["completionTokens"]) == (3 + 4, 993)
    assert estimate["estimatedCost"] == pytest.approx(7 * 3e-6 + 993 * 15e-6)
    assert estimate["limitCheck"]["withinLimits"] and estimate["secretNames"] == ["TOKEN"]
    assert (await project.call("ListExecutions"))["executions"] == []
    assert engine.executors == {}
    result = await project.call("Execute", **{**request, "prompt": "another"})
    assert result["status"] == "completed"


async def test_a_dry_run_names_everything_that_is_wrong(
    projects: Projects, engine: FakeEngine, prices: GenaiPriceList, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = {"name": "helper", "systemPrompt": "You help.", "model": MODEL, "enabledTools": ["TodoWrite", "Read"]}
    project = await projects(agent=agent)
    # Both were fine when the project was made: another server, or another price list, has them no more.
    engine.unavailable_tools = frozenset({"Read"})
    monkeypatch.setattr(prices, "knows", lambda model: False)
    options: dict[str, Any] = {"maxTokens": 99_999_999, "variables": {"timestamp": "x"}}
    prompt = "{{nope}} {{secret:NONE}}"
    for validate_only in (True, False):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call("StartExecution", prompt=prompt, options=options, validateOnly=validate_only)
        assert set(caught.failure.violations) == {
            "options.maxTokens",
            "options.variables.timestamp",
            "prompt",
            "project.agent.model",
            "project.agent.enabledTools",
        }
        named = caught.failure.violations["project.agent.enabledTools"]
        assert "'Read' is not available on this server" in named and "TodoWrite" not in named
        assert "is not in the price list" in caught.failure.violations["project.agent.model"]
    assert (await project.call("ListExecutions"))["executions"] == []


async def test_a_model_that_lost_its_price_is_refused_although_all_else_is_right(
    projects: Projects, engine: FakeEngine, prices: GenaiPriceList, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await projects()
    monkeypatch.setattr(prices, "knows", lambda model: False)
    for rpc, more in (("StartExecution", {"validateOnly": True}), ("StartExecution", {}), ("Execute", {})):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call(rpc, prompt="hello", **more)
        assert set(caught.failure.violations) == {"project.agent.model"}
    assert engine.executors == {}


@pytest.mark.depths(*DEPTHS)
async def test_the_names_of_used_secrets_are_recorded_and_templates_filled(projects: Projects) -> None:
    project = await projects(name="notes")
    for name in ("B", "A", "C"):
        await project.call("SetSecret", name=name, value=f"value-{name}")
    prompt = "{{project_name}} {{execution_id}} {{secret:B}}{{secret:A}} {{{{x}} {{v}}"
    result = await project.call("Execute", prompt=prompt, options={"variables": {"v": "{{secret:C}}"}})
    assert result["result"] == f"echo: notes {result['id']} [REDACTED][REDACTED] {{{{x}}}} {{{{secret:C}}}}"
    assert (await project.execution(result["id"]))["secretNames"] == ["A", "B"]


@pytest.mark.depths(*DEPTHS)
async def test_a_caller_that_goes_away_cancels_its_run_if_it_asked_to(projects: Projects) -> None:
    project = await projects()
    for asked, status in (("cancel", "cancelled"), ("continue", "running"), (None, "running")):
        body = {"projectId": project.id, "prompt": "hang", **({} if asked is None else {"onDisconnect": asked})}
        ids = []
        events: Any = project.api.events("ExecuteStream", body, project.key)
        async with aclosing(events):
            async for event in events:
                if event["kind"] == "token_usage":
                    ids.append(event["executionId"])
                    break
        async with project.api.text("ExecuteEventStream", body, project.key, accept=NDJSON) as opened:
            async for line in json_lines(opened.chunks):
                if line["kind"] == "token_usage":
                    ids.append(line["executionId"])
                    break
        for execution_id in ids:

            async def stands(execution_id: str = execution_id, status: str = status) -> bool:
                return bool((await project.execution(execution_id))["status"] == status)

            await eventually(stands)
            ended = (await project.about("CancelExecution", execution_id))["execution"]
            assert (ended["status"], ended["usage"]["modelCalls"]) == ("cancelled", 1)


@pytest.mark.depths(*DEPTHS)
async def test_whoever_stops_waiting_for_execute_cancels_it_if_asked_to(projects: Projects) -> None:
    project = await projects()
    waiting = asyncio.ensure_future(project.call("Execute", prompt="hang", onDisconnect="cancel"))
    execution = await project.first_execution()
    await project.reaches(execution["id"], "token_usage")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (await project.ended(execution["id"]))["status"] == "cancelled"


@pytest.mark.depths(*DEPTHS)
async def test_a_run_is_cancelled_in_a_tool_and_cancelling_again_changes_nothing(
    projects: Projects, engine: FakeEngine
) -> None:
    project = await projects()
    in_tool = asyncio.Event()
    engine.script = lambda prompt: [report(100, 20), use_tool("t", "Read", {}), signal(in_tool), hang()]
    execution = await project.start("hello")
    await asyncio.wait_for(in_tool.wait(), 20)
    answers = await asyncio.gather(*(project.about("CancelExecution", execution["id"]) for _ in range(3)))
    ended = answers[0]["execution"]
    assert answers == [{"execution": ended}] * 3
    assert (ended["status"], ended["usage"]["promptTokens"], ended["usage"]["completionTokens"]) == (
        "cancelled",
        100,
        20,
    )
    assert (await project.about("CancelExecution", execution["id"]))["execution"] == ended


@pytest.mark.depths(*DEPTHS)
async def test_a_long_result_is_cut_and_says_so(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    text = "x" * (MAX_RESULT_BYTES + 1)
    engine.script = lambda prompt: [message(text), answer(text)]
    result = await project.call("Execute", prompt="hello")
    assert result["resultTruncated"] is True and result["result"] == text[:-1]
    assert (await project.execution(result["id"]))["resultTruncated"] is True
    events = await project.watch(result["id"])
    assert events[-1]["completed"]["resultTruncated"] is True
    assert events[-2]["message"]["text"] == text
