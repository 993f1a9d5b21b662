"""A server and Envoy to measure, where no agent runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.executions.remote import Remote, serving

# Nobody asks it.
_NO_MODEL: Final = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Stack:
    """What is measured.

    Attributes:
        remote: Server and Envoy.
        projects: The server's PROJECT_ROOT.
        folder: A folder to make files in.
    """

    remote: Remote
    projects: Path
    folder: Path


@asynccontextmanager
async def stack() -> AsyncIterator[Stack]:
    """Start both on new folders; all of it ends and goes with the block."""
    with TemporaryDirectory(prefix="benchmarks-") as folder:
        root = Path(folder) / "data"
        async with serving(root, _NO_MODEL, {"warm_agents": "0"}) as remote:
            yield Stack(remote, root / "projects", Path(folder))
