"""Random runs under budgets, and what each of their model calls must count in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from hypothesis import strategies as st

from cloutagent_server.domain.execution import ExecutionOptions
from cloutagent_server.domain.ledger import Reservation, Settlement
from cloutagent_server.domain.project import Budget, BudgetLimit, Limits
from tests.support.billing_vendor import MODELS, Call

Rounds = tuple[tuple[Call, ...], ...]

FAULTS = ("error", "event", "early_event", "cut", "gone", "hang", "garbage", "no_final")
# The start of a stream told the input before these, so that no more is counted than the call may have used.
TOLD_FAULTS = ("event", "cut", "hang", "no_final")
FREE_FAULTS = ("error", "early_event")
LONG = 20_000


@dataclass(frozen=True)
class Scene:
    """Some runs of one project at the same time.

    Attributes:
        options: What the request for each run asks for.
        dies_at: The call at which the server dies, counted by the vendor.
        cancels_at: The call at which a run is cancelled, and which run, where they are counted over and over.
        on_disk: Whether the storage is one of files.
    """

    runs: tuple[Rounds, ...]
    limits: Limits
    budget: Budget
    options: tuple[ExecutionOptions, ...]
    dies_at: int | None = None
    cancels_at: tuple[int, int] | None = None
    on_disk: bool = False

    def limits_of(self, run: int) -> Limits:
        """What holds for one run: the project's limits, as far as its request does not lower them."""
        asked = self.options[run]
        return Limits(
            asked.max_tokens or self.limits.max_tokens,
            asked.max_cost or self.limits.max_cost,
            asked.timeout or self.limits.timeout,
        )


def calls(faults: Sequence[str]) -> st.SearchStrategy[Call]:
    """Calls, of which a third goes wrong in one of these ways."""
    fault = st.one_of(st.just("none"), st.just("none"), st.sampled_from(faults)) if faults else st.just("none")
    return st.builds(
        Call,
        model=st.sampled_from(MODELS),
        text=st.one_of(st.integers(0, 400), st.just(3000)),
        bytes_a_token=st.sampled_from([1, 3, 4]),
        hidden=st.sampled_from([0, 0, 313, 2000]),
        image=st.sampled_from([0, 0, 0, 1600, 99_990, 230_000]),
        cache=st.sampled_from(["none", "5m", "1h"]),
        read=st.integers(0, 50),
        written=st.sampled_from([0, 20, 50]),
        max_tokens=st.integers(1, 300),
        wants=st.integers(1, 500),
        stream=st.booleans(),
        fault=fault,
        count_fails=st.sampled_from([False] * 15 + [True]) if set(faults) == set(FAULTS) else st.just(False),
    )


