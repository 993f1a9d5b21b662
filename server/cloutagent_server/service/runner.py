"""One run: drives an agent, writes its events, holds it to its limits, and gives it exactly one end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import (
    WARNING_PERCENT,
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
from cloutagent_server.engine.base import AgentExecutor, CallRefused, Engine, PlannedCall, PriceList
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.prompts import FilledPrompts
from cloutagent_server.service.redaction import Redactor
from cloutagent_server.storage.base import ExecutionStorage

log: Final = logging.getLogger(__name__)

# Pauses between the attempts to store the end of a run while the storage takes no writes.
END_RETRY_SECONDS: Final = (0.5, 2.0, 8.0)


class Run:
    """The run of one execution. `drive` once; `cancel` and `interrupt` at any time."""

    def __init__(
        self,
        execution: Execution,
        prompts: FilledPrompts,
        storage: ExecutionStorage,
        engine: Engine,
        prices: PriceList,
        tracker: CostTracker,
    ) -> None:
        self._execution = execution
        self._prompts = prompts
        self._storage = storage
        self._prices = prices
        self._tracker = tracker
        self._limits = CostLimits(execution.limits.max_tokens, execution.limits.max_cost)
        self._redactor = Redactor(prompts.secrets.values())
        self._text = self._redactor.stream()
        self._writing = asyncio.Lock()
        self._warned: set[ExceededLimit] = set()
        self._exceeded: Failure | None = None
        self._cancelled = False
        self._interrupted = False
        self._stopping: asyncio.Task[None] | None = None
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
        return self._unstored

    async def drive(self) -> None:
        """Run the agent and write every event, the terminal one last. Raises nothing but cancellation."""
        named = {"execution_id": self._execution.id, "project_id": self._execution.project_id}
        log.info("execution started", extra=named)
        try:
            await self._emit(Started(self._execution.agent.model))
            await self._finish(self._end_of(await self._execute()))
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
        """Write what the agent did, with secrets redacted."""
        match output:
            case TextDelta(text=text):
                await self._emit_text(self._text.push(text))
            case Message(text=text):
                await self._emit_text(self._text.flush())
                await self._emit(Message(self._redactor.whole(text)))
            case ToolUse():
                arguments = self._redactor.document(output.input)
                shown = arguments if isinstance(arguments, Mapping) else {}
                await self._emit(ToolUse(output.tool_use_id, self._redactor.text(output.name), shown))
            case ToolResult():
                content = self._redactor.whole(output.content)
                await self._emit(ToolResult(output.tool_use_id, content, output.is_error))

    async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
        """Count what a model call has used so far and hold the run to its limits."""
        total = self._tracker.track_tokens(self._execution.id, usage, call_id)
        check = check_limits(total, self._limits)
        tokens, cost = check.percent_of_token_limit or 0.0, check.percent_of_cost_limit or 0.0
        await self._emit(TokenUsed(total, tokens, cost, usage.model or self._execution.agent.model))
        for limit, percent in ((ExceededLimit.TOKENS, tokens), (ExceededLimit.COST, cost)):
            if percent >= WARNING_PERCENT and limit not in self._warned:
                self._warned.add(limit)
                await self._emit(LimitWarning(limit, percent))
        if check.exceeded is not None:
            self._exceed(check.exceeded)
            self._stop()

    async def before_call(self, call: PlannedCall) -> int:
        """Lower a call's output to what the limits leave beside its input, and refuse it when they leave nothing.

        The exact size of the input is asked for only when its bound does not fit easily.
        """
        if self._stopping is not None:
            raise CallRefused("the execution is being stopped")
        if self._allowed(call, call.input_bound) >= call.max_tokens:
            return call.max_tokens
        input_tokens = await call.count_input()
        allowed = self._allowed(call, input_tokens)
        if allowed < 1:
            raise CallRefused(self._exceed(self._scarcest(call, input_tokens), passed=False).message)
        return min(call.max_tokens, allowed)

    def _allowed(self, call: PlannedCall, input_tokens: int) -> int:
        return min(self._tokens_allowed(input_tokens), self._cost_allows(call, input_tokens))

    def _tokens_allowed(self, input_tokens: int) -> int:
        used = self._tracker.get_usage(self._execution.id)
        return self._execution.limits.max_tokens - used.total_tokens - input_tokens

    def _cost_allows(self, call: PlannedCall, input_tokens: int) -> int:
        """Output tokens that the cost limit leaves, with all input at the price of writing it to the cache."""
        used = self._tracker.get_usage(self._execution.id)
        whole = TokenUsage(input_tokens, call.max_tokens, call.model, cache_write_tokens=input_tokens)
        left = self._execution.limits.max_cost - used.total_cost
        dearest = self._prices.cost(whole)
        if dearest <= left:
            return call.max_tokens
        output = dearest - self._prices.cost(TokenUsage(input_tokens, 0, call.model, cache_write_tokens=input_tokens))
        return int((left - (dearest - output)) * call.max_tokens / output) if output > 0 else 0

    def _scarcest(self, call: PlannedCall, input_tokens: int) -> ExceededLimit:
        return ExceededLimit.TOKENS if self._tokens_allowed(input_tokens) < 1 else ExceededLimit.COST

    async def _execute(self) -> ExecutionResult:
        await self._executor.initialize(self._prompts.agent)
        limits = self._execution.limits
        options = ExecutionOptions(limits.max_tokens, limits.max_cost, limits.timeout)
        return await self._executor.execute(self._prompts.prompt, options)

    def _end_of(self, result: ExecutionResult) -> TerminalPayload:
        usage, duration = self._tracker.get_usage(self._execution.id), self._duration()
        if self._exceeded is not None:
            return Failed(self._exceeded, usage, duration)
        if result.status is Status.COMPLETED:
            text, truncated = cut_result(self._redactor.whole(result.result or ""))
            return Completed(text, usage, duration, truncated)
        if self._cancelled:
            return Cancelled(usage, duration)
        if self._interrupted:
            failure = Failure(FailureReason.INTERRUPTED, "the server stopped while the execution ran")
        elif result.failure is not None:
            failure = Failure(result.failure.reason, self._redactor.text(result.failure.message))
        else:
            failure = Failure(FailureReason.AGENT_ERROR, "the agent stopped without a result")
        return Failed(failure, usage, duration)

    async def _finish(self, end: TerminalPayload) -> None:
        rest = self._text.flush()
        if rest:
            await self._insist(TextDelta(rest))
        await self._insist(end)

    async def _give_up(self, fault: Exception) -> None:
        try:
            await self._fail(fault)
        except Exception:
            log.exception("the end of a run could not be stored", extra={"execution_id": self._execution.id})

    async def _fail(self, fault: Exception) -> None:
        shown = fault.message if isinstance(fault, CloutAgentError) else "a fault of the server; its log names it"
        failure = Failure(FailureReason.AGENT_ERROR, f"the run was given up: {shown}")
        end = Failed(failure, self._tracker.get_usage(self._execution.id), self._duration())
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

    def _duration(self) -> int:
        """Milliseconds since the run started; 0 before."""
        started = self._execution.started_at
        return 0 if started is None else max(0, round((timestamps.now() - started).total_seconds() * 1000))

    async def _emit_text(self, text: str) -> None:
        if text:
            await self._emit(TextDelta(text))

    async def _emit(self, payload: Payload) -> None:
        """Append an event. An engine that gives up waiting does not leave this run behind its log."""
        await asyncio.shield(self._append(payload))

    async def _append(self, payload: Payload) -> None:
        async with self._writing:
            event = Event(self._execution.id, self._execution.last_sequence + 1, timestamps.now(), payload)
            self._execution = await self._storage.append([event])

    async def _stopped(self) -> None:
        try:
            if self._stopping is not None:
                await self._stopping
        except Exception:
            log.exception("stopping a run failed", extra={"execution_id": self._execution.id})

    def _stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._executor.stop())

    def _exceed(self, limit: ExceededLimit, *, passed: bool = True) -> Failure:
        """Note that a limit ends the run: it was passed, or a call was refused that would have passed it."""
        if self._exceeded is None:
            usage = self._tracker.get_usage(self._execution.id)
            message = _explain(limit, self._limits, usage, passed)
            self._exceeded = Failure(FailureReason.LIMIT_EXCEEDED, message, limit)
        return self._exceeded


def _explain(limit: ExceededLimit, limits: CostLimits, usage: Usage, passed: bool) -> str:
    tokens = limit is ExceededLimit.TOKENS
    named = f"the token limit of {limits.max_tokens}" if tokens else f"the cost limit of {limits.max_cost} USD"
    used = f"{usage.total_tokens} tokens" if tokens else f"{usage.total_cost} USD"
    if passed:
        return f"{named} ended the run: {used} were used"
    return f"{named} ended the run: {used} were used, and the next model call does not fit into what is left"


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
