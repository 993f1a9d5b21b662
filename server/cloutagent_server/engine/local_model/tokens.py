"""The token arithmetic of the local model: four characters are a token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

TOKEN_CHARACTERS: Final = 4


def compact_json(value: object) -> str:
    """The shortest JSON of `value`, with characters written as themselves."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def count_text(text: str) -> int:
    """Tokens of `text`; none for the empty text."""
    return -(-len(text) // TOKEN_CHARACTERS)


def count_input(request: Mapping[str, object]) -> int:
    """Input tokens of a Messages API request body."""
    counted = {name: request[name] for name in ("system", "messages", "tools") if name in request}
    return count_text(compact_json(counted))


def first_tokens(text: str, tokens: int) -> str:
    """The beginning of `text` that `tokens` tokens hold."""
    return text[: tokens * TOKEN_CHARACTERS]


def pieces(text: str, tokens: int) -> Iterator[str]:
    """`text` in pieces of `tokens` tokens; the last may be shorter. Their counts add up to the count of `text`."""
    size = tokens * TOKEN_CHARACTERS
    for start in range(0, len(text), size):
        yield text[start : start + size]


def filler(tokens: int) -> str:
    """Text of exactly `tokens` tokens."""
    words = ("one ", "two ", "six ", "ten ")
    return "".join(words[i % len(words)] for i in range(tokens))
