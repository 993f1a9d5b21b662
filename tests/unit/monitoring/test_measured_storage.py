"""The storage with its measure: the contracts' operations, all of them, and the same answers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.events import Completed, Failed, Failure, FailureReason, Queued, Started
from cloutagent_server.domain.execution import Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.ledger import LedgerTotals, Reservation, Settlement
from cloutagent_server.domain.metrics import Metrics, StorageFault
from cloutagent_server.domain.project import ProjectChanges
from cloutagent_server.monitoring.measured_storage import MeasuredStorage, operations_of
from cloutagent_server.storage.base import AuditLog, ExecutionStorage, Ledger, ProjectStorage, SecretStorage
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders


class Notes(Metrics):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.used: list[tuple[str, StorageFault | None]] = []
        self.ended: list[tuple[Status, FailureReason | None]] = []
        self.settled: list[tuple[TokenUsage, Decimal]] = []

    def storage_used(self, operation: str, seconds: float, fault: StorageFault | None) -> None:
        assert seconds >= 0
        self.used.append((operation, fault))

    def execution_ended(self, status: Status, reason: FailureReason | None) -> None:
        self.ended.append((status, reason))

    def call_settled(self, usage: TokenUsage, cost: Decimal) -> None:
        self.settled.append((usage, cost))


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def inner() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def storage(inner: MemoryStorage, notes: Notes) -> MeasuredStorage:
    return MeasuredStorage(inner, notes)


@pytest.mark.parametrize(
    ("part", "contract"),
    [
        ("projects", ProjectStorage),
        ("secrets", SecretStorage),
        ("executions", ExecutionStorage),
        ("audit", AuditLog),
        ("ledger", Ledger),
    ],
)
def test_every_operation_of_the_contract_is_there(
    storage: MeasuredStorage, inner: MemoryStorage, part: str, contract: type
) -> None:
    operations = operations_of(contract)
    assert len(operations) >= 4
    for name in operations:
        measured = getattr(getattr(storage, part), name)
        # Watchers that wait for events do so without anything in between.
        waits = name.startswith("wait_for_")
        assert (measured == getattr(getattr(inner, part), name)) is waits


async def test_results_and_errors_come_through(storage: MeasuredStorage, notes: Notes) -> None:
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    assert await storage.projects.read(project.id) == project
    with pytest.raises(ProjectNotFound):
        await storage.projects.update(new_id(), ProjectChanges(name="other"), expected_revision=1)
    assert notes.used == [("projects.create", None), ("projects.read", None), ("projects.update", None)]


async def test_what_is_no_answer_of_the_contract_is_unexpected(
    inner: MemoryStorage, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(inner.projects, "read", breaks)
    with pytest.raises(RuntimeError):
        await MeasuredStorage(inner, notes).projects.read(new_id())
    assert notes.used == [("projects.read", StorageFault.UNEXPECTED)]


async def test_the_end_of_an_execution_is_told_once(storage: MeasuredStorage, notes: Notes) -> None:
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    failure = Failure(FailureReason.TIMEOUT, "too long")
    for end in (Completed("done", builders.usage(), 5), Failed(failure, builders.usage(), 5)):
        execution = await storage.executions.create(builders.execution(project_id=project.id))
        for event in builders.events(execution.id, (Queued(0), Started(builders.MODEL), end)):
            await storage.executions.append([event])
        await storage.executions.read(execution.id)
    assert notes.ended == [(Status.COMPLETED, None), (Status.FAILED, FailureReason.TIMEOUT)]


async def test_a_settlement_counts_if_the_ledger_took_it(storage: MeasuredStorage, notes: Notes) -> None:
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    now, usage = timestamps.now(), TokenUsage(100, 20, builders.MODEL)
    reservation = Reservation(new_id(), new_id(), usage, Decimal("0.5"), now)

    def decide(_: LedgerTotals) -> Reservation:
        return reservation

    await storage.ledger.reserve(project.id, now, decide)
    settlement = Settlement(reservation.call_id, TokenUsage(90, 7, builders.MODEL), Decimal("0.25"), "fake 1")
    assert notes.settled == []
    assert await storage.ledger.settle(project.id, settlement)
    assert not await storage.ledger.settle(project.id, settlement)
    assert notes.settled == [(settlement.usage, settlement.cost)]
