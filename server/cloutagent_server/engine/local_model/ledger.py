"""What the local model was asked and what it told the client."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

LEDGER_LENGTH: Final = 10_000


@dataclass(slots=True)
class Call:
    """One request. The token counts are what the client was told, so they are 0 for a call that failed at once.

    Attributes:
        number: Counts all requests from 1.
        endpoint: `messages` or `count_tokens`.
        request_id: The answer's request-id header.
        key_digest: First 16 hex digits of the API key's SHA-256; empty without a key.
        session_id: The client's session, empty if it named none.
        model: Model asked for; empty if the request was not understood. Likewise the next four.
        stream: Whether a stream was asked for.
        max_tokens: The most output tokens asked for; None if absent.
        temperature: Temperature asked for; None if absent.
        turn: Number of tool results after the prompt.
        status: HTTP status of the answer; None if none was sent.
        outcome: `running`, `complete`, `error`, `cut`, `garbage` or `disconnected` (the client went away).
        stop_reason: Why the answer ended; None unless it is complete.
        input_tokens: Input tokens that no cache was involved in.
        cache_creation_input_tokens: Input tokens written to the cache.
        cache_read_input_tokens: Input tokens read from the cache.
        output_tokens: Output tokens that were sent, also where the answer was cut.
    """

    number: int
    endpoint: str
    request_id: str
    key_digest: str = ""
    session_id: str = ""
    model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    turn: int = 0
    status: int | None = None
    outcome: str = "running"
    stop_reason: str | None = None
    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0

    def told_nothing(self) -> None:
        """Take the token counts back: the client did not get them."""
        self.input_tokens = self.cache_creation_input_tokens = self.cache_read_input_tokens = self.output_tokens = 0


class Ledger:
    """The latest 10,000 calls, oldest first."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=LEDGER_LENGTH)
        self._last = 0

    def open(self, endpoint: str, request_id: str) -> Call:
        """Enter a new call."""
        self._last += 1
        call = Call(self._last, endpoint, request_id)
        self._calls.append(call)
        return call

    def __iter__(self) -> Iterator[Call]:
        return iter(tuple(self._calls))

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def messages(self) -> list[Call]:
        """The calls of `POST /v1/messages`."""
        return [call for call in self._calls if call.endpoint == "messages"]

    def as_json(self) -> dict[str, object]:
        """`{"calls": [...]}` with the attributes of each call."""
        return {"calls": [asdict(call) for call in self._calls]}
