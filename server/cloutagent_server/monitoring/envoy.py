"""What Envoy counts, for Prometheus: Envoy is asked whenever somebody scrapes.

It is served beside the server's own metrics, by `cloutagent-server up`. An Envoy that runs alone has its admin socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
from aiohttp import web

Statistics = Callable[[], Awaitable[str]]
"""Gives Envoy's statistics in the text form of Prometheus. Raises OSError or aiohttp.ClientError without an answer."""

_TEXT_FORM: Final = "text/plain; version=0.0.4; charset=utf-8"


async def answer_with(statistics: Statistics) -> web.Response:
    """The answer to a scrape: 503 if Envoy gives none."""
    try:
        text = await statistics()
    except (OSError, aiohttp.ClientError) as fault:
        return web.Response(status=503, text=f"Envoy does not answer: {type(fault).__name__}\n")
    return web.Response(body=text.encode(), headers={"Content-Type": _TEXT_FORM})
