"""The few REST calls that the demo makes, plain as any HTTP client would make them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

Json = dict[str, Any]


class Rest:
    """REST over one base URL. Raises httpx.HTTPStatusError for every answer that is an error."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def use_key(self, api_key: str) -> None:
        """Send this API key from now on."""
        self._client.headers["x-api-key"] = api_key

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Make a call and return the JSON that it answers."""
        response = self._client.request(method, path, json=body)
        response.raise_for_status()
        answer: Json = response.json()
        return answer

    def events(self, execution_id: str) -> Iterator[Json]:
        """The events of an execution as they happen, from the first to the last."""
        path = f"/api/v1/executions/{execution_id}/stream"
        with self.stream("GET", path, {"accept": "text/event-stream"}) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    @contextmanager
    def stream(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Make a call whose answer is read as it comes."""
        with self._client.stream(method, path, headers=headers) as response:
            response.raise_for_status()
            yield response

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
