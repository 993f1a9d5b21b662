"""Usage, limits and prices between protobuf and domain."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from cloutagent.v1 import cost_pb2
from cloutagent_server.domain.cost import (
    MOST_TOKENS,
    BudgetExceeded,
    BudgetScope,
    CostLimits,
    ExceededLimit,
    LimitCheckResult,
    Model,
    Usage,
)

_Exceeded = cost_pb2.LimitCheckResult.Exceeded
EXCEEDED: Final = {ExceededLimit.TOKENS: _Exceeded.tokens, ExceededLimit.COST: _Exceeded.cost}
_Scope = cost_pb2.BudgetExceeded.Scope
SCOPE: Final = {
    BudgetScope.EXECUTION: _Scope.execution,
    BudgetScope.DAILY: _Scope.daily,
    BudgetScope.MONTHLY: _Scope.monthly,
    BudgetScope.TOTAL: _Scope.total,
}


def usage_to_proto(usage: Usage) -> cost_pb2.Usage:
    """The protobuf form of a usage."""
    return cost_pb2.Usage(
        prompt_tokens=tokens_to_proto(usage.prompt_tokens),
        completion_tokens=tokens_to_proto(usage.completion_tokens),
        cache_read_tokens=tokens_to_proto(usage.cache_read_tokens),
        cache_write_tokens=tokens_to_proto(usage.cache_write_tokens),
        total_cost=float(usage.total_cost),
        model_calls=usage.model_calls,
        estimated=usage.estimated or None,
    )


def tokens_to_proto(tokens: int) -> int:
    """A number of tokens as far as the API can tell it: what is stored can be read, whatever it is."""
    return min(tokens, MOST_TOKENS)


def budget_to_proto(budget: BudgetExceeded) -> cost_pb2.BudgetExceeded:
    """The protobuf form of which limit left no room."""
    return cost_pb2.BudgetExceeded(
        scope=SCOPE[budget.scope],
        exceeded=EXCEEDED[budget.exceeded],
        limit=float(budget.limit),
        used=float(budget.used),
        left=float(budget.left),
    )


def limits_from_proto(limits: cost_pb2.CostLimits) -> CostLimits:
    """The limits that a caller gives to check against."""
    return CostLimits(
        limits.max_tokens if limits.HasField("max_tokens") else None,
        Decimal(str(limits.max_cost)) if limits.HasField("max_cost") else None,
    )


def check_to_proto(check: LimitCheckResult) -> cost_pb2.LimitCheckResult:
    """The protobuf form of a limit check."""
    return cost_pb2.LimitCheckResult(
        within_limits=check.within_limits,
        percent_of_token_limit=check.percent_of_token_limit,
        percent_of_cost_limit=check.percent_of_cost_limit,
        exceeded=None if check.exceeded is None else EXCEEDED[check.exceeded],
    )


def model_to_proto(model: Model) -> cost_pb2.Model:
    """The protobuf form of a model and its price."""
    return cost_pb2.Model(
        id=model.id,
        display_name=model.display_name,
        prompt_token_price=float(model.prompt_token_price),
        completion_token_price=float(model.completion_token_price),
        cache_read_token_price=_float(model.cache_read_token_price),
        cache_write_token_price=_float(model.cache_write_token_price),
        context_window=model.context_window,
    )


def _float(price: Decimal | None) -> float | None:
    return None if price is None else float(price)
