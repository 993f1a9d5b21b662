"""Every scenario runs at every depth: `api` is what it speaks to.

A test may narrow that with `@pytest.mark.depths(...)` and choose settings with `@pytest.mark.server(...)`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from cloutagent_server import logs
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.envoy_process import EnvoyProcess
from cloutagent_server.settings import LogLevel, Settings
from tests.support.api.ports import reserved_port
from tests.support.api.scenario import Projects
from tests.support.api.stage import DEPTHS, GRPC, GRPC_ENVOY, IN_PROCESS, MEMORY, REST, Edge, Stage, staged
from tests.support.api.witness import WitnessedApi, files_with
from tests.support.fake_engine import FakeEngine

_EVERYWHERE = (MEMORY, IN_PROCESS, GRPC, REST)
# The clients of the scenarios are in this process too, and log what they send.
_CLIENT_LOGGERS = ("httpx", "httpcore", "grpc")


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    config.addinivalue_line("markers", "depths(*names): the depths that a scenario runs at")
    config.addinivalue_line("markers", "server(**settings): settings of the scenario's server")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each scenario its depths."""
    if "depth" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("depths")
        chosen = _EVERYWHERE if marker is None else marker.args
        assert set(chosen) <= set(DEPTHS)
        metafunc.parametrize("depth", chosen)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the scenarios in one event loop: gRPC keeps every loop that it ever saw until the process ends."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def prices() -> GenaiPriceList:
    """The price list."""
    return GenaiPriceList()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """One Envoy for all scenarios of this process. It leaves neither a process nor a file, and logs no key."""
    run_dir = tmp_path_factory.mktemp("envoy")
    output = tmp_path_factory.mktemp("envoy-output") / "log"
    before = set(psutil.Process().children(recursive=True))
    with reserved_port() as upstream_port:
        envoy = EnvoyProcess("127.0.0.1", 0, "127.0.0.1", upstream_port, run_dir)
        with _output_to(output):
            await envoy.start()
        started = set(psutil.Process().children(recursive=True)) - before
        try:
            yield Edge(envoy.port, upstream_port)
        finally:
            await envoy.stop()
    assert started
    assert not [process for process in started if process.is_running()]
    assert not list(run_dir.iterdir())
    assert "cla_" not in output.read_text()


@pytest.fixture
def server_log() -> Iterator[io.StringIO]:
    """All that the server logs, at level debug."""
    written = io.StringIO()
    with contextlib.redirect_stderr(written):
        logs.configure(LogLevel.DEBUG)
    for name in _CLIENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    yield written
    for name in _CLIENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Folder of the projects; stays empty with the storage in memory."""
    return tmp_path / "projects"


@pytest.fixture
def edge_of_depth(depth: str, request: pytest.FixtureRequest) -> Edge | None:
    """The Envoy of the depths that have one."""
    found: Edge | None = request.getfixturevalue("edge") if depth in (REST, GRPC_ENVOY) else None
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def stage(
    depth: str,
    edge_of_depth: Edge | None,
    request: pytest.FixtureRequest,
    data_folder: Path,
    prices: GenaiPriceList,
    server_log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Stage]:
    """The scenario's server."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    # Hundreds of keys are made here; what a hash of cost 10 is, the tests of the authenticator say.
    monkeypatch.setattr("cloutagent_server.service.auth.BCRYPT_COST", 4)
    marker = request.node.get_closest_marker("server")
    given: dict[str, Any] = {
        "max_failed_authentications": 1000,
        "metrics_port": 0,
        **({} if marker is None else marker.kwargs),
    }
    settings = Settings(
        _env_file=None,
        app_env="test",
        anthropic_base_url="http://127.0.0.1:9",
        encryption_key="5e" * 32,
        project_root=data_folder,
        grpc_port=0 if edge_of_depth is None else edge_of_depth.upstream_port,
        stop_grace_seconds=0,
        **given,
    )
    async with staged(depth, settings, prices, edge_of_depth) as stage:
        yield stage
    admin_key = [] if settings.admin_api_key is None else [settings.admin_api_key.get_secret_value()]
    for key in (*stage.api.keys, *admin_key):
        assert not files_with(data_folder, key)
        assert key not in server_log.getvalue()
    assert not list(data_folder.rglob(".tmp-*"))


@pytest.fixture
def api(stage: Stage) -> WitnessedApi:
    """The API. No key that it hands out may come back in an answer, or lie in a file or a line of the log."""
    return stage.api


@pytest.fixture
def engine(stage: Stage) -> FakeEngine:
    """The scripted engine of the scenario's server."""
    return stage.engine


@pytest.fixture
def projects(api: WitnessedApi) -> Projects:
    """Makes projects."""
    return Projects(api)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Let processes that start meanwhile write to this file."""
    saved = [os.dup(number) for number in (1, 2)]
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(opened, number)
    try:
        yield
    finally:
        for number, kept in zip((1, 2), saved, strict=True):
            os.dup2(kept, number)
            os.close(kept)
        os.close(opened)
