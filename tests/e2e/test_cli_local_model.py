"""The SDK's own command line against the local model, started by the launcher in a workspace."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeSDKClient,
    Message,
    ResultMessage,
    SystemMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from cloutagent_server.engine.local_model import LocalModel
from cloutagent_server.engine.process import RUN_MARKER, kill_run, reap_orphans
from cloutagent_server.engine.workspace import sweep
from tests.support.cli_run import SYSTEM_PROMPT, TOKEN, prepare

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
TODOS = '{"todos": [{"content": "Dig", "status": "pending", "activeForm": "Digging"}]}'
SLEEP = '[[tool: Bash {"command": "sleep 60"}]] [[say: never]]'


@dataclass(frozen=True)
class Stage:
    """The local model, and where the workspaces are made."""

    model: LocalModel
    root: Path

    async def run(self, prompt: str, *tools: str) -> tuple[list[Message], ResultMessage]:
        workspace, options = prepare(self.root, self.model.base_url, tools)
        async with ClaudeSDKClient(options) as client:
            await client.query(prompt)
            messages = [message async for message in client.receive_response()]
        workspace.remove()
        result = messages[-1]
        assert isinstance(result, ResultMessage)
        return messages, result

    def processes(self) -> list[psutil.Process]:
        """Living processes of the runs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get(RUN_MARKER, "").startswith(f"{self.root}/")
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    async def sleeping(self) -> None:
        """Return when a tool of a run sleeps."""
        await until(lambda: any(process.name() == "sleep" for process in self.processes()), 30)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    model = LocalModel(required_key=TOKEN)
    await model.start()
    root = tmp_path / "runs"
    root.mkdir()
    yield Stage(model, root)
    await model.stop()
    assert await asyncio.to_thread(reap_orphans, root) == 0


async def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def tool_result(messages: list[Message]) -> ToolResultBlock:
    [block] = [block for m in messages if isinstance(m, UserMessage) for block in m.content]
    assert isinstance(block, ToolResultBlock)
    return block


async def test_a_plain_answer_takes_one_call_with_the_prompt_as_it_is(stage: Stage) -> None:
    _, result = await stage.run("/help me with @/etc/hostname")

    assert not result.is_error
    assert result.result is not None
    assert "“/help me with @/etc/hostname”" in result.result
    [call] = stage.model.ledger
    assert (call.status, call.outcome, call.stream, call.model) == (200, "complete", True, "claude-sonnet-4-5")
    assert result.usage is not None
    assert result.usage["input_tokens"] == call.input_tokens
    assert result.usage["output_tokens"] == call.output_tokens
    assert sweep(stage.root) == 0


async def test_a_tool_call_takes_two(stage: Stage) -> None:
    messages, result = await stage.run(f"[[say: I plan.]] [[tool: TodoWrite {TODOS}]] [[say: All done.]]", "TodoWrite")

    blocks = [block for m in messages if isinstance(m, AssistantMessage) for block in m.content]
    assert [type(block) for block in blocks] == [TextBlock, ToolUseBlock, TextBlock]
    assert not tool_result(messages).is_error
    assert result.result == "All done."
    assert [(call.turn, call.stop_reason) for call in stage.model.ledger] == [(0, "tool_use"), (1, "end_turn")]


async def test_a_tool_that_was_not_enabled_does_not_run(stage: Stage) -> None:
    messages, result = await stage.run('[[tool: Bash {"command": "echo ran"}]] [[say: Over.]]')

    assert tool_result(messages).is_error
    assert result.result == "Over."


async def test_an_overloaded_api_is_asked_again(stage: Stage) -> None:
    messages, result = await stage.run("[[fail-once: 529]] [[say: At last.]]")

    assert result.result == "At last."
    assert [call.status for call in stage.model.ledger] == [529, 200]
    retries = [m for m in messages if isinstance(m, SystemMessage) and m.subtype == "api_retry"]
    assert [retry.data["error_status"] for retry in retries] == [529]


@pytest.mark.parametrize(
    ("prompt", "status", "calls"),
    [
        ("[[error: 402]]", 402, 1),
        ("[[say: half]] [[error: 529]]", 529, 1),
        ("[[say: half]] [[garbage]]", None, 1),
        ("[[say: half]] [[cut]]", None, 3),
    ],
)
async def test_a_failing_api_ends_the_run_after_few_calls(
    stage: Stage, prompt: str, status: int | None, calls: int
) -> None:
    _, result = await stage.run(prompt)

    assert result.is_error
    assert result.api_error_status == status
    assert [call.stream for call in stage.model.ledger] == [True] * calls


async def test_the_process_shows_nothing_and_sees_only_what_is_listed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", "the-servers-own")
    _, options = prepare(stage.root, stage.model.base_url)
    async with ClaudeSDKClient(options) as client:
        await client.query("[[silence]]")
        await until(lambda: len(stage.model.ledger) == 1, 30)
        [process] = stage.processes()
        arguments, environment = process.cmdline(), process.environ()
        await client.interrupt()

    assert TOKEN not in " ".join(arguments)
    assert SYSTEM_PROMPT not in " ".join(arguments)
    assert set(environment) == set(options.env["CLOUTAGENT_KEEP"].split(","))


async def test_killing_the_agent_ends_what_its_tool_runs(stage: Stage) -> None:
    workspace, options = prepare(stage.root, stage.model.base_url, ["Bash"])
    client = ClaudeSDKClient(options)
    await client.connect()
    await client.query(SLEEP)
    await stage.sleeping()

    assert await asyncio.to_thread(kill_run, workspace.path) >= 2

    assert stage.processes() == []
    await client.disconnect()
    workspace.remove()


@pytest.mark.parametrize("prompt", [SLEEP, "[[say: half]] [[silence]]"])
async def test_no_agent_outlives_a_killed_server_for_long(stage: Stage, prompt: str) -> None:
    command = [sys.executable, "-m", "tests.support.cli_run", str(stage.root), stage.model.base_url, prompt, "Bash"]
    server = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY)
    if prompt == SLEEP:
        await stage.sleeping()
    else:
        await until(lambda: [call.output_tokens for call in stage.model.ledger] == [1], 30)
    assert stage.processes() != []

    server.kill()
    await server.wait()

    await until(lambda: stage.processes() == [], 10)
    assert sweep(stage.root) == 1
    assert len(stage.model.ledger) == 1
