"""Runs agents with claude-agent-sdk: one command-line process a run, which talks to nothing but the model gateway."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloutagent_server.domain.cost import TokenUsage, Usage
from cloutagent_server.domain.errors import AccessDenied
from cloutagent_server.domain.events import Failure, FailureReason
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.mcp import HttpServer, McpServer
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.agent import Agent, AgentClient, AgentMaker, ClientFactory, ServerFailed, sdk_client
from cloutagent_server.engine.base import PriceList, RunListener
from cloutagent_server.engine.closing import attempted, to_the_end, within
from cloutagent_server.engine.gateway import GatewaySession, ModelGateway
from cloutagent_server.engine.isolation.confinement import Confinement
from cloutagent_server.engine.limits import DEFAULT_LIMITS, AgentLimits
from cloutagent_server.engine.listening import OrderedListener
from cloutagent_server.engine.pool import RunStart, WarmPool
from cloutagent_server.engine.process import reap_orphans
from cloutagent_server.engine.sdk import SdkLoader
from cloutagent_server.engine.transcript import Transcript
from cloutagent_server.engine.watchdog import Watchdog
from cloutagent_server.engine.workspace import remove_root, sweep

if TYPE_CHECKING:
    from claude_agent_sdk import ResultMessage

LOG = logging.getLogger(__name__)
# What the SDK logs as an error it raises as well, and its text may hold what the agent wrote.
logging.getLogger("claude_agent_sdk").setLevel(logging.CRITICAL)

_INTERRUPT_SECONDS: Final = 2.0
_TERMINATE_SECONDS: Final = 1.5


@dataclass(frozen=True, slots=True)
class _Ending:
    status: Status
    result: str | None = None
    failure: Failure | None = None
    sdk_cost: Decimal | None = None


_CANCELLED: Final = _Ending(Status.CANCELLED)


def _failed(reason: FailureReason, message: str) -> _Ending:
    return _Ending(Status.FAILED, failure=Failure(reason, message))


class ClaudeEngine:
    """`Engine` over claude-agent-sdk. `workspace_root` is where each run gets its directory; the engine owns it.

    `limits` is what each run may take of the machine. Isolated runs see none of the folders `hidden`. `programs` says
    where bubblewrap may be; see `isolation.bubblewrap.find`. At most `warm_agents` agents are started before they are
    needed; see `pool`. `sdk` loads the SDK for the first of them.
    """

    def __init__(
        self,
        gateway: ModelGateway,
        prices: PriceList,
        workspace_root: Path,
        client_factory: ClientFactory = sdk_client,
        *,
        limits: AgentLimits = DEFAULT_LIMITS,
        hidden: Sequence[Path] = (),
        programs: Sequence[Path] | None = None,
        warm_agents: int = 0,
        sdk: SdkLoader | None = None,
    ) -> None:
        self._gateway = gateway
        self._prices = prices
        self._root = workspace_root
        self._confinement = Confinement(workspace_root, gateway.serve, limits, hidden, programs)
        self._sdk = SdkLoader() if sdk is None else sdk
        self._maker = AgentMaker(gateway, self._confinement, client_factory)
        self.pool = WarmPool(self._maker.prepare, warm_agents)
        self._watchdog = Watchdog(workspace_root)
        self._started = False

    async def start(self) -> None:
        """Clear away what a dead server left behind, and open the gateway.

        Raises:
            OSError: The workspace root cannot be used, or the SDK has no command line.
        """
        await asyncio.to_thread(self._prepare)
        await self._confinement.start()
        await self._gateway.start()
        if self._confinement.unavailable is not None:
            # A sandbox ends with the server by itself.
            self._watchdog.start()
        self._sdk.start()
        self._started = True

    async def stop(self) -> None:
        """End the agents that were not used, and close the gateway."""
        self._sdk.stop()
        await self.pool.stop()
        await self._confinement.stop()
        await self._gateway.stop()
        await asyncio.to_thread(self._watchdog.stop)

    def fault(self) -> str | None:
        """See `Engine`."""
        return self._sdk.fault if self._gateway.listening else "the model gateway does not listen"

    def executor(self, execution_id: str, listener: RunListener) -> ClaudeExecutor:
        """A new executor for one run. The engine must have started."""
        if not self._started:
            raise RuntimeError("the engine has not started")
        return ClaudeExecutor(
            execution_id, listener, self._gateway, self._prices, self._confinement, self._maker, self.pool, self._sdk
        )

    def refused_tools(self, names: Sequence[str]) -> Mapping[str, str]:
        """See `Engine` and `isolation.tools`. Before the start all but the harmless are refused."""
        return self._confinement.refusals(names)

    def refused_servers(self, servers: Mapping[str, McpServer]) -> Mapping[str, str]:
        """See `Engine`, `isolation.tools` and `mcp_relay`."""
        refused = {
            name: reason
            for name, server in servers.items()
            if isinstance(server, HttpServer) and (reason := self._gateway.mcp.refusal(server.url)) is not None
        }
        return refused | self._confinement.server_refusals(servers)

    def forget(self, agent_id: str) -> None:
        """See `Engine`."""
        self.pool.forget(agent_id)

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        reap_orphans(self._root)
        sweep(self._root)


def clear_away(root: Path) -> None:
    """End all that still runs in a dead server's root of run directories, or this server's at its end; remove it."""
    reap_orphans(root)
    remove_root(root)


class ClaudeExecutor:
    """`AgentExecutor` over claude-agent-sdk: one client, one process and one directory for one run."""

    def __init__(
        self,
        execution_id: str,
        listener: RunListener,
        gateway: ModelGateway,
        prices: PriceList,
        confinement: Confinement,
        maker: AgentMaker,
        pool: WarmPool,
        sdk: SdkLoader,
    ) -> None:
        self._id = execution_id
        self._listener = OrderedListener(listener)
        self._gateway = gateway
        self._prices = prices
        self._confinement = confinement
        self._maker = maker
        self._pool = pool
        self._sdk = sdk
        self._prepared: _Prepared | None = None
        self._given_up = False
        self._begun = False
        self._prompted = False
        self._stop_asked = asyncio.Event()
        self._ended = asyncio.Event()

    async def initialize(self, config: AgentConfig, *, holds_secrets: bool = False) -> None:
        """Take a warm agent of this configuration or prepare one, and give it access to the gateway.

        None waits in advance with secrets.

        Raises:
            AccessDenied: A tool or a server needs an isolation that this machine cannot give, whoever configured it.
            OSError: The directory cannot be made.
            ImportError: The SDK cannot be loaded.
        """
        if self._prepared is not None:
            raise RuntimeError("initialize comes once")
        for name, reason in self._confinement.refusals(config.enabled_tools).items():
            raise AccessDenied(f"the tool {name} is not available on this server: {reason}")
        for name, reason in self._confinement.server_refusals(config.mcp_servers).items():
            raise AccessDenied(f"the MCP server {name} is not available on this server: {reason}")
        if not self._sdk.ready and not await self._loaded_before_a_stop():
            self._given_up = True
            return
        start = self._pool.start(config, keep=not holds_secrets)
        try:
            agent = start.agent or self._maker.prepare(config, self._id)
        except BaseException:
            start.over()
            raise
        session = self._gateway.open(config, self._listener, agent.credential)
        self._prepared = _Prepared(agent, session, start)

    async def _loaded_before_a_stop(self) -> bool:
        """Whether the SDK is there. The first run of a server waits for it, but does not outlive a cancel for it."""
        loading, stopped = asyncio.create_task(self._sdk.loaded()), asyncio.create_task(self._stop_asked.wait())
        try:
            await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                await loading
            return loading.done()
        finally:
            loading.cancel()
            stopped.cancel()

    async def execute(self, prompt: str, options: ExecutionOptions) -> ExecutionResult:
        """See `AgentExecutor`. Of the options only the timeout concerns the engine; the listener keeps the limits."""
        run = self._prepared
        if self._given_up:
            return ExecutionResult(self._id, Status.CANCELLED, Usage(), 0)
        if run is None or self._begun:
            raise RuntimeError("execute comes once, after initialize")
        self._begun = True
        start = time.monotonic()
        work = asyncio.create_task(self._work(run, prompt))
        try:
            ending = await self._until_ended(run.agent, work, options.timeout)
            duration = round((time.monotonic() - start) * 1000)
        finally:
            await to_the_end(self._close(run, work))
        if self._listener.fault is not None:
            raise self._listener.fault
        return ExecutionResult(
            self._id,
            ending.status,
            self._usage(run.session),
            duration,
            ending.result,
            ending.failure,
            ending.sdk_cost,
        )

    def estimate_cost(self, prompt_tokens: int, completion_tokens: int = 0) -> Decimal:
        """See `AgentExecutor`. The tokens are priced as those of one call."""
        if self._prepared is None:
            raise RuntimeError("estimate_cost comes after initialize")
        return self._prices.cost(TokenUsage(prompt_tokens, completion_tokens, self._prepared.agent.config.model))

    async def stop(self) -> None:
        """See `AgentExecutor`."""
        self._stop_asked.set()
        if self._begun:
            await self._ended.wait()

    async def _until_ended(self, agent: Agent, work: asyncio.Task[_Ending], timeout: int | None) -> _Ending:
        stop_asked = asyncio.create_task(self._stop_asked.wait())
        passed = asyncio.create_task(agent.watch.passed())
        try:
            seconds = None if timeout is None else timeout / 1000
            await asyncio.wait({work, stop_asked, passed}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if passed.done() and not work.done():
                reason = await passed
                await attempted(agent.kill(), f"execution {self._id}: ending its processes")
                return _failed(FailureReason.AGENT_ERROR, reason)
        finally:
            stop_asked.cancel()
            passed.cancel()
        if work.done():
            return await work
        if self._stop_asked.is_set():
            return _CANCELLED
        return _failed(FailureReason.TIMEOUT, f"the run took longer than its timeout of {timeout} ms")

    async def _work(self, run: _Prepared, prompt: str) -> _Ending:
        if self._stop_asked.is_set():
            return _CANCELLED
        from claude_agent_sdk import ProcessError, ResultMessage, SystemMessage

        transcript = Transcript(self._listener)
        try:
            await run.agent.connect()
            await run.agent.client.query(prompt)
            self._prompted = True
            async for message in run.agent.client.receive_response():
                if not isinstance(message, SystemMessage):
                    run.start.over()
                await transcript.add(message)
                if self._listener.fault is not None:
                    return _CANCELLED
                if isinstance(message, ResultMessage):
                    said = message.total_cost_usd
                    sdk_cost = None if said is None else Decimal(str(said))
                    return replace(_ending(message, transcript, run), sdk_cost=sdk_cost)
        except ServerFailed as error:
            return _failed(FailureReason.AGENT_ERROR, str(error))
        except ProcessError as error:
            return _failed(FailureReason.AGENT_ERROR, f"the agent's process ended with exit code {error.exit_code}")
        except Exception as error:
            # The text of such an error may hold paths of the server and what the agent wrote; its type is enough.
            LOG.warning("execution %s: the agent's process failed: %s", self._id, type(error).__name__)
            return _failed(FailureReason.AGENT_ERROR, f"the agent's process failed ({type(error).__name__})")
        return _failed(FailureReason.AGENT_ERROR, "the agent's process ended without a result")

    async def _close(self, run: _Prepared, work: asyncio.Task[_Ending]) -> None:
        """End the run's process whatever state it is in, then its access and its directory.

        Each step is done whatever became of those before it.
        """
        try:
            self._gateway.cut(run.session)
            if self._prompted and not work.done():
                await within(_INTERRUPT_SECONDS, _interrupted(run.agent.client, work))
            if not work.done():
                # An agent that starts up or hangs takes no notice, and would not end at the end of its input either.
                await attempted(run.agent.kill(_TERMINATE_SECONDS), f"execution {self._id}: ending its processes")
            await run.agent.disconnect()
            work.cancel()
            await asyncio.wait({work})
            await attempted(self._gateway.close(run.session), f"execution {self._id}: ending its access")
            await run.agent.end()
        finally:
            run.start.over()
            self._ended.set()

    def _usage(self, session: GatewaySession) -> Usage:
        total = Usage()
        for usage in session.calls.values():
            total = total.plus(usage, self._prices.cost(usage), calls=1)
        return total


async def _interrupted(client: AgentClient, work: asyncio.Task[_Ending]) -> None:
    await client.interrupt()
    await asyncio.wait({work})


@dataclass(frozen=True, slots=True)
class _Prepared:
    agent: Agent
    session: GatewaySession
    start: RunStart


def _ending(message: ResultMessage, transcript: Transcript, run: _Prepared) -> _Ending:
    if not message.is_error:
        return _Ending(Status.COMPLETED, result=transcript.continued or message.result or "")
    error = run.session.last_error
    if error is None and message.api_error_status is None:
        if transcript.cut:
            cause = f"its responses kept reaching maxTokens ({run.agent.config.max_tokens})"
        elif message.subtype == "success":
            cause = "it could not make sense of the answers of the model's API"
        else:
            cause = message.subtype
        return _failed(FailureReason.AGENT_ERROR, f"the agent ended without success: {cause}")
    if error is None:
        return _failed(FailureReason.MODEL_ERROR, "a call to the model was refused")
    status = "" if error.status is None else f" with status {error.status}"
    return _failed(FailureReason.MODEL_ERROR, f"the model's API failed{status}: {error.message}")
