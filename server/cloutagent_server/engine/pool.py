"""Agents that are started before they are needed, so that a run need not wait for its process."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.agent import Agent
from cloutagent_server.engine.closing import to_the_end

LOG = logging.getLogger(__name__)

MAX_AGE_SECONDS: Final = 300.0
_CONNECT_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 5.0
_REMEMBERED: Final = 1000


@dataclass(slots=True)
class _Idle:
    agent: Agent
    keeper: asyncio.Task[None] | None = None


class RunStart:
    """The start of a run. While one goes on, the pool starts nothing, to leave the processors to it.

    Attributes:
        agent: A warm agent for the run alone; None if there is none.
    """

    def __init__(self, agent: Agent | None, over: Callable[[], None]) -> None:
        self.agent = agent
        self._over: Callable[[], None] | None = over

    def over(self) -> None:
        """The run is under way, or has ended. Further calls do nothing."""
        over, self._over = self._over, None
        if over is not None:
            over()


class WarmPool:
    """At most `size` warm agents, one for a configuration, for those that were used last.

    After a run has started, its configuration's agent is made anew, one at a time and only while no run starts. An
    agent is dropped when it is `max_age` seconds old, dies, passes a limit, or makes room for another. Each is used
    once, so no run sees anything of another. It gets its access to the model when its run begins.

    An agent (`AgentConfig.id`) whose filled configuration differs from that of its run before is not made in advance
    until two in a row agree: a system prompt with a time in it would never be used again. One with MCP servers never
    is: its servers and their secrets are for a run, not for a reserve.
    """

    def __init__(
        self, prepare: Callable[[AgentConfig, str], Agent], size: int, max_age: float = MAX_AGE_SECONDS
    ) -> None:
        self._prepare = prepare
        self._size = size
        self._max_age = max_age
        self._idle: OrderedDict[str, _Idle] = OrderedDict()
        self._latest: OrderedDict[str, str] = OrderedDict()
        self._wanted: OrderedDict[str, AgentConfig] = OrderedDict()
        self._starting = 0
        self._filling: asyncio.Task[None] | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        """How many agents wait."""
        return len(self._idle)

    def start(self, config: AgentConfig, *, keep: bool = True) -> RunStart:
        """Begin a run of this configuration. `RunStart.over` must follow. Without `keep` nothing of it stays here."""
        self._starting += 1
        if not self._size or config.mcp_servers or not keep:
            return RunStart(None, self._start_is_over)
        key = _key(config)
        agent = self._take(key)
        steady = self._latest.get(config.id, key) == key
        self._remember(config.id, key)

        def over() -> None:
            if steady and self._latest.get(config.id) == key and not self._closed:
                self._wanted[key] = config
            self._start_is_over()

        return RunStart(agent, over)

    def forget(self, agent_id: str) -> None:
        """Drop what is there for an agent, whose configuration has changed or who is gone."""
        self._latest.pop(agent_id, None)
        self._drop_stale(agent_id)

    async def stop(self) -> None:
        """End all that are there, and make no more."""
        self._closed = True
        self._wanted.clear()
        if self._filling is not None:
            self._filling.cancel()
            with suppress(asyncio.CancelledError):
                await self._filling
        for key in tuple(self._idle):
            self._drop(key)
        while self._endings:
            await asyncio.wait(self._endings)

    def _take(self, key: str) -> Agent | None:
        idle = self._idle.pop(key, None)
        if idle is None:
            return None
        if idle.keeper is not None:
            idle.keeper.cancel()
        if not idle.agent.watch.lives:
            self._end(idle.agent)
            return None
        idle.agent.watch.begin()
        return idle.agent

    def _remember(self, agent_id: str, key: str) -> None:
        self._latest[agent_id] = key
        self._latest.move_to_end(agent_id)
        if len(self._latest) > _REMEMBERED:
            self._latest.popitem(last=False)
        self._drop_stale(agent_id)

    def _drop_stale(self, agent_id: str) -> None:
        latest = self._latest.get(agent_id)
        for key, config in tuple(self._wanted.items()):
            if config.id == agent_id and key != latest:
                del self._wanted[key]
        for key, idle in tuple(self._idle.items()):
            if idle.agent.config.id == agent_id and key != latest:
                self._drop(key)

    def _start_is_over(self) -> None:
        self._starting -= 1
        self._consider()

    def _consider(self) -> None:
        """Make the next agent that is wanted, if this is the moment."""
        if self._wanted and not self._starting and self._filling is None and not self._closed:
            self._filling = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        try:
            key, config = self._wanted.popitem()
            if key not in self._idle:
                while len(self._idle) >= self._size:
                    self._drop(next(iter(self._idle)))
                await self._make(key, config)
        except Exception as error:
            LOG.warning("no agent could be started in advance: %s", type(error).__name__)
        finally:
            self._filling = None
            self._consider()

    async def _make(self, key: str, config: AgentConfig) -> None:
        agent = self._prepare(config, new_id())
        kept = False
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await agent.connect()
            await asyncio.to_thread(agent.watch.look)
            if not self._closed and self._latest.get(config.id) == key:
                kept = True
                idle = self._idle[key] = _Idle(agent)
                idle.keeper = asyncio.create_task(self._keep(key, agent))
        finally:
            if not kept:
                await to_the_end(agent.end())

    async def _keep(self, key: str, agent: Agent) -> None:
        """Drop the agent when its time has come; ended by `_take` and `_drop`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_age):
                while True:
                    if not agent.watch.lives or await asyncio.to_thread(agent.watch.look) is not None:
                        break
                    await asyncio.sleep(_LOOK_SECONDS)
        self._idle[key].keeper = None
        self._drop(key)

    def _drop(self, key: str) -> None:
        idle = self._idle.pop(key)
        if idle.keeper is not None:
            idle.keeper.cancel()
        self._end(idle.agent)

    def _end(self, agent: Agent) -> None:
        task = asyncio.create_task(agent.end())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


def _key(config: AgentConfig) -> str:
    """Stands for a configuration, and holds nothing of it."""
    return hashlib.sha256(repr(config).encode(errors="surrogatepass")).hexdigest()
