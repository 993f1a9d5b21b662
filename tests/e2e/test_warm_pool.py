"""Warm agents of the real SDK and its real command line, against the local model."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import psutil
import pytest

from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.claude import ClaudeEngine
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.local_model import LocalModel
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.engine.process import RUN_MARKER, reap_orphans
from tests.support.messages import RememberingListener
from tests.support.processes import Tree, killed

pytestmark = pytest.mark.e2e

KEY = "sk-ant-the-real-key"
PRICES = GenaiPriceList()
DEADLINE = 60.0
NOTHING_LEFT_SECONDS = 5.0
CONFIG = AgentConfig("an-agent", "agent", "You are the agent of a test.", "claude-sonnet-4-5")


def processes(root: Path) -> set[psutil.Process]:
    """The processes of all agents in the root that carry its mark."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(RUN_MARKER, "").startswith(f"{root.resolve()}{os.sep}"):
                found.add(process)
    return found


def directories(root: Path) -> set[str]:
    return {entry.name for entry in root.iterdir() if entry.is_dir()}


@dataclass
class Stage:
    """An engine with room for two warm agents."""

    engine: ClaudeEngine
    gateway: ModelGateway
    model: LocalModel
    root: Path
    results: list[ExecutionResult] = field(default_factory=list)

    async def run(self, prompt: str, config: AgentConfig = CONFIG) -> ExecutionResult:
        executor = self.engine.executor(new_id(), RememberingListener())
        await executor.initialize(config)
        return await executor.execute(prompt, ExecutionOptions(timeout=int(DEADLINE * 1000)))

    async def one_is_warm(self) -> str:
        """The name of the one warm agent's directory, when its process takes prompts."""
        pool = self.engine.pool
        async with asyncio.timeout(DEADLINE):
            while len(pool) != 1 or len(directories(self.root)) != 1:  # noqa: ASYNC110 - it lies in another process
                await asyncio.sleep(0.02)
        return directories(self.root).pop()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    model = LocalModel(KEY)
    await model.start()
    root = tmp_path / "runs"
    gateway = ModelGateway(model.base_url, KEY, PRICES)
    engine = ClaudeEngine(gateway, PRICES, root, warm_agents=2)
    await engine.start()
    before = psutil.Process().children(recursive=True)
    try:
        yield Stage(engine, gateway, model, root)
    finally:
        warm = Tree(os.getpid(), but=before)
        await engine.stop()
        await model.stop()
    assert warm.left() == []
    assert processes(root) == set()
    assert directories(root) == set()


async def test_a_run_takes_the_warm_agent_and_another_replaces_it(stage: Stage) -> None:
    assert (await stage.run("[[say: One.]]")).result == "One."
    first = await stage.one_is_warm()
    assert len(stage.model.ledger) == 1
    result = await stage.run("[[say: Two.]]")
    assert (result.status, result.result) == (Status.COMPLETED, "Two.")
    assert result.cost.model_calls == 1
    assert await stage.one_is_warm() != first
    # Nothing of the first run is in the second, and nothing is called but what a run asks for.
    one, two = stage.model.ledger
    assert abs(one.input_tokens - two.input_tokens) <= 1


async def test_an_idle_agent_has_no_access_to_the_model(stage: Stage) -> None:
    await stage.run("[[say: One.]]")
    await stage.one_is_warm()
    (idle,) = {p.environ()["ANTHROPIC_API_KEY"] for p in processes(stage.root)}
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{stage.gateway.credential().base_url}/v1/messages",
            json={"model": CONFIG.model, "max_tokens": 5, "messages": []},
            headers={"x-api-key": idle},
        ) as answer,
    ):
        assert answer.status == 401
    assert len(stage.model.ledger) == 1


async def test_a_dead_agent_is_not_used(stage: Stage) -> None:
    await stage.run("[[say: One.]]")
    dead = await stage.one_is_warm()
    await asyncio.to_thread(reap_orphans, stage.root)
    result = await stage.run("[[say: Two.]]")
    assert (result.status, result.result) == (Status.COMPLETED, "Two.")
    assert await stage.one_is_warm() != dead


async def test_a_changed_configuration_drops_the_agent(stage: Stage) -> None:
    await stage.run("[[say: One.]]")
    await stage.one_is_warm()
    stage.engine.forget(CONFIG.id)
    async with asyncio.timeout(DEADLINE):
        while directories(stage.root):  # noqa: ASYNC110 - it lies in another process
            await asyncio.sleep(0.02)
    assert len(stage.engine.pool) == 0


async def test_a_prompt_that_is_never_the_same_is_not_made_in_advance(stage: Stage) -> None:
    for number in range(3):
        config = replace(CONFIG, id="changing", system_prompt=f"It is {number} o'clock.")
        assert (await stage.run("[[say: Yes.]]", config)).status is Status.COMPLETED
    assert len(stage.engine.pool) == 0


async def test_kill_9_of_the_server_leaves_no_warm_agent(stage: Stage, tmp_path: Path) -> None:
    root = tmp_path / "other"
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.warm_server", str(root), stage.model.base_url),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(DEADLINE):
            assert await server.stdout.readline() == b"warm\n"
        tree = killed(server.pid)
        assert "claude" in tree.names
        await server.wait()
        async with asyncio.timeout(NOTHING_LEFT_SECONDS):
            while tree.living():  # noqa: ASYNC110 - they are other processes
                await asyncio.sleep(0.05)
        assert processes(root) == set()
        again = ClaudeEngine(ModelGateway(stage.model.base_url, KEY, PRICES), PRICES, root)
        await again.start()
        assert directories(root) == set()
        await again.stop()
    finally:
        with suppress(ProcessLookupError):
            server.kill()
        await server.wait()
