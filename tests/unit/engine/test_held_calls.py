"""A call is made ready while its reservation is stored, and goes out when that is done and not before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.engine.base import CallEnd, CallRefused, PlannedCall
from cloutagent_server.engine.gateway import GatewaySession, ModelGateway
from cloutagent_server.engine.listening import OrderedListener
from tests.support.gateway_stage import CONFIG, KEY, MODEL, PRICES
from tests.support.messages import RememberingListener, stream_events

WAIT = 5.0
EVENTS = b"".join(stream_events(30, 7))
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)


@dataclass
class Storing(RememberingListener):
    """Decides at once, and has stored what it decided when it is told so, or has failed."""

    stored: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None

    async def before_call(self, call: PlannedCall) -> int:
        allowed = await super().before_call(call)
        call.decided(allowed)
        await self.stored.wait()
        if self.fault is not None:
            raise self.fault
        return allowed


@dataclass
class Vendor:
    """Answers every request, and notes what came to it."""

    connections: list[asyncio.StreamWriter] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self.changed:
            self.connections.append(writer)
            self.changed.notify_all()
        while data := await reader.read(1 << 16):
            self.received += data
            if data.endswith(b"}"):
                writer.write(ANSWER)
        writer.close()

    async def connected(self) -> None:
        async with asyncio.timeout(WAIT), self.changed:
            await self.changed.wait_for(lambda: bool(self.connections))


@dataclass
class Stage:
    """A call under way, whose reservation is being stored."""

    vendor: Vendor
    listener: Storing
    gateway: ModelGateway
    session: GatewaySession
    answer: Awaitable[tuple[int, bytes]]


@asynccontextmanager
async def calling(listener: Storing) -> AsyncIterator[Stage]:
    """Yields when the vendor has been connected to."""
    vendor = Vendor()
    server = await asyncio.start_server(vendor.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gateway = ModelGateway(f"http://127.0.0.1:{port}", KEY, PRICES)
    await gateway.start()
    session = gateway.open(CONFIG, OrderedListener(listener))

    async def post() -> tuple[int, bytes]:
        body = {"model": MODEL, "max_tokens": 500, "stream": True, "messages": []}
        headers = {"x-api-key": session.token}
        async with http.post(f"{session.base_url}/v1/messages", json=body, headers=headers) as answer:
            return answer.status, await answer.read()

    try:
        async with aiohttp.ClientSession() as http:
            answer = asyncio.create_task(post())
            await vendor.connected()
            yield Stage(vendor, listener, gateway, session, answer)
            answer.cancel()
            await asyncio.wait({answer})
    finally:
        await gateway.stop()
        for connection in vendor.connections:
            connection.close()
        server.close()
        await server.wait_closed()


async def test_nothing_goes_out_before_the_reservation_is_stored() -> None:
    async with calling(Storing(allowance=70)) as stage:
        # The connection is there; a byte on it would have come long before this request and its answer.
        async with aiohttp.ClientSession() as http, http.get(stage.session.base_url) as other:
            assert other.status == 404
        assert bytes(stage.vendor.received) == b""
        stage.listener.stored.set()
        assert await asyncio.wait_for(stage.answer, WAIT) == (200, EVENTS)
        head, _, body = bytes(stage.vendor.received).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert json.loads(body)["max_tokens"] == 70
        await stage.gateway.close(stage.session)
        assert stage.listener.ends == [(CallEnd.TOLD, TokenUsage(30, 7, MODEL))]


@pytest.mark.parametrize("fault", [CallRefused("the run is being stopped"), OSError("no space left on device")])
async def test_nothing_goes_out_when_it_cannot_be_stored(fault: Exception) -> None:
    async with calling(Storing(fault=fault)) as stage:
        stage.listener.stored.set()
        status, body = await asyncio.wait_for(stage.answer, WAIT)
        assert (status, json.loads(body)["error"]["type"]) == (402, "billing_error")
        await stage.gateway.close(stage.session)
        assert stage.listener.ends == [(CallEnd.FREE, None)]
        assert (bytes(stage.vendor.received), len(stage.vendor.connections)) == (b"", 1)


async def test_a_connection_that_is_closed_meanwhile_is_made_again() -> None:
    async with calling(Storing()) as stage:
        stage.vendor.connections[0].close()
        await stage.vendor.connections[0].wait_closed()
        stage.listener.stored.set()
        assert await asyncio.wait_for(stage.answer, WAIT) == (200, EVENTS)
        assert len(stage.vendor.connections) == 2
        await stage.gateway.close(stage.session)
        assert stage.listener.ends == [(CallEnd.TOLD, TokenUsage(30, 7, MODEL))]


async def test_an_answer_to_nothing_is_taken_for_none() -> None:
    """As of a proxy that gives up a connection on which nothing came."""
    async with calling(Storing()) as stage:
        gives_up = stage.vendor.connections[0]
        gives_up.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        gives_up.close()
        await gives_up.wait_closed()
        stage.listener.stored.set()
        assert await asyncio.wait_for(stage.answer, WAIT) == (200, EVENTS)
        assert len(stage.vendor.connections) == 2
        await stage.gateway.close(stage.session)
        assert (stage.listener.ends, stage.session.last_error) == ([(CallEnd.TOLD, TokenUsage(30, 7, MODEL))], None)


async def test_a_call_that_is_cut_while_it_is_stored_never_goes_out() -> None:
    async with calling(Storing()) as stage:
        stage.gateway.cut(stage.session)
        await asyncio.wait_for(stage.gateway.close(stage.session), WAIT)
        stage.listener.stored.set()
        await stage.session.settle()
        assert stage.listener.ends == [(CallEnd.FREE, None)]
        assert bytes(stage.vendor.received) == b""
