"""Liveness, and readiness that tells what is missing."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import psutil
import pytest

from cloutagent_server.app import App
from cloutagent_server.host_check import middlewares_at
from cloutagent_server.monitoring.readiness import Readiness
from cloutagent_server.storage.memory import MemoryStorage
from tests.support.api.ports import reserved_port
from tests.support.fake_engine import FakeEngine
from tests.support.fake_prices import FakePriceList
from tests.support.scraping import DEADLINE_SECONDS, get, moved_away, ready, settings_for, watched_server

READY = {"server": "ok", "storage": "ok", "engine": "ok"}


async def test_a_server_at_work_is_alive_and_ready(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        alive = await server.get("/healthz")
        assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
        assert await server.ready() == (200, {"ready": True, "checks": READY})
        assert not list((tmp_path / "projects" / ".staging").iterdir())


async def test_on_loopback_no_foreign_name_is_answered(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        for name in (
            f"localhost:{server.port}",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1",
            f"[::1]:{server.port}",
            "10.0.0.1:1",
        ):
            assert (await server.get("/healthz", host=name)).status_code == 200, name
        foreign = f"page.example:{server.port}"
        for path in ("/healthz", "/readyz", "/metrics", "/metrics/envoy"):
            refused = await server.get(path, host=foreign)
            assert (refused.status_code, refused.text.split()[0]) == (404, "only"), path
        for name in ("localhost.page.example", "127.0.0.1.page.example", "[::1", "x", ""):
            assert (await server.get("/healthz", host=name)).status_code == 404, name


def test_elsewhere_any_name_is_answered() -> None:
    assert [host for host in ("0.0.0.0", "::", "10.0.0.1", "server", "not-localhost") if middlewares_at(host)] == []
    assert all(middlewares_at(host) for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost", "LocalHost."))


async def test_a_storage_that_takes_no_writes_is_named_until_it_does(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        with moved_away(tmp_path / "projects" / ".staging"):
            status, document = await server.ready()
            assert (status, document["ready"]) == (503, False)
            assert document["checks"]["storage"].startswith("No such file or directory")
            assert document["checks"]["server"] == document["checks"]["engine"] == "ok"
            # It is the work that is not possible: restarting the process would not help.
            assert (await server.get("/healthz")).status_code == 200
        assert await server.ready() == (200, {"ready": True, "checks": READY})


async def test_an_engine_that_cannot_run_agents_is_named(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        server.engine.broken = "the model gateway does not listen"
        assert await server.ready() == (
            503,
            {"ready": False, "checks": {**READY, "engine": "the model gateway does not listen"}},
        )


async def test_a_server_that_starts_or_stops_is_not_ready_and_still_answers(tmp_path: Path) -> None:
    gate, reached = asyncio.Event(), asyncio.Event()

    class SlowStorage(MemoryStorage):
        """Takes its time."""

        async def start(self) -> None:
            """Wait for the test."""
            reached.set()
            await gate.wait()

    with reserved_port() as port:
        app = App(settings_for(tmp_path, port), SlowStorage(), FakeEngine(), FakePriceList())
        starting = asyncio.ensure_future(app.start())
        await asyncio.wait_for(reached.wait(), DEADLINE_SECONDS)
        assert await ready(port) == (503, {"ready": False, "checks": {**READY, "server": "starting"}})
        gate.set()
        await asyncio.wait_for(starting, DEADLINE_SECONDS)
        assert await ready(port) == (200, {"ready": True, "checks": READY})
        # From the moment on at which it wants no more calls, though it still answers those that come.
        await app.leave_rotation()
        assert await ready(port) == (503, {"ready": False, "checks": {**READY, "server": "stopping"}})
        await app.finish_runs()
        assert await ready(port) == (503, {"ready": False, "checks": {**READY, "server": "stopping"}})
        assert (await get(port, "/healthz")).status_code == 200
        await app.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = App(settings_for(tmp_path, port), MemoryStorage(), FakeEngine(), FakePriceList())
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port} for metrics"):
            await app.start()
        await app.stop()


async def test_port_0_serves_nothing(tmp_path: Path) -> None:
    app = App(settings_for(tmp_path, 0), MemoryStorage(), FakeEngine(), FakePriceList())
    before = listening()
    await app.start()
    try:
        # The one of the API.
        assert len(listening() - before) == 1
    finally:
        await app.stop()


def listening() -> set[int]:
    """The ports that this process listens on."""
    return {one.laddr.port for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN}


async def test_a_check_that_hangs_is_a_fault_and_is_not_made_twice() -> None:
    begun, gate = 0, asyncio.Event()

    async def hangs() -> str | None:
        nonlocal begun
        begun += 1
        await gate.wait()
        return None

    async def fails() -> str | None:
        raise RuntimeError("out of order")

    readiness = Readiness({"hangs": hangs, "fails": fails}, seconds=0.01)
    for _ in range(3):
        assert await readiness.faults() == {"hangs": "no answer within 0.01 s", "fails": "out of order"}
    assert begun == 1
    gate.set()
    patient = Readiness({"hangs": hangs}, seconds=DEADLINE_SECONDS)
    assert await patient.faults() == {"hangs": None}
