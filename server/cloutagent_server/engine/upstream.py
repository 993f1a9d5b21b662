"""The way to the vendor: the one client that has the real key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

from cloutagent_server.engine import messages_api
from cloutagent_server.engine.held_body import HeldBody
from cloutagent_server.engine.redacting import Redactor

SILENCE_SECONDS: Final = 90.0
"""How long the vendor may send nothing, before an answer and in it; while a model works, its stream has pings.

The agent gives up after three such calls, within the timeout that a run has by default, and never waits longer itself.
"""
MOST_DOCUMENT_BYTES: Final = 64 * 1024 * 1024
"""The longest answer in one piece that is taken."""
_MOST_COUNT_BYTES: Final = 64 * 1024
_CONNECT_SECONDS: Final = 10.0
_COUNT_SECONDS: Final = 15.0


class AnswerTooLong(Exception):
    """The vendor's answer is longer than any that the Messages API gives."""


class Upstream:
    """The Messages API at `base_url`. Nothing that it answers holds `api_key`, which is None where none is needed."""

    def __init__(self, base_url: str, api_key: str | None, silence_seconds: float = SILENCE_SECONDS) -> None:
        self.silence_seconds = silence_seconds
        self.redactor = Redactor(api_key)
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._client: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make ready."""
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=self.silence_seconds),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )

    async def stop(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def post(
        self, path: str, body: HeldBody, headers: Mapping[str, str], *, beta: bool, seconds: float | None = None
    ) -> aiohttp.ClientResponse:
        """Send a body to the path of this name, with those of the agent's headers that may go out.

        All else is made ready while the body is held. Should that come to nothing meanwhile, it begins anew.

        Redirects are not followed: the key goes to the vendor and nowhere else. The answer must be closed.

        Raises:
            aiohttp.ClientError, TimeoutError: There is no answer.
            Exception: What the clearance of the body raised.
        """
        assert self._client is not None
        url = URL(self._base_url + path + ("?beta=true" if beta else ""), encoded=True)
        sent = {**messages_api.request_headers(headers, self._api_key), "content-length": str(len(body.data))}
        timeout = self._client.timeout if seconds is None else aiohttp.ClientTimeout(total=seconds)

        async def post() -> aiohttp.ClientResponse:
            assert self._client is not None
            return await self._client.post(url, data=body.parts(), headers=sent, allow_redirects=False, timeout=timeout)

        try:
            answer = await post()
            if body.went_out is not None:
                return answer
            # It answers nothing of ours: the vendor, or who stands before it, gave up a connection that lay ready.
            answer.close()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except aiohttp.ClientError:
            if body.went_out is not None:
                raise
        # A connection that lay ready was closed meanwhile, or the clearance raised, and does so again.
        await body.cleared()
        return await post()

    async def count(self, data: bytes, headers: Mapping[str, str]) -> int | None:
        """How many tokens of input the vendor counts in a request; None if it does not tell."""
        path = messages_api.COUNT_TOKENS_PATH
        try:
            async with await self.post(path, HeldBody(data), headers, beta=False, seconds=_COUNT_SECONDS) as answer:
                if answer.status != 200:
                    return None
                document = json_or_none(await _read(answer, _MOST_COUNT_BYTES))
        except (aiohttp.ClientError, TimeoutError, AnswerTooLong):
            return None
        tokens = document.get("input_tokens") if isinstance(document, dict) else None
        return tokens if type(tokens) is int and tokens >= 0 else None

    async def document(self, answer: aiohttp.ClientResponse) -> bytes:
        """An answer in one piece.

        Raises:
            AnswerTooLong: It is longer than `MOST_DOCUMENT_BYTES`.
            aiohttp.ClientError, TimeoutError: It broke off.
        """
        return self.redactor.data(await _read(answer, MOST_DOCUMENT_BYTES))


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    data = bytearray()
    if (answer.content_length or 0) > most:
        raise AnswerTooLong
    while chunk := await answer.content.readany():
        data += chunk
        if len(data) > most:
            raise AnswerTooLong
    return bytes(data)


def json_or_none(data: bytes) -> object:
    """What a JSON text says; None if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
