"""`cloutagent-server` in a folder, with nothing of this process's environment."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

_COMMAND: Final = str(Path(sys.executable).with_name("cloutagent-server"))


async def spawn(folder: Path, name: str, settings: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    """Start it; what it says is in `name`.out, what it logs is added to `name`.log."""
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            _COMMAND,
            *arguments,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "METRICS_PORT": "0", **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=log,
        )
