"""What a run is given to start its agent with, isolated where this machine can do that."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloutagent_server.domain.mcp import McpServer
from cloutagent_server.engine.closing import Endings
from cloutagent_server.engine.isolation import bubblewrap
from cloutagent_server.engine.isolation.bubblewrap import Bubblewrap, NotIsolated
from cloutagent_server.engine.isolation.door import Door, Served
from cloutagent_server.engine.isolation.tools import refusals, server_refusals
from cloutagent_server.engine.limits import AgentLimits
from cloutagent_server.engine.process import bundled_cli, install_launcher, unreadable_copy
from cloutagent_server.engine.workspace import Workspace

LOG = logging.getLogger(__name__)
_DOOR_NAME: Final = "door"
_CLI_NAME: Final = "claude"
_ISOLATED_ENVIRONMENT: Final = {"PATH": bubblewrap.SEARCH_PATH, "SHELL": "/bin/bash", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Start:
    """How a run's agent is started.

    Attributes:
        launcher: The executable to start in place of the agent's command line.
        system_prompt: Where the agent finds the file of its system prompt.
        mcp_config: Where it finds the file of its MCP servers, if it has any.
        environment: All variables for the launcher.
    """

    launcher: Path
    system_prompt: str
    mcp_config: str
    environment: dict[str, str]


class Confinement:
    """Makes and keeps the sandboxes of the runs in `root`.

    Args:
        root: The workspace root.
        serve: Lets the model gateway answer on a listener.
        limits: What each run may take of the machine.
        hidden: Folders that no isolated run sees, wherever they are.
        programs: Where bubblewrap may be; see `bubblewrap.find`.
    """

    def __init__(
        self,
        root: Path,
        serve: Callable[[socket.socket], Awaitable[Served]],
        limits: AgentLimits,
        hidden: Iterable[Path] = (),
        programs: Sequence[Path] | None = None,
    ) -> None:
        self.limits = limits
        self.endings = Endings()
        """Of agents."""
        self._root = root.resolve()
        self._hidden = (*hidden, self._root)
        self._programs = programs
        self._door = Door(self._root / _DOOR_NAME, serve)
        self._cli: Path | None = None
        self._sandbox: Bubblewrap | None = None
        self._unavailable: str | None = "the engine has not started"

    @property
    def unavailable(self) -> str | None:
        """Why agents are not isolated; None if they are."""
        return self._unavailable

    async def start(self) -> None:
        """Find out what this machine can give, and say so in the log. `root` must exist.

        Raises:
            OSError: The root cannot be used, or the SDK has no command line.
        """
        self._cli = bundled_cli()
        try:
            self._sandbox = await asyncio.to_thread(bubblewrap.find, self._root, self._hidden, self._programs)
        except NotIsolated as reason:
            self._unavailable = str(reason)
            LOG.warning("agents are not isolated, so tools that run code or touch files are refused: %s", reason)
            return
        self._cli = await asyncio.to_thread(unreadable_copy, self._cli, self._root / _CLI_NAME)
        self._unavailable = None
        self._door.open()
        LOG.info("agents are isolated with %s", self._sandbox.program)

    async def stop(self) -> None:
        """Release what the sandboxes share. No run may be under way."""
        await self.endings.stop()
        await self._door.close()

    def refusals(self, names: Iterable[str]) -> dict[str, str]:
        """Those tools of `names` that may not be enabled, in order, each with the reason."""
        return refusals(names, self._unavailable)

    def server_refusals(self, servers: Mapping[str, McpServer]) -> dict[str, str]:
        """Those of `servers` that an agent may not have, each with the reason."""
        return server_refusals(servers, self._unavailable)

    def gateway_url(self, url: str) -> str:
        """Where an agent finds the gateway that listens at `url` on this machine."""
        return url if self._sandbox is None else bubblewrap.GATEWAY_URL

    def workspace(self, execution_id: str) -> Workspace:
        """Make the directory of a run. Raises OSError if it cannot be made."""
        return Workspace.create(self._root, execution_id, bubblewrap.INSIDE if self._sandbox else None)

    def prepare(self, workspace: Workspace, gateway_url: str, token: str, extra: dict[str, str]) -> Start:
        """What starts the agent of a run. Its files must be written. `release` must follow.

        Args:
            workspace: The run's directory.
            gateway_url: Where the model gateway listens on this machine.
            token: The run's credential for it.
            extra: More variables for the agent; they override the others.

        Raises:
            OSError: The launcher cannot be written.
        """
        if self._cli is None:
            raise RuntimeError("the engine has not started")
        if self._sandbox is None:
            launcher = install_launcher(workspace.path, self._cli)
            environment = workspace.environment(gateway_url, token, extra)
            return Start(launcher, str(workspace.system_prompt), str(workspace.mcp_config), environment)
        command = self._sandbox.command(workspace, self._cli, self.limits)
        launcher = install_launcher(workspace.path, "--door", self._root / _DOOR_NAME, *command)
        self._door.expect(workspace.path.name)
        environment = workspace.environment(bubblewrap.GATEWAY_URL, token, {**_ISOLATED_ENVIRONMENT, **extra})
        return Start(launcher, bubblewrap.SYSTEM_PROMPT, bubblewrap.MCP_CONFIG, environment)

    async def release(self, workspace: Workspace) -> None:
        """End the run's way to the gateway. Its processes must have ended."""
        await self._door.dismiss(workspace.path.name)
