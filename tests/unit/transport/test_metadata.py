"""Metadata at the edges: as much as Envoy lets through is taken, and what cannot be decoded is in no log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest

from cloutagent.v1 import system_pb2, system_pb2_grpc
from cloutagent_server import logs
from cloutagent_server.settings import LogLevel
from cloutagent_server.transport.server import GrpcServer
from tests.support.service_world import DEADLINE_SECONDS, make_world

# `max_request_headers_kb` of envoy.yaml.
ENVOY_BYTES = 60 * 1024


@pytest.fixture
async def port() -> AsyncIterator[int]:
    world = make_world()
    server = GrpcServer(world.services)
    yield await server.start("127.0.0.1", 0)
    await server.stop(grace=0)
    world.authenticator.close()


@pytest.mark.parametrize("entries", [1, 100])
async def test_headers_as_large_as_envoy_lets_through_are_taken(port: int, entries: int) -> None:
    metadata = [(f"x-filler-{number:02}", "a" * (ENVOY_BYTES // entries - 11)) for number in range(entries)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = system_pb2_grpc.SystemServiceStub(channel)
        # gRPC's own bounds are 8 KiB, from which on it refuses by chance, and 16 KiB.
        for _ in range(3):
            await stub.GetHealth(system_pb2.GetHealthRequest(), metadata=metadata, timeout=DEADLINE_SECONDS)


async def test_a_key_that_is_no_text_is_in_no_log(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogLevel.INFO)
    answer = await asyncio.wait_for(
        call(port, "/cloutagent.v1.ProjectService/GetCurrentProject", {"x-api-key": b"cla_topsecret\xff"}),
        DEADLINE_SECONDS,
    )
    assert b"the API key is not valid" in answer
    said = ""
    # The line about a call is written when it has been answered.
    async with asyncio.timeout(DEADLINE_SECONDS):
        while '"event":"call"' not in said.replace(" ", ""):
            said += capsys.readouterr().err
            await asyncio.sleep(0.01)
    assert "topsecret" not in said
    lines = [json.loads(line) for line in said.splitlines()]
    told = [line for line in lines if "metadata" in line["event"]]
    assert [(line["level"], "exception" in line) for line in told] == [("warning", False)]
    assert [line["code"] for line in lines if line["event"] == "call"] == ["UNAUTHENTICATED"]


async def call(port: int, method: str, metadata: dict[str, bytes]) -> bytes:
    """What a server sends for a call with metadata that no gRPC client would send, up to the end of the call."""
    names = {":method": b"POST", ":scheme": b"http", ":path": method.encode(), ":authority": b"test", "te": b"trailers"}
    block = b"".join(
        # A literal without a place in the table, and neither part compressed.
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value
        for name, value in {**names, "content-type": b"application/grpc", **metadata}.items()
    )
    empty_message = bytes(5)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        writer.write(frame(4, 0, 0, b"") + frame(1, 4, 1, block) + frame(0, 1, 1, empty_message))
        received = b""
        while b"grpc-status-details-bin" not in received:
            received += await reader.read(4096)
        return received
    finally:
        writer.close()
        await writer.wait_closed()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2: 0 has data, 1 headers, 4 settings."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
