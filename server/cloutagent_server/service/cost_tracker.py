"""What executions have used so far, and how that stands against limits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from cloutagent_server.domain.cost import ZERO, CostLimits, LimitCheckResult, TokenUsage, Usage, check_limits
from cloutagent_server.engine.base import PriceList

DEFAULT_MODEL: Final = "claude-sonnet-4-5"


@dataclass(slots=True)
class _Tracked:
    total: Usage = Usage()
    calls: dict[str, tuple[TokenUsage, Decimal]] = field(default_factory=dict)


class CostTracker:
    """Adds up tokens and cost of executions while they run. Of an execution it was never told about nothing is used."""

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices
        self._executions: dict[str, _Tracked] = {}

    def track_tokens(
        self,
        execution_id: str,
        usage: TokenUsage,
        call_id: str | None = None,
        cost: Decimal | None = None,
        *,
        estimated: bool = False,
    ) -> Usage:
        """Count `usage` and return what the execution has used altogether.

        With a `call_id`, `usage` is all that this model call has used so far and replaces the earlier report of the
        same call, so that price tiers apply to whole calls. Without one it is a call of its own. `cost` is what it
        costs in US dollars where that is known better than by list price; `estimated` marks what the vendor did not
        tell.
        """
        tracked = self._executions.setdefault(execution_id, _Tracked())
        cost = self.calculate_cost(usage) if cost is None else cost
        before = tracked.calls.get(call_id) if call_id is not None else None
        if call_id is not None:
            tracked.calls[call_id] = (usage, cost)
        if before is None:
            tracked.total = tracked.total.plus(usage, cost, calls=1, estimated=estimated)
        else:
            tracked.total = tracked.total.plus(_difference(usage, before[0]), cost - before[1], estimated=estimated)
        return tracked.total

    def calculate_cost(self, usage: TokenUsage) -> Decimal:
        """List price of `usage` in US dollars; a usage without a model is priced as claude-sonnet-4-5.

        Raises:
            LookupError: The price list does not know the model.
        """
        if usage.model is None:
            usage = replace(usage, model=DEFAULT_MODEL)
        return self._prices.cost(usage)

    def check_limits(self, execution_id: str, limits: CostLimits) -> LimitCheckResult:
        """How the execution stands against `limits`."""
        return check_limits(self.get_usage(execution_id), limits)

    def get_current_cost(self, execution_id: str) -> Decimal:
        """Cost of the execution so far in US dollars; 0 for one without usage."""
        tracked = self._executions.get(execution_id)
        return ZERO if tracked is None else tracked.total.total_cost

    def get_usage(self, execution_id: str) -> Usage:
        """All that the execution has used so far."""
        tracked = self._executions.get(execution_id)
        return Usage() if tracked is None else tracked.total

    def get_call(self, execution_id: str, call_id: str) -> tuple[TokenUsage, Decimal] | None:
        """What a model call has used so far and what that costs in US dollars; None before its first report."""
        tracked = self._executions.get(execution_id)
        return None if tracked is None else tracked.calls.get(call_id)

    def forget(self, execution_id: str) -> None:
        """Drop an execution that has ended and whose usage is stored."""
        self._executions.pop(execution_id, None)


def _difference(now: TokenUsage, before: TokenUsage) -> TokenUsage:
    return TokenUsage(
        now.prompt_tokens - before.prompt_tokens,
        now.completion_tokens - before.completion_tokens,
        now.model,
        now.cache_read_tokens - before.cache_read_tokens,
        now.cache_write_tokens - before.cache_write_tokens,
    )
