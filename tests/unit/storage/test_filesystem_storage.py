"""The plan's test cases for file system storage (TASK-002), by their names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.identifiers import is_id, new_id
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.folders import tree
from tests.support.secret_changes import put_secret


async def test_create_creates_project_with_valid_id_and_timestamps(storage: FileSystemStorage, root: Path) -> None:
    before = timestamps.now()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    assert is_id(project.id)
    assert before <= project.created_at == project.updated_at <= timestamps.now()
    stored = json.loads((root / project.id / "metadata.json").read_bytes())
    assert stored["id"] == project.id
    assert stored["createdAt"] == stored["updatedAt"] == timestamps.to_text(project.created_at)


async def test_create_creates_directory_structure(root: Path) -> None:
    assert not root.parent.exists()
    storage = FileSystemStorage(root)
    await storage.start()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    home = root / project.id
    assert {path.name for path in home.iterdir()} == {"metadata.json", ".secrets", "executions"}
    assert (home / ".secrets").is_dir()
    assert (home / "executions").is_dir()
    await storage.stop()


async def test_create_writes_valid_json(storage: FileSystemStorage, root: Path) -> None:
    draft, credential = builders.project_draft(), builders.credential()
    project = await storage.projects.create(draft, credential)
    created_at = timestamps.to_text(project.created_at)
    (key,) = await storage.projects.read_keys(project.id)
    assert json.loads((root / project.id / "metadata.json").read_text("utf-8")) == {
        "schemaVersion": 2,
        "id": project.id,
        "name": "Reviews",
        "description": "Reviews pull requests",
        "agent": {
            "id": draft.agent.id,
            "name": "Reviewer",
            "systemPrompt": draft.agent.system_prompt,
            "model": "claude-sonnet-4-5",
            "temperature": 0.0,
            "maxTokens": 2048,
            "enabledTools": ["Read", "Bash"],
        },
        "limits": {"maxTokens": 5000, "maxCost": 0.25, "timeout": 60000},
        "createdAt": created_at,
        "updatedAt": created_at,
        "revision": 1,
        "apiKeyHash": credential.hash,
        "apiKeys": [
            {
                "id": key.id,
                "name": "default",
                "digest": credential.digest,
                "hash": credential.hash,
                "createdAt": created_at,
            }
        ],
    }


async def test_create_leaves_out_a_missing_description(storage: FileSystemStorage, root: Path) -> None:
    project = await storage.projects.create(builders.project_draft(description=None), builders.credential())
    assert "description" not in json.loads((root / project.id / "metadata.json").read_bytes())


@pytest.mark.parametrize("digest", ["", "../../etc", "AB" * 32, "ab" * 31])
async def test_create_refuses_a_digest_that_is_none(storage: FileSystemStorage, root: Path, digest: str) -> None:
    before = tree(root)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        await storage.projects.create(builders.project_draft(), builders.credential(digest=digest))
    assert tree(root) == before


async def test_read_returns_null_for_non_existent_project(storage: FileSystemStorage, root: Path) -> None:
    before = tree(root)
    assert await storage.projects.read(new_id()) is None
    assert tree(root) == before


async def test_read_returns_null_when_only_the_directory_is_there(storage: FileSystemStorage, root: Path) -> None:
    project_id = new_id()
    (root / project_id).mkdir()
    assert await storage.projects.read(project_id) is None


async def test_read_returns_project_for_valid_id(storage: FileSystemStorage, project: Project) -> None:
    assert await storage.projects.read(project.id) == project


async def test_update_updates_only_specified_fields(storage: FileSystemStorage, project: Project, root: Path) -> None:
    path = root / project.id / "metadata.json"
    before = json.loads(path.read_bytes())
    updated = await storage.projects.update(project.id, ProjectChanges(name="New name"))
    assert updated == replace(project, name="New name", revision=2, updated_at=updated.updated_at)
    after = json.loads(path.read_bytes())
    assert after == {**before, "name": "New name", "revision": 2, "updatedAt": timestamps.to_text(updated.updated_at)}


async def test_delete_removes_project_directory(storage: FileSystemStorage, root: Path) -> None:
    before = tree(root)
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    execution = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    await storage.executions.append(builders.texts(execution.id, 3))
    await storage.projects.delete(project.id)
    assert not (root / project.id).exists()
    left = {name for name, content in tree(root).items() if content != b"(directory)"}
    assert left == {name for name, content in before.items() if content != b"(directory)"}


async def test_list_returns_all_projects(storage: FileSystemStorage) -> None:
    projects = [
        await storage.projects.create(builders.project_draft(name=name), builders.credential()) for name in "abc"
    ]
    assert {project.name for project in (await storage.projects.list(10)).items} == {"a", "b", "c"}
    assert set((await storage.projects.list(10)).items) == set(projects)


async def test_exists_returns_true_or_false_correctly(storage: FileSystemStorage, project: Project) -> None:
    assert await storage.projects.exists(project.id) is True
    assert await storage.projects.exists(new_id()) is False
    await storage.projects.delete(project.id)
    assert await storage.projects.exists(project.id) is False
