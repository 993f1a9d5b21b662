"""What a client says of itself and of its calls."""

from __future__ import annotations

from importlib.metadata import version
from uuid import uuid4


def user_agent() -> str:
    """Name and version of this package, for the server's log."""
    return f"cloutagent-python/{version('cloutagent')}"


def new_request_id() -> str:
    """An id for one call and all its attempts."""
    return str(uuid4())
