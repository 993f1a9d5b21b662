"""CostTracker: the plan's test cases, with the real price list where prices matter."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.domain.cost import CostLimits, ExceededLimit, LimitCheckResult, TokenUsage, Usage, check_limits
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.service.cost_tracker import DEFAULT_MODEL, CostTracker
from tests.support.fake_prices import CHEAP_MODEL, FakePriceList

# The plan's MODEL_PRICING of claude-sonnet-4-5.
PROMPT_PRICE = Decimal("0.003") / 1000
COMPLETION_PRICE = Decimal("0.015") / 1000
RUN = "run-1"


@pytest.fixture
def tracker() -> CostTracker:
    return CostTracker(FakePriceList())


def test_track_tokens_accumulates_tokens_correctly(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(100, 50))
    total = tracker.track_tokens(RUN, TokenUsage(200, 75))
    assert (total.prompt_tokens, total.completion_tokens, total.model_calls) == (300, 125, 2)
    assert total.total_tokens == 425
    assert tracker.get_usage(RUN) == total


def test_track_tokens_keeps_executions_apart(tracker: CostTracker) -> None:
    tracker.track_tokens("a", TokenUsage(1, 2))
    tracker.track_tokens("b", TokenUsage(10, 20))
    assert tracker.get_usage("a").total_tokens == 3
    assert tracker.get_usage("b").total_tokens == 30


def test_track_tokens_counts_cache_parts(tracker: CostTracker) -> None:
    total = tracker.track_tokens(RUN, TokenUsage(100, 0, None, cache_read_tokens=60, cache_write_tokens=30))
    assert (total.prompt_tokens, total.cache_read_tokens, total.cache_write_tokens) == (100, 60, 30)


@pytest.mark.parametrize("model", [None, "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"])
def test_calculate_cost_uses_correct_pricing(model: str | None) -> None:
    tracker = CostTracker(GenaiPriceList())
    for prompt, completion in ((1000, 1000), (1, 0), (0, 1), (0, 0), (123_456, 7_890)):
        cost = tracker.calculate_cost(TokenUsage(prompt, completion, model))
        assert cost == prompt * PROMPT_PRICE + completion * COMPLETION_PRICE


def test_calculate_cost_prices_a_usage_without_model_with_all_its_parts() -> None:
    tracker = CostTracker(GenaiPriceList())
    for parts in ((1000, 10, 400, 300, 0), (1000, 10, 0, 300, 300)):
        prompt, completion, read, write, hour = parts
        unnamed = TokenUsage(prompt, completion, None, read, write, hour)
        named = TokenUsage(prompt, completion, DEFAULT_MODEL, read, write, hour)
        assert tracker.calculate_cost(unnamed) == tracker.calculate_cost(named)


def test_calculate_cost_of_an_unknown_model_is_a_lookup_error(tracker: CostTracker) -> None:
    with pytest.raises(LookupError):
        tracker.calculate_cost(TokenUsage(1, 1, "gpt-4"))
    with pytest.raises(LookupError):
        tracker.track_tokens(RUN, TokenUsage(1, 1, "gpt-4"))
    assert tracker.get_usage(RUN) == Usage()


def test_check_limits_returns_within_limits_true_when_under(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(1000, 500))
    result = tracker.check_limits(RUN, CostLimits(10_000, Decimal(1)))
    assert result.within_limits is True
    assert result.exceeded is None


@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        (CostLimits(1499, Decimal(1)), ExceededLimit.TOKENS),
        (CostLimits(10_000, Decimal("0.0104")), ExceededLimit.COST),
        (CostLimits(1, Decimal("0.0001")), ExceededLimit.TOKENS),
        (CostLimits(None, Decimal("0.0001")), ExceededLimit.COST),
        (CostLimits(1, None), ExceededLimit.TOKENS),
    ],
)
def test_check_limits_returns_within_limits_false_when_over(
    tracker: CostTracker, limits: CostLimits, exceeded: ExceededLimit
) -> None:
    tracker.track_tokens(RUN, TokenUsage(1000, 500))
    result = tracker.check_limits(RUN, limits)
    assert result.within_limits is False
    assert result.exceeded is exceeded


def test_exactly_the_limit_is_within_it(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(1000, 500))
    result = tracker.check_limits(RUN, CostLimits(1500, Decimal("0.0105")))
    assert result == LimitCheckResult(True, 100.0, 100.0, None)


def test_check_limits_calculates_percentages_correctly(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(1000, 500))
    result = tracker.check_limits(RUN, CostLimits(6000, Decimal("0.042")))
    assert result.percent_of_token_limit == pytest.approx(25)
    assert result.percent_of_cost_limit == pytest.approx(25)
    over = tracker.check_limits(RUN, CostLimits(500, Decimal("0.0035")))
    assert over.percent_of_token_limit == pytest.approx(300)
    assert over.percent_of_cost_limit == pytest.approx(300)


def test_the_percentage_of_the_smallest_limit_is_a_number(tracker: CostTracker) -> None:
    smallest = Decimal(math.ulp(0.0))
    result = check_limits(Usage(total_cost=Decimal(1)), CostLimits(max_cost=smallest))
    assert result.percent_of_cost_limit is not None and math.isfinite(result.percent_of_cost_limit)
    assert result.exceeded is ExceededLimit.COST


def test_a_limit_that_is_not_given_has_no_percentage(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(1000, 500))
    assert tracker.check_limits(RUN, CostLimits()) == LimitCheckResult(True)
    assert tracker.check_limits(RUN, CostLimits(max_tokens=1500)) == LimitCheckResult(True, 100.0)
    assert tracker.check_limits(RUN, CostLimits(max_cost=Decimal("0.0105"))) == LimitCheckResult(True, None, 100.0)


def test_check_limits_of_an_unknown_execution_is_within_limits(tracker: CostTracker) -> None:
    assert tracker.check_limits("unknown", CostLimits(1, Decimal(1))) == LimitCheckResult(True, 0.0, 0.0)


def test_get_current_cost_returns_0_for_new_execution(tracker: CostTracker) -> None:
    assert tracker.get_current_cost("new") == 0


def test_get_current_cost_returns_accumulated_cost(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(1000, 500))
    tracker.track_tokens(RUN, TokenUsage(1000, 500))
    assert tracker.get_current_cost(RUN) == 2 * (1000 * PROMPT_PRICE + 500 * COMPLETION_PRICE)


def test_models_of_one_execution_have_their_own_prices(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(1_000_000, 0, CHEAP_MODEL))
    tracker.track_tokens(RUN, TokenUsage(1_000_000, 0, DEFAULT_MODEL))
    assert tracker.get_current_cost(RUN) == 4


def test_a_later_report_of_a_call_replaces_the_earlier_one(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(100, 1), "call")
    tracker.track_tokens(RUN, TokenUsage(100, 30), "call")
    total = tracker.track_tokens(RUN, TokenUsage(100, 20), "call")
    assert (total.prompt_tokens, total.completion_tokens, total.model_calls) == (100, 20, 1)
    assert total.total_cost == 100 * PROMPT_PRICE + 20 * COMPLETION_PRICE


def test_a_call_that_grows_into_another_tier_is_priced_as_a_whole() -> None:
    """A call's cost is that of its last report, which no sum of costs of parts would give."""
    prices = GenaiPriceList()
    tracker = CostTracker(prices)
    for prompt in (100_000, 150_000, 300_000):
        total = tracker.track_tokens(RUN, TokenUsage(prompt, 10, "claude-sonnet-4-5"), "call")
        assert total.total_cost == prices.cost(TokenUsage(prompt, 10, "claude-sonnet-4-5"))


