"""Usage reports: what a project used by day and model, and how its budgets stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Final

from cloutagent_server.domain.cost import ZERO, BudgetScope, ExceededLimit
from cloutagent_server.domain.errors import FieldViolation, InvalidRequest
from cloutagent_server.domain.ledger import DayUsage

DEFAULT_DAYS: Final = 30
MAX_DAYS: Final = 366


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What many model calls used together.

    Attributes:
        calls: How many calls used tokens.
        prompt_tokens: Input tokens, those read from and written to the cache included.
        cost: US dollars at list price.
        estimated_cost: The part of `cost` that is estimated.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: Decimal = ZERO
    estimated_cost: Decimal = ZERO

    @classmethod
    def of(cls, days: Iterable[DayUsage]) -> UsageSum:
        """The sum of what was used by day and model."""
        total = cls()
        for day in days:
            total = cls(
                total.calls + day.calls,
                total.prompt_tokens + day.usage.prompt_tokens,
                total.completion_tokens + day.usage.completion_tokens,
                total.cache_read_tokens + day.usage.cache_read_tokens,
                total.cache_write_tokens + day.usage.cache_write_tokens,
                total.cost + day.cost,
                total.estimated_cost + day.estimated_cost,
            )
        return total


@dataclass(frozen=True, slots=True)
class BudgetState:
    """How one limit of a project's budget stands. Amounts are tokens, or US dollars of a limit on cost.

    Attributes:
        scope: The period that it holds for.
        limits: What it limits.
        limit: The limit.
        used: What settled calls used.
        reserved: The most that the calls under way can use.
    """

    scope: BudgetScope
    limits: ExceededLimit
    limit: Decimal
    used: Decimal
    reserved: Decimal

    @property
    def left(self) -> Decimal:
        """What is neither used nor reserved; 0 if that is nothing."""
        return max(ZERO, self.limit - self.used - self.reserved)


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What a project used from one day to another, both included, by day and model, and how its budgets stand now."""

    project_id: str
    first_day: str
    last_day: str
    days: tuple[DayUsage, ...]
    budgets: tuple[BudgetState, ...]

    @property
    def sum(self) -> UsageSum:
        """All days together."""
        return UsageSum.of(self.days)


def days_between(first: str | None, last: str | None, now: datetime) -> tuple[str, str]:
    """The range of days that a caller asks for: by default the last 30 days, today among them.

    Raises:
        InvalidRequest: A day is none, the range is the wrong way round, or it has more than 366 days.
    """
    faults: list[FieldViolation] = []
    until = _day("to", last, faults) or now.date()
    since = _day("from", first, faults) or date.fromordinal(max(1, until.toordinal() - DEFAULT_DAYS + 1))
    if not faults and since > until:
        faults.append(FieldViolation("from", "must not lie after to"))
    if not faults and (until - since).days >= MAX_DAYS:
        faults.append(FieldViolation("from", f"must not lie more than {MAX_DAYS - 1} days before to"))
    if faults:
        raise InvalidRequest(faults)
    return since.isoformat(), until.isoformat()


def _day(field: str, text: str | None, faults: list[FieldViolation]) -> date | None:
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        faults.append(FieldViolation(field, "must be a day, YYYY-MM-DD"))
        return None
    return day
