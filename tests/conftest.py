"""What holds for the whole suite."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.api.stage import GRPC, GRPC_ENVOY, REST

_HERE = Path(__file__).parent
_UNMEASURED = (_HERE / "e2e", _HERE / "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure no coverage where the same lines run over and over, at half the speed.

    Faults and whole stacks come to what unit tests and the scenarios in process come to, and so do the scenarios over
    the wire. Single tests that repeat themselves carry the mark `no_cover` themselves.
    """
    for item in items:
        depth = item.callspec.params.get("depth") if hasattr(item, "callspec") else None
        if depth in (GRPC, GRPC_ENVOY, REST) or any(item.path.is_relative_to(folder) for folder in _UNMEASURED):
            item.add_marker(pytest.mark.no_cover)


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
