"""`python -m scripts.generate_sync_client` makes the blocking Python client from the one for asyncio.

They are the same but for `async` and `await`, so the words of the one are put in place of those of the other.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[1] / "clients/python/cloutagent"
SOURCE: Final = PACKAGE / "_async"
TARGET: Final = PACKAGE / "_sync"
_HEADER: Final = "# Generated from cloutagent/_async by `make generate`. Do not edit.\n"

_WORDS: Final = (
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b_async\b", "_sync"),
    (r"\basync_", "sync_"),
    (r"\bASYNC_", "SYNC_"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(iter|next)\(", r"\1("),
    (r"\bgrpc\.aio\.", "grpc."),
)


def translated(text: str) -> str:
    """A module of the blocking client, not yet formatted."""
    for pattern, replacement in _WORDS:
        text = re.sub(pattern, replacement, text)
    return _HEADER + text


def generate(target: Path = TARGET) -> None:
    """Write the blocking client."""
    target.mkdir(exist_ok=True)
    for stale in target.glob("*.py"):
        stale.unlink()
    for module in sorted(SOURCE.glob("*.py")):
        if module.name == "__init__.py":
            text = f'{_HEADER}"""The blocking client."""\n'
        else:
            text = translated(module.read_text(encoding="utf-8"))
        (target / module.name).write_text(text, encoding="utf-8")
    configuration = ("--config", str(PACKAGE.parents[2] / "pyproject.toml"))
    for command in (("check", "--select", "I", "--fix"), ("format",)):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", *configuration, str(target)], check=True)


def stale() -> list[str]:
    """Names of the modules in the repository that are not as they would be generated."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / TARGET.name
        generate(fresh)
        names = {path.name for place in (fresh, TARGET) for path in place.glob("*.py")}
        return sorted(name for name in names if _content(fresh / name) != _content(TARGET / name))


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    generate()
