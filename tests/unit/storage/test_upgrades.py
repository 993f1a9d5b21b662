"""Folders that earlier versions wrote are read, and what a newer version wrote is refused, naming both versions.

`tests/fixtures/schema-N` was written by the store when N was the newest version of every file; it is never changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Status
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.service.auth import Authenticator
from cloutagent_server.service.cipher import Cipher
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.doctor import Folder, examine
from tests.support import builders

FIXTURES = Path(__file__).parents[2] / "fixtures"
PROJECT = "0a000000-0000-4000-8000-000000000001"
ENDED = "0a000000-0000-4000-8000-0000000000e1"
QUEUED = "0a000000-0000-4000-8000-0000000000e2"
API_KEY = "cla_0a000000-0000-4000-8000-00000000000f"
VERSIONS: Sequence[int] = (1,)
NEWEST = {"metadata.json": 2, "version.json": 2, "events.jsonl": 3}


@pytest.fixture(params=VERSIONS)
def old_root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the folder that a server of this version left."""
    root = tmp_path / "projects"
    shutil.copytree(FIXTURES / f"schema-{request.param}", root)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return root


async def test_everything_is_read(old_root: Path) -> None:
    storage = FileSystemStorage(old_root)
    await storage.start()
    [project] = (await storage.projects.list(10)).items
    assert (project.id, project.name, project.created_at) == (PROJECT, "Reviews", builders.at(0))
    assert project.limits == builders.limits()
    authenticator = Authenticator(storage.projects)
    assert await authenticator.validate_api_key(API_KEY) == project
    authenticator.close()
    secrets = SecretManager(storage.secrets, Keyring("ab" * 32))
    await secrets.check_key()
    assert await secrets.get_secret(PROJECT, "TOKEN") == "the plain value"
    ended = await storage.executions.read(ENDED)
    assert ended is not None
    assert (ended.status, ended.result, ended.last_sequence) == (Status.COMPLETED, "All good.", 11)
    assert len(await storage.executions.read_events(ENDED, 0, 100)) == 11
    assert [one.id for one in await storage.executions.list_unfinished()] == [QUEUED]
    assert [one.id for one in (await storage.executions.list(PROJECT, 10)).items] == [QUEUED, ENDED]
    await storage.stop()


async def test_it_can_be_written_on(old_root: Path) -> None:
    storage = FileSystemStorage(old_root)
    await storage.start()
    execution = await storage.executions.append([builders.event(QUEUED, 2, builders.started())])
    assert execution.status is Status.RUNNING
    secrets = SecretManager(storage.secrets, Keyring("ab" * 32))
    await secrets.set_secret(PROJECT, "MORE", "another value")
    assert await secrets.list_secrets(PROJECT) == ["MORE", "TOKEN"]
    assert await secrets.get_secret(PROJECT, "TOKEN") == "the plain value"
    await storage.stop()


async def test_it_can_be_read_without_what_is_derived(old_root: Path) -> None:
    shutil.rmtree(old_root / ".index")
    for path in old_root.rglob("state.json"):
        path.unlink()
    await test_everything_is_read(old_root)


async def test_the_doctor_finds_nothing_to_complain_of(old_root: Path) -> None:
    storage = FileSystemStorage(old_root)
    await storage.start()
    await storage.stop()
    cipher = Cipher("ab" * 32)
    assert examine(Folder(old_root, lambda sealed: None if cipher.open(sealed) else "empty")) == []


async def test_an_old_log_can_be_trimmed_and_keeps_its_digest(old_root: Path) -> None:
    storage = FileSystemStorage(old_root)
    await storage.start()
    events = await storage.executions.read_events(ENDED, 0, 100)
    data = b"".join(event.data + b"\n" for event in events)
    before = await storage.executions.read(ENDED)
    assert await storage.executions.trim(ENDED)
    assert await storage.executions.trimmed_digest(ENDED) == LogDigest(
        hashlib.sha256(data).hexdigest(), 1, len(events), len(data)
    )
    assert await storage.executions.read(ENDED) == before
    assert list(await storage.executions.read_events(ENDED, len(events) - 1, 100)) == list(events[-1:])
    await storage.stop()
    first = (old_root / PROJECT / "executions" / ENDED / "events.jsonl").read_bytes().splitlines()[0]
    assert json.loads(first)["schemaVersion"] == NEWEST["events.jsonl"]


NEWER = 99
STAMPED = [
    ".key-check.json",
    ".index/version.json",
    f".index/executions/0a/{ENDED}",
    f"{PROJECT}/metadata.json",
    f"{PROJECT}/executions/{ENDED}/events.jsonl",
]


async def read_one_of_each(storage: FileSystemStorage) -> None:
    await storage.secrets.read_key_check()
    await storage.projects.read(PROJECT)
    await storage.executions.read(ENDED)
    await storage.start()


@pytest.mark.parametrize("name", STAMPED)
async def test_a_newer_version_is_refused_and_both_are_named(old_root: Path, name: str) -> None:
    path = old_root / name
    first, end, rest = path.read_bytes().partition(b"\n" if name.endswith(".jsonl") else b"\x00")
    written = json.dumps(json.loads(first) | {"schemaVersion": NEWER}).encode() + end + rest
    path.write_bytes(written)
    storage = FileSystemStorage(old_root)
    with pytest.raises(StoredDataDamaged) as caught:
        await read_one_of_each(storage)
    newest = NEWEST.get(path.name, 1)
    assert caught.value.location == str(path)
    assert caught.value.fault.endswith(
        f"schemaVersion {NEWER} is newer than {newest}, the newest that this server reads"
    )
    assert path.read_bytes() == written
    await storage.stop()
