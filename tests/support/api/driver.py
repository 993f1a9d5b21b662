"""What a scenario may do to the API, whatever the depth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from tests.support.api.json_form import Json


@dataclass(frozen=True)
class TextAnswer:
    """A stream of google.api.HttpBody: its media type, its bytes as they come, and the status that HTTP gives it."""

    content_type: str
    chunks: AsyncIterator[bytes]
    http: int = 200


class Api(Protocol):
    """One depth. Bodies and answers are the contract's JSON. Errors raise ApiFailure.

    `http` is the status that a caller over HTTP must get; depths without HTTP pass over it.
    """

    async def call(
        self,
        rpc: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        *,
        http: int = 200,
        idempotency_key: str | None = None,
    ) -> Json:
        """Make a unary call."""
        ...

    def events(self, rpc: str, body: Mapping[str, Any], key: str | None = None) -> AsyncIterator[Json]:
        """The events of WatchExecution or ExecuteStream; over REST those of the text stream with the same meaning."""
        ...

    def text(
        self,
        rpc: str,
        body: Mapping[str, Any],
        key: str | None = None,
        *,
        accept: str | None = None,
        last_event_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> AbstractAsyncContextManager[TextAnswer]:
        """Open a text stream: StreamExecutionEvents or ExecuteEventStream."""
        ...
