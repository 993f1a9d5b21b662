"""The engine with isolated agents, told by the local model what their tools do; or with none, where none can be.

A machine that cannot isolate agents has to refuse such tools: that is what `tested_refusal` tests there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from cloutagent_server.domain.errors import AccessDenied
from cloutagent_server.domain.events import ToolResult
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.claude import ClaudeEngine, ClaudeExecutor
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.limits import DEFAULT_LIMITS, AgentLimits
from cloutagent_server.engine.local_model import LocalModel
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.engine.process import RUN_MARKER
from tests.support.messages import RememberingListener
from tests.support.processes import Tree, lives

PRICES = GenaiPriceList()
DEADLINE = 60.0
SECRET = "only-the-server-may-know-this"


@dataclass
class Stage:
    """An engine beside a data folder whose content nobody else may see."""

    engine: ClaudeEngine
    model: LocalModel
    folder: Path
    before: list[psutil.Process]
    listener: RememberingListener = field(default_factory=RememberingListener)

    @property
    def root(self) -> Path:
        """The workspace root."""
        return self.folder / "runs"

    def tree(self) -> Tree:
        """All processes of all runs, with those in sandboxes."""
        return Tree(os.getpid(), but=self.before)

    async def executor(self, *tools: str, listener: RememberingListener | None = None) -> ClaudeExecutor:
        executor = self.engine.executor(new_id(), listener or self.listener)
        await executor.initialize(AgentConfig("", "agent", "", "claude-sonnet-4-5", enabled_tools=tools))
        return executor

    async def run(self, prompt: str, *tools: str) -> ExecutionResult:
        executor = await self.executor(*tools)
        return await executor.execute(prompt, ExecutionOptions(timeout=round(DEADLINE * 1000)))

    async def bash(self, script: str) -> str:
        """What Bash says to `script`."""
        answer = await self.tool("Bash", command=script)
        return answer.content

    async def tool(self, name: str, **arguments: object) -> ToolResult:
        result = await self.run(f"{call(name, **arguments)} [[say: over]]", name)
        assert (result.status, result.result) == (Status.COMPLETED, "over"), result.failure
        return [output for output in self.listener.outputs if isinstance(output, ToolResult)][-1]


def call(name: str, **arguments: object) -> str:
    """What tells the local model to call a tool."""
    return f"[[tool: {name} {json.dumps(arguments)}]]"


@contextlib.asynccontextmanager
async def staged(folder: Path, limits: AgentLimits = DEFAULT_LIMITS) -> AsyncIterator[Stage]:
    """An engine in this folder, and at its end nothing of its runs is left."""
    data = folder / "projects"
    data.mkdir()
    (data / "manifest").write_text(SECRET)
    before = psutil.Process().children(recursive=True)
    model = LocalModel("sk-ant-real")
    await model.start()
    gateway = ModelGateway(model.base_url, "sk-ant-real", PRICES)
    engine = ClaudeEngine(gateway, PRICES, folder / "runs", limits=limits, hidden=[data])
    await engine.start()
    try:
        yield Stage(engine, model, folder, before)
    finally:
        await engine.stop()
        await model.stop()
    assert [entry.name for entry in (folder / "runs").iterdir() if entry.is_dir()] == []
    assert Tree(os.getpid(), but=before).left() == []
    assert marked(folder) == []


async def tested_refusal(stage: Stage, record_property: Callable[[str, object], None]) -> bool:
    """Whether this machine cannot isolate agents. If so, a run with such a tool was refused with the reason."""
    refused = stage.engine.refused_tools(["Bash"])
    record_property("isolation", refused.get("Bash", "on"))
    if not refused:
        return False
    with pytest.raises(AccessDenied, match=r"this machine cannot isolate the agent's process: .+"):
        await stage.executor("Bash")
    return True


def marked(folder: Path) -> list[psutil.Process]:
    """Living processes of the runs in `folder`, and what descends from them."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(RUN_MARKER, "").startswith(f"{folder.resolve()}{os.sep}"):
                found |= {process, *process.children(recursive=True)}
    return [process for process in found if lives(process)]


async def until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Return when `condition` holds; fail at the deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition lies in other processes
            await asyncio.sleep(0.05)
