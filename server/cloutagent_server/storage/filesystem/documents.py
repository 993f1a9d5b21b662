"""JSON documents as the content of files, and as lines of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.schema import parse

T = TypeVar("T")


def load(path: Path, read: Callable[[Any], T]) -> T | None:
    """What `read` makes of the JSON in a file; None if there is no file.

    Raises:
        StoredDataDamaged: The file is not JSON, or `read` refused it with ValueError.
    """
    content = files.read(path)
    if content is None:
        return None
    try:
        return read(parse(content))
    except ValueError as fault:
        raise StoredDataDamaged(str(path), str(fault)) from fault


def dump(document: Mapping[str, Any]) -> bytes:
    """A document as the content of a file."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2).encode() + b"\n"


def dump_line(document: Mapping[str, Any]) -> bytes:
    """A document as a line of a file."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
