"""Tokens, prices and limits. Money is US dollars in `Decimal`, so that sums are exact."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

WARNING_PERCENT: Final = 80.0
ZERO: Final = Decimal(0)
MOST_TOKENS: Final = 2**31 - 1
"""The largest number of tokens that the API can tell."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What one model call used, or one more part of it.

    Attributes:
        prompt_tokens: All input tokens, those read from and written to the cache included.
        completion_tokens: Output tokens.
        model: The model that used them; None where only tokens matter.
        cache_read_tokens: The part of `prompt_tokens` that was read from the vendor's cache.
        cache_write_tokens: The part of `prompt_tokens` that was written to the vendor's cache.
        cache_write_1h_tokens: The part of `cache_write_tokens` that was written for one hour, which has a price of its
            own.
    """

    prompt_tokens: int
    completion_tokens: int
    model: str | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def possible(self) -> bool:
        """Whether these are numbers of tokens that a call can have used."""
        return (
            0 <= self.cache_write_1h_tokens <= self.cache_write_tokens
            and self.cache_read_tokens >= 0
            and self.cache_read_tokens + self.cache_write_tokens <= self.prompt_tokens <= MOST_TOKENS
            and 0 <= self.completion_tokens <= MOST_TOKENS
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What an execution's model calls have used together. `total_cost` is US dollars at list price.

    `estimated` tells that the vendor did not say what all of the calls used, so that the most they can have used is
    counted for those.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    total_cost: Decimal = ZERO
    model_calls: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, usage: TokenUsage, cost: Decimal, calls: int = 0, *, estimated: bool = False) -> Usage:
        """This usage with another part added that cost `cost` and began `calls` model calls."""
        return Usage(
            self.prompt_tokens + usage.prompt_tokens,
            self.completion_tokens + usage.completion_tokens,
            self.cache_read_tokens + usage.cache_read_tokens,
            self.cache_write_tokens + usage.cache_write_tokens,
            self.total_cost + cost,
            self.model_calls + calls,
            self.estimated or estimated,
        )


@dataclass(frozen=True, slots=True)
class CostLimits:
    """Limits to check a usage against; None is no limit. `max_cost` is US dollars."""

    max_tokens: int | None = None
    max_cost: Decimal | None = None


class ExceededLimit(StrEnum):
    """Which limit was passed."""

    TOKENS = "tokens"
    COST = "cost"


class BudgetScope(StrEnum):
    """What a limit holds for: one execution, or all executions of its project together in a day, a month, or ever."""

    EXECUTION = "execution"
    DAILY = "daily"
    MONTHLY = "monthly"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class BudgetExceeded:
    """Which limit leaves no room for another model call. Amounts are tokens, or US dollars of a limit on cost.

    Attributes:
        scope: What the limit holds for.
        exceeded: What it limits.
        limit: The limit.
        used: What has been used of it.
    """

    scope: BudgetScope
    exceeded: ExceededLimit
    limit: Decimal
    used: Decimal

    @property
    def left(self) -> Decimal:
        """What is left of the limit; 0 if it was passed."""
        return max(ZERO, self.limit - self.used)

    @property
    def name(self) -> str:
        """The limit, for people."""
        amount = f"{_plain(self.limit)}" if self.exceeded is ExceededLimit.TOKENS else f"{_plain(self.limit)} USD"
        kind = "token" if self.exceeded is ExceededLimit.TOKENS else "cost"
        if self.scope is BudgetScope.EXECUTION:
            return f"the {kind} limit of {amount}"
        return f"the project's {self.scope.value} {kind} budget of {amount}"

    @property
    def state(self) -> str:
        """What was used of it and what is left, for people."""
        unit = "tokens" if self.exceeded is ExceededLimit.TOKENS else "USD"
        return f"{_plain(self.used)} {unit} were used, {_plain(self.left)} are left"


@dataclass(frozen=True, slots=True)
class LimitCheckResult:
    """How a usage stands against limits. Percentages are 0 to 100, and more when a limit was passed."""

    within_limits: bool
    percent_of_token_limit: float | None = None
    percent_of_cost_limit: float | None = None
    exceeded: ExceededLimit | None = None


def check_limits(usage: Usage, limits: CostLimits) -> LimitCheckResult:
    """Compare `usage` with `limits`. Exactly the limit is within it; tokens are reported before cost."""
    exceeded = None
    token_percent = cost_percent = None
    if limits.max_cost is not None:
        # JSON has no infinity, which the percentage of a tiny limit would be as a float.
        cost_percent = min(float(usage.total_cost / limits.max_cost * 100), sys.float_info.max)
        if usage.total_cost > limits.max_cost:
            exceeded = ExceededLimit.COST
    if limits.max_tokens is not None:
        token_percent = usage.total_tokens / limits.max_tokens * 100
        if usage.total_tokens > limits.max_tokens:
            exceeded = ExceededLimit.TOKENS
    return LimitCheckResult(exceeded is None, token_percent, cost_percent, exceeded)


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its list price: US dollars a token in the base price tier, None where there is no such price."""

    id: str
    display_name: str
    prompt_token_price: Decimal
    completion_token_price: Decimal
    cache_read_token_price: Decimal | None = None
    cache_write_token_price: Decimal | None = None
    context_window: int | None = None


def _plain(amount: Decimal) -> str:
    """A number without an exponent and without zeros at its end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
