"""The price list follows the contract's formula and the vendor's list prices."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from genai_prices.types import ConditionalPrice, ModelPrice, StartDateConstraint

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.engine.prices import GenaiPriceList, undated

PRICES = GenaiPriceList()


def test_lists_models_by_name() -> None:
    names = [model.id for model in PRICES.models()]
    assert names == sorted(set(names))
    assert {"claude-sonnet-4-5", "claude-opus-4", "claude-opus-4-5", "claude-haiku-4-5"} <= set(names)
    assert not [name for name in names if name.startswith(("claude-2", "claude-v", "claude-3"))]
    assert all(PRICES.knows(name) for name in names)


def test_prices_of_the_contract() -> None:
    sonnet = next(model for model in PRICES.models() if model.id == "claude-sonnet-4-5")
    assert sonnet.prompt_token_price == Decimal("0.003") / 1000
    assert sonnet.completion_token_price == Decimal("0.015") / 1000
    assert sonnet.cache_read_token_price == Decimal("0.0000003")
    assert sonnet.cache_write_token_price == Decimal("0.00000375")
    assert (sonnet.display_name, sonnet.context_window) == ("Claude Sonnet 4.5", 200_000)
    opus = next(model for model in PRICES.models() if model.id == "claude-opus-4")
    assert (opus.prompt_token_price, opus.completion_token_price) == (Decimal("0.000015"), Decimal("0.000075"))


def test_the_formula_holds_exactly_without_cache() -> None:
    for listed in PRICES.models():
        usage = TokenUsage(1234, 567, listed.id)
        expected = 1234 * listed.prompt_token_price + 567 * listed.completion_token_price
        assert PRICES.cost(usage) == expected


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-4-0",
        "claude-opus-4-20250514",
        "claude-sonnet-4-5-20250929",
        "claude-sonnet-4-20250514",
        "claude-opus-5-latest",
    ],
)
def test_knows_dated_versions_and_aliases(name: str) -> None:
    assert PRICES.knows(name)
    assert PRICES.cost(TokenUsage(1_000, 0, name)) > 0


def test_the_model_behind_a_name_and_what_it_costs() -> None:
    for listed in PRICES.models():
        assert PRICES.model(listed.id) == listed
    sonnet = PRICES.model("claude-sonnet-4-5")
    assert sonnet is not None
    for name in ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5-latest"):
        assert PRICES.model(name) == sonnet
    for name in ("", "gpt-5", "claude-2"):
        assert PRICES.model(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpt-5",
        "claude",
        "claude-2",
        "claude-opus-9",
        "claude-3-5-haiku-latest",
        "Claude-Sonnet-4-5",
        "claude-sonnet-4-5 ",
        "claude-sonnet-4-5x",
        "claude-sonnet-4-50",
        "claude-sonnet-4-5-latest-1",
        "claude-opus-4-20250514-1",
    ],
)
def test_does_not_know_what_only_resembles_a_model(name: str) -> None:
    assert not PRICES.knows(name)
    with pytest.raises(LookupError):
        PRICES.cost(TokenUsage(1, 1, name))


def test_a_model_is_needed_for_a_price() -> None:
    with pytest.raises(LookupError):
        PRICES.cost(TokenUsage(1, 1))


def test_cached_input_has_its_own_prices() -> None:
    usage = TokenUsage(1_000, 10, "claude-sonnet-4-5", cache_read_tokens=100, cache_write_tokens=200)
    assert PRICES.cost(usage) == (
        700 * Decimal("0.000003") + 100 * Decimal("0.0000003") + 200 * Decimal("0.00000375") + 10 * Decimal("0.000015")
    )
    for_an_hour = TokenUsage(200, 0, "claude-sonnet-4-5", cache_write_tokens=200, cache_write_1h_tokens=50)
    assert PRICES.cost(for_an_hour) == 150 * Decimal("0.00000375") + 50 * Decimal("0.000006")


def test_a_long_prompt_is_priced_in_its_tier_as_a_whole() -> None:
    at_the_edge, beyond = (PRICES.cost(TokenUsage(tokens, 100, "claude-sonnet-4-5")) for tokens in (200_000, 200_001))
    assert at_the_edge == 200_000 * Decimal("0.000003") + 100 * Decimal("0.000015")
    assert beyond == 200_001 * Decimal("0.000006") + 100 * Decimal("0.0000225")


def test_a_call_is_priced_as_of_its_time() -> None:
    prices = GenaiPriceList()
    cheap, dear = (ModelPrice(input_mtok=Decimal(price), output_mtok=Decimal(1)) for price in (1, 2))
    changed = date(2026, 6, 1)
    prices._infos["claude-sonnet-4-5"] = dataclasses.replace(
        prices._infos["claude-sonnet-4-5"],
        prices=[
            ConditionalPrice(prices=cheap),
            ConditionalPrice(constraint=StartDateConstraint(start_date=changed), prices=dear),
        ],
    )
    usage = TokenUsage(1_000_000, 0, "claude-sonnet-4-5")
    before, after = datetime(2026, 5, 31, 23, 59, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    assert [prices.cost(usage, at) for at in (before, after, before)] == [1, 2, 1]
    assert prices.cost(usage) == prices.cost(usage, datetime.now(UTC))
    models = [prices.model("claude-sonnet-4-5", at) for at in (before, after)]
    assert [model.prompt_token_price * 1_000_000 for model in models if model is not None] == [1, 2]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("claude-opus-4-0", "claude-opus-4"),
        ("claude-opus-4", "claude-opus-4"),
        ("somebody's model", "somebody's model"),
    ],
)
def test_the_name_behind_a_version(name: str, plain: str) -> None:
    assert undated(name) == plain
