"""Runs the SDK's own command line by way of the launcher in a workspace.

As a program, `python -m tests.support.cli_run ROOT BASE_URL PROMPT [TOOL...]`, it is a server that does so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.engine.process import bundled_cli, install_launcher
from cloutagent_server.engine.workspace import Workspace

TOKEN = "one-time-token"
SYSTEM_PROMPT = "You are a gardener."
_TODO_TOOL = {"CLAUDE_CODE_ENABLE_TASKS": "0", "CLAUDE_CODE_ENABLE_TODO_TOOLS": "1"}


def prepare(root: Path, base_url: str, tools: Sequence[str] = ()) -> tuple[Workspace, ClaudeAgentOptions]:
    """A new workspace under `root` and the options for one run in it."""
    workspace = Workspace.create(root, new_id())
    plain = "TodoWrite" not in tools
    options = ClaudeAgentOptions(
        cli_path=install_launcher(root, bundled_cli()),
        cwd=workspace.work,
        env=workspace.environment(base_url, TOKEN, {} if plain else _TODO_TOOL),
        model="claude-sonnet-4-5",
        system_prompt={"type": "file", "path": str(workspace.write_system_prompt(SYSTEM_PROMPT))},
        tools=list(tools),
        allowed_tools=list(tools),
        permission_mode="dontAsk",
        setting_sources=[],
        skills=[],
        strict_mcp_config=True,
        thinking={"type": "disabled"},
        verbatim_prompts=True,
        extra_args={"no-session-persistence": None, **({"bare": None} if plain else {})},
    )
    return workspace, options


async def main(root: str, base_url: str, prompt: str, *tools: str) -> None:
    """Run `prompt` to its end."""
    _, options = prepare(Path(root), base_url, tools)
    async with ClaudeSDKClient(options) as client:
        await client.query(prompt)
        async for _ in client.receive_response():
            pass


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
