"""Agent processes: how they are started, and how no one of them stays behind."""

from __future__ import annotations

import errno
import importlib.util
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from cloutagent_server.engine import launch
from cloutagent_server.engine.isolation import enter

RUN_MARKER: Final = enter.RUN_MARKER
"""Variable in the environment of an agent process, and of all that it starts if it is not isolated: the absolute path
of the run's folder. The processes of a sandbox end with the marked one that holds it."""

LAUNCHER_NAME: Final = "agent"
_COPY_BYTES: Final = 1024 * 1024
_LINKINGS: Final = 3
_POLL_SECONDS: Final = 0.02
_KILL_SECONDS: Final = 3.0
# Changes when the machine starts again.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id").read_text().strip() if sys.platform == "linux" else ""
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


def bundled_cli() -> Path:
    """Path of the command line that comes with claude-agent-sdk.

    Raises:
        FileNotFoundError: The SDK is not installed, or was installed without it.
    """
    package = importlib.util.find_spec("claude_agent_sdk")
    for location in (package.submodule_search_locations or ()) if package else ():
        cli = Path(location) / "_bundled" / "claude"
        if cli.is_file():
            return cli
    raise FileNotFoundError("claude-agent-sdk is installed without its command line")


def install_launcher(directory: Path, *command: str | Path) -> Path:
    """Write an executable into `directory` that runs `command` by way of `launch`, and return its path.

    It takes more arguments of the command. An executable of an earlier start is replaced. `directory` must exist.
    """
    path = directory / LAUNCHER_NAME
    line = shlex.join([sys.executable, "-I", "-S", str(Path(launch.__file__).resolve()), *map(str, command)])
    fresh = directory / f".{LAUNCHER_NAME}.{os.getpid()}"
    fresh.write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="utf-8")
    fresh.chmod(0o700)
    fresh.replace(path)
    return path


def unreadable_copy(program: Path, path: Path) -> Path:
    """Copy `program` to `path` so that its user may run it and not read it; an earlier one is replaced.

    The kernel lets no unprivileged process, of the same user or not, look into a process that runs such a program, nor
    trace it or reach what it has open. The copy stays beside the directory of `path`, for the next that is asked for.

    Raises:
        OSError: It cannot be copied.
    """
    path.unlink(missing_ok=True)
    for _ in range(_LINKINGS - 1):
        # A server with another version of the program that starts meanwhile may remove the copy.
        with suppress(FileNotFoundError):
            path.hardlink_to(_kept_copy(program, path.parent.parent))
            return path
    path.hardlink_to(_kept_copy(program, path.parent.parent))
    return path


def _kept_copy(program: Path, directory: Path) -> Path:
    """The copy of this version of `program` in `directory`. Those of others go; whoever runs one has a link to it.

    It is not synced, so it is good for as long as the machine runs.
    """
    status = program.stat()
    start, unfinished = f".{program.name}-", f".copying-{program.name}-"
    kept = directory / f"{start}{status.st_size}-{status.st_mtime_ns}-{_BOOT_ID}"
    for other in directory.glob(f"{start}*"):
        if other != kept:
            other.unlink(missing_ok=True)
    for other in directory.glob(f"{unfinished}*"):
        if not psutil.pid_exists(int(other.name.removeprefix(unfinished))):
            other.unlink(missing_ok=True)
    if kept.exists():
        return kept
    fresh = directory / f"{unfinished}{os.getpid()}"
    fresh.unlink(missing_ok=True)
    try:
        with program.open("rb") as source, fresh.open("xb") as copy:
            with suppress(OSError, AttributeError):
                while os.copy_file_range(source.fileno(), copy.fileno(), status.st_size):
                    pass
            # What the file system or the platform could not do.
            shutil.copyfileobj(source, copy, _COPY_BYTES)
            fresh.chmod(0o111)
        return fresh.replace(kept)
    except BaseException:
        # A disk that it filled is not left full.
        fresh.unlink(missing_ok=True)
        raise


def handle_of(pid: int) -> int | None:
    """A descriptor that stands for a process of this machine, for `kill_run`; None where there is none to be had."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def kill_run(directory: Path, grace: float = 0.0, handle: int | None = None) -> int:
    """End all processes of the run in `directory`, and return their number.

    These are all whose environment has the run's marker, whoever is their parent, and all that descend from them. They
    get SIGTERM, and SIGKILL if they are there after `grace` seconds. This returns when they are gone, at most
    `grace` + 3 seconds later; a dead process that its parent has not collected counts as gone. It blocks: an event
    loop calls it in a thread.

    To look for processes takes descriptors. While there are none, the process of `handle` gets the signals, which
    takes none; a sandbox ends with it.

    Raises:
        OSError: There were no descriptors all the time, so nobody knows what is left.
    """
    mark = str(directory)
    return _end(lambda: _marked(lambda value: value == mark), grace, handle)


def reap_orphans(root: Path, grace: float = 2.0) -> int:
    """End all processes of all runs in the workspace root `root`, and return their number.

    This is for the start of a server, before its first run, when it holds its data folder: what is there then was left
    by a dead one. Processes of other users are left alone unless this one is privileged. Waits and blocks like
    `kill_run`.
    """
    prefix = f"{root.resolve()}{os.sep}"
    return _end(lambda: _marked(lambda value: value.startswith(prefix)), grace)


def _marked(matches: Callable[[str], bool]) -> list[psutil.Process]:
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid not in spared:
            try:
                if matches(process.environ().get(RUN_MARKER, "")):
                    found.append(process)
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    # It may be one of those that are looked for.
                    raise
            except psutil.Error:
                pass
    return found


def _end(find: Callable[[], Iterable[psutil.Process]], grace: float, handle: int | None = None) -> int:
    """End what `find` finds, and all that descends from it; `find` is asked again until nothing is left."""
    known: set[psutil.Process] = set()
    asked: set[psutil.Process] = set()
    start = time.monotonic()
    while True:
        elapsed = time.monotonic() - start
        try:
            alive = _with_descendants({*find(), *known})
        except OSError:
            if elapsed > grace + _KILL_SECONDS:
                raise
            _signal(handle, signal.SIGKILL if elapsed >= grace else signal.SIGTERM)
            time.sleep(_POLL_SECONDS)
            continue
        if not alive:
            break
        known |= alive
        if elapsed > grace + _KILL_SECONDS:
            break
        for process in alive if elapsed >= grace else alive - asked:
            with suppress(psutil.Error):
                if elapsed >= grace:
                    process.kill()
                else:
                    process.terminate()
        asked |= alive
        time.sleep(_POLL_SECONDS)
    return len(known)


def _signal(handle: int | None, number: signal.Signals) -> None:
    if handle is not None and sys.platform == "linux":
        with suppress(OSError):
            signal.pidfd_send_signal(handle, number)


def _with_descendants(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    alive = set()
    for process in processes:
        if _lives(process):
            alive.add(process)
            with suppress(psutil.Error):
                alive.update(child for child in process.children(recursive=True) if _lives(child))
    return alive


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
