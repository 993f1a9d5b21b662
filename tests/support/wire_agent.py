"""An engine whose agents make scripted model calls through the real gateway, over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal

import aiohttp
from aiohttp import web

from cloutagent_server.domain.cost import Usage
from cloutagent_server.domain.events import Failure, FailureReason
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.mcp import McpServer
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.base import PlannedCall, PriceList, RunListener
from cloutagent_server.engine.gateway import GatewaySession, ModelGateway
from cloutagent_server.engine.listening import OrderedListener
from cloutagent_server.engine.request_body import RequestBody
from tests.support.billing_vendor import CALL_HEADER, NUMBER_HEADER, RUN_HEADER, Call

Rounds = Sequence[Sequence[Call]]
# The agent of a run with less time than this does not leave a silent vendor: the run's timeout ends it.
SHORT_MILLISECONDS = 1000


@dataclass
class Made:
    """A call that an agent made.

    Attributes:
        status: Of the gateway's answer; 0 where it broke off, None before it has ended.
        undisturbed: Whether it ended while its run went on, so that the vendor and the agent alone made its end.
    """

    run: str
    call: Call
    status: int | None = None
    undisturbed: bool = False


class NumberedGateway(ModelGateway):
    """A gateway that tells which of the agents' calls is which in the ledger: `numbers`, by call id."""

    def __init__(self, upstream_base_url: str, api_key: str, prices: PriceList) -> None:
        super().__init__(upstream_base_url, api_key, prices)
        self.numbers: dict[str, str] = {}

    def _planned(self, request: web.Request, call_id: str, max_tokens: int, body: RequestBody) -> PlannedCall:
        self.numbers[call_id] = request.headers[NUMBER_HEADER]
        return super()._planned(request, call_id, max_tokens, body)


class WireAgent:
    """`AgentExecutor` that makes rounds of calls, those of a round at the same time, and ends at a refusal."""

    def __init__(self, execution_id: str, listener: RunListener, engine: WireEngine) -> None:
        self._id = execution_id
        self._listener = OrderedListener(listener)
        self._engine = engine
        self._session: GatewaySession | None = None
        self._stopped = asyncio.Event()
        self._cut = False
        self._short = False

    async def initialize(self, config: AgentConfig, *, holds_secrets: bool = False) -> None:
        self._session = self._engine.gateway.open(config, self._listener)

    async def execute(self, prompt: str, options: ExecutionOptions) -> ExecutionResult:
        assert self._session is not None
        started = time.monotonic()
        playing = asyncio.ensure_future(self._play(self._engine.scripts[prompt], self._session))
        stopped = asyncio.ensure_future(self._stopped.wait())
        timeout = (options.timeout or 1000) / 1000
        self._short = timeout < SHORT_MILLISECONDS / 1000
        await asyncio.wait({playing, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        refused = await playing if playing.done() else False
        timed_out = not playing.done() and not stopped.done()
        self._cut = True
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
        if timed_out:
            failure = Failure(FailureReason.TIMEOUT, "the run took longer than its timeout")
            return ExecutionResult(self._id, Status.FAILED, Usage(), duration, failure=failure)
        if self._stopped.is_set():
            return ExecutionResult(self._id, Status.CANCELLED, Usage(), duration)
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
        number = str(next(self._engine.count))
        made = self._engine.made[number] = Made(self._id, call)
        headers = {
            "x-api-key": session.token,
            CALL_HEADER: call.header(),
            NUMBER_HEADER: number,
            RUN_HEADER: self._id,
        }
        url = f"{session.base_url}/v1/messages"
        try:
            async with self._engine.http.post(url, json=call.body(), headers=headers) as answer:
                status = answer.status
                await self._read(answer, number, call)
        except aiohttp.ClientError:
            status = 0
        made.status, made.undisturbed = status, not self._cut
        return status

    async def _read(self, answer: aiohttp.ClientResponse, number: str, call: Call) -> None:
        if answer.content_type == "text/event-stream":
            start = b""
            while b"\n\n" not in start and (chunk := await answer.content.readany()):
                start += chunk
            self._engine.heard[number].set()
            if call.fault == "hang" and not self._short:
                return
        await answer.read()


class WireEngine:
    """`Engine` of `WireAgent`s.

    Attributes:
        scripts: Leads from a prompt to its calls.
        heard: See `BillingVendor`.
        made: The calls that were made, by their number.
    """

    def __init__(
        self, gateway: NumberedGateway, http: aiohttp.ClientSession, heard: defaultdict[str, asyncio.Event]
    ) -> None:
        self.gateway = gateway
        self.http = http
        self.heard = heard
        self.count = itertools.count(1)
        self.made: dict[str, Made] = {}
        self.scripts: Mapping[str, Rounds] = {}

    async def start(self) -> None:
        """The gateway is somebody else's."""

    async def stop(self) -> None:
        """The gateway is somebody else's."""

    def fault(self) -> str | None:
        """None."""
        return None

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
