"""A project's ledger: what its model calls may cost before they go out, and what they did cost after they ended.

A call is reserved before it goes out, with the most that it can use, and settled once when it has ended. It belongs to
the day and the month, in UTC, of its reservation. What is reserved and not settled counts in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from cloutagent_server.domain.cost import ZERO, Model, TokenUsage, Usage


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens, prompt and completion together, and their cost in US dollars."""

    tokens: int = 0
    cost: Decimal = ZERO

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        return Amount(self.tokens + other.tokens, self.cost + other.cost)

    def minus(self, other: Amount) -> Amount:
        """This without the other."""
        return Amount(self.tokens - other.tokens, self.cost - other.cost)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A model call that may go out, and the most that it can use.

    Attributes:
        execution_id: The execution that it belongs to.
        call_id: Identifier of the call.
        usage: The most tokens that it can use; the model is set.
        cost: The most that it can cost in US dollars.
        time: When it was reserved.
    """

    execution_id: str
    call_id: str
    usage: TokenUsage
    cost: Decimal
    time: datetime

    @property
    def amount(self) -> Amount:
        """Tokens and cost."""
        return Amount(self.usage.prompt_tokens + self.usage.completion_tokens, self.cost)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a reserved call used in the end.

    Attributes:
        call_id: The call.
        usage: What it used; the model is set. Zero tokens for a call that was not billed.
        cost: What that costs in US dollars.
        price_version: The version of the price list behind `cost`.
        estimated: Whether the vendor did not say, so that this is the most that it can have used.
        prices: What that version asked for the model when the call was settled, so that this is known when the version
            is not there any more. None for a call that used nothing, or was settled by an earlier server.
    """

    call_id: str
    usage: TokenUsage
    cost: Decimal
    price_version: str
    estimated: bool = False
    prices: Model | None = None

    @property
    def amount(self) -> Amount:
        """Tokens and cost."""
        return Amount(self.usage.prompt_tokens + self.usage.completion_tokens, self.cost)

    @classmethod
    def in_full(cls, reservation: Reservation, price_version: str, prices: Model | None = None) -> Settlement:
        """The settlement of a call of which nothing is known but that it may have been billed."""
        return cls(
            reservation.call_id, reservation.usage, reservation.cost, price_version, estimated=True, prices=prices
        )


@dataclass(frozen=True, slots=True)
class LedgerCall:
    """A call in the ledger. `settlement` is None while it is under way."""

    reservation: Reservation
    settlement: Settlement | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What a period holds: settled calls, and the reservations of those under way."""

    settled: Amount = Amount()
    reserved: Amount = Amount()

    @property
    def all(self) -> Amount:
        """Both together."""
        return self.settled.plus(self.reserved)


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """What a project has used in the day and month of a point in time, and altogether.

    Attributes:
        version: Another number after every settlement.
        open: The calls under way, by call id.
    """

    day: Window = Window()
    month: Window = Window()
    total: Window = Window()
    version: int = 0
    open: Mapping[str, Reservation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What settled calls of one model used on one day.

    Attributes:
        day: The day in UTC, `YYYY-MM-DD`.
        model: The model.
        usage: The sum of their tokens.
        cost: The sum of their cost in US dollars.
        calls: How many calls used tokens.
        estimated_cost: The part of `cost` that is estimated.
    """

    day: str
    model: str
    usage: TokenUsage
    cost: Decimal = ZERO
    calls: int = 0
    estimated_cost: Decimal = ZERO

    def plus(self, settlement: Settlement) -> DayUsage:
        """This with another call."""
        more, had = settlement.usage, self.usage
        return DayUsage(
            self.day,
            self.model,
            TokenUsage(
                had.prompt_tokens + more.prompt_tokens,
                had.completion_tokens + more.completion_tokens,
                self.model,
                had.cache_read_tokens + more.cache_read_tokens,
                had.cache_write_tokens + more.cache_write_tokens,
                had.cache_write_1h_tokens + more.cache_write_1h_tokens,
            ),
            self.cost + settlement.cost,
            self.calls + (1 if settlement.amount.tokens else 0),
            self.estimated_cost + (settlement.cost if settlement.estimated else ZERO),
        )

    @property
    def amount(self) -> Amount:
        """Tokens and cost."""
        return Amount(self.usage.prompt_tokens + self.usage.completion_tokens, self.cost)


def usage_of(calls: Iterable[LedgerCall]) -> Usage:
    """What calls used together; those under way count in full, as estimated."""
    total = Usage()
    for call in calls:
        end = call.settlement or Settlement.in_full(call.reservation, "")
        if end.amount.tokens:
            total = total.plus(end.usage, end.cost, calls=1, estimated=end.estimated)
    return total


def day_of(time: datetime) -> str:
    """The day that a time in UTC falls on, `YYYY-MM-DD`."""
    return time.date().isoformat()


def month_of(time: datetime) -> str:
    """The month that a time in UTC falls in, `YYYY-MM`."""
    return time.date().isoformat()[:7]
