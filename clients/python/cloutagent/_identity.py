"""What a client says of itself and of its calls."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from uuid import uuid4


def user_agent() -> str:
    """Name and version of this package, for the server's log. Sources that were never installed have no version."""
    try:
        installed = version("cloutagent")
    except PackageNotFoundError:
        installed = "unknown"
    return f"cloutagent-python/{installed}"


def new_request_id() -> str:
    """An id for one call and all its attempts."""
    return str(uuid4())
