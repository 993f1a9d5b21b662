"""An engine whose agents make scripted model calls through the real gateway, over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal

import aiohttp

from cloutagent_server.domain.cost import Usage
from cloutagent_server.domain.events import Failure, FailureReason
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.mcp import McpServer
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.base import RunListener
from cloutagent_server.engine.gateway import GatewaySession, ModelGateway
from cloutagent_server.engine.listening import OrderedListener
from tests.support.billing_vendor import CALL_HEADER, RUN_HEADER, Call

Rounds = Sequence[Sequence[Call]]
PATIENCE_SECONDS = 0.02


class WireAgent:
    """`AgentExecutor` that makes rounds of calls, those of a round at the same time, and ends at a refusal."""

    def __init__(self, execution_id: str, listener: RunListener, engine: WireEngine) -> None:
        self._id = execution_id
        self._listener = OrderedListener(listener)
        self._engine = engine
        self._session: GatewaySession | None = None
        self._stopped = asyncio.Event()

    async def initialize(self, config: AgentConfig, *, holds_secrets: bool = False) -> None:
        self._session = self._engine.gateway.open(config, self._listener)

    async def execute(self, prompt: str, options: ExecutionOptions) -> ExecutionResult:
        assert self._session is not None
        started = time.monotonic()
        playing = asyncio.ensure_future(self._play(self._engine.scripts[prompt], self._session))
        stopped = asyncio.ensure_future(self._stopped.wait())
        timeout = (options.timeout or 1000) / 1000
        await asyncio.wait({playing, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        refused = await playing if playing.done() else True
        self._engine.gateway.cut(self._session)
        stopped.cancel()
        if not playing.done():
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing
        await self._engine.gateway.close(self._session)
        if self._listener.fault is not None:
            raise self._listener.fault
        duration = round((time.monotonic() - started) * 1000)
        if refused:
            failure = Failure(FailureReason.MODEL_ERROR, "refused")
            return ExecutionResult(self._id, Status.FAILED, Usage(), duration, failure=failure)
        return ExecutionResult(self._id, Status.COMPLETED, Usage(), duration, "done")

    def estimate_cost(self, prompt_tokens: int, completion_tokens: int = 0) -> Decimal:
        return Decimal(0)

    async def stop(self) -> None:
        self._stopped.set()

    async def _play(self, rounds: Rounds, session: GatewaySession) -> bool:
        for calls in rounds:
            statuses = await asyncio.gather(*(self._call(call, session) for call in calls))
            if 402 in statuses:
                return True
        return False

    async def _call(self, call: Call, session: GatewaySession) -> int:
        headers = {"x-api-key": session.token, CALL_HEADER: call.header(), RUN_HEADER: self._id}
        url = f"{session.base_url}/v1/messages"
        patience = PATIENCE_SECONDS if call.fault == "hang" else None
        try:
            async with self._engine.http.post(url, json=call.body(), headers=headers) as answer:
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return 0


class WireEngine:
    """`Engine` of `WireAgent`s. `scripts` leads from a prompt to its calls."""

    def __init__(self, gateway: ModelGateway, http: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.http = http
        self.scripts: Mapping[str, Rounds] = {}

    async def start(self) -> None:
        """The gateway is somebody else's."""

    async def stop(self) -> None:
        """The gateway is somebody else's."""

    def executor(self, execution_id: str, listener: RunListener) -> WireAgent:
        """An agent for one run."""
        return WireAgent(execution_id, listener, self)

    def refused_tools(self, names: Sequence[str]) -> Mapping[str, str]:
        """None."""
        return {}

    def refused_servers(self, servers: Mapping[str, McpServer]) -> Mapping[str, str]:
        """None."""
        return {}

    def forget(self, agent_id: str) -> None:
        """Nothing is kept ready."""
