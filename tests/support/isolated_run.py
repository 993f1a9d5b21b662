"""`python -m tests.support.isolated_run ROOT BASE_URL PROMPT` is a server that runs `PROMPT` with Bash."""

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


async def main(root: str, base_url: str, prompt: str) -> None:
    """Run `prompt` to its end."""
    prices = GenaiPriceList()
    engine = ClaudeEngine(ModelGateway(base_url, "sk-ant-real", prices), prices, Path(root))
    await engine.start()
    executor = engine.executor(new_id(), RememberingListener())
    await executor.initialize(AgentConfig("", "agent", "", "claude-sonnet-4-5", enabled_tools=("Bash",)))
    await executor.execute(prompt, ExecutionOptions())
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
