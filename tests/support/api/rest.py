"""The API as REST with JSON, by the routes that stand in the protos."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx

from tests.support.api.contract import assert_documented, assert_fits
from tests.support.api.driver import TextAnswer
from tests.support.api.failure import ApiFailure
from tests.support.api.frames import sse_frames
from tests.support.api.json_form import METHODS, HttpRoute, Json, event_from_text

# The text streams that stand for streams of gRPC alone.
_TEXT_OF = {
    "WatchExecution": "StreamExecutionEvents",
    "ExecuteStream": "ExecuteEventStream",
    "WatchUsage": "StreamUsage",
}
_VARIABLE = re.compile(r"\{([^}]+)\}")


class RestApi:
    """`Api` over HTTP. The base URL of `client` is where Envoy listens."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

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
        response = await self.client.send(
            self._request(rpc, body or {}, {"x-api-key": key, "idempotency-key": idempotency_key})
        )
        assert_documented(rpc, response)
        if response.is_error:
            raise failure_of(response)
        assert response.status_code == http, f"HTTP status {response.status_code} instead of {http}"
        assert "x-http-code" not in response.headers
        if http == 204:
            assert response.content == b"" and "content-type" not in response.headers
            return {}
        assert response.headers["content-type"] == "application/json"
        answer: Json = response.json()
        return answer

    async def events(self, rpc: str, body: Mapping[str, Any], key: str | None = None) -> AsyncIterator[Json]:
        """See `Api.events`."""
        asked = dict(body)
        if "afterSequence" in asked:
            asked["fromEvent"] = asked.pop("afterSequence") + 1
        async with self.text(_TEXT_OF[rpc], asked, key, accept="text/event-stream") as answer:
            async for frame in sse_frames(answer.chunks):
                if frame.event == "error":
                    raise ApiFailure(frame.document)
                assert_fits("ExecutionEvent", frame.document)
                yield event_from_text(frame.document)

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
        request = self._request(
            rpc,
            body,
            {"x-api-key": key, "accept": accept, "last-event-id": last_event_id, "idempotency-key": idempotency_key},
        )
        response = await self.client.send(request, stream=True)
        try:
            if response.is_error:
                await response.aread()
                assert_documented(rpc, response)
                raise failure_of(response)
            assert "x-http-code" not in response.headers
            assert response.status_code == 200 or (response.status_code == 204 and not await response.aread())
            content_type = response.headers.get("content-type", "")
            yield TextAnswer(content_type, response.aiter_bytes(), response.status_code)
        finally:
            await response.aclose()

    def _request(self, rpc: str, body: Mapping[str, Any], headers: Mapping[str, str | None]) -> httpx.Request:
        route = METHODS[rpc].route
        assert route is not None, f"{rpc} has no REST route"
        path, query, content = _parts(route, body)
        sent = {name: value for name, value in headers.items() if value is not None}
        return self.client.build_request(
            route.verb, path, params=httpx.QueryParams([*query]), json=content, headers=sent
        )


def http_client(address: str) -> httpx.AsyncClient:
    """A client for plain HTTP. The empty TLS context spares it the reading of all certificates."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(base_url=f"http://{address}", timeout=20, trust_env=False, verify=tls)


def failure_of(response: httpx.Response) -> ApiFailure:
    """The error that an answer holds, whose body must be JSON."""
    assert response.headers["content-type"] == "application/json", response.text
    return ApiFailure(response.json(), response.status_code)


def _parts(route: HttpRoute, body: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]], Any]:
    """Path, query and body of a request, as google.api.http spreads its fields over them."""
    rest: Json = json.loads(json.dumps(body))

    def variable(match: re.Match[str]) -> str:
        return quote(str(_take(rest, [_camel(name) for name in match[1].split(".")])), safe="")

    path = _VARIABLE.sub(variable, route.template)
    if route.body == "*":
        return path, [], rest
    content = rest.pop(_camel(route.body), {}) if route.body else None
    return path, list(_query(rest)), content


def _take(document: Json, path: list[str]) -> Any:
    for name in path[:-1]:
        document = document[name]
    return document.pop(path[-1])


def _query(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _query(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield from ((prefix + name, str(item)) for item in value)
        else:
            yield prefix + name, str(value)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
