"""The executor with a fake SDK client in place of the command line; the gateway and the run's directory are real."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    CLIConnectionError,
    ProcessError,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)
from claude_agent_sdk import Message as SdkMessage

from cloutagent_server.domain.cost import TokenUsage, Usage
from cloutagent_server.domain.errors import AccessDenied
from cloutagent_server.domain.events import (
    AgentOutput,
    Failure,
    FailureReason,
    Message,
    TextDelta,
    ToolResult,
    ToolUse,
)
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.mcp import HttpServer
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.base import CallRefused, RunListener
from cloutagent_server.engine.claude import ClaudeEngine, ClaudeExecutor
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.isolation.tools import ISOLATED_TOOLS
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.engine.sdk import SdkLoader
from cloutagent_server.engine.workspace import Workspace
from tests.support.messages import RememberingListener, Reply, failing, running_upstream, stream_events, streaming

MODEL = "claude-sonnet-4-5"
CONFIG = AgentConfig("", "agent", "You are an agent.", MODEL, 0.3, 1000, ("TodoWrite",))
PRICES = GenaiPriceList()
DEADLINE = 10.0

Step = SdkMessage | Exception | Callable[["FakeClient"], Awaitable[object]]


@dataclass
class FakeClient:
    """A `ClaudeSDKClient` that takes the steps of a script: a message is yielded, an exception raised, a call made."""

    options: ClaudeAgentOptions
    script: Sequence[Step]
    prompt: str | None = None
    closing: list[str] = field(default_factory=list)
    servers: list[list[dict[str, Any]]] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self) -> None:
        assert Path(str(self.options.cwd)).is_dir()

    async def query(self, prompt: str) -> None:
        self.prompt = prompt

    async def receive_response(self) -> AsyncIterator[SdkMessage]:
        for step in self.script:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                await step(self)
            else:
                yield step

    async def get_mcp_status(self) -> dict[str, Any]:
        return {"mcpServers": self.servers.pop(0)}

    async def interrupt(self) -> None:
        self.closing.append("interrupt")
        self.interrupted.set()

    async def disconnect(self) -> None:
        self.closing.append("disconnect")


async def call_model(client: FakeClient) -> int:
    """What the command line does for each message: one call to the Messages API, with what it was given for that."""
    environment = client.options.env
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{environment['ANTHROPIC_BASE_URL']}/v1/messages",
            json={"model": client.options.model, "max_tokens": 32_000, "stream": True, "messages": []},
            headers={"x-api-key": environment["ANTHROPIC_API_KEY"]},
        ) as answer,
    ):
        await answer.read()
        return answer.status


async def hang(client: FakeClient) -> None:
    """Do nothing until the client is interrupted."""
    client.hanging.set()
    await client.interrupted.wait()


async def hang_for_good(client: FakeClient) -> None:
    """Do nothing, also when interrupted."""
    await asyncio.Event().wait()


def says(*blocks: TextBlock | ThinkingBlock | ToolUseBlock, message_id: str = "msg_1") -> list[SdkMessage]:
    """A streamed message of the model as the SDK tells it: deltas, one AssistantMessage for each block, the end."""
    messages: list[SdkMessage] = [stream_event("message_start", message={"id": message_id})]
    for block in blocks:
        if isinstance(block, TextBlock):
            messages.append(stream_event("content_block_delta", delta={"type": "text_delta", "text": block.text}))
        messages.append(AssistantMessage([block], MODEL, message_id=message_id))
    stop = "tool_use" if any(isinstance(block, ToolUseBlock) for block in blocks) else "end_turn"
    return [*messages, stream_event("message_delta", delta={"stop_reason": stop}), stream_event("message_stop")]


def stream_event(kind: str, **rest: Any) -> StreamEvent:
    return StreamEvent("u", "s", {"type": kind, **rest})


def result(text: str | None = "Hello", **rest: Any) -> ResultMessage:
    given: dict[str, Any] = {"subtype": "success", "is_error": False, **rest}
    return ResultMessage(duration_ms=1, duration_api_ms=1, num_turns=1, session_id="s", result=text, **given)


@dataclass
class World:
    """An engine whose clients follow `script`."""

    engine: ClaudeEngine
    root: Path
    script: Sequence[Step] = ()
    clients: list[FakeClient] = field(default_factory=list)
    servers: Sequence[list[dict[str, Any]]] = ()
    listener: RunListener = field(default_factory=RememberingListener)

    def client(self, options: ClaudeAgentOptions) -> FakeClient:
        self.clients.append(FakeClient(options, self.script, servers=list(self.servers)))
        return self.clients[-1]

    async def executor(self, *script: Step, config: AgentConfig = CONFIG) -> ClaudeExecutor:
        self.script = script
        executor = self.engine.executor(new_id(), self.listener)
        await executor.initialize(config)
        return executor

    async def run(self, *script: Step, timeout: int | None = None) -> ExecutionResult:
        executor = await self.executor(*script)
        return await executor.execute("the prompt", ExecutionOptions(timeout=timeout))

    def run_directories(self) -> list[str]:
        return [entry.name for entry in self.root.iterdir() if entry.is_dir()]

    @property
    def told(self) -> RememberingListener:
        assert isinstance(self.listener, RememberingListener)
        return self.listener

    @property
    def outputs(self) -> list[AgentOutput]:
        return self.told.outputs


@pytest.fixture
def reply() -> Reply:
    """How the vendor answers."""
    return streaming(stream_events(120, 7))


@pytest.fixture
async def world(tmp_path: Path, reply: Reply) -> AsyncIterator[World]:
    async with running_upstream(reply) as upstream:
        made: list[World] = []
        engine = ClaudeEngine(
            ModelGateway(upstream.url, "sk-ant-real", PRICES),
            PRICES,
            tmp_path / "runs",
            lambda options: made[0].client(options),
            # The client of these tests is no process, so there is nothing to isolate.
            programs=[],
        )
        await engine.start()
        made.append(World(engine, tmp_path / "runs"))
        try:
            yield made[0]
            assert made[0].run_directories() == []
        finally:
            await engine.stop()


async def test_initialize_creates_sdk_instance_with_config(world: World) -> None:
    executor = await world.executor(result())
    (client,) = world.clients
    options = client.options
    assert (options.model, options.tools, options.allowed_tools) == (MODEL, ["TodoWrite"], ["TodoWrite"])
    assert (options.permission_mode, options.setting_sources, options.skills) == ("dontAsk", [], [])
    assert options.thinking == {"type": "disabled"}
    assert options.verbatim_prompts
    assert options.strict_mcp_config
    assert options.include_partial_messages
    assert options.extra_args == {"no-session-persistence": None}
    assert isinstance(options.system_prompt, dict)
    assert options.system_prompt["type"] == "file"
    assert Path(options.system_prompt["path"]).read_text() == "You are an agent."
    assert options.env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "1000"
    assert "sk-ant-real" not in options.env.values()
    await executor.execute("p", ExecutionOptions())


async def test_an_agent_without_tools_runs_bare(world: World) -> None:
    executor = await world.executor(result(), config=AgentConfig("", "agent", "system", MODEL))
    (client,) = world.clients
    assert (client.options.tools, client.options.allowed_tools) == ([], [])
    assert client.options.extra_args == {"no-session-persistence": None, "bare": None}
    await executor.execute("p", ExecutionOptions())


async def test_execute_returns_result_with_cost_and_duration(world: World) -> None:
    outcome = await world.run(call_model, *says(TextBlock("Hello")), result("Hello"))
    assert world.clients[0].prompt == "the prompt"
    assert (outcome.status, outcome.result, outcome.failure) == (Status.COMPLETED, "Hello", None)
    assert outcome.cost == Usage(120, 7, total_cost=120 * Decimal("0.000003") + 7 * Decimal("0.000015"), model_calls=1)
    assert 0 < outcome.duration < DEADLINE * 1000
    assert world.clients[0].closing == ["disconnect"]


async def test_execute_tracks_token_usage_correctly(world: World) -> None:
    outcome = await world.run(call_model, call_model, call_model, result())
    assert list(world.told.calls.values()) == [TokenUsage(120, 7, MODEL)] * 3
    assert (outcome.cost.prompt_tokens, outcome.cost.completion_tokens, outcome.cost.model_calls) == (360, 21, 3)
    assert outcome.cost.total_cost == sum((PRICES.cost(usage) for usage in world.told.calls.values()), Decimal(0))


async def test_execute_handles_timeout_after_specified_duration(world: World) -> None:
    outcome = await world.run(call_model, hang, timeout=200)
    assert outcome.status is Status.FAILED
    assert outcome.failure == Failure(FailureReason.TIMEOUT, "the run took longer than its timeout of 200 ms")
    assert outcome.error == outcome.failure.message
    assert 200 <= outcome.duration < DEADLINE * 1000
    assert outcome.cost.model_calls == 1
    assert world.clients[0].closing == ["interrupt", "disconnect"]


async def test_estimate_cost_calculates_cost_correctly(world: World) -> None:
    executor = await world.executor(result())
    assert executor.estimate_cost(1000) == Decimal("0.003")
    assert executor.estimate_cost(1000, 1000) == Decimal("0.018")
    await executor.execute("p", ExecutionOptions())


async def test_stop_stops_sdk_execution(world: World) -> None:
    executor = await world.executor(call_model, hang)
    running = asyncio.create_task(executor.execute("p", ExecutionOptions()))
    async with asyncio.timeout(DEADLINE):
        await world.clients[0].hanging.wait()
        await executor.stop()
        assert world.run_directories() == []
        outcome = await running
    assert (outcome.status, outcome.result, outcome.failure) == (Status.CANCELLED, None, None)
    assert outcome.cost.model_calls == 1
    assert world.clients[0].closing == ["interrupt", "disconnect"]
    await executor.stop()


async def test_stop_before_execute_cancels_the_run(world: World) -> None:
    executor = await world.executor(result())
    await executor.stop()
    outcome = await executor.execute("p", ExecutionOptions())
    assert outcome.status is Status.CANCELLED
    assert world.clients[0].prompt is None


async def test_a_client_that_takes_no_notice_is_left_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloutagent_server.engine.claude._INTERRUPT_SECONDS", 0.05)
    outcome = await world.run(hang_for_good, timeout=100)
    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.TIMEOUT


async def test_cancelling_twice_leaves_nothing(world: World) -> None:
    executor = await world.executor(call_model, hang)
    running = asyncio.create_task(executor.execute("p", ExecutionOptions()))
    async with asyncio.timeout(DEADLINE):
        await world.clients[0].hanging.wait()
        while not running.done():
            running.cancel()
            await asyncio.sleep(0)
    assert running.cancelled()
    assert world.clients[0].closing == ["interrupt", "disconnect"]
    assert world.run_directories() == []


async def test_a_message_comes_once_and_before_its_tool_calls(world: World) -> None:
    await world.run(
        SystemMessage("init", {}),
        *says(
            ThinkingBlock("hm", "s"), TextBlock("I "), ToolUseBlock("t1", "TodoWrite", {"todos": []}), TextBlock("plan")
        ),
        UserMessage([ToolResultBlock("t1", [{"type": "text", "text": "ok"}, {"type": "image"}])]),
        *says(TextBlock("Done"), message_id="msg_2"),
        result("Done"),
    )
    assert world.outputs == [
        TextDelta("I "),
        TextDelta("plan"),
        Message("I plan"),
        ToolUse("t1", "TodoWrite", {"todos": []}),
        ToolResult("t1", "ok\n[image]", False),
        TextDelta("Done"),
        Message("Done"),
    ]


async def test_a_message_that_was_not_streamed_is_told_too(world: World) -> None:
    await world.run(
        AssistantMessage([TextBlock("One")], MODEL, message_id="msg_1"),
        AssistantMessage([ToolUseBlock("t1", "TodoWrite", {})], MODEL, message_id="msg_1"),
        UserMessage([ToolResultBlock("t1", "no", is_error=True), ToolResultBlock("t2", None)]),
        AssistantMessage([TextBlock("Two")], MODEL, message_id="msg_2"),
        AssistantMessage([TextBlock("Three")], MODEL, message_id="msg_3"),
        UserMessage("a reminder"),
        result("Three"),
    )
    assert world.outputs == [
        Message("One"),
        ToolUse("t1", "TodoWrite", {}),
        ToolResult("t1", "no", True),
        ToolResult("t2", "", False),
        Message("Two"),
        Message("Three"),
    ]


async def test_a_continued_response_is_one_result(world: World) -> None:
    outcome = await world.run(
        *says(TextBlock("This was "))[:-2],
        stream_event("message_delta", delta={"stop_reason": "max_tokens"}),
        stream_event("message_stop"),
        *says(TextBlock("cut in two."), message_id="msg_2"),
        result("cut in two."),
    )
    assert outcome.result == "This was cut in two."
    assert [output for output in world.outputs if isinstance(output, Message)] == [
        Message("This was "),
        Message("cut in two."),
    ]


async def test_a_result_without_text_is_empty(world: World) -> None:
    assert (await world.run(result(None))).result == ""


@pytest.mark.parametrize("reply", [failing(400, "invalid_request_error", "messages: too long")])
async def test_an_error_of_the_vendor_is_a_model_error(world: World) -> None:
    outcome = await world.run(
        call_model,
        AssistantMessage([TextBlock("API Error: 400 messages: too long")], "<synthetic>", error="invalid_request"),
        result("API Error: 400", is_error=True, api_error_status=400),
    )
    assert outcome.status is Status.FAILED
    assert outcome.failure == Failure(
        FailureReason.MODEL_ERROR, "the model's API failed with status 400: messages: too long"
    )
    assert world.outputs == []


async def test_a_refused_call_is_a_model_error_for_the_owner_to_replace(world: World) -> None:
    world.listener = RememberingListener(refusal=CallRefused("nothing is left"))
    outcome = await world.run(call_model, result("API Error: 402", is_error=True, api_error_status=402))
    assert outcome.failure == Failure(FailureReason.MODEL_ERROR, "a call to the model was refused")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([ProcessError("/secret/path", exit_code=137)], "the agent's process ended with exit code 137"),
        ([CLIConnectionError("/secret/path")], "the agent's process failed (CLIConnectionError)"),
        ([OSError("/secret/path")], "the agent's process failed (OSError)"),
        ([], "the agent's process ended without a result"),
        (
            [result(None, is_error=True, subtype="error_during_execution")],
            "the agent ended without success: error_during_execution",
        ),
    ],
)
async def test_a_failure_of_the_agent_is_an_agent_error(world: World, script: Sequence[Step], message: str) -> None:
    outcome = await world.run(call_model, *script)
    assert outcome.status is Status.FAILED
    assert outcome.failure == Failure(FailureReason.AGENT_ERROR, message)
    assert outcome.cost.model_calls == 1


async def test_a_fault_of_the_listener_comes_out_of_execute(world: World) -> None:
    class BrokenListener(RememberingListener):
        async def on_output(self, output: AgentOutput) -> None:
            raise OSError("disk full")

    world.listener = BrokenListener()
    with pytest.raises(OSError, match="disk full"):
        await world.run(*says(TextBlock("Hello")), hang_for_good)


async def test_a_directory_that_stays_does_not_cost_the_result(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And it goes as soon as it can."""

    def refuse(workspace: Workspace) -> None:
        raise OSError("busy")

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "remove", refuse)
        assert (await world.run(result("Hello"))).result == "Hello"
        assert "is tried again: OSError('busy')" in caplog.text
        assert len(world.run_directories()) == 1
    async with asyncio.timeout(DEADLINE):
        while world.run_directories():  # noqa: ASYNC110 - what removes it tells nobody
            await asyncio.sleep(0.02)


