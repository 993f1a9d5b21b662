"""An agent's process: the SDK's command line in a directory of its own, started for one execution."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from cloutagent_server.domain.mcp import McpServer, StdioServer, allowed_tools, server_of
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine import mcp_relay
from cloutagent_server.engine.closing import within
from cloutagent_server.engine.gateway import Credential, ModelGateway
from cloutagent_server.engine.isolation.confinement import Confinement, Start
from cloutagent_server.engine.limits import LimitWatch
from cloutagent_server.engine.process import kill_run
from cloutagent_server.engine.workspace import Workspace

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions
    from claude_agent_sdk import Message as SdkMessage

_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_DISCONNECT_SECONDS: Final = 12.0
_SERVER_SECONDS: Final = 30.0
_SERVER_LOOK_SECONDS: Final = 0.05
_TODO_LIST: Final = {"CLAUDE_CODE_ENABLE_TASKS": "0"}
# All tools of the servers are told to the model at once; it has no tool to search for them.
_ALL_TOOLS: Final = {"ENABLE_TOOL_SEARCH": "false"}


class ServerFailed(Exception):
    """An MCP server of the agent does not answer as one; the message is for people."""


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

    async def get_mcp_status(self) -> Any:
        """The MCP servers: `{"mcpServers": [{"name", "status", "error"?}]}`."""
        ...

    async def interrupt(self) -> None:
        """Ask the process to end what it does."""
        ...

    async def disconnect(self) -> None:
        """Close the process's input and wait for its end."""
        ...


ClientFactory = Callable[["ClaudeAgentOptions"], AgentClient]


def sdk_client(options: ClaudeAgentOptions) -> AgentClient:
    """The SDK's client. The SDK has been loaded; see `sdk`."""
    from claude_agent_sdk import ClaudeSDKClient

    return ClaudeSDKClient(options)


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
        """Start the process, unless that was done before; returns when it takes a prompt and its servers answer.

        Raises:
            ServerFailed: An MCP server does not answer.
            Exception: What the SDK raises.
        """
        if not self.connected:
            await self.client.connect()
            await self._servers_answer()
            self.connected = True

    async def _servers_answer(self) -> None:
        deadline = time.monotonic() + _SERVER_SECONDS
        while self.config.mcp_servers:
            status = await self.client.get_mcp_status()
            states = {server["name"]: server for server in status["mcpServers"]}
            pending = [name for name in self.config.mcp_servers if states.get(name, {}).get("status") == "pending"]
            for name in self.config.mcp_servers:
                state = states.get(name, {})
                if name not in pending and state.get("status") != "connected":
                    # Whoever owns the run redacts it, and cuts it after that.
                    reason = state.get("error") or state.get("status") or "not started"
                    raise ServerFailed(f"the MCP server {name} cannot be used: {reason}")
            if not pending:
                return
            if time.monotonic() > deadline:
                raise ServerFailed(f"the MCP server {pending[0]} did not answer within {_SERVER_SECONDS:.0f} s")
            await asyncio.sleep(_SERVER_LOOK_SECONDS)

    async def disconnect(self) -> None:
        """Close the client, which ends a process that listens. Doing so again does nothing."""
        if not self._disconnected:
            self._disconnected = True
            await within(_DISCONNECT_SECONDS, self.client.disconnect())

    async def kill(self, grace: float = 0.0) -> None:
        """End all processes of the run; see `process.kill_run`. Raises OSError."""
        await asyncio.to_thread(kill_run, self.workspace.path, grace, self.watch.handle)

    async def end(self) -> None:
        """End the process whatever state it is in, and remove the directory; what fails of that is tried again."""
        await self.confinement.endings.end(self._end, f"ending the agent {self.workspace.path.name}")

    async def _end(self) -> None:
        await self.disconnect()
        faults: list[Exception] = []
        for step in (self.kill, self._release, self._remove):
            try:
                await step()
            except Exception as fault:
                faults.append(fault)
        if faults:
            raise faults[0]
        self.watch.close()

    async def _release(self) -> None:
        await self.confinement.release(self.workspace)

    async def _remove(self) -> None:
        await asyncio.to_thread(self.workspace.remove)


class AgentMaker:
    """Prepares agents. The SDK has been loaded when it is asked for the first; see `sdk`."""

    def __init__(
        self, gateway: ModelGateway, confinement: Confinement, client_factory: ClientFactory = sdk_client
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
            if config.mcp_servers:
                url = self._confinement.gateway_url(credential.base_url)
                workspace.write_mcp_config(_mcp_config(config.mcp_servers, url, credential.token))
            start = self._confinement.prepare(
                workspace,
                credential.base_url,
                credential.token,
                {**_TODO_LIST, **_ALL_TOOLS, "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(config.max_tokens)},
            )
        except BaseException:
            workspace.remove()
            raise
        client = self._client_factory(_sdk_options(config, workspace, start))
        watch = LimitWatch(workspace.path, self._confinement.limits)
        return Agent(config, workspace, credential, client, watch, self._confinement)


def _sdk_options(config: AgentConfig, workspace: Workspace, start: Start) -> ClaudeAgentOptions:
    from claude_agent_sdk import ClaudeAgentOptions

    tools = [tool for tool in config.enabled_tools if server_of(tool) is None]
    # The command line's bare mode sends the prompt and nothing about the machine, but it has no harmless tool.
    bare: dict[str, str | None] = {} if tools else {"bare": None}
    return ClaudeAgentOptions(
        model=config.model,
        system_prompt={"type": "file", "path": start.system_prompt},
        tools=tools,
        allowed_tools=tools + allowed_tools(config.mcp_servers, config.enabled_tools),
        # A path: the command line of the process, which others may see, holds nothing of it.
        mcp_servers=start.mcp_config if config.mcp_servers else {},
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


def _mcp_config(servers: Mapping[str, McpServer], gateway_url: str, token: str) -> str:
    """The servers as the command line reads them. Those over HTTP are behind the gateway, which has their headers."""
    documents: dict[str, Any] = {}
    for name, server in servers.items():
        if isinstance(server, StdioServer):
            documents[name] = {"command": server.command, "args": list(server.args), "env": dict(server.env)}
        else:
            url = f"{gateway_url}{mcp_relay.PATH}{name}"
            documents[name] = {"type": "http", "url": url, "headers": {"x-api-key": token}}
    return json.dumps({"mcpServers": documents})
