"""The HTTP port for operators: `/metrics`, `/metrics/envoy`, `/healthz`, `/readyz`."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cloutagent_server.host_check import middlewares_at
from cloutagent_server.monitoring.envoy import Statistics, answer_with
from cloutagent_server.monitoring.readiness import Readiness

OK: Final = "ok"


class MonitoringServer:
    """Answers scrapes and probes. Whoever reaches the port may ask: it tells no ids, keys or texts of anybody.

    On loopback it answers to no foreign names, so that no web page reads it.
    """

    def __init__(self, registry: CollectorRegistry, readiness: Readiness) -> None:
        self._registry = registry
        self._readiness = readiness
        self._runner: web.AppRunner | None = None
        self._statistics: Statistics | None = None

    def show_envoy(self, statistics: Statistics) -> None:
        """Answer at `/metrics/envoy` from now on; until then nothing is there."""
        self._statistics = statistics

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the system chooses if `port` is 0. Raises OSError if it is taken."""
        app = web.Application(middlewares=middlewares_at(host))
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/metrics/envoy", self._envoy)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as fault:
            await self.stop()
            raise OSError(f"cannot listen on {host}:{port} for metrics: {fault.strerror or fault}") from None
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # It takes some milliseconds, in which the event loop goes on.
        body = await asyncio.to_thread(encode, self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _envoy(self, _: web.Request) -> web.Response:
        if self._statistics is None:
            raise web.HTTPNotFound(text="no Envoy runs with this server\n")
        return await answer_with(self._statistics)

    async def _healthz(self, _: web.Request) -> web.Response:
        """The event loop turns: that is all it tells."""
        return web.json_response({"status": OK})

    async def _readyz(self, _: web.Request) -> web.Response:
        faults = await self._readiness.faults()
        ready = not any(faults.values())
        checks = {name: fault or OK for name, fault in faults.items()}
        return web.json_response({"ready": ready, "checks": checks}, status=200 if ready else 503)
