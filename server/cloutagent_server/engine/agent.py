"""An agent's process: the SDK's command line in a directory of its own, started for one execution."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient
from claude_agent_sdk import Message as SdkMessage

from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.closing import within
from cloutagent_server.engine.gateway import Credential, ModelGateway
from cloutagent_server.engine.isolation.confinement import Confinement, Start
from cloutagent_server.engine.limits import LimitWatch
from cloutagent_server.engine.process import kill_run
from cloutagent_server.engine.workspace import Workspace

_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_DISCONNECT_SECONDS: Final = 12.0
_TODO_LIST: Final = {"CLAUDE_CODE_ENABLE_TASKS": "0"}


class AgentClient(Protocol):
    """The part of `ClaudeSDKClient` that a run needs."""

    async def connect(self) -> None:
        """Start the process; returns when it takes a prompt."""
        ...

    async def query(self, prompt: str) -> None:
        """Send the prompt."""
        ...

    def receive_response(self) -> AsyncIterator[SdkMessage]:
        """The messages up to the result."""
        ...

    async def interrupt(self) -> None:
        """Ask the process to end what it does."""
        ...

    async def disconnect(self) -> None:
        """Close the process's input and wait for its end."""
        ...


ClientFactory = Callable[[ClaudeAgentOptions], AgentClient]


@dataclass(slots=True)
class Agent:
    """A prepared agent; `end` must follow.

    Attributes:
        config: What it was prepared for.
        workspace: Its directory.
        credential: What it will show to the gateway; refused until a session is opened with it.
        client: The SDK's client of its process.
        watch: Holds it to its limits.
        connected: Whether its process runs and waits for a prompt.
    """

    config: AgentConfig
    workspace: Workspace
    credential: Credential
    client: AgentClient
    watch: LimitWatch
    confinement: Confinement
    connected: bool = False
    _disconnected: bool = False

    async def connect(self) -> None:
        """Start the process, unless that was done before; returns when it takes a prompt. Raises what the SDK does."""
        if not self.connected:
            await self.client.connect()
            self.connected = True

    async def disconnect(self) -> None:
        """Close the client, which ends a process that listens. Doing so again does nothing."""
        if not self._disconnected:
            self._disconnected = True
            await within(_DISCONNECT_SECONDS, self.client.disconnect())

    async def end(self) -> None:
        """End the process whatever state it is in, and remove the directory.

        Raises:
            OSError: Something in the directory cannot be removed.
        """
        await self.disconnect()
        await asyncio.to_thread(kill_run, self.workspace.path)
        await self.confinement.release(self.workspace)
        await asyncio.to_thread(self.workspace.remove)


class AgentMaker:
    """Prepares agents."""

    def __init__(
        self, gateway: ModelGateway, confinement: Confinement, client_factory: ClientFactory = ClaudeSDKClient
    ) -> None:
        self._gateway = gateway
        self._confinement = confinement
        self._client_factory = client_factory

    def prepare(self, config: AgentConfig, name: str) -> Agent:
        """Make the directory `name`, an identifier, and the SDK's client of an agent; nothing is started yet.

        Raises:
            OSError: The directory cannot be made.
        """
        workspace = self._confinement.workspace(name)
        credential = self._gateway.credential()
        try:
            workspace.write_system_prompt(config.system_prompt)
            start = self._confinement.prepare(
                workspace,
                credential.base_url,
                credential.token,
                {**_TODO_LIST, "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(config.max_tokens)},
            )
        except BaseException:
            workspace.remove()
            raise
        client = self._client_factory(_sdk_options(config, workspace, start))
        watch = LimitWatch(workspace.path, self._confinement.limits)
        return Agent(config, workspace, credential, client, watch, self._confinement)


def _sdk_options(config: AgentConfig, workspace: Workspace, start: Start) -> ClaudeAgentOptions:
    tools = list(config.enabled_tools)
    # The command line's bare mode sends the prompt and nothing about the machine, but it has no harmless tool.
    bare: dict[str, str | None] = {} if tools else {"bare": None}
    return ClaudeAgentOptions(
        model=config.model,
        system_prompt={"type": "file", "path": start.system_prompt},
        tools=tools,
        allowed_tools=tools,
        permission_mode="dontAsk",
        setting_sources=[],
        strict_mcp_config=True,
        skills=[],
        thinking={"type": "disabled"},
        verbatim_prompts=True,
        include_partial_messages=True,
        max_buffer_size=_MAX_MESSAGE_BYTES,
        cli_path=start.launcher,
        cwd=workspace.work,
        env=start.environment,
        extra_args={"no-session-persistence": None, **bare},
        # Without a reader of its own the process would write to the server's standard error.
        stderr=lambda line: None,
    )
