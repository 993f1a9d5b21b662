"""API keys on disk: older records, the contract's field, leftovers, and other processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.folders import tree
from tests.support.key_owner import owner_of
from tests.unit.storage.conftest import OpenStorage

_ID = "3f1d2c4b-5a69-4788-9b0c-1d2e3f405162"
VERSION_1 = {
    "schemaVersion": 1,
    "id": _ID,
    "name": "Reviews",
    "agent": {
        "id": "0f0e0d0c-0b0a-4908-8706-050403020100",
        "name": "Reviewer",
        "systemPrompt": "You review code.",
        "model": "claude-sonnet-4-5",
        "temperature": 0.7,
        "maxTokens": 4096,
        "enabledTools": [],
    },
    "limits": {"maxTokens": 5000, "maxCost": 0.25, "timeout": 60000},
    "createdAt": "2026-01-31T12:00:00.000Z",
    "updatedAt": "2026-01-31T12:00:00.000Z",
    "revision": 3,
    "apiKeyHash": "$2b$10$" + "a" * 53,
    "apiKeyDigest": "cd" * 32,
}


async def test_a_record_of_version_1_has_one_key_and_is_upgraded_by_the_next_write(
    open_storage: OpenStorage, root: Path
) -> None:
    (root / _ID).mkdir(parents=True)
    path = root / _ID / "metadata.json"
    path.write_text(json.dumps(VERSION_1))
    storage = await open_storage()
    (key,) = await storage.projects.read_keys(_ID)
    assert (key.name, key.credential.digest, key.expires_at) == ("default", "cd" * 32, None)
    assert timestamps.to_text(key.created_at) == VERSION_1["createdAt"]
    assert await owner_of(storage, key.credential) == _ID
    assert "cd" * 4 not in key.id
    assert json.loads(path.read_bytes()) == VERSION_1
    await storage.projects.update(_ID, ProjectChanges(name="new"))
    stored = json.loads(path.read_bytes())
    assert stored["schemaVersion"] == 2
    assert stored["apiKeyHash"] == VERSION_1["apiKeyHash"]
    assert "apiKeyDigest" not in stored
    assert await storage.projects.read_keys(_ID) == (key,)


async def test_the_contracts_hash_is_that_of_the_first_key(
    storage: FileSystemStorage, project: Project, root: Path
) -> None:
    path = root / project.id / "metadata.json"
    key = builders.api_key()
    await storage.projects.change_keys(project.id, lambda keys: (key, *keys))
    assert json.loads(path.read_bytes())["apiKeyHash"] == key.credential.hash
    await storage.projects.change_keys(project.id, lambda _: ())
    stored = json.loads(path.read_bytes())
    assert "apiKeyHash" not in stored and stored["apiKeys"] == []


async def test_a_change_leaves_nothing_but_the_record_and_the_entries_of_its_keys(
    storage: FileSystemStorage, project: Project, root: Path
) -> None:
    before = {name for name, content in tree(root).items() if content != b"(directory)"}
    (old,) = await storage.projects.read_keys(project.id)
    new = builders.api_key()
    await storage.projects.change_keys(project.id, lambda _: (new,))
    after = {name for name, content in tree(root).items() if content != b"(directory)"}
    assert {Path(name).name for name in before - after} == {old.credential.digest}
    assert {Path(name).name for name in after - before} == {new.credential.digest}


async def test_uses_leave_the_record_alone(storage: FileSystemStorage, project: Project, root: Path) -> None:
    path = root / project.id / "metadata.json"
    before = path.stat()
    (key,) = await storage.projects.read_keys(project.id)
    await storage.projects.note_key_uses(project.id, {key.id: builders.at(0)})
    uses = root / project.id / ".keys" / "last-used.json"
    noted = uses.stat()
    await storage.projects.note_key_uses(project.id, {key.id: builders.at(0)})
    assert path.stat().st_ino == before.st_ino
    assert uses.stat().st_ino == noted.st_ino


async def test_a_digest_that_is_none_is_refused(storage: FileSystemStorage, project: Project, root: Path) -> None:
    before = tree(root)
    key = builders.api_key(credential=builders.credential(digest="../../etc"))
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        await storage.projects.change_keys(project.id, lambda keys: (*keys, key))
    assert tree(root) == before


async def test_another_process_sees_a_change_at_once(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project
) -> None:
    other = await open_storage()
    (old,) = await storage.projects.read_keys(project.id)
    assert await owner_of(other, old.credential) == project.id
    new = builders.api_key()
    await storage.projects.change_keys(project.id, lambda _: (new,))
    assert await owner_of(other, old.credential) is None
    assert await owner_of(other, new.credential) == project.id


async def test_a_missing_index_leads_to_all_keys_again(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, root: Path
) -> None:
    keys = await storage.projects.change_keys(project.id, lambda keys: (*keys, builders.api_key()))
    (root / ".index" / "version.json").unlink()
    other = await open_storage()
    assert [await owner_of(other, key.credential) for key in keys] == [project.id] * 2


async def test_a_note_about_a_project_that_is_gone_is_removed(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, root: Path
) -> None:
    digest = "ab" * 32
    note = root / ".index" / "key-changes" / project.id
    note.write_text(json.dumps({"schemaVersion": 1, "digests": [digest]}))
    entry = root / ".index" / "keys" / "ab" / digest
    entry.parent.mkdir(exist_ok=True)
    entry.write_text(json.dumps({"schemaVersion": 1, "projectId": project.id}))
    note.with_name(f".tmp-{project.id}").write_text("{")
    await storage.projects.delete(project.id)
    await open_storage()
    assert not entry.exists()
    assert list(note.parent.iterdir()) == []


async def test_a_noted_change_whose_record_stands_is_completed(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, root: Path
) -> None:
    """Power may fail after the record was replaced and before an entry of the index was on the medium."""
    (key,) = await storage.projects.read_keys(project.id)
    digest = key.credential.digest
    note = root / ".index" / "key-changes" / project.id
    note.write_text(json.dumps({"schemaVersion": 1, "digests": [digest]}))
    (root / ".index" / "keys" / digest[:2] / digest).unlink()
    other = await open_storage()
    assert await owner_of(other, key.credential) == project.id
    assert not note.exists()
