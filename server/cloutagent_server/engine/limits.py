"""Watches what an agent's process and all that it starts take of the machine, and ends a run that takes too much."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from cloutagent_server.engine.process import RUN_MARKER, handle_of

_MIB: Final = 1024 * 1024
_LOOK_SECONDS: Final = 0.25
_DISK_SHARE: Final = 20
_LEAST_DISK_PAUSE: Final = 1.0
_LEAST_ENTRY_BYTES: Final = 512
_MAX_DEPTH: Final = 100
_AS_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """What one run may take of the machine: its agent's process with all that descends from it, and its directory.

    Attributes:
        memory_bytes: Resident memory, summed over the processes; what they share counts for each.
        cpu_seconds: Processor time of all processes, also of those that have ended.
        processes: Processes and threads at a time.
        disk_bytes: All that lies in the run's directory together, and the longest file. Directories nested more than a
            hundred deep are too much in any case.
    """

    memory_bytes: int = 2048 * _MIB
    cpu_seconds: int = 3600
    processes: int = 512
    disk_bytes: int = 1024 * _MIB


DEFAULT_LIMITS: Final = AgentLimits()


class LimitWatch:
    """Looks at the run in `directory` a few times a second. Disk is looked at less often the longer that takes."""

    def __init__(self, directory: Path, limits: AgentLimits) -> None:
        self._directory = directory
        self._limits = limits
        self._root: psutil.Process | None = None
        self.handle: int | None = None
        """Stands for the run's first process once it was seen, until `close`; see `process.handle_of`."""
        self._next_disk = 0.0
        self._cpu = 0.0
        self._cpu_before = 0.0

    @property
    def lives(self) -> bool:
        """Whether the process that was seen still runs; true if none was seen yet."""
        try:
            return self._root is None or (self._root.is_running() and self._root.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False
        except OSError:
            # There is no descriptor to look with.
            return True

    def close(self) -> None:
        """Release what stands for the run's first process."""
        handle, self.handle = self.handle, None
        if handle is not None:
            os.close(handle)

    def begin(self) -> None:
        """What was used of the processors up to the latest look is not the run's."""
        self._cpu_before = self._cpu

    async def passed(self) -> str:
        """Return when the run has passed a limit: which one, for the run's failure."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if reason := await asyncio.to_thread(self.look):
                return reason

    def look(self) -> str | None:
        """The limit that the run passes now, if any. What cannot be looked at is looked at next time. This blocks."""
        limits, tree = self._limits, self._tree()
        memory = cpu = threads = 0.0
        for process in tree:
            with suppress(psutil.Error, OSError), process.oneshot():
                memory += process.memory_info().rss
                times = process.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
                threads += process.num_threads()
        self._cpu = cpu
        if memory > limits.memory_bytes:
            return f"the agent used more memory than AGENT_MEMORY_LIMIT ({limits.memory_bytes // _MIB} MiB)"
        if cpu - self._cpu_before > limits.cpu_seconds:
            return f"the agent used more processor time than AGENT_CPU_LIMIT ({limits.cpu_seconds} s)"
        if threads > limits.processes:
            return f"the agent started more processes than AGENT_PROCESS_LIMIT ({limits.processes})"
        if self._disk_is_passed():
            return f"the agent wrote more than AGENT_DISK_LIMIT ({limits.disk_bytes // _MIB} MiB)"
        return None

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.Error, OSError):
            if self._root is None:
                self._root = next(filter(self._is_ours, psutil.Process().children()), None)
                self.handle = None if self._root is None else handle_of(self._root.pid)
            if self._root is not None:
                return [self._root, *self._root.children(recursive=True)]
        return []

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return process.environ().get(RUN_MARKER) == str(self._directory)
        return False

    def _disk_is_passed(self) -> bool:
        start = time.monotonic()
        if start < self._next_disk:
            return False
        passed = _size(self._directory, self._limits.disk_bytes) > self._limits.disk_bytes
        took = time.monotonic() - start
        self._next_disk = start + took + max(_LEAST_DISK_PAUSE, took * _DISK_SHARE)
        return passed


def _size(directory: Path, enough: int) -> int:
    """Bytes that all in `directory` takes on disk; counting ends when there is more than `enough`.

    What is nested deeper than any honest tree counts as more than enough: it could not be measured cheaply.
    """
    try:
        descriptor = os.open(directory, _AS_DIRECTORY)
    except OSError:
        return 0
    return _size_below(descriptor, _MAX_DEPTH, enough)


def _size_below(descriptor: int, depth: int, enough: int) -> int:
    """As `_size`, for an open directory, which is closed."""
    total, directories = 0, []
    try:
        with suppress(OSError), os.scandir(descriptor) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += max(entry.stat(follow_symlinks=False).st_blocks * 512, _LEAST_ENTRY_BYTES)
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.name)
                if total > enough:
                    return total
        if directories and not depth:
            return enough + 1
        for name in directories:
            with suppress(OSError):
                total += _size_below(os.open(name, _AS_DIRECTORY, dir_fd=descriptor), depth - 1, enough - total)
            if total > enough:
                break
        return total
    finally:
        os.close(descriptor)
