"""The model gateway under measurement, in the server's process: as a run uses it, and by itself."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Final
from unittest import mock

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.events import AgentOutput, Event, Started
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import AgentConfig, KeyCredential, Limits, ProjectDraft
from cloutagent_server.engine.base import CallEnd, PlannedCall
from cloutagent_server.engine.gateway import GatewaySession, ModelGateway
from cloutagent_server.engine.listening import OrderedListener
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.service.budgets import Turns
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.prompts import FilledPrompts
from cloutagent_server.service.runner import Run
from cloutagent_server.storage.base import Storage

# Until then a file that was just written is read again each time. Projects are older than that.
_SETTLED_SECONDS: Final = 2.1
_LIMITS: Final = Limits(max_tokens=10_000_000, max_cost=Decimal(100), timeout=600_000)
_PROMPT: Final = "Say it."


class Gate:
    """A gateway to the model at `model_url`, with a session of a run and one that nobody counts."""

    def __init__(self, storage: Storage, model_url: str, model: str) -> None:
        self._storage = storage
        self._prices = GenaiPriceList()
        self._gateway = ModelGateway(model_url, "local-model", self._prices)
        self._agent = AgentConfig(new_id(), "Helper", "You help.", model, max_tokens=64)

    async def open(self) -> tuple[GatewaySession, GatewaySession]:
        """The session of a run that has started, with limits, and one whose calls are neither reserved nor counted."""
        await self._gateway.start()
        run = await self._run()
        await asyncio.sleep(_SETTLED_SECONDS)
        counted, allowed = (self._gateway.open(self._agent, OrderedListener(one)) for one in (run, _Allowing()))
        return counted, allowed

    async def close(self) -> None:
        """End the sessions and the gateway."""
        await self._gateway.stop()

    async def _run(self) -> Run:
        draft = ProjectDraft("Benchmark", self._agent, _LIMITS)
        project = await self._storage.projects.create(draft, KeyCredential("0" * 64, "-"))
        execution = Execution(new_id(), project.id, _PROMPT, self._agent, _LIMITS, timestamps.now())
        execution = await self._storage.executions.create(execution)
        started = Event(execution.id, 1, timestamps.now(), Started(self._agent.model))
        execution = await self._storage.executions.append([started])
        prompts, tracker = FilledPrompts(_PROMPT, self._agent, {}), CostTracker(self._prices)
        return Run(execution, prompts, self._storage, mock.MagicMock(), self._prices, tracker, Turns())


class _Allowing:
    """A listener that allows every call."""

    async def on_output(self, output: AgentOutput) -> None:
        """There is none."""

    async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
        """Nobody counts."""

    async def before_call(self, call: PlannedCall) -> int:
        """All of it."""
        return call.max_tokens

    async def after_call(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> None:
        """Nobody counts."""