def test_a_forgotten_execution_has_used_nothing(tracker: CostTracker) -> None:
    tracker.track_tokens(RUN, TokenUsage(1, 1), "call")
    tracker.forget(RUN)
    tracker.forget(RUN)
    assert tracker.get_usage(RUN) == Usage()
    assert tracker.track_tokens(RUN, TokenUsage(1, 1), "call").model_calls == 1


REPORTS = st.tuples(
    st.sampled_from([None, "a", "b", "c"]),
    st.builds(
        lambda plain, read, write, completion, model: TokenUsage(plain + read + write, completion, model, read, write),
        *[st.integers(0, 10_000)] * 4,
        st.sampled_from([None, DEFAULT_MODEL, CHEAP_MODEL]),
    ),
)


@given(st.lists(REPORTS, max_size=30))
def test_the_total_is_the_sum_over_the_last_report_of_each_call(reports: list[tuple[str | None, TokenUsage]]) -> None:
    tracker = CostTracker(FakePriceList())
    last: dict[object, TokenUsage] = {}
    unnamed = itertools.count()
    for call_id, usage in reports:
        total = tracker.track_tokens(RUN, usage, call_id)
        last[next(unnamed) if call_id is None else call_id] = usage
        assert total.total_cost == sum(map(tracker.calculate_cost, last.values()))
        assert total.prompt_tokens == sum(usage.prompt_tokens for usage in last.values())
        assert total.completion_tokens == sum(usage.completion_tokens for usage in last.values())
        assert total.cache_read_tokens == sum(usage.cache_read_tokens for usage in last.values())
        assert total.cache_write_tokens == sum(usage.cache_write_tokens for usage in last.values())
        assert total.model_calls == len(last)


@given(
    tokens=st.integers(0, 1000),
    max_tokens=st.none() | st.integers(1, 1000),
    cost=st.decimals(0, 10, places=4),
    max_cost=st.none() | st.decimals(Decimal("0.0001"), 10, places=4),
)
def test_within_limits_means_that_no_limit_is_passed(
    tokens: int, max_tokens: int | None, cost: Decimal, max_cost: Decimal | None
) -> None:
    result = check_limits(Usage(tokens, 0, total_cost=cost), CostLimits(max_tokens, max_cost))
    too_many = max_tokens is not None and tokens > max_tokens
    too_dear = max_cost is not None and cost > max_cost
    assert result.within_limits is not (too_many or too_dear)
    assert result.exceeded is (ExceededLimit.TOKENS if too_many else ExceededLimit.COST if too_dear else None)
