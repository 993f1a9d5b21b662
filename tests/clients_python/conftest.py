"""One server for all scenarios; each scenario is run with both clients."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloutagent import AsyncClient, RetryPolicy
from cloutagent.types import AgentConfig, NewProject
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.settings import Settings
from tests.support.api.stage import GRPC, Stage, staged
from tests.support.fake_engine import FakeEngine, default_script
from tests.support.python_client.two_clients import KINDS, Kind, make_client

ADMIN_KEY = f"admin-{uuid.uuid4()}"
MODEL = "claude-sonnet-4-5"
QUICK = RetryPolicy(first_delay=0.01, longest_delay=0.1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all scenarios in one event loop, that of the server."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLOUTAGENT_ADDRESS", "CLOUTAGENT_API_KEY", "CLOUTAGENT_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def prices() -> GenaiPriceList:
    """The price list."""
    return GenaiPriceList()


def settings_of(folder: Path, **changes: Any) -> Settings:
    """Settings of a server on this folder."""
    given: dict[str, Any] = {
        "app_env": "test",
        "anthropic_base_url": "http://127.0.0.1:9",
        "encryption_key": "5e" * 32,
        "admin_api_key": ADMIN_KEY,
        "project_root": folder,
        "grpc_port": 0,
        "metrics_port": 0,
        "stop_grace_seconds": 0,
        "max_failed_authentications": 1000,
    }
    return Settings(_env_file=None, **{**given, **changes})


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_stage(prices: GenaiPriceList, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """The server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloutagent_server.service.auth.BCRYPT_COST", 4)
        async with staged(GRPC, settings_of(tmp_path_factory.mktemp("projects")), prices, None) as stage:
            yield stage


@pytest.fixture
def engine(shared_stage: Stage) -> Iterator[FakeEngine]:
    """The scripted engine of the server, with its default script unless the scenario gives it another one."""
    yield shared_stage.engine
    shared_stage.engine.script = default_script


@pytest.fixture
def address(shared_stage: Stage) -> str:
    """Where the server is."""
    assert shared_stage.address is not None
    return f"http://{shared_stage.address}"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kind of client that the scenario is run with."""
    chosen: Kind = request.param
    return chosen


@pytest_asyncio.fixture(loop_scope="session")
async def admin(kind: Kind, address: str) -> AsyncIterator[AsyncClient]:
    """A client with the admin's key."""
    async with make_client(kind, address=address, api_key=ADMIN_KEY, retry=QUICK) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def project(admin: AsyncClient) -> NewProject:
    """A new project."""
    return await admin.projects.create(name="notes", agent=agent())


@pytest_asyncio.fixture(loop_scope="session")
async def client(kind: Kind, address: str, project: NewProject) -> AsyncIterator[AsyncClient]:
    """A client with the project's key."""
    async with make_client(kind, address=address, api_key=project.api_key, retry=QUICK) as client:
        yield client


def agent(**changes: Any) -> AgentConfig:
    """An agent's configuration."""
    return AgentConfig(**{"name": "helper", "system_prompt": "You help.", "model": MODEL, **changes})
