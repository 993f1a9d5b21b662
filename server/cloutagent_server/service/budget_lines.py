"""How the budgets of a project stand: each limit with what is used of it and reserved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from cloutagent_server.domain.cost import BudgetExceeded, BudgetScope, ExceededLimit
from cloutagent_server.domain.ledger import LedgerTotals, Window
from cloutagent_server.domain.project import Budget, BudgetLimit
from cloutagent_server.domain.usage import BudgetState


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One limit and what stands against it."""

    scope: BudgetScope
    limit: BudgetLimit
    window: Window

    def exceeded(self, kind: ExceededLimit) -> BudgetExceeded:
        """What is told of this limit when it leaves no room."""
        tokens = kind is ExceededLimit.TOKENS
        limit = self.limit.max_tokens if tokens else self.limit.max_cost
        used = self.window.settled.tokens if tokens else self.window.settled.cost
        return BudgetExceeded(self.scope, kind, Decimal(limit or 0), Decimal(used))


def project_lines(budget: Budget, totals: LedgerTotals) -> Sequence[BudgetLine]:
    """The limits of a project's budget, the shortest period first."""
    return (
        BudgetLine(BudgetScope.DAILY, budget.daily, totals.day),
        BudgetLine(BudgetScope.MONTHLY, budget.monthly, totals.month),
        BudgetLine(BudgetScope.TOTAL, budget.total, totals.total),
    )


def first_used_up(budget: Budget, totals: LedgerTotals) -> BudgetExceeded | None:
    """The first limit of a project's budget of which nothing is left; None if something is left of all."""
    for line in project_lines(budget, totals):
        if line.limit.max_tokens is not None and line.window.settled.tokens >= line.limit.max_tokens:
            return line.exceeded(ExceededLimit.TOKENS)
        if line.limit.max_cost is not None and line.window.settled.cost >= line.limit.max_cost:
            return line.exceeded(ExceededLimit.COST)
    return None


def budget_states(budget: Budget, totals: LedgerTotals) -> Iterator[BudgetState]:
    """How each limit of a project's budget stands."""
    for line in project_lines(budget, totals):
        limit, used, reserved = line.limit, line.window.settled, line.window.reserved
        if limit.max_tokens is not None:
            most = Decimal(limit.max_tokens)
            yield BudgetState(line.scope, ExceededLimit.TOKENS, most, Decimal(used.tokens), Decimal(reserved.tokens))
        if limit.max_cost is not None:
            yield BudgetState(line.scope, ExceededLimit.COST, limit.max_cost, used.cost, reserved.cost)
