"""Hard budgets: no model call goes out unless the most that it can use fits into every limit that holds for it.

The limits of the execution and the budgets of its project are held by one ledger. A call is reserved there with the
most that it can use and settled with what it did use, so what is free is what is neither used nor reserved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable
from decimal import Decimal
from functools import cache
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import BudgetExceeded, BudgetScope, TokenUsage, Usage
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.ledger import Amount, LedgerTotals, Reservation, Window
from cloutagent_server.domain.project import Budget, BudgetLimit
from cloutagent_server.engine.base import CallEnd, CallRefused, PlannedCall, PriceList
from cloutagent_server.service.allowance import allowance, highest_cost
from cloutagent_server.service.budget_lines import BudgetLine, first_used_up, project_lines
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.orphaned_calls import settle_orphaned
from cloutagent_server.service.settlements import settlement_of
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
                await settle_orphaned(self._storage, self._execution, totals, self._prices)
                await self._unless_stopped(self._settlement_after(totals.version))
        return self._open[call.id].usage.completion_tokens

    async def settle(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> Usage | None:
        """Put what a call used in the place of its reservation; returns what the run has used then.

        What the vendor did not tell counts as the most that it can be. None for a call without a reservation.
        """
        reservation = self._open.get(call_id)
        if reservation is None:
            return None
        settlement = settlement_of(reservation, end, usage, self._prices)
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
        budget = await _budget_of(self._storage, self._execution.project_id)
        if self._stopped.is_set():
            raise CallRefused("the execution is being stopped")
        now = timestamps.now()
        loop = asyncio.get_running_loop()
        refused: list[BudgetRefusal] = []
        reserved: list[Reservation] = []
        # Counted here and not in `decide`, which may run in another thread: what is settled meanwhile only makes room.
        self._settled.clear()
        limits = self._execution.limits
        own = BudgetLine(BudgetScope.EXECUTION, BudgetLimit(limits.max_tokens, limits.max_cost), self._own_window())

        @cache
        def cost(output_tokens: int) -> Decimal:
            return highest_cost(call, input_tokens, output_tokens, self._prices, now)

        def decide(totals: LedgerTotals) -> Reservation | None:
            lines = (own, *project_lines(budget, totals))
            alone = allowance(call.max_tokens, input_tokens, lines, [line.window.settled for line in lines], cost)
            if alone.tokens < (call.max_tokens if whole else 1):
                refused.append(BudgetRefusal(alone.line.exceeded(alone.kind)))
                return None
            beside = allowance(call.max_tokens, input_tokens, lines, [line.window.all for line in lines], cost)
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


async def used_up(ledger: Ledger, project_id: str, budget: Budget) -> BudgetExceeded | None:
    """The first budget of the project of which nothing is left; None if something is left of all."""
    if budget == Budget():
        return None
    return first_used_up(budget, await ledger.totals(project_id, timestamps.now()))


async def _budget_of(storage: Storage, project_id: str) -> Budget:
    """The budget of a project as it stands now; none without the project."""
    project = await storage.projects.read(project_id)
    return Budget() if project is None else project.budget
