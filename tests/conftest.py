"""What holds for the whole suite."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import structlog

from cloutagent_server.engine.process import bundled_cli, unreadable_copy
from cloutagent_server.service import run_redaction
from cloutagent_server.storage.filesystem import offload
from tests.support.api.stage import GRPC, GRPC_ENVOY, MEMORY, REST

_HERE = Path(__file__).parent
_UNMEASURED = tuple(
    _HERE / name
    for name in (
        "clients_python",
        "clients_typescript",
        "command_line",
        "documentation",
        "e2e",
        "packaging",
        "unit/engine",
        "unit/monitoring",
    )
)
_POOLS = ((offload, "_WORK"), (offload, "_WAITING"), (offload, "_SCANNING"), (run_redaction, "_THREAD"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure no coverage where it tells nothing: no line has a gate there, or the same lines run over and over.

    Measuring takes as long again as the code. Single tests that repeat themselves carry the mark `no_cover` themselves.
    """
    for item in items:
        depth = item.callspec.params.get("depth") if hasattr(item, "callspec") else None
        if depth in (MEMORY, GRPC, GRPC_ENVOY, REST) or any(item.path.is_relative_to(folder) for folder in _UNMEASURED):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(scope="session")
def copied_agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a server leaves beside its runs at its first start: a copy of the agent, 380 MB.

    A server that finds a link to it in the same place starts a second sooner, and takes no room on the disk.
    """
    runs = tmp_path_factory.mktemp("agent") / "runs"
    runs.mkdir()
    unreadable_copy(bundled_cli(), runs / "claude")
    (copy,) = runs.parent.glob(".claude-*")
    return copy


@pytest.fixture
def agent_beside_runs(tmp_path: Path, copied_agent: Path) -> None:
    """Have it there for servers whose runs are in a folder of `tmp_path`."""
    (tmp_path / copied_agent.name).hardlink_to(copied_agent)


@pytest.fixture(autouse=True)
def _threads_that_are_measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give those who keep threads new ones after a test that is not measured: what they had is not from then on."""
    yield
    if request.node.get_closest_marker("no_cover") is not None:
        for module, name in _POOLS:
            pool = getattr(module, name)
            setattr(module, name, ThreadPoolExecutor(pool._max_workers, thread_name_prefix=pool._thread_name_prefix))
            pool.shutdown(wait=False)


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave logging as it was: a command that runs in this process sets it up, for a stream that is closed afterwards.

    No logger keeps for good what was set up for one test.
    """
    configure, before = structlog.configure, structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    @wraps(configure)
    def uncached(**settings: Any) -> None:
        configure(**{**settings, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", uncached)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    configure(**before)
