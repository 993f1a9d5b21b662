"""Hard budgets: no model call goes out unless the most that it can use fits into every limit that holds for it.

The limits of the execution and the budgets of its project are held by one ledger. A call is reserved there with the
most that it can use and settled with what it did use, so what is free is what is neither used nor reserved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import (
    ZERO,
    BudgetExceeded,
    BudgetScope,
    ExceededLimit,
    TokenUsage,
    Usage,
)
from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.ledger import Amount, LedgerTotals, Reservation, Settlement, Window, usage_of
from cloutagent_server.domain.project import Budget, BudgetLimit
from cloutagent_server.domain.usage import BudgetState
from cloutagent_server.engine.base import CallEnd, CallRefused, PlannedCall, PriceList
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.storage.base import Ledger, Storage

log: Final = logging.getLogger(__name__)

# How often whoever waits for room looks whether a call that takes it was left behind, whatever wakes it.
LOOK_SECONDS: Final = 1.0

T = TypeVar("T")


class BudgetRefusal(CallRefused):
    """A call was refused because a limit leaves no room for it."""

    def __init__(self, budget: BudgetExceeded) -> None:
        super().__init__(f"{budget.name} ended the run: {budget.state}, and the next model call does not fit into that")
        self.budget = budget


class UnboundedInput(CallRefused):
    """A call was refused because nobody can tell beforehand how much it may use, so that no limit could hold it."""


class Turns:
    """Whose turn it is to reserve for a project in this process: a call that waits for room is not overtaken."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, project_id: str) -> asyncio.Semaphore:
        """The turn of a project, which one has at a time. It lives as long as somebody keeps it."""
        turn = self._turns.get(project_id)
        if turn is None:
            turn = self._turns[project_id] = asyncio.Semaphore()
        return turn


@dataclass(frozen=True, slots=True)
class _Line:
    """One limit and what stands against it."""

    scope: BudgetScope
    limit: BudgetLimit
    window: Window

    def exceeded(self, kind: ExceededLimit) -> BudgetExceeded:
        tokens = kind is ExceededLimit.TOKENS
        limit = self.limit.max_tokens if tokens else self.limit.max_cost
        used = self.window.settled.tokens if tokens else self.window.settled.cost
        return BudgetExceeded(self.scope, kind, Decimal(limit or 0), Decimal(used))


@dataclass(frozen=True, slots=True)
class _Allowed:
    """The most output tokens that a limit allows, and which limit that is. Below 1 there is no room."""

    tokens: int
    line: _Line
    kind: ExceededLimit


