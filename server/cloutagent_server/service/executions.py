"""Executions: started, queued, looked at, cancelled, recovered after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from opentelemetry.trace import NoOpTracer, Tracer

from cloutagent_server.domain import event_json, timestamps
from cloutagent_server.domain.cost import CostLimits, LimitCheckResult, Model, TokenUsage, Usage, check_limits
from cloutagent_server.domain.errors import (
    BudgetUsedUp,
    CloutAgentError,
    ExecutionNotFinished,
    ExecutionNotFound,
    ProjectNotFound,
    RevisionConflict,
    StorageUnavailable,
)
from cloutagent_server.domain.events import Cancelled, Event, Failed, Failure, FailureReason, Payload, Queued
from cloutagent_server.domain.execution import Execution, ExecutionFilter, Status
from cloutagent_server.domain.metrics import NO_METRICS, Metrics
from cloutagent_server.domain.project import LONGEST_TIMEOUT, Budget, Project
from cloutagent_server.engine.base import Engine, PriceList
from cloutagent_server.service.budgets import used_up
from cloutagent_server.service.idempotent_starts import IdempotentStarts
from cloutagent_server.service.live import LiveExecutions
from cloutagent_server.service.orphaned_calls import usage_after_crash
from cloutagent_server.service.places import PAUSE_SECONDS, PlaceEvents
from cloutagent_server.service.queue import RunQueue
from cloutagent_server.service.requests import Estimate, ExecutionRequest, estimate, prepare
from cloutagent_server.service.run_span import describe_end, run_span
from cloutagent_server.service.running import RunningExecutions
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.service.unstored import UnstoredEnds
from cloutagent_server.storage.base import ALL_EXECUTIONS, Page, Storage

log: Final = logging.getLogger(__name__)

# How long a caller who cancels an execution waits for its end.
CANCEL_SECONDS: Final = 30.0
# How often whoever waits for an end looks for it at the least, whatever wakes it.
LOOK_SECONDS: Final = 1.0


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
        max_running_of_project: int | None = None,
        max_waiting_of_project: int | None = None,
        longest_timeout: int = LONGEST_TIMEOUT,
        place_pause_seconds: float = PAUSE_SECONDS,
        metrics: Metrics = NO_METRICS,
        tracer: Tracer | None = None,
    ) -> None:
        """The bounds are those of `RunQueue`, the pause that of `PlaceEvents`.

        What is started gets at most `longest_timeout` milliseconds, whatever its project says.
        """
        self._storage = storage
        self._projects = storage.projects
        self._executions = storage.executions
        self._secrets = secrets
        self._engine = engine
        self._prices = prices
        self._metrics = metrics
        self._tracer = NoOpTracer() if tracer is None else tracer
        self._runs = RunningExecutions(storage, secrets, engine, prices, metrics)
        self._longest_timeout = longest_timeout
        self._queue = RunQueue(
            self._drive,
            max_running,
            max_waiting,
            max_running_of_project,
            max_waiting_of_project,
            changed=lambda: self._places.changed(),
            metrics=metrics,
        )
        self._places = PlaceEvents(
            storage.executions, self._queue.in_order, self._queue.position_of, place_pause_seconds
        )
        self._unstored = UnstoredEnds(storage.executions, self._settled)
        self._live = LiveExecutions(storage.executions)
        self._cancellations: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._starts = IdempotentStarts(storage.executions)

    @property
    def waiting(self) -> int:
        """How many executions wait for their turn in this server."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """How many executions this server runs."""
        return self._queue.running

    async def start(self, request: ExecutionRequest) -> tuple[Execution, bool]:
        """Queue a run; returns the execution, and whether this call created it.

        With an idempotency key that was used for the same request before, that earlier execution is returned, whatever
        has changed since.

        Raises:
            ProjectNotFound: There is no such project.
            InvalidRequest: As for `prepare`.
            IdempotencyKeyReused: The key stands for another request.
            QueueFull: Too many executions wait.
            BudgetUsedUp: Nothing is left of a budget of the project.
            ServerUnavailable: The server is stopping.
        """
        earlier = await self._starts.find_settled(request)
        if earlier is not None:
            return self._with_position(earlier), False
        if request.idempotency_key is None:
            self._queue.check_room(request.project_id)
        project = await self._project(request.project_id)
        execution, _ = await prepare(request, project, self._secrets, self._engine, self._prices)
        return await asyncio.shield(self._admit(request, execution, project.budget))

    @contextlib.asynccontextmanager
    async def attached(
        self, request: ExecutionRequest, *, cancel_when_gone: Callable[[], bool]
    ) -> AsyncIterator[tuple[Execution, bool]]:
        """Start as `start` does, for a caller who follows the run in the body.

        Leaving the body by cancellation means that the caller is gone: then the run goes on, or is cancelled if
        `cancel_when_gone` says so. A server that stops sends its callers away without cancelling anything.
        """
        starting = asyncio.ensure_future(self.start(request))
        try:
            yield await asyncio.shield(starting)
        except (asyncio.CancelledError, GeneratorExit):
            left = asyncio.ensure_future(self._left(starting, not self._stopping and cancel_when_gone()))
            self._cancellations.add(left)
            left.add_done_callback(self._cancellations.discard)
            raise

    async def dry_run(self, request: ExecutionRequest) -> Estimate:
        """What a request would run and about cost; its idempotency key is passed over, and nothing is created.

        Raises:
            ProjectNotFound: There is no such project.
            InvalidRequest: As for `prepare`.
            BudgetUsedUp: Nothing is left of a budget of the project.
        """
        project = await self._project(request.project_id)
        execution, prompts = await prepare(request, project, self._secrets, self._engine, self._prices)
        exceeded = await used_up(self._storage.ledger, project.id, project.budget)
        if exceeded is not None:
            raise BudgetUsedUp(exceeded)
        return estimate(execution, prompts, self._prices.cost)

    async def find_earlier(self, request: ExecutionRequest) -> Execution | None:
        """The execution that the request's idempotency key stands for; None without one.

        Raises:
            IdempotencyKeyReused: The key stands for another request.
        """
        earlier = await self._starts.find(request)
        return None if earlier is None else self._with_position(earlier)

    async def get(self, execution_id: str) -> Execution:
        """The execution as it stands now, with its live place in the queue. Raises ExecutionNotFound."""
        execution = await self._executions.read(execution_id)
        if execution is None:
            raise ExecutionNotFound(execution_id)
        return self._with_position(execution)

    async def find(self, execution_id: str) -> Execution | None:
        """The execution, or None if there is none."""
        return await self._executions.read(execution_id)

    async def list(
        self, project_id: str, page_size: int, page_token: str | None, wanted: ExecutionFilter = ALL_EXECUTIONS
    ) -> Page[Execution]:
        """A page of those of a project's executions that are wanted, newest first; see `ExecutionStorage.list`."""
        page = await self._executions.list(project_id, page_size, page_token, wanted)
        return Page(tuple(map(self._with_position, page.items)), page.next_page_token)

    async def finished(self, execution_id: str) -> Execution:
        """The execution once it has ended. Raises ExecutionNotFound, also if it is deleted meanwhile."""
        execution = await self.get(execution_id)
        while not execution.status.terminal:
            await self._executions.wait_for_events(execution_id, execution.last_sequence, LOOK_SECONDS)
            execution = await self.get(execution_id)
        return execution

    async def cancel(self, execution_id: str) -> Execution:
        """End an execution and return it after its end. One that has ended stays as it is.

        One that does not end within CANCEL_SECONDS is returned as it stands then. Raises ExecutionNotFound.
        """
        execution = await self.get(execution_id)
        if execution.status.terminal:
            return execution
        if self._queue.withdraw(execution_id):
            return await asyncio.shield(self._cancel_waiting(execution))
        if execution_id not in self._live:
            return await asyncio.shield(self._cancel_elsewhere(execution_id))
        self._runs.cancel(execution_id)
        return await self._soon_finished(execution_id)

    async def cancel_all(self, project_id: str) -> None:
        """End all executions of a project that this server has queued or runs."""
        unfinished = [e.id for e in await self._executions.list_unfinished() if e.project_id == project_id]
        await asyncio.gather(*(self.cancel(execution_id) for execution_id in unfinished))

    def abandon(self, project_id: str) -> None:
        """End the runs of a project that is gone. Nothing of them is kept."""
        self._runs.cancel_of(project_id)

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
        project = await self._project(project_id)
        return self._prices.cost(TokenUsage(prompt_tokens, completion_tokens, project.agent.model))

    def models(self) -> Sequence[Model]:
        """The models of the price list."""
        return self._prices.models()

    async def recover(self) -> None:
        """Take over what no server at work answers for, oldest first.

        What a dead server was running is ended as failed and interrupted, and what it had queued is queued again. What
        it had not queued yet is removed: its start was refused, or never answered. For the start, and again and again
        while the server runs: other servers on the same storage may die.
        """
        for execution in await self._live.claim_abandoned():
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
                    await self._cancel_waiting(execution)
                else:
                    self._runs.cancel(execution_id)

    async def stop(self, grace: float) -> None:
        """Start nothing more, let runs end by themselves for `grace` seconds, then end them as interrupted."""
        self._stopping = True
        self._queue.close()
        await self._places.stop()
        ended = asyncio.ensure_future(self._queue.stop())
        await asyncio.wait([ended], timeout=grace)
        self._runs.interrupt()
        await ended
        await self._unstored.stop()
        if self._cancellations:
            await asyncio.wait(self._cancellations)

    async def _admit(self, request: ExecutionRequest, execution: Execution, budget: Budget) -> tuple[Execution, bool]:
        """Store and queue an execution, whole or not at all: a caller that goes away does not end this half-way."""
        async with self._starts.admitting(request):
            while True:
                earlier = await self._starts.find_settled_elsewhere(request)
                if earlier is not None:
                    return self._with_position(earlier), False
                exceeded = await used_up(self._storage.ledger, execution.project_id, budget)
                if exceeded is not None:
                    self._metrics.budget_refused(exceeded.scope, exceeded.exceeded)
                    raise BudgetUsedUp(exceeded)
                with self._queue.place(execution.project_id):
                    stored = await self._store(execution)
                if stored is not None:
                    return stored, True

    async def _store(self, execution: Execution) -> Execution | None:
        """Store and queue an execution; None if another server was first with its idempotency key."""
        self._live.add(execution.id)
        try:
            stored = await self._executions.create(execution)
            if stored.id == execution.id:
                return await self._enqueue(stored)
        except Exception:
            try:
                await self._executions.delete(execution.id)
            except CloutAgentError:
                # Without events it never runs; `recover` removes it.
                log.exception("a refused execution was not removed yet", extra={"execution_id": execution.id})
            finally:
                self._live.discard(execution.id)
            raise
        self._live.discard(execution.id)
        return None

    async def _enqueue(self, execution: Execution) -> Execution:
        queued = await self._append(execution, Queued(self._queue.next_position(execution.project_id)))
        self._add(queued)
        return self._with_position(queued)

    def _add(self, execution: Execution) -> None:
        self._live.add(execution.id)
        self._places.give(execution)
        self._queue.add(execution)

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
            # Nobody was told that it was queued, or somebody that it was not.
            try:
                await self._executions.delete(execution.id)
            finally:
                self._live.discard(execution.id)
        else:
            self._add(execution)

    async def _cancel_elsewhere(self, execution_id: str) -> Execution:
        """Cancel an execution that another server answers for, or that none does any more."""
        claimed = await self._live.claim(execution_id)
        if claimed is not None:
            try:
                return await self._cancel_idle(claimed)
            finally:
                self._live.discard(execution_id)
        await self._executions.request_cancel(execution_id)
        return await self._soon_finished(execution_id)

    async def _project(self, project_id: str) -> Project:
        project = await self._projects.read(project_id)
        if project is None:
            raise ProjectNotFound(project_id)
        if project.limits.timeout > self._longest_timeout:
            return replace(project, limits=replace(project.limits, timeout=self._longest_timeout))
        return project

    async def _left(self, starting: asyncio.Future[tuple[Execution, bool]], cancels: bool) -> None:
        """See a start through whose caller is gone."""
        with contextlib.suppress(CloutAgentError):
            execution, _ = await starting
            if cancels:
                log.info("the caller is gone: cancelling", extra={"execution_id": execution.id})
                await self.cancel(execution.id)

    async def _soon_finished(self, execution_id: str) -> Execution:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                return await self.finished(execution_id)
        except TimeoutError:
            return await self.get(execution_id)

    async def _cancel_waiting(self, execution: Execution) -> Execution:
        """Cancel an execution that was taken out of the queue."""
        execution = await self._places.take(execution)
        try:
            ended = await self._cancel_idle(execution)
        except StorageUnavailable:
            self._unstored.keep(execution, [Cancelled(execution.usage, 0)])
            raise
        self._settled(execution.id)
        return ended

    async def _cancel_idle(self, execution: Execution) -> Execution:
        """Cancel an execution that waits no more and that no run drives. Whoever else appends to it ends it too."""
        usage = execution.usage
        if execution.status is Status.RUNNING:
            usage = await usage_after_crash(self._storage.ledger, execution, self._prices)
        try:
            return await self._append(execution, Cancelled(usage, await self._known_duration(execution)))
        except RevisionConflict:
            return await self._soon_finished(execution.id)

    async def _append(self, execution: Execution, payload: Payload) -> Execution:
        event = Event(execution.id, execution.last_sequence + 1, timestamps.now(), payload)
        return await self._executions.append([event])

    async def _drive(self, execution: Execution) -> None:
        unstored: Sequence[Payload] = ()
        try:
            with run_span(self._tracer, execution) as span:
                execution, unstored = await self._runs.run(await self._places.take(execution))
                describe_end(span, execution, stored=not unstored)
        finally:
            if unstored:
                self._unstored.keep(execution, unstored)
            else:
                self._settled(execution.id)

    def _settled(self, execution_id: str) -> None:
        """The execution has ended, as far as this server is concerned."""
        self._live.discard(execution_id)
        self._runs.forget(execution_id)

    async def _known_duration(self, execution: Execution) -> int:
        """Milliseconds from the start to the last event; at most the timeout, also if the clock was set meanwhile."""
        if execution.started_at is None:
            return 0
        last = await self._executions.read_events(execution.id, execution.last_sequence - 1, 1)
        seconds = (event_json.decode(last[0].data).time - execution.started_at).total_seconds()
        return min(max(0, round(seconds * 1000)), execution.limits.timeout)

    def _with_position(self, execution: Execution) -> Execution:
        if execution.status is not Status.QUEUED:
            return execution
        return replace(execution, queue_position=self._queue.position_of(execution.id) or 0)