def scripts(faults: Sequence[str]) -> st.SearchStrategy[tuple[Rounds, ...]]:
    """What up to three runs do."""
    rounds = st.lists(st.lists(calls(faults), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)
    return st.lists(rounds.map(tuple), min_size=1, max_size=3).map(tuple)


# What a limit leaves room for, as a part of all that the calls ask for; None is no limit.
PARTS = st.one_of(st.none(), st.none(), st.floats(0.05, 1.2))
OWN_PARTS = st.floats(0.05, 1.5)
LOWERED_PARTS = st.one_of(st.none(), st.none(), st.floats(0.05, 1.0))
TIMEOUTS = st.sampled_from([None] * 9 + [1, 15, 60])
MOMENTS = st.one_of(
    st.just({}),
    st.builds(lambda call: {"dies_at": call}, st.integers(1, 8)),
    st.builds(lambda call, run: {"cancels_at": (call, run)}, st.integers(1, 4), st.integers(0, 2)),
)


def calls_of(runs: Sequence[Rounds]) -> list[Call]:
    """All calls that runs make."""
    return [call for rounds in runs for calls_at_once in rounds for call in calls_at_once]


def needed(runs: Sequence[Rounds]) -> tuple[int, Decimal]:
    """The tokens and the cost of all calls, each with its exact input, at its dearest, and the output it asks for."""
    every = calls_of(runs)
    tokens = sum(call.input_tokens + call.max_tokens for call in every)
    return tokens, sum((call.price(call.max_tokens, dearest=True) for call in every), Decimal(0))


@st.composite
def tight(draw: st.DrawFn) -> Scene:
    """Runs whose limits leave room for a part of what they ask for."""
    runs = draw(scripts(FAULTS))
    tokens, cost = needed(runs)

    def limit(parts: st.SearchStrategy[float | None], tokens: int, cost: Decimal) -> BudgetLimit:
        of_tokens, of_cost = draw(parts), draw(parts)
        return BudgetLimit(
            None if of_tokens is None else max(1, int(tokens * of_tokens)),
            None if of_cost is None else Decimal(str(round(float(cost) * of_cost + 1e-6, 6))),
        )

    own = [limit(OWN_PARTS, *needed([run])) for run in runs]
    largest = Limits(
        max(one.max_tokens or 0 for one in own), max(one.max_cost or Decimal(0) for one in own), timeout=LONG
    )
    budget = Budget(*(limit(PARTS, tokens, cost) for _ in range(3)))

    def options() -> ExecutionOptions:
        lowered = limit(LOWERED_PARTS, largest.max_tokens, largest.max_cost)
        return ExecutionOptions(
            lowered.max_tokens,
            None if lowered.max_cost is None else min(lowered.max_cost, largest.max_cost),
            draw(TIMEOUTS),
        )

    on_disk = draw(st.sampled_from([False] * 4 + [True]))
    return Scene(runs, largest, budget, tuple(options() for _ in runs), on_disk=on_disk, **draw(MOMENTS))


def fitting(runs: tuple[Rounds, ...]) -> Scene:
    """Limits that leave room for every call by its exact input and what it asks for, and for nothing more.

    What goes wrong goes wrong in a stream: of a whole answer that breaks nothing is told, so that all counts that was
    reserved, which may be more than the call's exact input.
    """
    made = tuple(
        tuple(tuple(replace(c, stream=c.stream or c.fault != "none") for c in at_once) for at_once in rounds)
        for rounds in runs
    )
    own, (tokens, cost) = [needed([run]) for run in made], needed(made)
    both = BudgetLimit(tokens, cost)
    limits = Limits(max(tokens for tokens, _ in own), max(cost for _, cost in own), LONG)
    return Scene(made, limits, Budget(both, both, both), (ExecutionOptions(),) * len(made))


@dataclass(frozen=True)
class Counted:
    """What a call counts, in tokens and US dollars, and whether that is an estimate."""

    prompt_tokens: int
    completion_tokens: int
    cost: Decimal
    estimated: bool

    @classmethod
    def of(cls, settlement: Settlement) -> Counted:
        """What the ledger says."""
        used = settlement.usage
        return cls(used.prompt_tokens, used.completion_tokens, settlement.cost, settlement.estimated)


NOTHING = Counted(0, 0, Decimal(0), False)


def in_full(reservation: Reservation) -> Counted:
    """All that was reserved."""
    used = reservation.usage
    return Counted(used.prompt_tokens, used.completion_tokens, reservation.cost, True)


def all_it_may_have_written(call: Call, reservation: Reservation) -> Counted:
    """The input as the vendor told it, and all the output that was allowed."""
    allowed = reservation.usage.completion_tokens
    return Counted(call.input_tokens, allowed, call.price(allowed), True)


def by_the_table(call: Call, reservation: Reservation) -> Counted:
    """What a call counts that ended while its run went on: `After a call` in docs/executions.md."""
    if call.fault == "none":
        output = min(call.wants, reservation.usage.completion_tokens)
        return Counted(call.input_tokens, output, call.price(output), False)
    if call.fault == "error" or (call.fault == "early_event" and call.stream):
        return NOTHING
    if call.fault in TOLD_FAULTS and call.stream:
        return all_it_may_have_written(call, reservation)
    return in_full(reservation)


def ways_to_end(call: Call, reservation: Reservation, *, billed: bool) -> set[Counted]:
    """What a call may count whose run was ended meanwhile: by how much the vendor had told, if it was reached."""
    ways = {in_full(reservation), by_the_table(call, reservation)}
    if call.stream and call.fault in ("none", *TOLD_FAULTS):
        ways.add(all_it_may_have_written(call, reservation))
    if not billed:
        ways.add(NOTHING)
    return ways
