"""Python clients for CloutAgent, a self-hosted control plane for Claude agents.

`Client` blocks, `AsyncClient` is for asyncio; both have the same methods. What they take and return is in
`cloutagent.types`, what they raise in `cloutagent.errors`, and the generated stubs below them are `cloutagent.v1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloutagent import errors, types
    from cloutagent._async.client import AsyncClient
    from cloutagent._retry import RetryPolicy
    from cloutagent._sync.client import Client
    from cloutagent.errors import BudgetExceededError, CloutAgentError

    __version__: str

__all__ = [
    "AsyncClient",
    "BudgetExceededError",
    "Client",
    "CloutAgentError",
    "RetryPolicy",
    "errors",
    "types",
]

# Imported when they are asked for, so that the stubs alone cost no client, and a client not the other one.
_HOMES = {
    "AsyncClient": "cloutagent._async.client",
    "BudgetExceededError": "cloutagent.errors",
    "Client": "cloutagent._sync.client",
    "CloutAgentError": "cloutagent.errors",
    "RetryPolicy": "cloutagent._retry",
}


def __getattr__(name: str) -> object:
    import importlib

    if name == "__version__":
        from importlib.metadata import version

        return version("cloutagent")
    if name in ("errors", "types"):
        return importlib.import_module(f"cloutagent.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'cloutagent' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
