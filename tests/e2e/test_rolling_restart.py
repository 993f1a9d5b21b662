"""Two real servers on one folder behind a real Envoy: both are restarted under load, and no request is lost."""

from __future__ import annotations

import asyncio
import re
import signal
import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from tests.support.api.ports import reserved_port
from tests.support.faults.spawned import spawn

pytestmark = pytest.mark.e2e

DEADLINE = 60.0
PROJECT = {
    "name": "p",
    "agent": {"name": "a", "systemPrompt": "s", "model": "claude-sonnet-4-5"},
}


class Server:
    """`cloutagent-server` in a folder: `serve` on a port of its own, or `envoy`."""

    def __init__(self, folder: Path, name: str, settings: dict[str, str], command: str) -> None:
        self._folder, self._name, self._command = folder, name, command
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.said = ""

    async def start(self) -> None:
        self._process = await spawn(self._folder, self._name, self._settings, self._command)
        async with asyncio.timeout(DEADLINE):
            while "ready" not in (self._folder / f"{self._name}.out").read_text():
                assert self._process.returncode is None, (self._folder / f"{self._name}.log").read_text()
                await asyncio.sleep(0.05)
        self.said = (self._folder / f"{self._name}.out").read_text()

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._process.wait(), DEADLINE)
            assert self._process.returncode == 0

    async def end(self) -> None:
        """Whatever happened, no process is left."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def running(*servers: Server) -> AsyncIterator[None]:
    async with AsyncExitStack() as stops:
        for server in servers:
            stops.push_async_callback(server.end)
        async with asyncio.TaskGroup() as starts:
            for server in servers:
                starts.create_task(server.start())
        yield
        for server in reversed(servers):
            await server.stop()


class Load:
    """Readers and writers that ask all the time, and note every answer."""

    def __init__(self, rest: httpx.AsyncClient) -> None:
        self._rest = rest
        self._ended = asyncio.Event()
        self.answers: Counter[str] = Counter()

    async def read(self, path: str, key: str) -> None:
        while not self._ended.is_set():
            await self._ask("GET", path, key=key)
            await asyncio.sleep(0.01)

    async def write(self) -> None:
        while not self._ended.is_set():
            await self._ask("POST", "/api/v1/projects")
            await asyncio.sleep(0.02)

    def end(self) -> None:
        self._ended.set()

    async def _ask(self, method: str, path: str, key: str = "") -> None:
        headers = {"x-api-key": key} if key else {}
        try:
            response = await self._rest.request(
                method, path, headers=headers, json=PROJECT if method == "POST" else None
            )
            told = f"{method} {response.status_code}" + ("" if response.is_success else f" {response.text}")
        except httpx.TransportError as error:
            told = f"{method} {error!r}"
        self.answers[told] += 1


async def until_both_are_well(run_root: Path) -> None:
    """Wait until Envoy's own checks have found two servers to be well."""
    (socket,) = run_root.glob("envoy/server-*/envoy/envoy-admin.sock")
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as admin, asyncio.timeout(DEADLINE):
        url = "/stats?filter=^cluster.server.membership_healthy$"
        while not (await admin.get(url)).text.strip().endswith(": 2"):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder in which the path of a Unix socket is not too long."""
    with TemporaryDirectory(prefix="restart-") as folder:
        yield Path(folder)


# Five starts of a real server or Envoy, of a few seconds each where nothing else works.
@pytest.mark.timeout(300)
async def test_no_request_is_lost_when_both_servers_restart(tmp_path: Path, short_path: Path) -> None:
    settings = {
        "HOME": str(tmp_path),
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
        "ENCRYPTION_KEY": "ab" * 32,
        "PROJECT_ROOT": str(tmp_path / "projects"),
        "RUN_ROOT": str(tmp_path / "runs"),
        "BACKUP_ENABLED": "false",
        "WARM_AGENTS": "0",
        "METRICS_PORT": "0",
    }
    socket = short_path / "second.sock"
    with reserved_port() as port:
        listening = ({"GRPC_PORT": str(port)}, {"GRPC_SOCKET": str(socket)})
        of_envoy = {
            "PORT": "0",
            "UPSTREAMS": f"127.0.0.1:{port}, unix:{socket}",
            "RUN_ROOT": str(short_path / "e"),
            "RATE_LIMIT_WRITES_PER_MINUTE": "0",
        }
        async with AsyncExitStack() as stack:
            servers = [
                Server(tmp_path, f"server-{number}", {**settings, **own}, "serve")
                for number, own in enumerate(listening)
            ]
            envoy = Server(tmp_path, "envoy", of_envoy, "envoy")
            await stack.enter_async_context(running(*servers, envoy))
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            address = re.search(r"http://\S+", envoy.said)
            assert address is not None
            rest = await stack.enter_async_context(httpx.AsyncClient(base_url=address[0], timeout=DEADLINE))
            await until_both_are_well(short_path / "e")
            created = (await rest.post("/api/v1/projects", json=PROJECT)).json()

            load = Load(rest)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(2):
                    tasks.create_task(load.read(f"/api/v1/projects/{created['project']['id']}", created["apiKey"]))
                tasks.create_task(load.write())
                try:
                    for server in servers:
                        await until_both_are_well(short_path / "e")
                        await server.stop()
                        await server.start()
                    await until_both_are_well(short_path / "e")
                finally:
                    load.end()
    assert set(load.answers) == {"GET 200", "POST 201"}, load.answers
    assert min(load.answers.values()) > 10, load.answers
