"""The blocking Python client is what the one for asyncio gives."""

from __future__ import annotations

from scripts.generate_sync_client import SOURCE, stale, translated


def test_the_blocking_client_is_fresh() -> None:
    assert stale() == [], "run `make generate`"


def test_nothing_asynchronous_is_left_in_it() -> None:
    for module in SOURCE.glob("*.py"):
        words = set(translated(module.read_text(encoding="utf-8")).replace("(", " ").replace(".", " ").split())
        assert not words & {"async", "await", "asyncio", "aio", "anext", "aiter"} or module.name == "__init__.py"
