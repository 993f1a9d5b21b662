"""Agents with MCP servers: the real command line calls tools of a program and of a server over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from cloutagent_server.domain.errors import AccessDenied
from cloutagent_server.domain.events import FailureReason, ToolResult, ToolUse
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.mcp import HttpServer, McpServer, StdioServer
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.claude import ClaudeEngine
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.local_model import LocalModel
from cloutagent_server.engine.mcp_relay import McpRelay
from cloutagent_server.engine.prices import GenaiPriceList
from tests.support.mcp_servers import STDIO_SERVER, HttpMcp, http_mcp
from tests.support.messages import RememberingListener

pytestmark = pytest.mark.e2e

KEY = "sk-ant-the-real-key"
SECRET = "s3cr3t-of-the-server"
PRICES = GenaiPriceList()
TIMEOUT = 60_000
PROBE = StdioServer("/usr/bin/env", ("python3", "-c", STDIO_SERVER), {"TOKEN": SECRET})


@dataclass
class Stage:
    """An engine that may call loopback, and the command lines of all processes that were seen meanwhile."""

    engine: ClaudeEngine
    root: Path
    listener: RememberingListener = field(default_factory=RememberingListener)
    command_lines: set[str] = field(default_factory=set)

    async def run(self, prompt: str, servers: dict[str, McpServer], enabled: tuple[str, ...] = ()) -> ExecutionResult:
        config = AgentConfig("a", "agent", "system", "claude-sonnet-4-5", enabled_tools=enabled, mcp_servers=servers)
        executor = self.engine.executor(new_id(), self.listener)
        await executor.initialize(config)
        looking = asyncio.create_task(self._look())
        try:
            return await executor.execute(prompt, ExecutionOptions(timeout=TIMEOUT))
        finally:
            looking.cancel()

    @property
    def tools(self) -> list[ToolUse | ToolResult]:
        return [output for output in self.listener.outputs if isinstance(output, ToolUse | ToolResult)]

    async def _look(self) -> None:
        while True:
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    self.command_lines.add(" ".join(process.cmdline()))
            await asyncio.sleep(0.1)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    model = LocalModel(KEY)
    await model.start()
    root = tmp_path / "runs"
    gateway = ModelGateway(model.base_url, KEY, PRICES, McpRelay(private=True))
    engine = ClaudeEngine(gateway, PRICES, root, warm_agents=1)
    await engine.start()
    try:
        yield Stage(engine, root)
        assert [entry.name for entry in root.iterdir() if entry.is_dir()] == []
    finally:
        await engine.stop()
        await model.stop()


@pytest.fixture
async def remote() -> AsyncIterator[HttpMcp]:
    async with http_mcp() as server:
        yield server


def isolated(stage: Stage) -> None:
    if reason := stage.engine.refused_servers({"probe": PROBE}):
        pytest.fail(f"this machine cannot isolate agents: {reason}")


async def test_a_tool_of_a_program(stage: Stage) -> None:
    isolated(stage)
    result = await stage.run("[[tool: mcp__probe__token {}]] [[say: Done.]]", {"probe": PROBE})
    assert (result.status, result.result) == (Status.COMPLETED, "Done.")
    use, answer = stage.tools
    assert isinstance(use, ToolUse)
    assert use.name == "mcp__probe__token"
    assert isinstance(answer, ToolResult)
    assert (answer.content, answer.is_error) == (f"the token is {SECRET}", False)
    assert stage.command_lines
    assert not any(SECRET in line for line in stage.command_lines)
    assert len(stage.engine.pool) == 0


async def test_only_the_tools_that_are_named_run(stage: Stage) -> None:
    isolated(stage)
    prompt = "[[tool: mcp__probe__spare {}]] [[tool: mcp__probe__token {}]] [[say: Done.]]"
    await stage.run(prompt, {"probe": PROBE}, enabled=("mcp__probe__token", "TodoWrite"))
    results = [output for output in stage.tools if isinstance(output, ToolResult)]
    assert [result.is_error for result in results] == [True, False]


async def test_a_tool_over_http_and_its_headers_stay_outside(stage: Stage, remote: HttpMcp) -> None:
    servers: dict[str, McpServer] = {"far": HttpServer(remote.url, {"Authorization": f"Bearer {SECRET}"})}
    result = await stage.run('[[tool: mcp__far__shout {"text": "hi"}]] [[say: Done.]]', servers)
    assert (result.status, result.result) == (Status.COMPLETED, "Done.")
    answer = stage.tools[-1]
    assert isinstance(answer, ToolResult)
    assert (answer.content, answer.is_error) == (f"HI, said Bearer {SECRET}", False)
    assert "tools/call" in remote.calls
    assert all(headers["authorization"] == f"Bearer {SECRET}" for headers in remote.headers)
    # Its own credential for the gateway is for the gateway alone.
    assert not any("x-api-key" in headers for headers in remote.headers)
    assert any(headers.get("mcp-session-id") == "session-1" for headers in remote.headers)


async def test_a_server_that_does_not_answer_fails_the_run_before_it_costs(stage: Stage, remote: HttpMcp) -> None:
    servers: dict[str, McpServer] = {"gone": HttpServer(remote.url.replace("/tools", "/none"))}
    result = await stage.run("[[say: Done.]]", servers)
    assert result.status is Status.FAILED
    assert result.failure is not None
    assert result.failure.reason is FailureReason.AGENT_ERROR
    assert result.failure.message.startswith("the MCP server gone cannot be used")
    assert result.cost.model_calls == 0


async def test_where_nothing_is_isolated_programs_are_refused_and_http_works(tmp_path: Path, remote: HttpMcp) -> None:
    model = LocalModel(KEY)
    await model.start()
    gateway = ModelGateway(model.base_url, KEY, PRICES, McpRelay(private=True))
    engine = ClaudeEngine(gateway, PRICES, tmp_path / "runs", programs=[])
    await engine.start()
    try:
        stage = Stage(engine, tmp_path / "runs")
        far = HttpServer(remote.url, {"authorization": "x"})
        assert list(engine.refused_servers({"probe": PROBE, "far": far})) == ["probe"]
        with pytest.raises(AccessDenied, match="probe"):
            await stage.run("[[say: Done.]]", {"probe": PROBE})
        result = await stage.run('[[tool: mcp__far__shout {"text": "hi"}]] [[say: Done.]]', {"far": far})
        assert result.result == "Done."
        assert "tools/call" in remote.calls
    finally:
        await engine.stop()
        await model.stop()
