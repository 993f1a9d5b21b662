"""What the tests of the TypeScript client ask: server and Envoy, restarted when they say so, and proxies that cut."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.envoy_process import EnvoyProcess
from cloutagent_server.transport.server import GrpcServer
from tests.support.api.ports import reserved_port
from tests.support.edge_server import running_envoy
from tests.support.fake_engine import FakeEngine, Step, answer, ask, default_script, message, report, wait_for, write
from tests.support.service_world import World, make_world
from tests.support.unsteady_proxy import UnsteadyProxy, random_life

ADMIN_KEY = "an-admin-key-of-some-length"


@dataclass
class Stack:
    """The running stack.

    Attributes:
        server: The server that runs now.
        envoy: The Envoy that runs now.
        moving: A proxy that leads to it.
        unsteady: The same, but it cuts connections.
    """

    world: World
    gates: dict[str, asyncio.Event]
    server_port: int
    folder: Path
    cors_origins: Sequence[str]
    ending: AsyncExitStack
    server: GrpcServer = field(init=False)
    envoy: EnvoyProcess = field(init=False)
    moving: UnsteadyProxy = field(init=False)
    unsteady: UnsteadyProxy = field(init=False)
    _drained: int = 0

    async def start(self) -> None:
        """Start everything."""
        await self._serve()
        self.envoy = await self._envoy("a")
        self.moving = await self._proxy(lambda: 10**9)
        self.unsteady = await self._proxy(random_life(6, 800, 4_000))

    async def release(self, prompt: str) -> None:
        """Let the run of this prompt go on."""
        self.gates[prompt].set()

    async def restart(self, _: str) -> None:
        """Stop the server, which cuts every stream, and start it again."""
        await self.server.stop(0)
        await self._serve()

    async def drain(self, _: str) -> None:
        """Start another Envoy, and drain the one before."""
        self._drained += 1
        old, self.envoy = self.envoy, await self._envoy(f"b{self._drained}")
        self.moving.target_port = self.unsteady.target_port = self.envoy.port
        await old.stop()

    async def count(self, _: str) -> None:
        """Count the connections that are cut from now on."""
        self.unsteady.cuts = 0

    async def cuts(self, _: str) -> None:
        """Fail unless a hundred connections were cut."""
        assert self.unsteady.cuts >= 100, self.unsteady.cuts

    @property
    def commands(self) -> Mapping[str, Callable[[str], Awaitable[None]]]:
        """What the tests may ask for."""
        return {each.__name__: each for each in (self.release, self.restart, self.drain, self.count, self.cuts)}

    @property
    def environment(self) -> dict[str, str]:
        """What the tests need to know."""
        return {
            "CLOUTAGENT_TEST_ADDRESS": f"http://127.0.0.1:{self.moving.port}",
            "CLOUTAGENT_TEST_UNSTEADY_ADDRESS": f"http://127.0.0.1:{self.unsteady.port}",
            "CLOUTAGENT_TEST_ADMIN_KEY": ADMIN_KEY,
        }

    async def _serve(self) -> None:
        self.server = GrpcServer(self.world.services)
        assert await self.server.start("127.0.0.1", self.server_port) == self.server_port

    async def _envoy(self, name: str) -> EnvoyProcess:
        (self.folder / name).mkdir()
        options = {"cors_origins": self.cors_origins}
        return await self.ending.enter_async_context(running_envoy(self.server_port, self.folder / name, **options))

    async def _proxy(self, life: Callable[[], int]) -> UnsteadyProxy:
        return await self.ending.enter_async_context(UnsteadyProxy(self.envoy.port, life).serve())


@asynccontextmanager
async def running_stack(folder: Path, cors_origins: Sequence[str]) -> AsyncIterator[Stack]:
    """A stack that is started and ended."""
    gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def script(prompt: str) -> Sequence[Step]:
        if prompt.startswith("gated"):
            texts = [write("é one "), wait_for(gates[prompt]), write("日 two"), message("both")]
            return [ask(), report(100, 20), *texts, answer("done")]
        if prompt.startswith("halves"):
            words = [write(f"word {number} ") for number in range(100)]
            return [ask(), report(100, 20), *words, wait_for(gates["halves"]), *words, answer("done")]
        if prompt.startswith("long"):
            return [ask(), report(100, 20), *(write(f"word {number} ") for number in range(200)), answer("done")]
        return default_script(prompt)

    world = make_world(
        engine=FakeEngine(script), prices=GenaiPriceList(), admin_key=ADMIN_KEY, heartbeat_seconds=0.1, max_running=20
    )
    async with AsyncExitStack() as ending:
        port = ending.enter_context(reserved_port())
        stack = Stack(world, gates, port, folder, cors_origins, ending)
        await stack.start()
        try:
            yield stack
        finally:
            await stack.server.stop(0)
            await world.executions.stop(0)
            world.authenticator.close()


@asynccontextmanager
async def controlled(commands: Mapping[str, Callable[[str], Awaitable[None]]]) -> AsyncIterator[str]:
    """A loopback port as `host:port` that takes a line `command argument`, and answers when it is done."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command, _, argument = (await reader.readline()).decode().strip().partition(" ")
            await commands[command](argument)
            writer.write(b"done\n")
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
