"""A gateway with one open session, between an upstream that answers as it is told and a client in the agent's place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from opentelemetry.trace import Tracer

from cloutagent_server.domain.metrics import NO_METRICS, Metrics
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.gateway import SILENCE_SECONDS, GatewaySession, ModelGateway
from cloutagent_server.engine.listening import OrderedListener
from cloutagent_server.engine.prices import GenaiPriceList
from tests.support.messages import RememberingListener, Reply, Upstream, running_upstream

KEY = "sk-ant-the-real-key"
MODEL = "claude-sonnet-4-5"
CONFIG = AgentConfig("", "agent", "system", MODEL, temperature=0.3, max_tokens=1000)
PRICES = GenaiPriceList()


@dataclass
class Run:
    """A gateway with one open session, its upstream, and an HTTP client in the agent's place."""

    gateway: ModelGateway
    session: GatewaySession
    upstream: Upstream
    listener: RememberingListener
    http: aiohttp.ClientSession

    def post(
        self, body: object = None, path: str = "/v1/messages?beta=true", headers: dict[str, str] | None = None
    ) -> aiohttp.client._RequestContextManager:
        document = {"model": MODEL, "max_tokens": 32_000, "stream": True, "messages": []} if body is None else body
        return self.http.post(
            self.session.base_url + path,
            json=document,
            headers={"x-api-key": self.session.token} if headers is None else headers,
        )


@asynccontextmanager
async def running(
    reply: Reply,
    listener: RememberingListener | None = None,
    silence_seconds: float = SILENCE_SECONDS,
    metrics: Metrics = NO_METRICS,
    tracer: Tracer | None = None,
) -> AsyncIterator[Run]:
    told = listener or RememberingListener()
    async with running_upstream(reply) as upstream, aiohttp.ClientSession() as http:
        gateway = ModelGateway(
            upstream.url, KEY, PRICES, silence_seconds=silence_seconds, metrics=metrics, tracer=tracer
        )
        await gateway.start()
        try:
            yield Run(gateway, gateway.open(CONFIG, OrderedListener(told)), upstream, told, http)
        finally:
            await gateway.stop()


async def error_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The error that the gateway answered."""
    document = await answer.json()
    assert document["type"] == "error"
    error: dict[str, Any] = document["error"]
    return error