async def test_each_step_of_an_ending_is_done_whatever_becomes_of_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes cannot be looked for, as in a server without descriptors: all else ends, and they do later."""
    killed: list[Path] = []
    failures = 3

    def kill_run(directory: Path, grace: float = 0.0, handle: int | None = None) -> int:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(24, "Too many open files")
        killed.append(directory)
        return 0

    monkeypatch.setattr("cloutagent_server.engine.agent.kill_run", kill_run)
    monkeypatch.setattr("cloutagent_server.engine.closing._FIRST_PAUSE_SECONDS", 0.01)
    executor = await world.executor(hang_for_good)
    ended = await executor.execute("x", ExecutionOptions(timeout=100))
    assert ended.failure is not None and ended.failure.reason is FailureReason.TIMEOUT
    assert "disconnect" in world.clients[0].closing
    assert await call_model(world.clients[0]) == 401
    assert world.run_directories() == []
    async with asyncio.timeout(DEADLINE):
        while not killed:  # noqa: ASYNC110 - what ends it tells nobody
            await asyncio.sleep(0.02)


async def test_the_access_of_a_run_ends_with_it(world: World) -> None:
    await world.run(call_model, result())
    assert await call_model(world.clients[0]) == 401


async def test_two_runs_of_one_execution_cannot_be(world: World) -> None:
    executor = await world.executor(result())
    with pytest.raises(RuntimeError):
        await executor.initialize(CONFIG)
    await executor.execute("p", ExecutionOptions())
    with pytest.raises(RuntimeError):
        await executor.execute("p", ExecutionOptions())


async def test_order_matters(world: World) -> None:
    executor = world.engine.executor(new_id(), world.listener)
    await executor.stop()
    with pytest.raises(RuntimeError):
        await executor.execute("p", ExecutionOptions())
    with pytest.raises(RuntimeError):
        executor.estimate_cost(1)


async def test_a_failed_initialize_leaves_nothing(world: World) -> None:
    executor = world.engine.executor(new_id(), world.listener)
    with pytest.raises(UnicodeEncodeError):
        await executor.initialize(AgentConfig("", "agent", "\ud800", MODEL))


async def test_a_run_that_is_stopped_while_the_sdk_is_imported_waits_for_it_no_longer(tmp_path: Path) -> None:
    imported = threading.Event()
    loader = SdkLoader(imported.wait, "json")
    gateway = ModelGateway("http://127.0.0.1:1", None, PRICES)
    engine = ClaudeEngine(gateway, PRICES, tmp_path / "runs", programs=[], sdk=loader)
    await engine.start()
    try:
        executor = engine.executor(new_id(), RememberingListener())
        preparing = asyncio.create_task(executor.initialize(AgentConfig("", "agent", "system", MODEL)))
        await asyncio.sleep(0)
        await executor.stop()
        await asyncio.wait_for(preparing, 5)
        assert (await executor.execute("p", ExecutionOptions())).status is Status.CANCELLED
        assert not loader.ready
    finally:
        imported.set()
        await engine.stop()


async def test_an_sdk_that_cannot_be_imported_is_a_fault_of_the_engine(tmp_path: Path) -> None:
    loader = SdkLoader(module="no_such_sdk")
    gateway = ModelGateway("http://127.0.0.1:1", None, PRICES)
    engine = ClaudeEngine(gateway, PRICES, tmp_path / "runs", programs=[], sdk=loader)
    await engine.start()
    try:
        assert engine.fault() is None
        with pytest.raises(ImportError):
            await engine.executor(new_id(), RememberingListener()).initialize(AgentConfig("", "agent", "system", MODEL))
        assert (engine.fault() or "").startswith("no_such_sdk cannot be imported: ModuleNotFoundError")
    finally:
        await engine.stop()


def test_an_engine_must_start_first(tmp_path: Path) -> None:
    engine = ClaudeEngine(ModelGateway("http://127.0.0.1:1", None, PRICES), PRICES, tmp_path)
    with pytest.raises(RuntimeError):
        engine.executor(new_id(), RememberingListener())


async def test_start_clears_what_a_dead_server_left(tmp_path: Path) -> None:
    left = tmp_path / new_id()
    left.mkdir()
    engine = ClaudeEngine(ModelGateway("http://127.0.0.1:1", None, PRICES), PRICES, tmp_path)
    await engine.start()
    await engine.stop()
    assert not left.exists()


NEVER = ["WebFetch", "WebSearch", "Agent", "Skill", "Nonsense", "bash", "Bash(ls)"]


async def test_with_isolation_tools_that_run_code_or_touch_files_are_offered(tmp_path: Path) -> None:
    engine = ClaudeEngine(ModelGateway("http://127.0.0.1:1", None, PRICES), PRICES, tmp_path)
    await engine.start()
    refused = engine.refused_tools(["TodoWrite", *sorted(ISOLATED_TOOLS), *NEVER])
    await engine.stop()
    assert list(refused) == NEVER
    assert refused["Nonsense"] == refused["bash"] == "the agent has no tool of this name"
    assert "not metered" in refused["WebSearch"]


async def test_without_isolation_they_are_refused_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    bwrap.chmod(0o700)
    gateway = ModelGateway("http://127.0.0.1:1", None, PRICES)
    engine = ClaudeEngine(gateway, PRICES, tmp_path / "runs", programs=[bwrap])
    await engine.start()
    try:
        refused = engine.refused_tools(["TodoWrite", "Bash", "Read"])
        assert list(refused) == ["Bash", "Read"]
        reason = f"{bwrap}: bwrap: No permissions to create new namespace"
        assert refused["Bash"] == f"this machine cannot isolate the agent's process: {reason}"
        assert any(reason in record.getMessage() for record in caplog.records)
        executor = engine.executor(new_id(), RememberingListener())
        with pytest.raises(AccessDenied, match="the tool Bash is not available on this server: this machine cannot"):
            await executor.initialize(AgentConfig("", "agent", "", MODEL, enabled_tools=("TodoWrite", "Bash")))
    finally:
        await engine.stop()


FAR = HttpServer("https://tools.example/mcp", {"Authorization": "Bearer s3cret"})


async def test_a_run_waits_for_its_servers(world: World) -> None:
    world.servers = [[{"name": "far", "status": "pending"}], [{"name": "far", "status": "connected"}]]
    config = replace(CONFIG, mcp_servers={"far": FAR}, enabled_tools=("mcp__far__one", "TodoWrite"))
    executor = await world.executor(result("Done"), config=config)
    (client,) = world.clients
    assert (client.options.tools, client.options.allowed_tools) == (["TodoWrite"], ["TodoWrite", "mcp__far__one"])
    text = Path(str(client.options.mcp_servers)).read_text()
    assert "s3cret" not in text
    assert "tools.example" not in text
    assert stat.S_IMODE(Path(str(client.options.mcp_servers)).stat().st_mode) == 0o600
    outcome = await executor.execute("p", ExecutionOptions())
    assert (outcome.status, client.servers) == (Status.COMPLETED, [])


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ([{"name": "far", "status": "failed", "error": "it is gone"}], "it is gone"),
        ([{"name": "far", "status": "needs-auth"}], "needs-auth"),
        ([], "not started"),
        # It is not cut before it is redacted.
        ([{"name": "far", "status": "failed", "error": "x" * 1000}], "x" * 1000),
    ],
    ids=["error", "status", "missing", "long"],
)
async def test_a_server_that_fails_ends_the_run(world: World, states: list[dict[str, Any]], reason: str) -> None:
    world.servers = [states]
    executor = await world.executor(result("Done"), config=replace(CONFIG, mcp_servers={"far": FAR}))
    outcome = await executor.execute("p", ExecutionOptions())
    message = f"the MCP server far cannot be used: {reason}"
    assert outcome.failure == Failure(FailureReason.AGENT_ERROR, message)
    assert world.clients[0].prompt is None


async def test_a_server_that_stays_silent_ends_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloutagent_server.engine.agent._SERVER_SECONDS", 0.0)
    world.servers = [[{"name": "far", "status": "pending"}]]
    executor = await world.executor(result("Done"), config=replace(CONFIG, mcp_servers={"far": FAR}))
    outcome = await executor.execute("p", ExecutionOptions())
    assert outcome.failure is not None
    assert outcome.failure.message == "the MCP server far did not answer within 0 s"
