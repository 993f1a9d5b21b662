"""Executions: started, queued, looked at, cancelled, recovered after a crash."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from cloutagent_server.domain import event_json, timestamps
from cloutagent_server.domain.cost import CostLimits, LimitCheckResult, Model, TokenUsage, Usage, check_limits
from cloutagent_server.domain.errors import (
    BudgetUsedUp,
    CloutAgentError,
    ExecutionNotFinished,
    ExecutionNotFound,
    FieldViolation,
    InvalidRequest,
    ProjectNotFound,
    RevisionConflict,
    StoredDataDamaged,
)
from cloutagent_server.domain.events import Cancelled, Event, Failed, Failure, FailureReason, Payload, Queued
from cloutagent_server.domain.execution import Execution, ExecutionOptions, Idempotency, Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Budget, Limits
from cloutagent_server.engine.base import Engine, PriceList
from cloutagent_server.service.budgets import Turns, usage_after_crash, used_up
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.prompts import fill
from cloutagent_server.service.queue import RunQueue
from cloutagent_server.service.runner import Run
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.base import Page, Storage

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExecutionRequest:
    """What a caller asks to run."""

    project_id: str
    prompt: str
    options: ExecutionOptions = ExecutionOptions()
    idempotency_key: str | None = None


class ExecutionService:
    """Use cases around executions. Owns the queue and the runs of this server."""

    def __init__(
        self,
        storage: Storage,
        secrets: SecretManager,
        engine: Engine,
        prices: PriceList,
        max_running: int,
        max_waiting: int,
    ) -> None:
        self._storage = storage
        self._projects = storage.projects
        self._executions = storage.executions
        self._secrets = secrets
        self._engine = engine
        self._prices = prices
        self._tracker = CostTracker(prices)
        self._turns = Turns()
        self._queue = RunQueue(self._drive, max_running, max_waiting)
        self._runs: dict[str, Run] = {}
        self._live: set[str] = set()
        self._cancelling: set[str] = set()
        self._unreadable: set[str] = set()
        self._interrupting = False

    async def start(self, request: ExecutionRequest) -> tuple[Execution, bool]:
        """Queue a run; returns the execution, and whether this call created it.

        With an idempotency key that was used for the same request before, that earlier execution is returned.

        Raises:
            ProjectNotFound: There is no such project.
            InvalidRequest: A limit is above the project's, the prompt refers to something unknown, or the project has
                a tool that this machine does not offer (any more).
            IdempotencyKeyReused: The key stands for another request.
            QueueFull: Too many executions wait.
            BudgetUsedUp: Nothing is left of a budget of the project.
        """
        project = await self._projects.read(request.project_id)
        if project is None:
            raise ProjectNotFound(request.project_id)
        self._check_tools(project.agent.enabled_tools)
        if not self._prices.knows(project.agent.model):
            raise InvalidRequest.of("project.agent.model", f"{project.agent.model!r} has no price; see ListModels")
        if request.idempotency_key is None:
            self._queue.check_room()
        execution = Execution(
            id=new_id(),
            project_id=project.id,
            prompt=request.prompt,
            variables=dict(request.options.variables),
            agent=project.agent,
            limits=_lowered(project.limits, request.options),
            created_at=timestamps.now(),
            idempotency=_idempotency(request),
        )
        await fill(execution, project, self._secrets)
        return await asyncio.shield(self._admit(execution, project.budget))

    def _check_tools(self, names: Sequence[str]) -> None:
        refused = self._engine.refused_tools(names)
        if refused:
            told = [f"the tool {name!r} is not available on this server: {reason}" for name, reason in refused.items()]
            raise InvalidRequest([FieldViolation("project.agent.enabledTools", one) for one in told])

    async def get(self, execution_id: str) -> Execution:
        """The execution as it stands now, with its live place in the queue. Raises ExecutionNotFound."""
        execution = await self._executions.read(execution_id)
        if execution is None:
            raise ExecutionNotFound(execution_id)
        return self._with_position(execution)

    async def find(self, execution_id: str) -> Execution | None:
        """The execution, or None if there is none."""
        return await self._executions.read(execution_id)

    async def list(self, project_id: str, page_size: int, page_token: str | None) -> Page[Execution]:
        """A page of a project's executions, newest first."""
        page = await self._executions.list(project_id, page_size, page_token)
        return Page(tuple(map(self._with_position, page.items)), page.next_page_token)

    async def finished(self, execution_id: str) -> Execution:
        """The execution once it has ended. Raises ExecutionNotFound, also if it is deleted meanwhile."""
        execution = await self.get(execution_id)
        while not execution.status.terminal:
            await self._executions.wait_for_events(execution_id, execution.last_sequence)
            execution = await self.get(execution_id)
        return execution

    async def cancel(self, execution_id: str) -> Execution:
        """End an execution and return it after its end. One that has ended stays as it is. Raises ExecutionNotFound."""
        execution = await self.get(execution_id)
        if execution.status.terminal:
            return execution
        if self._queue.withdraw(execution_id):
            try:
                return await self._cancel_idle(execution)
            finally:
                self._live.discard(execution_id)
        if execution_id not in self._live:
            return await self._cancel_elsewhere(execution_id)
        self._cancel_run(execution_id)
        return await self.finished(execution_id)

    async def cancel_all(self, project_id: str) -> None:
        """End all executions of a project that this server has queued or runs."""
        unfinished = [e.id for e in await self._executions.list_unfinished() if e.project_id == project_id]
        await asyncio.gather(*(self.cancel(execution_id) for execution_id in unfinished))

    def abandon(self, project_id: str) -> None:
        """End the runs of a project that is gone. Nothing of them is kept."""
        for run in list(self._runs.values()):
            if run.project_id == project_id:
                run.cancel()

    async def delete(self, execution_id: str) -> None:
        """Remove an execution that has ended. Raises ExecutionNotFound, ExecutionNotFinished."""
        if not (await self.get(execution_id)).status.terminal:
            raise ExecutionNotFinished(execution_id)
        await self._executions.delete(execution_id)

    async def cost(self, execution_id: str, limits: CostLimits | None) -> tuple[Usage, LimitCheckResult]:
        """What an execution has used, and how that stands against `limits` or, if None, its own."""
        execution = await self.get(execution_id)
        own = CostLimits(execution.limits.max_tokens, execution.limits.max_cost)
        return execution.usage, check_limits(execution.usage, own if limits is None else limits)

    async def estimate(self, project_id: str, prompt_tokens: int, completion_tokens: int) -> Decimal:
        """What so many tokens cost in US dollars with the project's model. Raises ProjectNotFound."""
        project = await self._projects.read(project_id)
        if project is None:
            raise ProjectNotFound(project_id)
        return self._prices.cost(TokenUsage(prompt_tokens, completion_tokens, project.agent.model))

    def models(self) -> Sequence[Model]:
        """The models of the price list."""
        return self._prices.models()

    async def recover(self) -> None:
        """Take over what no server at work answers for, oldest first.

        What a dead server was running is ended as failed and interrupted, and what it had queued is queued again. For
        the start, and again and again while the server runs: other servers on the same storage may die.
        """
        abandoned = [one for one in await self._executions.list_abandoned() if one not in self._live | self._unreadable]
        claimed = [execution for one in abandoned if (execution := await self._claim_readable(one)) is not None]
        for execution in sorted(claimed, key=lambda one: (one.created_at, one.id)):
            try:
                await self._resume(execution)
            except Exception:
                self._live.discard(execution.id)
                log.exception("an execution was not taken over", extra={"execution_id": execution.id})

    async def cancel_requested(self) -> None:
        """Cancel what other servers were asked to cancel and this one runs; drop the requests that are done with."""
        for execution_id in await self._executions.list_cancel_requests():
            execution = await self._executions.read(execution_id)
            if execution is None or execution.status.terminal:
                await self._executions.drop_cancel_request(execution_id)
            elif execution_id in self._live:
                if self._queue.withdraw(execution_id):
                    try:
                        await self._cancel_idle(execution)
                    finally:
                        self._live.discard(execution_id)
                else:
                    self._cancel_run(execution_id)

    async def stop(self, grace: float) -> None:
        """Start nothing more, let runs end by themselves for `grace` seconds, then end them as interrupted."""
        self._queue.close()
        ended = asyncio.ensure_future(self._queue.stop())
        await asyncio.wait([ended], timeout=grace)
        self._interrupting = True
        for run in list(self._runs.values()):
            run.interrupt()
        await ended

    async def _admit(self, execution: Execution, budget: Budget) -> tuple[Execution, bool]:
        """Store and queue an execution, whole or not at all: a caller that goes away does not end this half-way."""
        self._live.add(execution.id)
        try:
            stored = await self._executions.create(execution)
            if stored.id == execution.id:
                exceeded = await used_up(self._storage.ledger, execution.project_id, budget)
                if exceeded is not None:
                    raise BudgetUsedUp(exceeded)
                with self._queue.place():
                    return await self._enqueue(stored), True
        except Exception:
            try:
                await self._executions.delete(execution.id)
            finally:
                self._live.discard(execution.id)
            raise
        self._live.discard(execution.id)
        return await self.get(stored.id), False

    async def _enqueue(self, execution: Execution) -> Execution:
        queued = await self._append(execution, Queued(len(self._queue)))
        self._add(queued)
        return self._with_position(queued)

    def _add(self, execution: Execution) -> None:
        self._live.add(execution.id)
        self._queue.add(execution)

    async def _claim(self, execution_id: str) -> Execution | None:
        """Answer for an execution from now on, if no other server does. It counts as live at once."""
        self._live.add(execution_id)
        try:
            claimed = await self._executions.claim(execution_id)
        except BaseException:
            self._live.discard(execution_id)
            raise
        if claimed is None:
            self._live.discard(execution_id)
        return claimed

    async def _claim_readable(self, execution_id: str) -> Execution | None:
        try:
            return await self._claim(execution_id)
        except StoredDataDamaged as damage:
            self._unreadable.add(execution_id)
            named = {"execution_id": execution_id, "location": damage.location, "fault": damage.fault}
            log.error("a damaged execution is left alone", extra=named)
            return None

    async def _resume(self, execution: Execution) -> None:
        if execution.status is Status.RUNNING:
            failure = Failure(FailureReason.INTERRUPTED, "the server died while the execution ran")
            try:
                duration = await self._known_duration(execution)
                usage = await usage_after_crash(self._storage.ledger, execution, self._prices)
                await self._append(execution, Failed(failure, usage, duration))
            finally:
                self._live.discard(execution.id)
        elif execution.last_sequence == 0:
            await self._enqueue(execution)
        else:
            self._add(execution)

    def _cancel_run(self, execution_id: str) -> None:
        self._cancelling.add(execution_id)
        run = self._runs.get(execution_id)
        if run is not None:
            run.cancel()

    async def _cancel_elsewhere(self, execution_id: str) -> Execution:
        """Cancel an execution that another server answers for, or that none does any more."""
        claimed = await self._claim(execution_id)
        if claimed is not None:
            try:
                return await self._cancel_idle(claimed)
            finally:
                self._live.discard(execution_id)
        await self._executions.request_cancel(execution_id)
        return await self.finished(execution_id)

    async def _cancel_idle(self, execution: Execution) -> Execution:
        """Cancel an execution that waits no more and that no run drives."""
        try:
            return await self._append(execution, Cancelled(execution.usage, await self._known_duration(execution)))
        except RevisionConflict:
            return await self.get(execution.id)

    async def _append(self, execution: Execution, payload: Payload) -> Execution:
        event = Event(execution.id, execution.last_sequence + 1, timestamps.now(), payload)
        return await self._executions.append([event])

    async def _drive(self, execution: Execution) -> None:
        try:
            await self._run(execution)
        finally:
            self._live.discard(execution.id)
            self._cancelling.discard(execution.id)

    async def _run(self, execution: Execution) -> None:
        try:
            project = await self._projects.read(execution.project_id)
            if project is None:
                return
            prompts = await fill(execution, project, self._secrets)
            run = Run(execution, prompts, self._storage, self._engine, self._prices, self._tracker, self._turns)
        except Exception as fault:
            log.exception("a run could not start", extra={"execution_id": execution.id})
            await self._fail_unstarted(execution, fault)
            return
        self._runs[execution.id] = run
        if execution.id in self._cancelling:
            run.cancel()
        if self._interrupting:
            run.interrupt()
        try:
            await run.drive()
        finally:
            del self._runs[execution.id]

    async def _fail_unstarted(self, execution: Execution, fault: Exception) -> None:
        shown = fault.message if isinstance(fault, CloutAgentError) else "a fault of the server; its log names it"
        failure = Failure(FailureReason.AGENT_ERROR, f"the run could not start: {shown}")
        try:
            await self._append(execution, Failed(failure, execution.usage, 0))
        except Exception:
            log.exception("the end of a run could not be stored", extra={"execution_id": execution.id})

    async def _known_duration(self, execution: Execution) -> int:
        if execution.started_at is None:
            return 0
        last = await self._executions.read_events(execution.id, execution.last_sequence - 1, 1)
        seconds = (event_json.decode(last[0].data).time - execution.started_at).total_seconds()
        return max(0, round(seconds * 1000))

    def _with_position(self, execution: Execution) -> Execution:
        if execution.status is not Status.QUEUED:
            return execution
        return replace(execution, queue_position=self._queue.position_of(execution.id) or 0)


def _lowered(limits: Limits, options: ExecutionOptions) -> Limits:
    faults = []
    if options.max_tokens is not None and options.max_tokens > limits.max_tokens:
        faults.append(FieldViolation("options.maxTokens", f"must be at most the project's {limits.max_tokens}"))
    if options.max_cost is not None and options.max_cost > limits.max_cost:
        faults.append(FieldViolation("options.maxCost", f"must be at most the project's {limits.max_cost}"))
    if options.timeout is not None and options.timeout > limits.timeout:
        faults.append(FieldViolation("options.timeout", f"must be at most the project's {limits.timeout}"))
    if faults:
        raise InvalidRequest(faults)
    return Limits(
        limits.max_tokens if options.max_tokens is None else options.max_tokens,
        limits.max_cost if options.max_cost is None else options.max_cost,
        limits.timeout if options.timeout is None else options.timeout,
    )


def _idempotency(request: ExecutionRequest) -> Idempotency | None:
    if request.idempotency_key is None:
        return None
    options = request.options
    parts = [
        request.prompt,
        options.max_tokens,
        None if options.max_cost is None else str(options.max_cost),
        options.timeout,
        sorted(options.variables.items()),
    ]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return Idempotency(request.idempotency_key, digest)
