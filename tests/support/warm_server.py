"""`python -m tests.support.warm_server ROOT BASE_URL` runs one prompt, keeps a warm agent and says so."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cloutagent_server.domain.execution import ExecutionOptions
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.claude import ClaudeEngine
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.prices import GenaiPriceList
from tests.support.messages import RememberingListener


async def main(root: str, base_url: str) -> None:
    """Serve until it is killed."""
    prices = GenaiPriceList()
    engine = ClaudeEngine(ModelGateway(base_url, "sk-ant-the-real-key", prices), prices, Path(root), warm_agents=1)
    await engine.start()
    executor = engine.executor(new_id(), RememberingListener())
    await executor.initialize(AgentConfig("an-agent", "agent", "system", "claude-sonnet-4-5"))
    await executor.execute("[[say: One.]]", ExecutionOptions())
    while not len(engine.pool):  # noqa: ASYNC110 - the agent starts in another process
        await asyncio.sleep(0.02)
    print("warm", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
