"""Watches over a server while a scenario runs: keys that it hands out must never be seen again."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.api.driver import Api, TextAnswer
from tests.support.api.failure import ApiFailure
from tests.support.api.json_form import Json

_NEW_KEY = ("CreateProject", "CreateApiKey", "RotateApiKey")
_KEY = re.compile(r"cla_[0-9a-f]{8}-")


class WitnessedApi:
    """`Api` that looks into everything that comes back.

    Attributes:
        depth: Name of the depth.
        keys: The API keys that the server has handed out.
    """

    def __init__(self, api: Api, depth: str) -> None:
        self._api = api
        self.depth = depth
        self.keys: list[str] = []

    async def call(
        self,
        rpc: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        *,
        http: int = 200,
        idempotency_key: str | None = None,
    ) -> Json:
        """See `Api.call`."""
        try:
            answer = await self._api.call(rpc, body, key, http=http, idempotency_key=idempotency_key)
        except ApiFailure as failure:
            _look(f"{failure.message} {failure.details}")
            raise
        if rpc in _NEW_KEY:
            self.keys.append(answer["apiKey"])
        _look(json.dumps({name: value for name, value in answer.items() if rpc not in _NEW_KEY or name != "apiKey"}))
        return answer

    async def events(self, rpc: str, body: Mapping[str, Any], key: str | None = None) -> AsyncIterator[Json]:
        """See `Api.events`."""
        events: Any = self._api.events(rpc, body, key)
        async with aclosing(events):
            async for event in events:
                _look(json.dumps(event))
                yield event

    @asynccontextmanager
    async def text(
        self,
        rpc: str,
        body: Mapping[str, Any],
        key: str | None = None,
        *,
        accept: str | None = None,
        last_event_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncIterator[TextAnswer]:
        """See `Api.text`."""
        async with self._api.text(
            rpc, body, key, accept=accept, last_event_id=last_event_id, idempotency_key=idempotency_key
        ) as answer:

            async def chunks() -> AsyncIterator[bytes]:
                async for chunk in answer.chunks:
                    _look(chunk.decode())
                    yield chunk

            yield replace(answer, chunks=chunks())


def files_with(root: Path, text: str) -> list[Path]:
    """The files below `root` whose name or content holds `text`."""
    sought = text.encode()
    return [path for path in root.rglob("*") if text in path.name or (path.is_file() and sought in path.read_bytes())]


def _look(text: str) -> None:
    assert _KEY.search(text) is None, "an answer holds an API key"
