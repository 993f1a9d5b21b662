"""What counts for a call that has ended, whatever the vendor told of it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import TokenUsage, Usage
from cloutagent_server.domain.execution import Status
from cloutagent_server.domain.ledger import Reservation, Settlement
from cloutagent_server.engine.base import CallEnd
from cloutagent_server.service.settlements import settlement_of
from cloutagent_server.transport import event_codec, execution_codec
from cloutagent_server.transport.cost_codec import usage_to_proto
from tests.support.fake_engine import FakeEngine, answer, ask, report
from tests.support.fake_prices import CHEAP_MODEL, MODEL, FakePriceList
from tests.support.service_world import make_world

NOON = timestamps.now()


class RisingPrices(FakePriceList):
    """A price list whose prices double after noon."""

    def cost(self, usage: TokenUsage, at: datetime | None = None) -> Decimal:
        return super().cost(usage) * (1 if at is not None and at <= NOON else 2)


def settled(end: CallEnd, told: TokenUsage | None, model: str = MODEL) -> Settlement:
    """How a call is settled that was reserved at noon with 100 and 50 tokens."""
    prices = RisingPrices()
    usage = TokenUsage(100, 50, model)
    reservation = Reservation("e", "c", usage, prices.cost(usage, NOON), NOON)
    return settlement_of(reservation, end, told, prices)


@pytest.mark.parametrize("end", [CallEnd.TOLD, CallEnd.CUT])
def test_the_prices_are_those_of_the_reservation(end: CallEnd) -> None:
    told = TokenUsage(80, 50, MODEL)
    assert settled(end, told).cost == FakePriceList().cost(told)


def test_what_was_cut_counts_its_input_and_all_output_that_was_reserved() -> None:
    assert settled(CallEnd.CUT, TokenUsage(80, 3, MODEL)).usage == TokenUsage(80, 50, MODEL)
    assert settled(CallEnd.CUT, TokenUsage(80, 70, MODEL)).usage == TokenUsage(80, 70, MODEL)


def test_nothing_told_counts_in_full() -> None:
    settlement = settled(CallEnd.CUT, None)
    assert (settlement.usage, settlement.estimated) == (TokenUsage(100, 50, MODEL), True)


IMPOSSIBLE = [
    TokenUsage(10, 10**30, MODEL),
    TokenUsage(2**31, 10, MODEL),
    TokenUsage(-1, 10, MODEL),
    TokenUsage(10, -1, MODEL),
    TokenUsage(10, 1, MODEL, cache_read_tokens=6, cache_write_tokens=5),
    TokenUsage(10, 1, MODEL, cache_write_1h_tokens=5),
]


@pytest.mark.parametrize("told", IMPOSSIBLE)
@pytest.mark.parametrize("end", [CallEnd.TOLD, CallEnd.CUT])
def test_what_no_call_can_have_used_counts_in_full(end: CallEnd, told: TokenUsage) -> None:
    settlement = settled(end, told)
    assert (settlement.usage, settlement.estimated) == (TokenUsage(100, 50, MODEL), True)


@pytest.mark.parametrize(("prompt", "completion"), [(10, 10**30), (2**31, 10), (10, -1)])
async def test_an_execution_stays_readable_whatever_was_told(prompt: int, completion: int) -> None:
    world = make_world(engine=FakeEngine(lambda _: [ask(input_tokens=10), report(prompt, completion), answer("x")]))
    execution = await world.run(await world.project())
    assert execution.status is Status.COMPLETED
    assert execution.usage.estimated
    assert execution_codec.to_proto(execution).usage.prompt_tokens == execution.usage.prompt_tokens
    for event in await world.storage.executions.read_events(execution.id, 0, 100):
        assert event_codec.to_proto(event).sequence == event.sequence


def test_what_was_stored_is_shown_as_far_as_it_can_be() -> None:
    shown = usage_to_proto(Usage(10**30, 2**31, 5, 2**40))
    most = 2**31 - 1
    assert [shown.prompt_tokens, shown.completion_tokens, shown.cache_read_tokens, shown.cache_write_tokens] == [
        most,
        most,
        5,
        most,
    ]


@pytest.mark.parametrize("asked", [MODEL, CHEAP_MODEL])
def test_the_dearer_counts_of_the_model_asked_and_the_one_told(asked: str) -> None:
    other = CHEAP_MODEL if asked == MODEL else MODEL
    settlement = settled(CallEnd.CUT, TokenUsage(80, 3, other), asked)
    assert settlement.usage == TokenUsage(80, 50, MODEL)
    assert settlement.cost == FakePriceList().cost(settlement.usage)
    assert settlement.estimated
