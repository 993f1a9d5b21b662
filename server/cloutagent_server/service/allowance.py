"""How many output tokens limits allow a model call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from cloutagent_server.domain.cost import ExceededLimit, TokenUsage
from cloutagent_server.domain.ledger import Amount
from cloutagent_server.engine.base import PlannedCall, PriceList
from cloutagent_server.service.budget_lines import BudgetLine


@dataclass(frozen=True, slots=True)
class Allowance:
    """The most output tokens that limits allow, and which of them that is due to. Below 1 there is no room."""

    tokens: int
    line: BudgetLine
    kind: ExceededLimit


def allowance(
    wanted: int,
    input_tokens: int,
    lines: Sequence[BudgetLine],
    used: Sequence[Amount],
    cost: Callable[[int], Decimal],
) -> Allowance:
    """The most output tokens that all limits allow beside what is used; tokens are reported before cost.

    `used` tells it for each of `lines`; `cost` tells what the call costs at most with so many output tokens.
    """
    found = Allowance(wanted, lines[0], ExceededLimit.TOKENS)
    for line, amount in zip(lines, used, strict=True):
        if line.limit.max_tokens is not None:
            tokens = line.limit.max_tokens - amount.tokens - input_tokens
            if tokens < found.tokens:
                found = Allowance(tokens, line, ExceededLimit.TOKENS)
    if found.tokens < 1:
        return found
    for line, amount in zip(lines, used, strict=True):
        if line.limit.max_cost is not None:
            tokens = _affordable(found.tokens, line.limit.max_cost - amount.cost, cost)
            if tokens < found.tokens:
                found = Allowance(tokens, line, ExceededLimit.COST)
    return found


def highest_cost(call: PlannedCall, input_tokens: int, output_tokens: int, prices: PriceList, at: datetime) -> Decimal:
    """What a call with so many tokens costs at most in US dollars, whatever part of its input the vendor caches."""
    return max(
        prices.cost(call.at_most(input_tokens, output_tokens), at),
        prices.cost(TokenUsage(input_tokens, output_tokens, call.model), at),
    )


def _affordable(wanted: int, left: Decimal, cost: Callable[[int], Decimal]) -> int:
    """How many of the wanted output tokens `left` US dollars pay for beside the input, at its dearest."""
    whole = cost(wanted)
    if whole <= left:
        return wanted
    bare = cost(0)
    if bare >= left:
        return 0
    tokens = min(wanted, int((left - bare) * wanted / (whole - bare)))
    while tokens > 0 and cost(tokens) > left:
        tokens -= 1
    return tokens
