"""The services over an in-memory storage and a scripted engine: what unit tests of services and transport stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Tracer

from cloutagent_server.domain import event_json
from cloutagent_server.domain.events import Event, Payload
from cloutagent_server.domain.execution import Execution, ExecutionOptions, Status
from cloutagent_server.domain.project import LONGEST_TIMEOUT, AgentConfig, Limits, Project, ProjectDraft
from cloutagent_server.engine.base import PriceList
from cloutagent_server.service.attempts import FailedAttempts
from cloutagent_server.service.audit import AuditTrail, HeldAgainstAudit
from cloutagent_server.service.auth import Authenticator
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.keys import KeyService
from cloutagent_server.service.places import PAUSE_SECONDS
from cloutagent_server.service.projects import ProjectService
from cloutagent_server.service.receipts import ReceiptService
from cloutagent_server.service.requests import ExecutionRequest
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.service.usage import UsageService
from cloutagent_server.service.watch import HEARTBEAT_SECONDS, WatchService
from cloutagent_server.storage.base import Storage
from cloutagent_server.storage.memory import MemoryStorage
from cloutagent_server.transport.server import Services
from tests.support import builders
from tests.support.fake_engine import FakeEngine
from tests.support.fake_prices import FakePriceList

ENCRYPTION_KEY = "00112233445566778899aabbccddeeff" * 2
DEADLINE_SECONDS = 30.0
VERSION = "1.2.3"


def agent(**changes: Any) -> AgentConfig:
    """An agent's configuration that asks for nothing."""
    return builders.agent_config(**{"system_prompt": "You help.", "enabled_tools": (), **changes})


def draft(**changes: Any) -> ProjectDraft:
    """A project's draft with the default limits."""
    return builders.project_draft(
        **{"name": "demo", "description": None, "agent": agent(), "limits": Limits(), **changes}
    )


@dataclass(frozen=True, slots=True)
class World:
    """The services, and what they stand on."""

    storage: Storage
    engine: FakeEngine
    authenticator: Authenticator
    secrets: SecretManager
    executions: ExecutionService
    projects: ProjectService
    watches: WatchService
    prices: PriceList

    @property
    def services(self) -> Services:
        """What a gRPC server serves."""
        return Services(
            self.authenticator,
            self.projects,
            self.secrets,
            self.executions,
            self.watches,
            VERSION,
            KeyService(self.storage.projects, self.authenticator),
            FailedAttempts(),
            AuditTrail(self.storage.audit),
            UsageService(self.storage),
            ReceiptService(self.storage, self.prices),
        )

    async def project(self, *, limits: Limits | None = None, **agent_fields: Any) -> Project:
        """A new project without a usable key, which costs no bcrypt."""
        fresh = draft(agent=agent(**agent_fields), limits=limits or Limits())
        return await self.storage.projects.create(fresh, builders.credential())

    async def start(
        self,
        project: Project,
        prompt: str = "say hello",
        options: ExecutionOptions | None = None,
        idempotency_key: str | None = None,
    ) -> Execution:
        """A new execution, queued."""
        request = ExecutionRequest(project.id, prompt, options or ExecutionOptions(), idempotency_key)
        return (await self.executions.start(request))[0]

    async def run(
        self, project: Project, prompt: str = "say hello", options: ExecutionOptions | None = None
    ) -> Execution:
        """A new execution, ended."""
        execution = await self.start(project, prompt, options)
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.executions.finished(execution.id)

    async def read(self, execution_id: str) -> Execution:
        """The execution as it is stored."""
        execution = await self.storage.executions.read(execution_id)
        assert execution is not None
        return execution

    async def until(self, execution_id: str, reached: Callable[[Execution], bool] | Status) -> Execution:
        """The execution once its stored state fulfils a condition, or has this status."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                execution = await self.read(execution_id)
                if execution.status is reached if isinstance(reached, Status) else reached(execution):
                    return execution
                await self.storage.executions.wait_for_events(execution_id, execution.last_sequence)

    async def events(self, execution_id: str) -> list[Event]:
        """All stored events, which count from 1 without gaps."""
        stored = await self.storage.executions.read_events(execution_id, 0, 1_000_000)
        assert [line.sequence for line in stored] == list(range(1, len(stored) + 1))
        return [event_json.decode(line.data) for line in stored]

    async def payloads(self, execution_id: str) -> list[Payload]:
        """What all stored events say."""
        return [event.payload for event in await self.events(execution_id)]

    async def kinds(self, execution_id: str) -> list[str]:
        """The kinds of all stored events."""
        return [payload.kind for payload in await self.payloads(execution_id)]


def make_world(
    *,
    engine: FakeEngine | None = None,
    storage: Storage | None = None,
    prices: PriceList | None = None,
    admin_key: str | None = None,
    max_running: int = 3,
    max_waiting: int = 100,
    longest_timeout: int = LONGEST_TIMEOUT,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    place_pause_seconds: float = PAUSE_SECONDS,
    tracer: Tracer | None = None,
) -> World:
    """Services over the given parts. `engine` runs the default script unless given."""
    storage = MemoryStorage() if storage is None else storage
    engine = FakeEngine() if engine is None else engine
    prices = FakePriceList() if prices is None else prices
    authenticator = Authenticator(storage.projects, admin_key)
    secrets = SecretManager(HeldAgainstAudit(storage.secrets, storage.audit), Keyring(ENCRYPTION_KEY))
    executions = ExecutionService(
        storage,
        secrets,
        engine,
        prices,
        max_running,
        max_waiting,
        longest_timeout=longest_timeout,
        place_pause_seconds=place_pause_seconds,
        tracer=tracer,
    )
    projects = ProjectService(storage.projects, authenticator, executions, prices, engine, longest_timeout)
    watches = WatchService(storage.executions, heartbeat_seconds)
    return World(storage, engine, authenticator, secrets, executions, projects, watches, prices)


def of_kind(payloads: Sequence[Payload], kind: type[Any]) -> list[Any]:
    """The payloads of one kind."""
    return [payload for payload in payloads if isinstance(payload, kind)]
