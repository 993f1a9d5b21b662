"""Prompts are templates, and secrets that were filled in are shown nowhere."""

from __future__ import annotations

import io
import json
from datetime import datetime
from pathlib import Path

import pytest

from cloutagent_server.domain.events import FailureReason
from tests.support.api import failing
from tests.support.api.frames import sse_frames
from tests.support.api.scenario import MODEL, Projects
from tests.support.api.stage import DEPTHS
from tests.support.api.witness import files_with
from tests.support.fake_engine import FakeEngine, answer, ask, fail, message, report, tool_answers, use_tool, write

SECRET = "hunter2-top-secret"


@pytest.mark.depths(*DEPTHS)
async def test_variables_are_filled_in_once(projects: Projects, engine: FakeEngine) -> None:
    project = await projects(name="my notes")
    prompt = "{{greeting}}, {{ name }}! {{{{greeting}} {{project_name}} {{execution_id}} {{timestamp}}"
    variables = {"greeting": "hello", "name": "{{greeting}} {{secret:TOKEN}}", "unused": "x"}
    result = await project.call("Execute", prompt=prompt, options={"variables": variables})
    (filled,) = engine.prompts
    assert filled is not None
    expected = f"hello, {{{{greeting}}}} {{{{secret:TOKEN}}}}! {{{{greeting}}}} my notes {result['id']} "
    assert filled.startswith(expected)
    assert datetime.fromisoformat(filled.removeprefix(expected)).tzinfo is not None
    assert (await project.execution(result["id"]))["prompt"] == prompt


async def test_the_system_prompt_is_a_template_too(projects: Projects, engine: FakeEngine) -> None:
    agent = {"name": "a", "systemPrompt": "You help {{who}} with {{secret:TOKEN}}.", "model": MODEL}
    project = await projects(agent=agent)
    await project.call("SetSecret", name="TOKEN", value=SECRET)
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await project.call("Execute", prompt="hello")
    assert list(caught.failure.violations) == ["agent.systemPrompt"]
    result = await project.call("Execute", prompt="hello", options={"variables": {"who": "me"}})
    config = engine.executors[result["id"]].config
    assert config is not None and config.system_prompt == f"You help me with {SECRET}."
    assert (await project.execution(result["id"]))["agent"]["systemPrompt"] == agent["systemPrompt"]


async def test_what_is_unknown_is_refused_and_nothing_runs(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    for prompt, named in (
        ("{{nope}}", "nope"),
        ("{{secret:NOPE}}", "NOPE"),
        ("{{not a name}}", "not a name"),
        ("{{secret:}}", "secret:"),
        ("{{open", "open"),
    ):
        for rpc in ("Execute", "StartExecution"):
            with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
                await project.call(rpc, prompt=prompt)
            assert list(caught.failure.violations) == ["prompt"]
            assert named in caught.failure.violations["prompt"]
    assert engine.executors == {}
    assert await project.call("ListExecutions") == {"executions": []}


async def test_names_of_variables_have_their_rules(projects: Projects) -> None:
    project = await projects()
    for name in ("timestamp", "execution_id", "project_name"):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call("Execute", prompt="hello", options={"variables": {name: "x"}})
        assert list(caught.failure.violations) == [f"options.variables.{name}"]
    for variables in ({"1x": "x"}, {"": "x"}, {"a": "x" * 262_145}, {f"v{n}": "" for n in range(257)}):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call("Execute", prompt="hello", options={"variables": variables})
        assert all(field.startswith("options.variables") for field in caught.failure.violations)


async def test_a_secret_of_another_project_is_unknown(projects: Projects) -> None:
    project, other = await projects(), await projects()
    await other.call("SetSecret", name="TOKEN", value=SECRET)
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST"):
        await project.call("Execute", prompt="{{secret:TOKEN}}")


@pytest.mark.depths(*DEPTHS)
async def test_a_secret_reaches_the_agent_and_nothing_else(
    projects: Projects, engine: FakeEngine, data_folder: Path, server_log: io.StringIO
) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value=SECRET)
    half = len(SECRET) // 2
    engine.script = lambda prompt: [
        ask(),
        report(1, 1),
        write(f"it is {SECRET[:half]}"),
        write(f"{SECRET[half:]}, yes {SECRET}{SECRET}"),
        message(f"it is {SECRET}, yes {SECRET}{SECRET}"),
        use_tool("t1", "Read", {"path": [f"/{SECRET}"], SECRET: {"deep": SECRET}}),
        tool_answers("t1", f"content: {SECRET}"),
        answer(f"done with {SECRET}"),
    ]
    body = {"projectId": project.id, "prompt": "use {{secret:TOKEN}}"}
    async with project.api.text("ExecuteEventStream", body, project.key) as opened:
        text = b"".join([chunk async for chunk in opened.chunks]).decode()
    assert engine.prompts == [f"use {SECRET}"]
    execution_id = (await project.first_execution())["id"]
    events = await project.watch(execution_id)
    execution = await project.execution(execution_id)
    assert execution["result"] == "done with [REDACTED]" and execution["prompt"] == "use {{secret:TOKEN}}"
    spoken = "".join(event["textDelta"]["text"] for event in events if event["kind"] == "text_delta")
    assert spoken == "it is [REDACTED], yes [REDACTED][REDACTED]"
    (tool,) = (event["toolUse"] for event in events if event["kind"] == "tool_use")
    assert tool["input"] == {"path": ["/[REDACTED]"], "[REDACTED]": {"deep": "[REDACTED]"}}
    for shown in (text, json.dumps(events), json.dumps(execution), json.dumps(await project.call("ListExecutions"))):
        assert "[REDACTED]" in shown and SECRET not in shown
    assert not files_with(data_folder, SECRET)
    assert SECRET not in server_log.getvalue()


