"""What holds for the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest

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
