"""The server under measurement as the measuring process sees it: orders, and calls that hand over raw messages."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.executions.sockets import watching_socket
from cloutagent.v1.execution_pb2 import ExecuteStreamRequest, StreamExecutionEventsRequest, WatchExecutionRequest
from cloutagent_server.envoy_process import EnvoyProcess

BARE_METHOD: Final = "/bare.Stream/Send"
BARE_LIVE_METHOD: Final = "/bare.Stream/Follow"
WATCH_METHOD: Final = "/cloutagent.v1.ExecutionService/WatchExecution"
EXECUTE_METHOD: Final = "/cloutagent.v1.ExecutionService/ExecuteStream"
TEXT_METHOD: Final = "/cloutagent.v1.ExecutionService/StreamExecutionEvents"

# Streams that share a connection wait for each other in it. No real client opens more in one.
STREAMS_PER_CHANNEL: Final = 100
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
RESULT: Final = b"All of it was said."
"""What the last event of every run says."""
WINDOW: Final = 65_535
"""What is sent in a stream before the other side has read, unless gRPC enlarges it."""
NO_LARGER_WINDOW: Final = (("grpc.http2.bdp_probe", 0),)

Stream = grpc.aio.UnaryStreamCall[bytes, bytes]
Arrivals = AbstractAsyncContextManager[Awaitable[Sequence[float]]]


class Remote:
    """A server that was started by `serving`.

    Attributes:
        port: Of the server.
        bare_port: Of the bare gRPC server in the same process.
        rest_port: Of an Envoy before the server.
        project_id: A project to run executions in.
        api_key: The key of that project.
        pid: Of the server.
    """

    def __init__(self, process: asyncio.subprocess.Process, told: dict[str, Any], rest_port: int) -> None:
        self._process = process
        self.port: int = told["port"]
        self.bare_port: int = told["bare_port"]
        self.rest_port = rest_port
        self.project_id: str = told["project_id"]
        self.api_key: str = told["api_key"]
        self.pid = process.pid

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call of the API carries."""
        return (("x-api-key", self.api_key),)

    async def order(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Have the server's process do something; see `serving.Bench`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": name, **arguments}).encode() + b"\n")
        return await _line(self._process)

    def watch(self, channel: grpc.aio.Channel, execution_id: str, after: int = 0) -> Stream:
        """WatchExecution, its answers as they come over the wire."""
        request = WatchExecutionRequest(execution_id=execution_id, after_sequence=after)
        return channel.unary_stream(WATCH_METHOD, _as_it_is, _as_it_is)(
            request.SerializeToString(), metadata=self.metadata
        )

    def text(self, channel: grpc.aio.Channel, execution_id: str) -> Stream:
        """StreamExecutionEvents as lines of JSON, its answers as they come over the wire."""
        request = StreamExecutionEventsRequest(execution_id=execution_id)
        metadata = (*self.metadata, ("accept", "application/x-ndjson"))
        return _stream(channel, TEXT_METHOD)(request.SerializeToString(), metadata=metadata)

    def execute(self, channel: grpc.aio.Channel, prompt: str) -> Stream:
        """ExecuteStream, its answers as they come over the wire."""
        request = ExecuteStreamRequest(project_id=self.project_id, prompt=prompt)
        return channel.unary_stream(EXECUTE_METHOD, _as_it_is, _as_it_is)(
            request.SerializeToString(), metadata=self.metadata
        )

    def bare(self, channel: grpc.aio.Channel) -> Stream:
        """The bare server's stream of messages made beforehand."""
        return _stream(channel, BARE_METHOD)(b"")

    def bare_live(self, channel: grpc.aio.Channel) -> Stream:
        """The bare server's stream of messages that are made while it goes on."""
        return _stream(channel, BARE_LIVE_METHOD)(b"")

    def watching(self, execution_id: str, streams: int, events: int) -> Arrivals:
        """WatchExecution by so many, as their socket sees it."""
        request = WatchExecutionRequest(execution_id=execution_id).SerializeToString()
        return watching_socket(self.port, WATCH_METHOD, self.metadata, request, streams, events)

    def watching_bare(self, streams: int, events: int) -> Arrivals:
        """The bare server's streams of messages that are made while they go on, as their socket sees them."""
        return watching_socket(self.bare_port, BARE_LIVE_METHOD, (), b"", streams, events)

    @asynccontextmanager
    async def channels(
        self, streams: int, *, bare: bool = False, options: Sequence[tuple[str, int]] = ()
    ) -> AsyncIterator[Sequence[grpc.aio.Channel]]:
        """Connections for so many streams: one for each, in turns."""
        target = f"127.0.0.1:{self.bare_port if bare else self.port}"
        count = -(-streams // STREAMS_PER_CHANNEL)
        opened = [grpc.aio.insecure_channel(target, (*_OPTIONS, *options)) for _ in range(count)]
        try:
            yield [opened[number % count] for number in range(streams)]
        finally:
            for channel in opened:
                await channel.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _stream(channel: grpc.aio.Channel, method: str) -> grpc.aio.UnaryStreamMultiCallable[bytes, bytes]:
    """A method whose messages are sent and handed over as they are."""
    return channel.unary_stream(method, _as_it_is, _as_it_is)


def _as_it_is(message: bytes) -> bytes:
    return message


@contextmanager
def _output_to(descriptor: int) -> Iterator[None]:
    """Let a process that starts meanwhile write to this file what it writes to standard output or error."""
    saved = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(descriptor, number)
    try:
        yield
    finally:
        for number, kept in zip((1, 2), saved, strict=True):
            os.dup2(kept, number)
            os.close(kept)


@asynccontextmanager
async def serving(folder: Path, model_url: str, settings: Mapping[str, str]) -> AsyncIterator[Remote]:
    """A server on a new folder, with further settings, and Envoy before it; both end with the block."""
    with (_made(folder) / "server.log").open("wb") as log:
        command = (sys.executable, "-m", "benchmarks.executions.serving", str(folder), model_url, json.dumps(settings))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=log)
    try:
        told = await _line(process)
        envoy = EnvoyProcess("127.0.0.1", 0, "127.0.0.1", told["port"], folder / "envoy")
        with (folder / "envoy.log").open("wb") as log, _output_to(log.fileno()):
            await envoy.start()
        try:
            yield Remote(process, told, envoy.port)
        finally:
            await envoy.stop()
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"the server ended with exit code {await process.wait()}; server.log says why")
    answer: dict[str, Any] = json.loads(line)
    return answer
