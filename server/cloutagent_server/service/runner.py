"""One run: drives an agent, writes its events, holds it to its limits, and gives it exactly one end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import (
    WARNING_PERCENT,
    BudgetExceeded,
    BudgetScope,
    CostLimits,
    ExceededLimit,
    TokenUsage,
    Usage,
    check_limits,
)
from cloutagent_server.domain.errors import CloutAgentError, StorageUnavailable
from cloutagent_server.domain.events import (
    AgentOutput,
    Cancelled,
    Completed,
    Event,
    Failed,
    Failure,
    FailureReason,
    LimitWarning,
    Message,
    Payload,
    SdkCost,
    Started,
    TerminalPayload,
    TextDelta,
    TokenUsed,
    ToolResult,
    ToolUse,
)
from cloutagent_server.domain.execution import (
    Execution,
    ExecutionOptions,
    ExecutionResult,
    Status,
    cut_result,
)
from cloutagent_server.domain.metrics import NO_METRICS, Metrics
from cloutagent_server.engine.base import AgentExecutor, CallEnd, Engine, PlannedCall, PriceList
from cloutagent_server.service.budgets import BudgetRefusal, RunBudget, Turns, UnboundedInput
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.outputs import MAX_LOG_BYTES, cut, parts_of, size_of
from cloutagent_server.service.prompts import FilledPrompts
from cloutagent_server.service.run_redaction import RunRedaction
from cloutagent_server.storage.base import Storage

log: Final = logging.getLogger(__name__)

# Pauses between the attempts to store the end of a run while the storage takes no writes.
END_RETRY_SECONDS: Final = (0.5, 2.0, 8.0)

# Texts that may wait to be written before the agent has to.
MOST_WAITING_TEXTS: Final = 256
MOST_WAITING_CHARACTERS: Final = 1 << 20

MAX_FAILURE_CHARACTERS: Final = 4_000

# What the SDK's figure may differ from ours by, in US dollars, for its binary fractions.
SDK_COST_TOLERANCE: Final = Decimal("0.000001")


class Run:
    """The run of one execution. `drive` once; `cancel` and `interrupt` at any time."""

    def __init__(
        self,
        execution: Execution,
        prompts: FilledPrompts,
        storage: Storage,
        engine: Engine,
        prices: PriceList,
        tracker: CostTracker,
        turns: Turns,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._execution = execution
        self._prompts = prompts
        self._storage = storage.executions
        self._tracker = tracker
        self._metrics = metrics
        self._budget = RunBudget(execution, storage, prices, tracker, turns)
        self._limits = CostLimits(execution.limits.max_tokens, execution.limits.max_cost)
        # Made when the run has started.
        self._redaction: RunRedaction
        self._telling = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._texts: list[TextDelta] = []
        self._waiting = 0
        self._said = 0
        self._full = False
        self._flushing: asyncio.Task[None] | None = None
        self._warned: set[ExceededLimit] = set()
        self._exceeded: Failure | None = None
        self._cancelled = False
        self._unsettled = False
        self._interrupted = False
        self._stopping: asyncio.Task[None] | None = None
        self._started: float | None = None
        self._unstored: list[Payload] = []
        self._executor: AgentExecutor = engine.executor(execution.id, self)

    @property
    def project_id(self) -> str:
        """The project that it runs for."""
        return self._execution.project_id

    @property
    def execution(self) -> Execution:
        """The execution as this run has made it."""
        return self._execution

    @property
    def unstored(self) -> Sequence[Payload]:
        """What the storage has not taken of the run's end when `drive` returned, in order. Usually nothing."""
        return (*self._texts, *self._unstored) if self._unstored else ()

    async def drive(self) -> None:
        """Run the agent and write every event, the terminal one last. Raises nothing but cancellation."""
        named = {"execution_id": self._execution.id, "project_id": self._execution.project_id}
        log.info("execution started", extra=named)
        try:
            await self._emit(Started(self._execution.agent.model))
            self._started = time.monotonic()
            # After the start was written: if a server dies of this, the next one ends the run and does not try again.
            self._redaction = await RunRedaction.of(self._prompts.secrets.values())
            result = await self._execute()
            await self._settle_rest()
            await self._finish(await self._end_of(result))
        except Exception as fault:
            log.exception("run failed", extra={"execution_id": self._execution.id})
            await self._give_up(fault)
        finally:
            self._tracker.forget(self._execution.id)
            await self._stopped()
            log.info("execution ended", extra=_summary(self._execution))

    def cancel(self) -> None:
        """End the run as cancelled, unless it ends by itself first."""
        self._cancelled = True
        self._stop()

    def interrupt(self) -> None:
        """End the run as failed with reason INTERRUPTED, because the server stops."""
        self._interrupted = True
        self._stop()

    async def on_output(self, output: AgentOutput) -> None:
        """Write what the agent did, with secrets redacted; a caller that is cancelled does not end this half-way."""
        await asyncio.shield(self._tell(output))

    async def _tell(self, output: AgentOutput) -> None:
        async with self._telling:
            if self._full:
                return
            match output:
                case TextDelta(text=text):
                    await self._emit_text(await self._redaction.push(text))
                case Message(text=text):
                    await self._emit_text(await self._redaction.flush())
                    await self._say(Message(await self._redaction.whole(text)))
                case ToolUse():
                    await self._say(await self._redaction.tool_use(output))
                case ToolResult():
                    content = await self._redaction.whole(output.content)
                    await self._say(ToolResult(output.tool_use_id, content, output.is_error))

    async def _say(self, output: AgentOutput) -> None:
        for part in parts_of(output):
            if self._room_for(part):
                await self._emit(part)

    def _room_for(self, output: AgentOutput) -> bool:
        """Whether the log takes what the agent says; a run that says too much is ended."""
        if not self._full:
            self._said += size_of(output)
            if self._said > MAX_LOG_BYTES:
                self._full = True
                message = f"the agent said more than an event log takes ({MAX_LOG_BYTES >> 20} MiB)"
                self._refuse(Failure(FailureReason.AGENT_ERROR, message))
                self._stop()
        return not self._full

    async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
        """Count what a model call has used so far and hold the run to its limits. What none can use is ignored."""
        if not usage.possible:
            return
        await self._count(self._tracker.track_tokens(self._execution.id, usage, call_id), usage.model)

    async def before_call(self, call: PlannedCall) -> int:
        """Reserve what the call can use at most; refuse it where that does not fit into every limit."""
        try:
            return await self._budget.reserve(call)
        except BudgetRefusal as refusal:
            self._metrics.budget_refused(refusal.budget.scope, refusal.budget.exceeded)
            self._refuse(Failure(FailureReason.LIMIT_EXCEEDED, str(refusal), refusal.budget.exceeded, refusal.budget))
            raise
        except UnboundedInput as refusal:
            self._refuse(Failure(FailureReason.MODEL_ERROR, str(refusal)))
            raise

    async def after_call(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> None:
        """Give back what the call did not use, and count what it may have used."""
        before = self._tracker.get_usage(self._execution.id)
        total = await self._budget.settle(call_id, end, usage)
        if total is not None and total != before:
            await self._count(total, None if usage is None else usage.model)

    async def _count(self, total: Usage, model: str | None) -> None:
        check = check_limits(total, self._limits)
        tokens, cost = check.percent_of_token_limit or 0.0, check.percent_of_cost_limit or 0.0
        await self._emit(TokenUsed(total, tokens, cost, model or self._execution.agent.model))
        for limit, percent in ((ExceededLimit.TOKENS, tokens), (ExceededLimit.COST, cost)):
            if percent >= WARNING_PERCENT and limit not in self._warned:
                self._warned.add(limit)
                await self._emit(LimitWarning(limit, percent))
        if check.exceeded is not None:
            self._refuse(_passed(check.exceeded, self._limits, total))
            self._stop()

    def _refuse(self, failure: Failure) -> None:
        """Note what ends the run. The first of such reasons stays."""
        self._exceeded = self._exceeded or failure

    async def _settle_rest(self) -> None:
        """What cannot be settled stays reserved and counts in full; whoever needs the room settles it then.

        The run ends whatever the ledger is like.
        """
        try:
            await self._budget.settle_rest()
        except Exception:
            self._unsettled = True
            log.exception("model calls stay reserved", extra={"execution_id": self._execution.id})

    async def _execute(self) -> ExecutionResult:
        await self._executor.initialize(self._prompts.agent, holds_secrets=self._prompts.agent_holds_secrets)
        limits = self._execution.limits
        options = ExecutionOptions(limits.max_tokens, limits.max_cost, limits.timeout)
        return await self._executor.execute(self._prompts.prompt, options)

    async def _end_of(self, result: ExecutionResult) -> TerminalPayload:
        usage, duration = self._usage(), self._duration()
        sdk_cost = _compared(result.sdk_cost, usage)
        if self._exceeded is not None:
            return Failed(await self._shown(self._exceeded), usage, duration, sdk_cost)
        if result.status is Status.COMPLETED:
            text, truncated = cut_result(await self._redaction.whole(result.result or ""))
            return Completed(text, usage, duration, sdk_cost, truncated)
        if self._cancelled:
            return Cancelled(usage, duration, sdk_cost)
        if self._interrupted:
            failure = Failure(FailureReason.INTERRUPTED, "the server stopped while the execution ran")
        elif result.failure is not None:
            failure = await self._shown(Failure(result.failure.reason, result.failure.message))
        else:
            failure = Failure(FailureReason.AGENT_ERROR, "the agent stopped without a result")
        return Failed(failure, usage, duration, sdk_cost)

    async def _shown(self, failure: Failure) -> Failure:
        message = cut(await self._redaction.whole(failure.message), MAX_FAILURE_CHARACTERS)
        return replace(failure, message=message)

    async def _finish(self, end: TerminalPayload) -> None:
        async with self._telling:
            rest = await self._redaction.flush()
            if rest and not self._full:
                await self._insist(TextDelta(rest))
            await self._insist(end)

    async def _give_up(self, fault: Exception) -> None:
        try:
            await self._fail(fault)
        except Exception:
            log.exception("the end of a run could not be stored", extra={"execution_id": self._execution.id})

    async def _fail(self, fault: Exception) -> None:
        await self._settle_rest()
        shown = fault.message if isinstance(fault, CloutAgentError) else "a fault of the server; its log names it"
        failure = Failure(FailureReason.AGENT_ERROR, f"the run was given up: {shown}")
        end = Failed(failure, self._usage(), self._duration())
        await self._insist(end)

    async def _insist(self, payload: Payload) -> None:
        """Write what must not be lost, again and again for a while if the storage refuses it, then leave it."""
        if not self._unstored:
            for seconds in (0.0, *END_RETRY_SECONDS):
                await asyncio.sleep(seconds)
                with contextlib.suppress(StorageUnavailable):
                    await self._emit(payload)
                    return
            log.error("the end of a run could not be stored yet", extra={"execution_id": self._execution.id})
        self._unstored.append(payload)

    def _usage(self) -> Usage:
        """What the run has used, which is an estimate while something of it is not settled."""
        usage = self._tracker.get_usage(self._execution.id)
        return replace(usage, estimated=True) if self._unsettled else usage

    def _duration(self) -> int:
        """Milliseconds since the run started, whatever the clock says meanwhile; 0 before."""
        return 0 if self._started is None else round((time.monotonic() - self._started) * 1000)

    async def _emit_text(self, text: str) -> None:
        """Have text written; only when much of it waits does the caller.

        What comes while a write is under way is written together with the next. What the storage does not take is
        written with what follows, and that meets the fault if it lasts.
        """
        if not text:
            return
        for part in parts_of(TextDelta(text)):
            if isinstance(part, TextDelta) and self._room_for(part):
                self._texts.append(part)
                self._waiting += len(part.text)
        if len(self._texts) > MOST_WAITING_TEXTS or self._waiting > MOST_WAITING_CHARACTERS:
            await asyncio.shield(self._append())
        elif self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        try:
            await self._append()
        except Exception as fault:
            log.warning("text could not be stored yet: %r", fault, extra={"execution_id": self._execution.id})

    async def _emit(self, payload: Payload) -> None:
        """Append an event. An engine that gives up waiting does not leave this run behind its log."""
        await asyncio.shield(self._append(payload))

    async def _append(self, *payloads: Payload) -> None:
        async with self._writing:
            texts = len(self._texts)
            waiting = (*self._texts, *payloads)
            if waiting:
                first, now = self._execution.last_sequence + 1, timestamps.now()
                events = [Event(self._execution.id, first + at, now, payload) for at, payload in enumerate(waiting)]
                self._execution = await self._storage.append(events)
                del self._texts[:texts]
                self._waiting = sum(len(one.text) for one in self._texts)

    async def _stopped(self) -> None:
        try:
            if self._stopping is not None:
                await self._stopping
        except Exception:
            log.exception("stopping a run failed", extra={"execution_id": self._execution.id})

    def _stop(self) -> None:
        if self._stopping is None:
            self._budget.stop()
            self._stopping = asyncio.ensure_future(self._executor.stop())


def _passed(limit: ExceededLimit, limits: CostLimits, usage: Usage) -> Failure:
    """Why a run ends that used more than its limit."""
    tokens = limit is ExceededLimit.TOKENS
    most = (limits.max_tokens if tokens else limits.max_cost) or 0
    used = usage.total_tokens if tokens else usage.total_cost
    budget = BudgetExceeded(BudgetScope.EXECUTION, limit, Decimal(most), Decimal(used))
    return Failure(FailureReason.LIMIT_EXCEEDED, f"{budget.name} ended the run: {budget.state}", limit, budget)


def _compared(sdk_cost: Decimal | None, usage: Usage) -> SdkCost | None:
    if sdk_cost is None:
        return None
    return SdkCost(sdk_cost, abs(sdk_cost - usage.total_cost) > SDK_COST_TOLERANCE)


def _summary(execution: Execution) -> dict[str, object]:
    return {
        "execution_id": execution.id,
        "project_id": execution.project_id,
        "status": execution.status.value,
        "reason": execution.failure.reason.value if execution.failure else None,
        "tokens": execution.usage.total_tokens,
        "cost": float(execution.usage.total_cost),
        "duration": execution.duration,
    }
