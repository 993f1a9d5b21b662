"""The edge that tests share: a double of the server, and one Envoy in front of it for all tests of this process.

Starting one takes longer than most of what there is to ask of it. What a test wants of Envoy beyond this it starts by
itself, in front of the same double.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from cloutagent_server.envoy_process import EnvoyProcess
from tests.support.api.rest import http_client
from tests.support.edge_server import LOCAL_PAGE, PAGE, EdgeServer, running_envoy

_SHARED = {"edge_server", "cut_off"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of what is shared in the one loop that it lives in."""
    for item in items:
        if isinstance(item, pytest.Function) and _SHARED & {*item.fixturenames}:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(autouse=True)
def _agent_is_copied(agent_beside_runs: None) -> None:
    """No server of a test has to."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def edge_server() -> AsyncIterator[EdgeServer]:
    """The double, as it stands after whatever asked it before: tests take `server`."""
    async with EdgeServer().serve() as serving:
        yield serving


@pytest.fixture
def server(edge_server: EdgeServer) -> Iterator[EdgeServer]:
    """The double, which nobody has asked anything yet."""
    edge_server.forget()
    yield edge_server
    edge_server.forget()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def envoy(edge_server: EdgeServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EnvoyProcess]:
    """An Envoy in front of the double, for pages of `PAGE` and `LOCAL_PAGE`, too."""
    run_dir = tmp_path_factory.mktemp("envoy")
    async with running_envoy(edge_server.port, run_dir, cors_origins=(PAGE, LOCAL_PAGE)) as process:
        yield process


@pytest_asyncio.fixture(loop_scope="session")
async def rest(envoy: EnvoyProcess, server: EdgeServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with http_client(f"127.0.0.1:{envoy.port}") as client:
        yield client


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cut_off(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EnvoyProcess]:
    """An Envoy whose server is away."""
    async with running_envoy(1, tmp_path_factory.mktemp("envoy"), cors_origins=(PAGE,)) as process:
        yield process
