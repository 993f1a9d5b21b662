"""Stores of a given size, filled by the store's own code, without waiting for the medium."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar
from unittest import mock

import bcrypt

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.project import AgentConfig, KeyCredential, ProjectDraft
from cloutagent_server.service.auth import BCRYPT_COST, digest_of
from cloutagent_server.storage.filesystem import FileSystemStorage, files, projects

T = TypeVar("T")

# How long after another a project is created, in the time that the projects carry: so 100,000 come within 28 hours.
APART: Final = timedelta(seconds=1)
SAMPLE: Final = 1_000

_BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Known:
    """A project of a store, and its API key."""

    project_id: str
    api_key: str


@dataclass(frozen=True, slots=True)
class Store:
    """A folder full of projects.

    Attributes:
        root: The folder.
        sample: Some of the projects, from the first to the last in even steps.
        storage: A storage that was started on it.
    """

    root: Path
    sample: Sequence[Known]
    storage: FileSystemStorage


Stores = Mapping[int, Store]


@asynccontextmanager
async def filled(sizes: Sequence[int]) -> AsyncIterator[Stores]:
    """Stores with so many projects each, in a temporary folder that goes at the end."""
    shared_hash = bcrypt.hashpw(b"shared", bcrypt.gensalt(BCRYPT_COST)).decode()
    with TemporaryDirectory(prefix="benchmarks-") as folder:
        stores = {}
        for size in sizes:
            root = Path(folder) / str(size)
            storage = FileSystemStorage(root)
            await storage.start()
            stores[size] = Store(root, await _fill(storage, size, shared_hash), storage)
        try:
            yield stores
        finally:
            for store in stores.values():
                await store.storage.stop()


def new_project(shared_hash: str, generator: random.Random) -> tuple[ProjectDraft, KeyCredential, str]:
    """A project to be created, with its key. The key's hash is everybody's: it is never compared with."""
    api_key = f"cla_{uuid.UUID(int=generator.getrandbits(128), version=4)}"
    agent = AgentConfig(
        str(uuid.UUID(int=generator.getrandbits(128), version=4)), "Helper", "You help.", "claude-haiku-4-5"
    )
    return ProjectDraft("Benchmark", agent), KeyCredential(digest_of(api_key), shared_hash), api_key


@contextmanager
def _in_haste() -> Iterator[None]:
    """Let the store wait neither for the medium nor for a thread: what is filled in need not outlive the machine."""
    with (
        mock.patch.object(files, "sync_directory", _nothing),
        mock.patch.object(os, "fsync", _nothing),
        mock.patch.object(projects, "off_loop", _on_loop),
    ):
        yield


def _nothing(_: object) -> None:
    """Wait for no medium."""


async def _on_loop(work: Callable[[], T], *, waits: bool = False) -> T:
    return work()


async def _fill(storage: FileSystemStorage, size: int, shared_hash: str) -> Sequence[Known]:
    generator = random.Random(size)
    step = max(1, size // SAMPLE)
    sample = []
    times = iter(_BEGIN + number * APART for number in range(size))
    with _in_haste(), mock.patch.object(timestamps, "now", times.__next__):
        for number in range(size):
            draft, credential, api_key = new_project(shared_hash, generator)
            project = await storage.projects.create(draft, credential)
            if number % step == 0:
                sample.append(Known(project.id, api_key))
    return sample
