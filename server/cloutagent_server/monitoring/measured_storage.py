"""A storage that tells how long its operations take, and what passes through it that is worth counting."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from cloutagent_server.domain.errors import CloutAgentError, StorageUnavailable, StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.ledger import Settlement
from cloutagent_server.domain.metrics import Metrics, StorageFault
from cloutagent_server.storage.base import (
    AuditLog,
    ExecutionStorage,
    Ledger,
    ProjectStorage,
    SecretStorage,
    Storage,
)

# They wait for something to happen: how long that takes says nothing about the storage. And each watcher waits here for
# each event.
_WAITS: Final = frozenset({"wait_for_events", "wait_for_settlement"})

_PARTS: Final[dict[str, type]] = {
    "projects": ProjectStorage,
    "secrets": SecretStorage,
    "executions": ExecutionStorage,
    "audit": AuditLog,
    "ledger": Ledger,
}

Operation = Callable[..., Awaitable[Any]]


class MeasuredStorage:
    """`Storage` over another one.

    Every settlement of a model call and every end of an execution passes through here once, whoever brings it about:
    so they are counted here.
    """

    def __init__(self, inner: Storage, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics
        self._projects = cast(ProjectStorage, _Part("projects", inner.projects, metrics))
        self._secrets = cast(SecretStorage, _Part("secrets", inner.secrets, metrics))
        self._audit = cast(AuditLog, _Part("audit", inner.audit, metrics))
        executions = _Part("executions", inner.executions, metrics, append=self._appended)
        self._executions = cast(ExecutionStorage, executions)
        self._ledger = cast(Ledger, _Part("ledger", inner.ledger, metrics, settle=self._settled))

    @property
    def projects(self) -> ProjectStorage:
        """Projects."""
        return self._projects

    @property
    def secrets(self) -> SecretStorage:
        """Secrets."""
        return self._secrets

    @property
    def executions(self) -> ExecutionStorage:
        """Executions."""
        return self._executions

    @property
    def audit(self) -> AuditLog:
        """The audit log."""
        return self._audit

    @property
    def ledger(self) -> Ledger:
        """Ledgers."""
        return self._ledger

    async def start(self) -> None:
        """See `Storage.start`."""
        await self._inner.start()

    async def stop(self) -> None:
        """See `Storage.stop`."""
        await self._inner.stop()

    async def check_writable(self) -> None:
        """See `Storage.check_writable`."""
        await self._inner.check_writable()

    def _appended(self, execution: Execution, *_: object) -> None:
        if execution.status.terminal:
            failure = execution.failure
            self._metrics.execution_ended(execution.status, None if failure is None else failure.reason)

    def _settled(self, settled: bool, _: str, settlement: Settlement) -> None:
        if settled:
            self._metrics.call_settled(settlement.usage, settlement.cost)


class _Part:
    """The operations of one part of a storage. `then` has what is told of an operation's result and arguments."""

    def __init__(self, name: str, inner: object, metrics: Metrics, **then: Callable[..., None]) -> None:
        for operation in operations_of(_PARTS[name]):
            if operation in _WAITS:
                setattr(self, operation, getattr(inner, operation))
            else:
                setattr(self, operation, _timed(name, inner, operation, metrics, then.get(operation)))


def operations_of(contract: type) -> list[str]:
    """The operations of a part of the storage."""
    return [name for name, member in vars(contract).items() if inspect.iscoroutinefunction(member)]


def measured_operations() -> list[str]:
    """The names under which operations are told of (`executions.append`), all of them."""
    return [
        f"{part}.{operation}"
        for part, contract in _PARTS.items()
        for operation in operations_of(contract)
        if operation not in _WAITS
    ]


def _timed(part: str, inner: object, operation: str, metrics: Metrics, then: Callable[..., None] | None) -> Operation:
    name = f"{part}.{operation}"

    async def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            result = await getattr(inner, operation)(*arguments, **named)
        except Exception as error:
            metrics.storage_used(name, time.perf_counter() - started, _fault_of(error))
            raise
        metrics.storage_used(name, time.perf_counter() - started, None)
        if then is not None:
            then(result, *arguments, **named)
        return result

    return timed


def _fault_of(error: Exception) -> StorageFault | None:
    """What an error says about the storage; None for those that its contract promises to a caller who is wrong."""
    match error:
        case StorageUnavailable():
            return StorageFault.UNAVAILABLE
        case StoredDataDamaged():
            return StorageFault.DAMAGED
        case CloutAgentError() | ValueError():
            return None
        case _:
            return StorageFault.UNEXPECTED
