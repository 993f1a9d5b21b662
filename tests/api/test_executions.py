"""Executions are run, started, read, listed, cancelled and deleted."""

from __future__ import annotations

import asyncio
import io
from datetime import datetime
from typing import Any

import pytest

from tests.support.api import Json, failing
from tests.support.api.scenario import MODEL, NO_ID, Projects, kinds
from tests.support.api.stage import DEPTHS
from tests.support.fake_engine import FakeEngine, answer, ask, report, wait_for

NOTHING_USED = {
    "promptTokens": 0,
    "completionTokens": 0,
    "cacheReadTokens": 0,
    "cacheWriteTokens": 0,
    "totalCost": 0,
    "modelCalls": 0,
}
ONE_CALL = {**NOTHING_USED, "promptTokens": 100, "completionTokens": 20, "totalCost": 0.0006, "modelCalls": 1}


@pytest.mark.depths(*DEPTHS)
async def test_execute_answers_with_the_contracts_result(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    assert isinstance(result["duration"], int) and result["duration"] >= 0
    assert result == {
        "id": result["id"],
        "status": "completed",
        "result": "echo: hello",
        "cost": {"promptTokens": 100, "completionTokens": 20, "totalCost": 0.0006},
        "duration": result["duration"],
    }
    assert (await project.execution(result["id"]))["status"] == "completed"


async def test_a_run_that_fails_is_an_answer_and_no_error(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="fail")
    assert result == {
        "id": result["id"],
        "status": "failed",
        "cost": {"promptTokens": 100, "completionTokens": 20, "totalCost": 0.0006},
        "duration": result["duration"],
        "error": "the model is overloaded",
    }
    execution = await project.execution(result["id"])
    assert execution["failure"] == {"reason": "model_error", "message": "the model is overloaded"}
    last = (await project.watch(result["id"]))[-1]
    assert last["failed"] == {"failure": execution["failure"], "usage": ONE_CALL, "duration": result["duration"]}


async def test_of_an_agent_that_crashes_nothing_is_told_but_that(projects: Projects, server_log: io.StringIO) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="crash")
    assert (result["status"], result["cost"]["promptTokens"]) == ("failed", 100)
    failure = (await project.execution(result["id"]))["failure"]
    assert failure == {"reason": "agent_error", "message": result["error"]}
    assert "crashed" not in result["error"] and "the agent crashed" in server_log.getvalue()


@pytest.mark.depths(*DEPTHS)
async def test_a_started_execution_is_201_and_runs(projects: Projects) -> None:
    project = await projects()
    started = await project.start("hello")
    assert started == {
        "id": started["id"],
        "projectId": project.id,
        "status": started["status"],
        "prompt": "hello",
        "agent": project.document["agent"],
        "limits": project.document["limits"],
        "usage": NOTHING_USED,
        "createdAt": started["createdAt"],
        "lastSequence": 1,
        "queuePosition": 0,
        "labels": {},
        "secretNames": [],
    }
    ended = await project.ended(started["id"])
    assert ended == {
        **{name: value for name, value in started.items() if name != "queuePosition"},
        "status": "completed",
        "usage": ONE_CALL,
        "result": "echo: hello",
        "startedAt": ended["startedAt"],
        "finishedAt": ended["finishedAt"],
        "duration": ended["duration"],
        "lastSequence": 7,
    }
    times = [datetime.fromisoformat(ended[name]) for name in ("createdAt", "startedAt", "finishedAt")]
    assert times == sorted(times)


async def test_a_prompt_must_be_there_and_has_a_limit(projects: Projects) -> None:
    project = await projects()
    for rpc in ("Execute", "StartExecution"):
        refused: list[Json] = [{}, {"prompt": ""}, {"prompt": "x" * 1_048_577}, {"prompt": "é" * 524_289}]
        for fields in refused:
            with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
                await project.call(rpc, **fields)
            assert list(caught.failure.violations) == ["prompt"]


