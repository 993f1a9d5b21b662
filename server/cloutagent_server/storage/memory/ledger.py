"""Ledgers in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.ledger import (
    DayUsage,
    LedgerCall,
    LedgerTotals,
    Reservation,
    Settlement,
    month_of,
)
from cloutagent_server.storage.ledger_book import MonthBook, totals, usage_between
from cloutagent_server.storage.memory.records import ProjectRecord, Records


class MemoryLedger:
    """`Ledger` in memory."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def reserve(
        self,
        project_id: str,
        now: datetime,
        decide: Callable[[LedgerTotals], Reservation | None],
        storing: Callable[[], None] = lambda: None,
    ) -> LedgerTotals:
        """See `Ledger.reserve`."""
        record = self._records.projects.get(project_id)
        if record is None:
            raise ProjectNotFound(project_id)
        seen = totals(record.ledger, now)
        reservation = decide(seen)
        if reservation is not None:
            record.ledger.setdefault(month_of(reservation.time), MonthBook()).reserve(reservation)
            record.calls[reservation.call_id] = LedgerCall(reservation)
            storing()
        return seen

    async def settle(self, project_id: str, settlement: Settlement) -> bool:
        """See `Ledger.settle`."""
        record = self._records.projects.get(project_id)
        call = None if record is None else record.calls.get(settlement.call_id)
        if record is None or call is None or call.settlement is not None:
            return False
        record.ledger[month_of(call.reservation.time)].settle(settlement)
        record.calls[settlement.call_id] = LedgerCall(call.reservation, settlement)
        self._records.settlements.wake(project_id)
        return True

    async def totals(self, project_id: str, now: datetime) -> LedgerTotals:
        """See `Ledger.totals`."""
        record = self._records.projects.get(project_id)
        return LedgerTotals() if record is None else totals(record.ledger, now)

    async def wait_for_settlement(self, project_id: str, version: int) -> None:
        """See `Ledger.wait_for_settlement`."""
        with self._records.settlements.waiting(project_id, version) as news:
            record = self._records.projects.get(project_id)
            if record is not None and sum(book.settlements for book in record.ledger.values()) == version:
                await news

    async def calls(
        self, project_id: str, execution_id: str, since: datetime, until: datetime | None = None
    ) -> Sequence[LedgerCall]:
        """See `Ledger.calls`."""
        record = self._records.projects.get(project_id)
        calls = [] if record is None else list(record.calls.values())
        return [
            call
            for call in calls
            if call.reservation.execution_id == execution_id
            and month_of(since) <= month_of(call.reservation.time)
            and (until is None or month_of(call.reservation.time) <= month_of(until))
        ]

    async def usage(self, project_id: str, first_day: str, last_day: str) -> Sequence[DayUsage]:
        """See `Ledger.usage`."""
        record: ProjectRecord | None = self._records.projects.get(project_id)
        return () if record is None else usage_between(record.ledger, first_day, last_day)
