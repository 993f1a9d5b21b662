"""Identifiers: UUIDs in lower case, so that one can stand in a path."""

from __future__ import annotations

import re
import uuid
from functools import lru_cache

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """A new random identifier (UUID version 4)."""
    return str(uuid.uuid4())


@lru_cache(maxsize=4_096)
def is_id(text: str) -> bool:
    """Whether `text` is an identifier in its one canonical form: a UUID in lower case with hyphens."""
    return _UUID.fullmatch(text) is not None
