"""The price list: Anthropic's models and list prices, from the data that genai-prices brings along (no network)."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

from cloutagent_server.domain.cost import Model, TokenUsage

_PROVIDER: Final = "anthropic"
_TOKENS_PER_PRICE: Final = 1_000_000

# Names from generation 4 on put the family first; older models are retired, so a run on them could only fail.
_LISTED: Final = re.compile(r"(?P<name>claude-[a-z]+-\d+(?:-[1-9]\d?)?)(?:-0)?")
_REFERENCE: Final = re.compile(r"(?P<name>claude-[a-z]+-\d+(?:-\d{1,2})?)(?:[-@]20\d{6}|-latest)?")


class GenaiPriceList:
    """`PriceList` over genai-prices. A model is listed under its undated name: `claude-opus-4`, `claude-sonnet-4-5`."""

    def __init__(self) -> None:
        provider = next(provider for provider in get_snapshot().providers if provider.id == _PROVIDER)
        self._models: dict[str, Model] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._prices: dict[tuple[str, date], ModelPrice] = {}
        for info in provider.models:
            listed = _LISTED.fullmatch(info.id)
            if (
                listed is not None
                and (model := _model(listed["name"], info, info.get_prices(datetime.now(UTC)))) is not None
            ):
                self._models[model.id] = model
                self._infos[model.id] = info

    @property
    def version(self) -> str:
        """The package that the prices come from, and its version."""
        return f"genai-prices {importlib.metadata.version('genai-prices')}"

    def models(self) -> Sequence[Model]:
        """All models of generation 4 and later, by name, with the base-tier prices that held when the list was made."""
        return [self._models[name] for name in sorted(self._models)]

    def knows(self, model: str) -> bool:
        """Whether `model` is listed, or is a listed name with `-0`, a date (`-20250929`) or `-latest` after it."""
        return self._listed_name(model) is not None

    def model(self, name: str, at: datetime | None = None) -> Model | None:
        """The listed model that `name` stands for, with the base-tier prices of the time `at`, by default of now.

        None if there is none.
        """
        listed = self._listed_name(name)
        if listed is None:
            return None
        return _model(listed, self._infos[listed], self._prices_of(listed, at or datetime.now(UTC)))

    def cost(self, usage: TokenUsage, at: datetime | None = None) -> Decimal:
        """What the usage of one model call costs in US dollars, in the price tier that its prompt falls into.

        The prices are those of the time `at`, by default those of now.

        Raises:
            LookupError: The list does not know the model, or none is given.
            ValueError: A part of the prompt is larger than the whole.
        """
        name = None if usage.model is None else self._listed_name(usage.model)
        if name is None:
            raise LookupError(f"the price list does not know the model {usage.model}")
        plain = usage.prompt_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        if plain < 0 or usage.cache_write_1h_tokens > usage.cache_write_tokens:
            raise ValueError("a part of the prompt is larger than the whole")
        prices = self._prices_of(name, at or datetime.now(UTC))
        write_price = prices.cache_write_mtok or prices.input_mtok
        counts = (
            (prices.input_mtok, plain),
            (prices.output_mtok, usage.completion_tokens),
            (prices.cache_read_mtok or prices.input_mtok, usage.cache_read_tokens),
            (write_price, usage.cache_write_tokens - usage.cache_write_1h_tokens),
            (prices.cache_write_1h_mtok or write_price, usage.cache_write_1h_tokens),
        )
        millionths = sum((_at(price, usage.prompt_tokens) * count for price, count in counts), Decimal(0))
        return millionths / _TOKENS_PER_PRICE

    def _prices_of(self, name: str, at: datetime) -> ModelPrice:
        """The prices of a day. They are looked up once for each, since that takes longer than to use them."""
        prices = self._prices.get((name, at.date()))
        if prices is None:
            prices = self._prices[name, at.date()] = self._infos[name].get_prices(at)
        return prices

    def _listed_name(self, model: str) -> str | None:
        name = undated(model)
        return name if name in self._models else None


def undated(model: str) -> str:
    """The name that a dated version or an alias of a model stands for; what is no such name is left as it is."""
    reference = _REFERENCE.fullmatch(model)
    return model if reference is None else reference["name"].removesuffix("-0")


def _model(name: str, info: ModelInfo, prices: ModelPrice) -> Model | None:
    prompt, completion = _token_price(prices.input_mtok), _token_price(prices.output_mtok)
    if prompt is None or completion is None:
        return None
    return Model(
        name,
        info.name or name,
        prompt,
        completion,
        _token_price(prices.cache_read_mtok),
        _token_price(prices.cache_write_mtok),
        info.context_window,
    )


def _token_price(price: Decimal | TieredPrices | None) -> Decimal | None:
    base = price.base if isinstance(price, TieredPrices) else price
    return None if base is None else base / _TOKENS_PER_PRICE


def _at(price: Decimal | TieredPrices | None, prompt_tokens: int) -> Decimal:
    """The price of a million tokens in a call with so much input: a tier holds for all of a call above it."""
    if isinstance(price, TieredPrices):
        reached = [tier for tier in price.tiers if prompt_tokens > tier.start]
        return max(reached, key=lambda tier: tier.start).price if reached else price.base
    return Decimal(0) if price is None else price