async def test_a_secret_in_a_failure_is_redacted(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value=SECRET)
    engine.script = lambda prompt: [fail(FailureReason.AGENT_ERROR, f"cannot log in with {SECRET}")]
    result = await project.call("Execute", prompt="{{secret:TOKEN}}")
    assert result["error"] == "cannot log in with [REDACTED]"
    assert (await project.watch(result["id"]))[-1]["failed"]["failure"]["message"] == result["error"]


async def test_only_what_was_filled_in_is_redacted(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    await project.call("SetSecret", name="USED", value="alpha")
    await project.call("SetSecret", name="EMPTY", value="")
    await project.call("SetSecret", name="UNUSED", value="beta")
    engine.script = lambda prompt: [answer("alpha beta")]
    result = await project.call("Execute", prompt="{{secret:USED}}{{secret:EMPTY}}")
    assert engine.prompts == ["alpha"]
    assert result["result"] == "[REDACTED] beta"


async def test_the_value_at_the_start_of_the_run_counts(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value="old")
    await project.call("Execute", prompt="{{secret:TOKEN}}")
    await project.call("SetSecret", name="TOKEN", value="new")
    await project.call("Execute", prompt="{{secret:TOKEN}}")
    assert engine.prompts == ["old", "new"]


@pytest.mark.server(max_concurrent_executions=1)
async def test_a_secret_that_vanishes_in_the_queue_ends_the_run_as_failed(projects: Projects) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value=SECRET)
    first, second = await project.start("hang"), await project.start("{{secret:TOKEN}}")
    await project.call("DeleteSecret", name="TOKEN", http=204)
    await project.about("CancelExecution", first["id"])
    ended = await project.ended(second["id"])
    assert ended["status"] == "failed" and "TOKEN" in ended["failure"]["message"]


async def test_a_text_stream_is_redacted_as_it_comes(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value=SECRET)
    engine.script = lambda prompt: [*(write(letter) for letter in f"<{SECRET}>"), answer("done")]
    body = {"projectId": project.id, "prompt": "{{secret:TOKEN}}"}
    async with project.api.text("ExecuteEventStream", body, project.key) as opened:
        documents = [frame.document async for frame in sse_frames(opened.chunks)]
    spoken = [document["textDelta"]["text"] for document in documents if document["kind"] == "text_delta"]
    assert "".join(spoken) == "<[REDACTED]>"
