"""One server with a scripted engine, set up for one scenario at one depth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc

from cloutagent_server.app import App
from cloutagent_server.engine.base import PriceList
from cloutagent_server.settings import Settings
from cloutagent_server.storage.base import Storage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.memory import MemoryStorage
from tests.support.api.in_process import InProcessApi
from tests.support.api.rest import RestApi, http_client
from tests.support.api.wire import GrpcApi
from tests.support.api.witness import WitnessedApi
from tests.support.fake_engine import FakeEngine

MEMORY: Final = "memory"
IN_PROCESS: Final = "in_process"
GRPC: Final = "grpc"
REST: Final = "rest"
GRPC_ENVOY: Final = "grpc_envoy"
DEPTHS: Final = (MEMORY, IN_PROCESS, GRPC, REST, GRPC_ENVOY)


@dataclass(frozen=True)
class Edge:
    """An Envoy that runs for many scenarios: where it listens, and the port where it looks for a server."""

    port: int
    upstream_port: int


@dataclass(frozen=True)
class Stage:
    """What a scenario has before it. `address` is host and port of the depths with a network."""

    api: WitnessedApi
    app: App
    storage: Storage
    engine: FakeEngine
    address: str | None = None


@asynccontextmanager
async def staged(depth: str, settings: Settings, prices: PriceList, edge: Edge | None) -> AsyncIterator[Stage]:
    """A server at this depth. The depths behind Envoy need an `edge`, and `settings` with its upstream port."""
    storage: Storage = MemoryStorage() if depth == MEMORY else FileSystemStorage(settings.project_root)
    engine = FakeEngine()
    app = App(settings, storage, engine, prices)
    if depth in (MEMORY, IN_PROCESS):
        async with _without_network(app, storage, engine):
            yield Stage(WitnessedApi(InProcessApi(app.services), depth), app, storage, engine)
        return
    try:
        address = f"127.0.0.1:{await app.start() if depth == GRPC else await _behind(edge, app)}"
        if depth == REST:
            async with http_client(address) as client:
                yield Stage(WitnessedApi(RestApi(client), depth), app, storage, engine, address)
        else:
            async with grpc.aio.insecure_channel(address) as channel:
                yield Stage(WitnessedApi(GrpcApi(channel), depth), app, storage, engine, address)
    finally:
        await app.stop()


@asynccontextmanager
async def _without_network(app: App, storage: Storage, engine: FakeEngine) -> AsyncIterator[None]:
    """What `App.start` and `App.stop` do, but for the gRPC server."""
    services = app.services
    await storage.start()
    await services.secrets.check_key()
    await engine.start()
    await services.executions.recover()
    try:
        yield
    finally:
        await services.executions.stop(0)
        await engine.stop()
        await services.authenticator.stop()
        await storage.stop()


async def _behind(edge: Edge | None, app: App) -> int:
    """Start the server where the Envoy looks for it; returns the port of the Envoy once it has found the server."""
    assert edge is not None
    assert await app.start() == edge.upstream_port
    async with http_client(f"127.0.0.1:{edge.port}") as client:
        for _ in range(100):
            if (await client.get("/api/health")).status_code == 200:
                return edge.port
    raise AssertionError("Envoy does not find the server")