async def test_a_prompt_may_have_a_mebibyte(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    engine.script = lambda prompt: [answer("read")]
    result = await project.call("Execute", prompt="é" * 524_288)
    assert result["result"] == "read"
    assert engine.prompts == ["é" * 524_288]


async def test_an_execution_keeps_the_configuration_it_started_with(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    gate = asyncio.Event()
    engine.script = lambda prompt: [wait_for(gate), answer("done")]
    execution = await project.start("hello")
    changes = {"id": project.id, "agent": {"systemPrompt": "Changed."}, "limits": {"maxTokens": 5}}
    await project.api.call("UpdateProject", {"project": changes}, project.key)
    gate.set()
    ended = await project.ended(execution["id"])
    assert ended["agent"] == project.document["agent"] and ended["limits"] == project.document["limits"]
    assert (await project.call("Execute", prompt="again"))["status"] == "completed"
    last = engine.executors[engine.order[-1]]
    assert last.config is not None and last.config.system_prompt == "Changed."
    assert last.options is not None and last.options.max_tokens == 5


async def test_executions_are_listed_newest_first_in_pages(projects: Projects) -> None:
    project, other = await projects(), await projects()
    assert await project.call("ListExecutions") == {"executions": []}
    made = []
    for number in range(5):
        execution = await project.start(f"prompt {number}")
        made.append(await project.ended(execution["id"]))
    await other.call("Execute", prompt="elsewhere")
    assert (await project.call("ListExecutions"))["executions"] == made[::-1]
    found: list[Any] = []
    fields: dict[str, Any] = {"pageSize": 2}
    while True:
        page = await project.call("ListExecutions", **fields)
        assert len(page["executions"]) <= 2
        found += page["executions"]
        if "nextPageToken" not in page:
            break
        fields["pageToken"] = page["nextPageToken"]
    assert found == made[::-1]


async def test_a_page_of_executions_has_its_limits(projects: Projects) -> None:
    project, other = await projects(), await projects()
    for _ in range(2):
        await other.call("Execute", prompt="hello")
    foreign = (await other.call("ListExecutions", pageSize=1))["nextPageToken"]
    for fields, field in (
        ({"pageSize": 0}, "pageSize"),
        ({"pageSize": 1001}, "pageSize"),
        ({"pageToken": "nonsense"}, "pageToken"),
        ({"pageToken": foreign}, "pageToken"),
    ):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call("ListExecutions", **fields)
        assert list(caught.failure.violations) == [field]


@pytest.mark.depths(*DEPTHS)
async def test_a_running_execution_is_cancelled_and_keeps_its_usage(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    execution = await project.start("hang")
    await project.reaches(execution["id"], "token_usage")
    cancelled = (await project.about("CancelExecution", execution["id"]))["execution"]
    assert (cancelled["status"], cancelled["usage"]) == ("cancelled", ONE_CALL)
    assert "result" not in cancelled and "failure" not in cancelled
    assert engine.running == []
    events = await project.watch(execution["id"])
    assert kinds(events) == ["queued", "started", "token_usage", "cancelled"]
    assert events[-1]["cancelled"] == {"usage": ONE_CALL, "duration": cancelled["duration"]}
    assert await project.execution(execution["id"]) == cancelled


async def test_an_execution_that_is_waited_for_can_be_cancelled(projects: Projects) -> None:
    project = await projects()
    waiting = asyncio.ensure_future(project.call("Execute", prompt="hang"))
    execution = await project.first_execution()
    await project.reaches(execution["id"], "token_usage")
    await project.about("CancelExecution", execution["id"])
    result = await waiting
    assert set(result) == {"id", "status", "cost", "duration"}
    assert (result["id"], result["status"]) == (execution["id"], "cancelled")


async def test_cancelling_what_has_ended_changes_nothing(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    ended = await project.execution(result["id"])
    assert (await project.about("CancelExecution", result["id"]))["execution"] == ended
    assert len(await project.watch(result["id"])) == ended["lastSequence"]


async def test_an_execution_is_deleted_only_after_its_end(projects: Projects) -> None:
    project = await projects()
    execution = await project.start("hang")
    await project.reaches(execution["id"], "started")
    with failing("FAILED_PRECONDITION", 400, "EXECUTION_NOT_FINISHED") as caught:
        await project.about("DeleteExecution", execution["id"])
    assert caught.failure.metadata == {"execution_id": execution["id"]}
    await project.about("CancelExecution", execution["id"])
    assert await project.about("DeleteExecution", execution["id"], http=204) == {}
    assert await project.call("ListExecutions") == {"executions": []}
    for rpc in ("GetExecution", "GetExecutionCost", "CancelExecution", "DeleteExecution"):
        with failing("NOT_FOUND", 404, "EXECUTION_NOT_FOUND"):
            await project.about(rpc, execution["id"])
    with failing("NOT_FOUND", 404, "EXECUTION_NOT_FOUND"):
        await project.watch(execution["id"])


class TestIdempotency:
    """A repeated request runs once."""

    async def test_the_same_request_gives_the_same_execution(self, projects: Projects, engine: FakeEngine) -> None:
        project = await projects()
        options = {"maxTokens": 500, "variables": {"a": "1", "b": "2"}}
        first = await project.start("{{a}} {{b}}", options=options, idempotencyKey="k")
        ended = await project.ended(first["id"])
        again = await project.start("{{a}} {{b}}", http=200, options=options, idempotencyKey="k")
        assert again == ended
        result = await project.call("Execute", prompt="{{a}} {{b}}", options=options, idempotencyKey="k")
        assert result["id"] == first["id"]
        assert len(engine.order) == 1

    async def test_another_request_under_the_key_is_409(self, projects: Projects, engine: FakeEngine) -> None:
        project = await projects()
        first = await project.start("hello", idempotencyKey="k", options={"timeout": 2000})
        for prompt, options in (
            ("other", {"timeout": 2000}),
            ("hello", {"timeout": 3000}),
            ("hello", {"timeout": 2000, "maxCost": 1}),
            ("hello", {"timeout": 2000, "variables": {"a": "1"}}),
            ("hello", {}),
        ):
            with failing("ALREADY_EXISTS", 409, "IDEMPOTENCY_KEY_REUSED") as caught:
                await project.start(prompt, idempotencyKey="k", options=options)
            assert caught.failure.metadata == {"execution_id": first["id"]}
        await project.ended(first["id"])
        assert len(engine.order) == 1

    async def test_a_key_belongs_to_its_project(self, projects: Projects) -> None:
        project, other = await projects(), await projects()
        first = await project.start("hello", idempotencyKey="k")
        second = await other.start("something else", idempotencyKey="k")
        assert first["id"] != second["id"]

    async def test_of_requests_at_the_same_time_one_creates(self, projects: Projects, engine: FakeEngine) -> None:
        project = await projects()
        results = await asyncio.gather(*(project.call("Execute", prompt="hello", idempotencyKey="k") for _ in range(8)))
        assert len({result["id"] for result in results}) == 1
        assert len(engine.order) == 1

    async def test_a_key_has_1_to_255_characters(self, projects: Projects) -> None:
        project = await projects()
        for key in ("", "x" * 256):
            with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
                await project.start("hello", idempotencyKey=key)
            assert list(caught.failure.violations) == ["idempotencyKey"]
        await project.start("hello", idempotencyKey="日" * 255)


async def test_an_execution_that_does_not_exist_is_404(projects: Projects) -> None:
    project = await projects()
    with failing("NOT_FOUND", 404, "EXECUTION_NOT_FOUND"):
        await project.execution(NO_ID)


async def test_the_model_of_an_execution_is_the_projects(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    events = await project.watch(result["id"])
    assert [event["started"]["model"] for event in events if event["kind"] == "started"] == [MODEL]
    assert [event["tokenUsage"]["model"] for event in events if event["kind"] == "token_usage"] == [MODEL]


async def test_a_run_goes_on_when_its_caller_goes_away(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    gate = asyncio.Event()
    engine.script = lambda prompt: [ask(), report(1, 1), wait_for(gate), answer("done")]
    waiting = asyncio.ensure_future(project.call("Execute", prompt="hello"))
    execution = await project.first_execution()
    await project.reaches(execution["id"], "token_usage")
    waiting.cancel()
    await asyncio.wait([waiting])
    gate.set()
    assert (await project.ended(execution["id"]))["result"] == "done"
