"""The runs of this server: each from its turn to its end, which others may ask for meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import CloutAgentError, StorageUnavailable
from cloutagent_server.domain.events import Event, Failed, Failure, FailureReason, Payload
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.metrics import Metrics
from cloutagent_server.engine.base import Engine, PriceList
from cloutagent_server.service.budgets import Turns
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.prompts import fill
from cloutagent_server.service.runner import Run
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.base import Storage

log: Final = logging.getLogger(__name__)


class RunningExecutions:
    """Runs executions, and ends those that run when somebody wants that."""

    def __init__(
        self, storage: Storage, secrets: SecretManager, engine: Engine, prices: PriceList, metrics: Metrics
    ) -> None:
        self._storage = storage
        self._secrets = secrets
        self._engine = engine
        self._prices = prices
        self._metrics = metrics
        self._tracker = CostTracker(prices)
        self._turns = Turns()
        self._runs: dict[str, Run] = {}
        self._cancelling: set[str] = set()
        self._interrupting = False

    async def run(self, execution: Execution) -> tuple[Execution, Sequence[Payload]]:
        """Run an execution; returns it as it then stands, with what the storage has not taken of its end."""
        try:
            project = await self._storage.projects.read(execution.project_id)
            if project is None:
                return execution, ()
            prompts = await fill(execution, project, self._secrets)
            run = Run(
                execution,
                prompts,
                self._storage,
                self._engine,
                self._prices,
                self._tracker,
                self._turns,
                self._metrics,
            )
        except Exception as fault:
            log.exception("a run could not start", extra={"execution_id": execution.id})
            return await self._fail_unstarted(execution, fault)
        self._runs[execution.id] = run
        if execution.id in self._cancelling:
            run.cancel()
        if self._interrupting:
            run.interrupt()
        try:
            await run.drive()
        finally:
            del self._runs[execution.id]
        return run.execution, run.unstored

    def cancel(self, execution_id: str) -> None:
        """End a run as cancelled, also one that has not begun yet."""
        self._cancelling.add(execution_id)
        run = self._runs.get(execution_id)
        if run is not None:
            run.cancel()

    def cancel_of(self, project_id: str) -> None:
        """End the runs of a project that have begun as cancelled."""
        for run in list(self._runs.values()):
            if run.project_id == project_id:
                run.cancel()

    def interrupt(self) -> None:
        """End all runs as interrupted, also those that begin later."""
        self._interrupting = True
        for run in list(self._runs.values()):
            run.interrupt()

    def forget(self, execution_id: str) -> None:
        """The execution has ended: nobody needs to know any more that it was cancelled."""
        self._cancelling.discard(execution_id)

    async def _fail_unstarted(self, execution: Execution, fault: Exception) -> tuple[Execution, Sequence[Payload]]:
        shown = fault.message if isinstance(fault, CloutAgentError) else "a fault of the server; its log names it"
        failure = Failure(FailureReason.AGENT_ERROR, f"the run could not start: {shown}")
        end = Failed(failure, execution.usage, 0)
        event = Event(execution.id, execution.last_sequence + 1, timestamps.now(), end)
        try:
            return await self._storage.executions.append([event]), ()
        except StorageUnavailable:
            return execution, [end]
        except Exception:
            log.exception("the end of a run could not be stored", extra={"execution_id": execution.id})
        return execution, ()
