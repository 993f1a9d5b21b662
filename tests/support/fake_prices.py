"""A price list of round numbers that never change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from cloutagent_server.domain.cost import Model, TokenUsage

MODEL = "claude-sonnet-4-5"
CHEAP_MODEL = "claude-haiku-4-5"
FREE_MODEL = "claude-free-1"

_MILLION = Decimal(1_000_000)


class FakePriceList:
    """`PriceList` of three models: 3 and 15, 1 and 5, and no dollars for a million tokens in and out.

    A cache read costs a tenth of the input price and a cache write five quarters of it.
    """

    def __init__(self) -> None:
        self._models = {
            name: Model(name, title, prompt, completion, prompt / 10, prompt * 5 / 4, 200_000)
            for name, title, prompt, completion in (
                (MODEL, "Sonnet", Decimal(3) / _MILLION, Decimal(15) / _MILLION),
                (CHEAP_MODEL, "Haiku", Decimal(1) / _MILLION, Decimal(5) / _MILLION),
                (FREE_MODEL, "Free", Decimal(0), Decimal(0)),
            )
        }

    @property
    def version(self) -> str:
        """Always the same."""
        return "fake 1"

    def models(self) -> Sequence[Model]:
        """The three models by name."""
        return [self._models[name] for name in sorted(self._models)]

    def knows(self, model: str) -> bool:
        """Whether it is one of the three."""
        return model in self._models

    def model(self, name: str, at: datetime | None = None) -> Model | None:
        """One of the three; None for another name."""
        return self._models.get(name)

    def cost(self, usage: TokenUsage, at: datetime | None = None) -> Decimal:
        """What the usage costs in US dollars, at any time."""
        if usage.model not in self._models:
            raise LookupError(f"the price list does not know the model {usage.model}")
        model = self._models[usage.model]
        assert model.cache_read_token_price is not None and model.cache_write_token_price is not None
        plain = usage.prompt_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        return (
            plain * model.prompt_token_price
            + usage.completion_tokens * model.completion_token_price
            + usage.cache_read_tokens * model.cache_read_token_price
            + usage.cache_write_tokens * model.cache_write_token_price
        )
