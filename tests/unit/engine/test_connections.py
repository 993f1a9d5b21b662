"""A listener that is served with a bound on its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from cloutagent_server.engine import gateway as gateway_module
from cloutagent_server.engine.connections import BoundedSite
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.prices import GenaiPriceList

DEADLINE = 10.0
MOST = 3


class Echo(asyncio.Protocol):
    """Answers what it reads, and remembers who is connected."""

    open: set[Echo]

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        Echo.open.add(self)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        Echo.open.discard(self)


@pytest.fixture
async def site() -> AsyncIterator[tuple[BoundedSite, tuple[str, int]]]:
    Echo.open = set()
    listener = socket.create_server(("127.0.0.1", 0))
    site = BoundedSite(Echo, listener, MOST)
    site.start()
    yield site, listener.getsockname()
    await site.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - it comes over the network
            await asyncio.sleep(0.01)


async def answered(place: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*place)
    writer.write(b"x")
    return reader, writer


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        await writer.wait_closed()


async def check_waiting(place: tuple[str, int]) -> None:
    """Those beyond the bound are served when others have gone, and take no descriptor before."""
    async with asyncio.timeout(DEADLINE):
        clients = [await answered(place) for _ in range(MOST + 2)]
        for reader, _ in clients[:MOST]:
            assert await reader.readexactly(1) == b"x"
        waiting = asyncio.create_task(clients[MOST][0].readexactly(1))
        await asyncio.wait({waiting}, timeout=0.1)
        assert not waiting.done() and len(Echo.open) == MOST
        await close(clients[0][1])
        assert await waiting == b"x"
        assert len(Echo.open) == MOST
        await close(*(writer for _, writer in clients[1:]))
    await until(lambda: not Echo.open)


async def test_what_passes_the_bound_waits(site: tuple[BoundedSite, tuple[str, int]]) -> None:
    await check_waiting(site[1])
    await check_waiting(site[1])


def test_what_passes_the_bound_waits_on_the_loop_of_the_server() -> None:
    async def check() -> None:
        Echo.open = set()
        listener = socket.create_server(("127.0.0.1", 0))
        site = BoundedSite(Echo, listener, MOST)
        site.start()
        place = listener.getsockname()
        await check_waiting(place)
        reader, writer = await answered(place)
        assert await reader.readexactly(1) == b"x"
        await site.stop()
        assert await reader.read() == b""
        await close(writer)

    uvloop.run(check())


async def test_stopping_closes_all_connections(site: tuple[BoundedSite, tuple[str, int]]) -> None:
    reader, writer = await answered(site[1])
    assert await reader.readexactly(1) == b"x"
    await site[0].stop()
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*site[1])
    await close(writer)


async def test_it_goes_on_after_a_connection_could_not_be_taken(
    site: tuple[BoundedSite, tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    real: Callable[..., Awaitable[object]] = loop.connect_accepted_socket
    failures = 2 * MOST

    async def sometimes(*arguments: object, **options: object) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(24, "Too many open files")
        return await real(*arguments, **options)

    monkeypatch.setattr("cloutagent_server.engine.connections._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "connect_accepted_socket", sometimes)
    for _ in range(failures):
        _, writer = await answered(site[1])
        writer.close()
    await until(lambda: not failures)
    reader, writer = await answered(site[1])
    async with asyncio.timeout(DEADLINE):
        assert await reader.readexactly(1) == b"x"
    await close(writer)


async def test_the_gateway_bounds_each_listener_and_closes_idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "_IDLE_SECONDS", 0.3)
    gateway = ModelGateway("http://127.0.0.1:9", "sk-ant-real", GenaiPriceList())
    await gateway.start()
    listener = socket.create_server(("127.0.0.1", 0))
    place = listener.getsockname()
    site = await gateway.serve(listener)
    try:
        async with asyncio.timeout(DEADLINE):
            # The kernel's queue holds some more, of which the gateway knows nothing.
            clients = [await asyncio.open_connection(*place) for _ in range(gateway_module.CONNECTIONS + 8)]
            await until(lambda: len(site._connections) == gateway_module.CONNECTIONS)
            # Those that ask nothing make room for others.
            reader, writer = clients[-1]
            writer.write(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404")
            for reader, writer in clients:
                await reader.read()
                await close(writer)
    finally:
        await site.stop()
        await gateway.stop()