class RunBudget:
    """The limits of one run: asks the ledger before each call, and tells it after each call."""

    def __init__(
        self, execution: Execution, storage: Storage, prices: PriceList, tracker: CostTracker, turns: Turns
    ) -> None:
        self._execution = execution
        self._storage = storage
        self._prices = prices
        self._tracker = tracker
        self._turn = turns.of(execution.project_id)
        self._open: dict[str, Reservation] = {}
        self._stopped = asyncio.Event()
        self._settled = asyncio.Event()

    def stop(self) -> None:
        """The run ends: nothing is reserved any more, and whoever waits for room is refused."""
        self._stopped.set()

    async def reserve(self, call: PlannedCall) -> int:
        """Reserve the most that a call can use; returns the output tokens that it may write.

        Lowers them to what every limit leaves beside the input. Where only calls under way stand against it, waits for
        their end instead. The exact size of the input is asked for only when its bound does not fit easily.

        Raises:
            BudgetRefusal: A limit leaves no room for one output token.
            UnboundedInput: The input can be bounded neither by its bytes nor by the vendor's count.
            CallRefused: The run is being stopped.
            StorageUnavailable: The reservation cannot be stored.
        """
        if call.unbounded is not None:
            raise UnboundedInput(f"a model call with {call.unbounded} can use more than can be told beforehand")
        if call.input_bound is not None:
            async with self._in_turn():
                if await self._try(call, call.input_bound, whole=True) is None:
                    return call.max_tokens
        counted = await self._unless_stopped(call.count_input())
        if counted is None:
            counted = call.input_bound
        elif call.input_bound is not None:
            counted = min(counted, call.input_bound)
        if counted is None:
            raise UnboundedInput("the vendor did not count the input of a model call whose bytes do not bound it")
        async with self._in_turn():
            while (totals := await self._try(call, counted, whole=False)) is not None:
                await self._free_the_dead(totals)
                await self._unless_stopped(self._settlement_after(totals.version))
        return self._open[call.id].usage.completion_tokens

    async def settle(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> Usage | None:
        """Put what a call used in the place of its reservation; returns what the run has used then.

        What the vendor did not tell counts as the most that it can be. None for a call without a reservation.
        """
        reservation = self._open.get(call_id)
        if reservation is None:
            return None
        settlement = self._settlement(reservation, end, usage)
        await self._ledger.settle(self._execution.project_id, settlement)
        del self._open[call_id]
        self._settled.set()
        if settlement.amount.tokens == 0:
            return None
        if settlement.cost > reservation.cost or settlement.amount.tokens > reservation.amount.tokens:
            log.error("a model call used more than was reserved for it", extra={"execution_id": self._execution.id})
        return self._tracker.track_tokens(
            self._execution.id, settlement.usage, call_id, settlement.cost, estimated=settlement.estimated
        )

    async def settle_rest(self) -> None:
        """Settle in full what is still reserved when the run has ended."""
        for call_id in list(self._open):
            told = self._tracker.get_call(self._execution.id, call_id)
            await self.settle(call_id, CallEnd.CUT, None if told is None else told[0])

    @property
    def _ledger(self) -> Ledger:
        return self._storage.ledger

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        if self._turn.locked():
            acquiring = asyncio.ensure_future(self._turn.acquire())
            try:
                await self._unless_stopped(acquiring)
                yield
            finally:
                if acquiring.done() and not acquiring.cancelled():
                    self._turn.release()
        else:
            async with self._turn:
                yield

    async def _unless_stopped(self, wait: Awaitable[T]) -> T:
        """What `wait` gives, unless the run is stopped first."""
        waiting, stopped = asyncio.ensure_future(wait), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            stopped.cancel()
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting})
        raise CallRefused("the execution is being stopped")

    async def _settlement_after(self, version: int) -> None:
        """Return once a call of this run was settled, or of others after this version of the ledger.

        The run's own settlements are in the ledger a moment before they are counted here, so they are waited for apart.
        What others leave reserved is settled by nobody when they end: so this returns after a while in any case.
        """
        waits = [
            asyncio.ensure_future(self._ledger.wait_for_settlement(self._execution.project_id, version)),
            asyncio.ensure_future(self._settled.wait()),
        ]
        try:
            await asyncio.wait(waits, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        for wait in waits:
            if not wait.cancelled():
                wait.result()

    async def _try(self, call: PlannedCall, input_tokens: int, *, whole: bool) -> LedgerTotals | None:
        """Reserve the call if there is room for it now; else the totals that stand against it.

        With `whole` it is reserved with all the output that it asks for, or not at all.
        """
        budget = await budget_of(self._storage, self._execution.project_id)
        if self._stopped.is_set():
            raise CallRefused("the execution is being stopped")
        now = timestamps.now()
        loop = asyncio.get_running_loop()
        refused: list[BudgetRefusal] = []
        reserved: list[Reservation] = []
        # Counted here and not in `decide`, which may run in another thread: what is settled meanwhile only makes room.
        self._settled.clear()
        limits = self._execution.limits
        own = _Line(BudgetScope.EXECUTION, BudgetLimit(limits.max_tokens, limits.max_cost), self._own_window())

        @cache
        def cost(output_tokens: int) -> Decimal:
            return self._cost(call, input_tokens, output_tokens, now)

        def decide(totals: LedgerTotals) -> Reservation | None:
            lines = (own, *_project_lines(budget, totals))
            alone = _allowed(call.max_tokens, input_tokens, lines, [line.window.settled for line in lines], cost)
            if alone.tokens < (call.max_tokens if whole else 1):
                refused.append(BudgetRefusal(alone.line.exceeded(alone.kind)))
                return None
            beside = _allowed(call.max_tokens, input_tokens, lines, [line.window.all for line in lines], cost)
            if beside.tokens < alone.tokens:
                return None
            most = call.at_most(input_tokens, alone.tokens)
            reserved.append(Reservation(self._execution.id, call.id, most, cost(alone.tokens), now))
            return reserved[0]

        def storing() -> None:
            loop.call_soon_threadsafe(call.decided, reserved[0].usage.completion_tokens)

        try:
            totals = await self._ledger.reserve(self._execution.project_id, now, decide, storing)
        except asyncio.CancelledError:
            # It may be stored all the same; then it is settled as the call that did not go out.
            self._open.update({reservation.call_id: reservation for reservation in reserved})
            raise
        if refused and not whole:
            raise refused[0]
        self._open.update({reservation.call_id: reservation for reservation in reserved})
        return None if reserved else totals

    def _own_window(self) -> Window:
        used = self._tracker.get_usage(self._execution.id)
        settled, reserved = Amount(used.total_tokens, used.total_cost), Amount()
        for call_id, reservation in list(self._open.items()):
            reserved = reserved.plus(reservation.amount)
            told = self._tracker.get_call(self._execution.id, call_id)
            if told is not None:
                settled = settled.minus(Amount(told[0].prompt_tokens + told[0].completion_tokens, told[1]))
        return Window(settled, reserved)

    def _cost(self, call: PlannedCall, input_tokens: int, output_tokens: int, now: datetime) -> Decimal:
        return max(
            self._prices.cost(call.at_most(input_tokens, output_tokens), now),
            self._prices.cost(TokenUsage(input_tokens, output_tokens, call.model), now),
        )

    def _settlement(self, reservation: Reservation, end: CallEnd, told: TokenUsage | None) -> Settlement:
        model, version = reservation.usage.model, self._prices.version
        if end is CallEnd.FREE:
            return Settlement(reservation.call_id, TokenUsage(0, 0, model), ZERO, version)
        # The prices are those that the call was reserved at, so that midnight changes nothing.
        at = reservation.time
        if told is None or not told.possible:
            return Settlement.in_full(reservation, version, self._prices.model(model or "", at))
        if end is CallEnd.TOLD:
            prices = self._prices.model(told.model or "", at)
            return Settlement(reservation.call_id, told, self._prices.cost(told, at), version, prices=prices)
        # The input is told at the start of an answer; the model may have written all that it was allowed to. Where
        # another model may have answered it is named in what was told, and the dearer of both counts.
        written = max(told.completion_tokens, reservation.usage.completion_tokens)
        usages = [replace(told, completion_tokens=written, model=name) for name in {model, told.model or model}]
        cost, usage = max(((self._prices.cost(usage, at), usage) for usage in usages), key=lambda pair: pair[0])
        prices = self._prices.model(usage.model or "", at)
        return Settlement(reservation.call_id, usage, cost, version, estimated=True, prices=prices)

    async def _free_the_dead(self, totals: LedgerTotals) -> None:
        """Settle in full what executions that have ended, or are gone, left reserved when they could not store it."""
        others = {call.execution_id for call in totals.open.values()} - {self._execution.id}
        for execution_id in others:
            try:
                execution = await self._storage.executions.read(execution_id)
            except CloutAgentError:
                # Nobody knows whether it has ended, and this run is not to fail for that.
                log.warning("an execution with reservations cannot be read", extra={"execution_id": execution_id})
                continue
            if execution is None or execution.status.terminal:
                await settle_in_full(self._ledger, self._execution.project_id, execution_id, totals, self._prices)


def _allowed(
    wanted: int,
    input_tokens: int,
    lines: Sequence[_Line],
    used: Sequence[Amount],
    cost: Callable[[int], Decimal],
) -> _Allowed:
    """The most output tokens that all limits allow beside what is used; tokens are reported before cost.

    `cost` tells what the call costs at most with so many output tokens.
    """
    found = _Allowed(wanted, lines[0], ExceededLimit.TOKENS)
    for line, amount in zip(lines, used, strict=True):
        if line.limit.max_tokens is not None:
            tokens = line.limit.max_tokens - amount.tokens - input_tokens
            if tokens < found.tokens:
                found = _Allowed(tokens, line, ExceededLimit.TOKENS)
    if found.tokens < 1:
        return found
    for line, amount in zip(lines, used, strict=True):
        if line.limit.max_cost is not None:
            tokens = _affordable(found.tokens, line.limit.max_cost - amount.cost, cost)
            if tokens < found.tokens:
                found = _Allowed(tokens, line, ExceededLimit.COST)
    return found


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


async def budget_of(storage: Storage, project_id: str) -> Budget:
    """The budget of a project as it stands now; none without the project."""
    project = await storage.projects.read(project_id)
    return Budget() if project is None else project.budget


async def used_up(ledger: Ledger, project_id: str, budget: Budget) -> BudgetExceeded | None:
    """The first budget of the project of which nothing is left; None if something is left of all."""
    if budget == Budget():
        return None
    for line in _project_lines(budget, await ledger.totals(project_id, timestamps.now())):
        if line.limit.max_tokens is not None and line.window.settled.tokens >= line.limit.max_tokens:
            return line.exceeded(ExceededLimit.TOKENS)
        if line.limit.max_cost is not None and line.window.settled.cost >= line.limit.max_cost:
            return line.exceeded(ExceededLimit.COST)
    return None


def budget_states(budget: Budget, totals: LedgerTotals) -> Iterator[BudgetState]:
    """How each limit of a project's budget stands."""
    for line in _project_lines(budget, totals):
        limit, used, reserved = line.limit, line.window.settled, line.window.reserved
        if limit.max_tokens is not None:
            most = Decimal(limit.max_tokens)
            yield BudgetState(line.scope, ExceededLimit.TOKENS, most, Decimal(used.tokens), Decimal(reserved.tokens))
        if limit.max_cost is not None:
            yield BudgetState(line.scope, ExceededLimit.COST, limit.max_cost, used.cost, reserved.cost)


async def settle_in_full(
    ledger: Ledger, project_id: str, execution_id: str, totals: LedgerTotals, prices: PriceList
) -> None:
    """Settle an execution's calls that nobody drives any more: each counts in full, as estimated."""
    for call in totals.open.values():
        if call.execution_id == execution_id:
            model = prices.model(call.usage.model or "", call.time)
            await ledger.settle(project_id, Settlement.in_full(call, prices.version, model))


async def usage_after_crash(ledger: Ledger, execution: Execution, prices: PriceList) -> Usage:
    """What an execution used whose server died, with what was under way counted in full, as estimated.

    Where the ledger does not tell, that is what its log told last, as an estimate: its end waits for no repair.
    """
    try:
        totals = await ledger.totals(execution.project_id, timestamps.now())
        await settle_in_full(ledger, execution.project_id, execution.id, totals, prices)
        calls = await ledger.calls(execution.project_id, execution.id, execution.created_at)
    except CloutAgentError:
        log.exception("the ledger does not tell what an execution used", extra={"execution_id": execution.id})
        return replace(execution.usage, estimated=True)
    return usage_of(calls) if calls else execution.usage


def _project_lines(budget: Budget, totals: LedgerTotals) -> Sequence[_Line]:
    return (
        _Line(BudgetScope.DAILY, budget.daily, totals.day),
        _Line(BudgetScope.MONTHLY, budget.monthly, totals.month),
        _Line(BudgetScope.TOTAL, budget.total, totals.total),
    )
