"""The directory and the environment of one run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.engine.launch import KEEP, PARENT
from cloutagent_server.engine.process import RUN_MARKER

MODEL_CALL_RETRIES: Final = 2
_SYSTEM_PROMPT_NAME: Final = "system-prompt"
_MCP_CONFIG_NAME: Final = "mcp.json"
_PARTS: Final = ("home", "config", "tmp", "work")

_FIXED: Final[Mapping[str, str]] = {
    "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
    "CLAUDE_CODE_SDK_READS_SESSION_STATE": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_NO_MODEL_FALLBACK": "1",
    "CLAUDE_CODE_MAX_RETRIES": str(MODEL_CALL_RETRIES),
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
}
"""What the agent's command line is told in every run: it talks to the gateway alone, never changes the model or repeats
a call in another form by itself, and gives up a call after a few repetitions."""

_SET_BY_SDK: Final = ("CLAUDE_AGENT_SDK_VERSION", "PWD")


@dataclass(frozen=True, slots=True)
class Workspace:
    """A run's own directory. Only this user may enter it; everything that the agent writes by itself goes there.

    `inside` says where an isolated agent sees its parts; without it the agent sees them where they are.
    """

    path: Path
    inside: Mapping[str, str] | None = None

    @classmethod
    def create(cls, root: Path, execution_id: str, inside: Mapping[str, str] | None = None) -> Self:
        """Make the directory of this execution in `root`, which is made too if need be.

        Raises:
            ValueError: `execution_id` is not an identifier.
            OSError: The directory exists, or cannot be made.
        """
        if not is_id(execution_id):
            raise ValueError(f"{execution_id!r} is not an identifier")
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        workspace = cls(root.resolve() / execution_id, inside)
        workspace.path.mkdir(mode=0o700)
        for part in _PARTS:
            (workspace.path / part).mkdir(mode=0o700)
        return workspace

    @property
    def work(self) -> Path:
        """The agent's working directory, empty at first."""
        return self.path / "work"

    @property
    def system_prompt(self) -> Path:
        """The file of the system prompt."""
        return self.path / _SYSTEM_PROMPT_NAME

    @property
    def mcp_config(self) -> Path:
        """The file of the MCP servers, if there are any."""
        return self.path / _MCP_CONFIG_NAME

    def write_system_prompt(self, text: str) -> Path:
        """Write the system prompt, once, to a file that only this user may read; return its path."""
        return _written(self.system_prompt, text)

    def write_mcp_config(self, text: str) -> Path:
        """Write the configuration of the MCP servers, as `write_system_prompt` does."""
        return _written(self.mcp_config, text)

    def environment(self, base_url: str, token: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """All variables for the agent's command line, for the launcher to keep; nothing else reaches it.

        Args:
            base_url: Where the agent calls the model.
            token: The run's own credential for that address.
            extra: More variables; they override the others.
        """
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": self._seen("home"),
            "TMPDIR": self._seen("tmp"),
            "CLAUDE_CONFIG_DIR": self._seen("config"),
            "ANTHROPIC_BASE_URL": base_url,
            "ANTHROPIC_API_KEY": token,
            RUN_MARKER: str(self.path),
            **_FIXED,
            **(extra or {}),
        }
        return {**environment, KEEP: ",".join((*environment, *_SET_BY_SDK)), PARENT: str(os.getpid())}

    def _seen(self, part: str) -> str:
        return self.inside[part] if self.inside else str(self.path / part)

    def remove(self) -> None:
        """Remove the directory with all that is in it; nothing happens if it is gone.

        Raises:
            OSError: Something in it cannot be removed, or a process still writes there.
        """
        _remove(self.path)


def _written(path: Path, text: str) -> Path:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(text.encode())
    return path


def sweep(root: Path) -> int:
    """Remove all run directories in `root` and return their number; for the start of a server, before its first run.

    Call `process.reap_orphans` first: what a left-over process still writes to cannot be removed.

    Raises:
        OSError: Something cannot be removed.
    """
    left = [entry for entry in root.iterdir() if is_id(entry.name)] if root.is_dir() else []
    for path in left:
        _remove(path)
    return len(left)


def remove_root(root: Path) -> None:
    """Remove a dead server's root of run directories with all that is in it. Call `process.reap_orphans` first.

    Raises:
        OSError: Something cannot be removed.
    """
    _remove(root)


def _remove(path: Path) -> None:
    """Remove a tree that an agent may have made: however deep it is, it takes few descriptors and no stack here."""
    remove = ["rm", "-rf", "--", str(path)]
    for command in (remove, ["chmod", "-R", "u+rwx", "--", str(path)], remove):
        if not os.path.lexists(path):
            return
        subprocess.run(command, env={"PATH": os.defpath}, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if os.path.lexists(path):
        raise OSError(f"{path} cannot be removed")
