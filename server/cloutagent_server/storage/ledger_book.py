"""What the records of a ledger add up to: the same on every backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.ledger import (
    Amount,
    DayUsage,
    LedgerTotals,
    Reservation,
    Settlement,
    Window,
    day_of,
    month_of,
)


class MonthBook:
    """The calls that were reserved in one month.

    Attributes:
        usage: What settled calls used, by day and model.
        settled: The sum of it.
        settlements: How many calls have been settled.
        open: The calls under way, by call id.
    """

    def __init__(self, usage: Iterable[DayUsage] = (), settlements: int = 0) -> None:
        self.usage: dict[tuple[str, str], DayUsage] = {(part.day, part.model): part for part in usage}
        self.settled = _sum(part.amount for part in self.usage.values())
        self.settlements = settlements
        self.open: dict[str, Reservation] = {}

    def reserve(self, reservation: Reservation) -> None:
        """Note a reservation. Raises ValueError if the call is reserved already."""
        if reservation.call_id in self.open:
            raise ValueError(f"the call {reservation.call_id} is reserved already")
        self.open[reservation.call_id] = reservation

    def settle(self, settlement: Settlement) -> None:
        """Note a settlement. Raises ValueError if the call is not open."""
        reservation = self.open.pop(settlement.call_id, None)
        if reservation is None:
            raise ValueError(f"the call {settlement.call_id} is not open")
        day, model = day_of(reservation.time), settlement.usage.model or ""
        before = self.usage.get((day, model), DayUsage(day, model, TokenUsage(0, 0, model)))
        self.usage[day, model] = before.plus(settlement)
        self.settled = self.settled.plus(settlement.amount)
        self.settlements += 1

    def settled_on(self, day: str) -> Amount:
        """What settled calls of one day used."""
        return _sum(part.amount for part in self.usage.values() if part.day == day)


def totals(months: Mapping[str, MonthBook], now: datetime) -> LedgerTotals:
    """What the months hold together, with the day and the month of `now` apart."""
    day, month = day_of(now), month_of(now)
    open_calls = {call_id: call for book in months.values() for call_id, call in book.open.items()}
    current = months.get(month)
    return LedgerTotals(
        day=Window(
            Amount() if current is None else current.settled_on(day),
            _sum(call.amount for call in open_calls.values() if day_of(call.time) == day),
        ),
        month=Window(
            Amount() if current is None else current.settled,
            _sum(call.amount for call in open_calls.values() if month_of(call.time) == month),
        ),
        total=Window(_sum(book.settled for book in months.values()), _sum(call.amount for call in open_calls.values())),
        version=sum(book.settlements for book in months.values()),
        open=MappingProxyType(open_calls),
    )


def usage_between(months: Mapping[str, MonthBook], first_day: str, last_day: str) -> tuple[DayUsage, ...]:
    """What settled calls used on the days from `first_day` to `last_day`, by day and model."""
    parts = (part for book in months.values() for part in book.usage.values())
    wanted = (part for part in parts if first_day <= part.day <= last_day and part.calls)
    return tuple(sorted(wanted, key=lambda part: (part.day, part.model)))


def _sum(amounts: Iterable[Amount]) -> Amount:
    total = Amount()
    for amount in amounts:
        total = total.plus(amount)
    return total
