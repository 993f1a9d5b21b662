"""What the files hold and who may read them."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from cloutagent_server.domain import event_json, timestamps
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.log_lines import sealed as line_of
from cloutagent_server.storage.filesystem.log_lines import unsealed
from tests.support import builders
from tests.support.folders import leftovers
from tests.support.secret_changes import KEY_ID, put_secret, remove_secret, secrets_of


async def fill(storage: FileSystemStorage) -> tuple[Project, Execution]:
    """Do everything once that writes a file."""
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    await storage.projects.update(project.id, ProjectChanges(name="New"))
    (key,) = await storage.projects.change_keys(project.id, lambda keys: (replace(keys[0], expires_at=builders.at(0)),))
    await storage.projects.note_key_uses(project.id, {key.id: builders.at(0)})
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    await storage.secrets.put_key_check(builders.sealed_secret())
    execution = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
    await storage.executions.create(builders.execution(project.id))
    return project, execution


async def test_only_the_owner_may_read(root: Path) -> None:
    previous = os.umask(0)
    try:
        storage = FileSystemStorage(root)
        await storage.start()
        await fill(storage)
        await storage.stop()
    finally:
        os.umask(previous)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


async def test_every_file_is_json_with_a_schema_version(storage: FileSystemStorage, root: Path) -> None:
    await fill(storage)
    seen = set()
    for path in root.rglob("*"):
        if path.is_dir() or path.name == "secrets.enc" or path.suffix == ".lock" or path.stat().st_size == 0:
            continue
        first = path.read_bytes().splitlines()[0] if path.suffix == ".jsonl" else path.read_bytes()
        newest = {"metadata.json": 2, "version.json": 2, "events.jsonl": 3}.get(path.name, 1)
        assert json.loads(first)["schemaVersion"] == newest, path
        seen.add(path.name)
    assert {"metadata.json", "events.jsonl", "state.json", "version.json", ".key-check.json"} <= seen
    assert {"last-used.json", "manifest.json"} <= seen


async def test_nothing_temporary_is_left(storage: FileSystemStorage, root: Path) -> None:
    await fill(storage)
    assert leftovers(root) == []


async def test_no_identifier_ever_becomes_another_path(storage: FileSystemStorage, root: Path) -> None:
    names = {path.name for path in root.iterdir()}
    for identifier in ("../escape", "/tmp/escape", "..", ".", "", ".index", "a/b", "\x00", new_id().upper()):
        await storage.projects.read(identifier)
        await storage.projects.delete(identifier)
        await secrets_of(storage, identifier)
        await remove_secret(storage, identifier, "TOKEN")
        await storage.executions.read(identifier)
        await storage.executions.list(identifier, 10)
        await storage.executions.delete(identifier)
    assert {path.name for path in root.iterdir()} == names
    assert [path.name for path in root.parent.iterdir()] == [root.name]


async def test_secrets_are_in_the_contracts_format(storage: FileSystemStorage, project: Project, root: Path) -> None:
    first, second = builders.sealed_secret(), builders.sealed_secret()
    await put_secret(storage, project.id, "FIRST", first)
    await put_secret(storage, project.id, "SECOND", second)
    document = json.loads((root / project.id / ".secrets" / "secrets.enc").read_bytes())
    assert list(document) == ["FIRST", "SECOND"]
    for name, sealed in (("FIRST", first), ("SECOND", second)):
        assert isinstance(document[name], str)
        assert json.loads(document[name]) == {
            "iv": sealed.iv,
            "authTag": sealed.auth_tag,
            "encrypted": sealed.encrypted,
        }


async def test_the_manifest_lies_beside_the_values(storage: FileSystemStorage, project: Project, root: Path) -> None:
    first, second = builders.sealed_secret(), builders.sealed_secret()
    for sealed in (first, second):
        await put_secret(storage, project.id, "TOKEN", sealed)
    document = json.loads((root / project.id / ".secrets" / "manifest.json").read_bytes())
    time = "2026-01-31T12:00:00.000Z"
    assert document == {
        "schemaVersion": 1,
        "projectId": project.id,
        "revision": 2,
        "keyId": KEY_ID,
        "secrets": {
            "TOKEN": {
                "version": 2,
                "createdAt": time,
                "updatedAt": time,
                "keyId": KEY_ID,
                "digest": second.digest,
                "history": [
                    {
                        "version": 1,
                        "createdAt": time,
                        "keyId": KEY_ID,
                        "iv": first.iv,
                        "authTag": first.auth_tag,
                        "encrypted": first.encrypted,
                    }
                ],
            }
        },
        "mac": "ab" * 32,
    }


async def test_secrets_written_by_others_are_read(storage: FileSystemStorage, project: Project, root: Path) -> None:
    text = '{"TOKEN":"{\\"iv\\":\\"00ff\\",\\"authTag\\":\\"AB\\",\\"encrypted\\":\\"\\"}"}'
    (root / project.id / ".secrets" / "secrets.enc").write_text(text)
    secrets = await secrets_of(storage, project.id)
    assert secrets == {"TOKEN": builders.sealed_secret(iv="00ff", auth_tag="AB", encrypted="")}


async def test_the_log_begins_with_what_the_execution_was_created_with(
    storage: FileSystemStorage, project: Project, root: Path
) -> None:
    execution = builders.execution(project.id, idempotency=builders.idempotency(key="k", request_digest="ff"))
    await storage.executions.create(execution)
    lines = (root / project.id / "executions" / execution.id / "events.jsonl").read_bytes().split(b"\n")
    assert lines[1:] == [b""]
    assert json.loads(unsealed(lines[0])) == {
        "schemaVersion": 3,
        "execution": {
            "id": execution.id,
            "projectId": project.id,
            "prompt": execution.prompt,
            "variables": {"topic": "locks"},
            "agent": {
                "id": execution.agent.id,
                "name": "Reviewer",
                "systemPrompt": execution.agent.system_prompt,
                "model": "claude-sonnet-4-5",
                "temperature": 0.0,
                "maxTokens": 2048,
                "enabledTools": ["Read", "Bash"],
            },
            "limits": {"maxTokens": 5000, "maxCost": 0.25, "timeout": 60000},
            "createdAt": timestamps.to_text(execution.created_at),
            "idempotency": {"key": "k", "requestDigest": "ff"},
        },
    }


async def test_event_lines_are_the_json_that_is_sent_with_a_checksum(
    storage: FileSystemStorage, execution: Execution, log_path: Path
) -> None:
    events = builders.events(execution.id, builders.payloads_of_a_run())
    await storage.executions.append(events[:4])
    await storage.executions.append(events[4:])
    lines = log_path.read_bytes().splitlines(keepends=True)[1:]
    assert lines == [line_of(event_json.encode(event).data) for event in events]
    first = json.loads(lines[0])
    assert first.pop("crc32") == f"{crc32(event_json.encode(events[0]).data):08x}"
    assert first == json.loads(event_json.encode(events[0]).data)


async def test_an_append_is_in_the_file_when_it_returns(
    storage: FileSystemStorage, execution: Execution, log_path: Path
) -> None:
    for event in builders.texts(execution.id, 5):
        await storage.executions.append([event])
        assert log_path.read_bytes().endswith(line_of(event_json.encode(event).data))


async def test_the_state_is_written_with_every_change_of_status(
    storage: FileSystemStorage, execution: Execution, log_path: Path
) -> None:
    def state() -> dict[str, object]:
        document = json.loads((log_path.parent / "state.json").read_bytes())
        assert isinstance(document, dict)
        return document

    assert not (log_path.parent / "state.json").exists()
    await storage.executions.append(builders.events(execution.id, [builders.queued(), builders.started()]))
    assert (state()["status"], state()["lastSequence"]) == ("running", 2)
    await storage.executions.append(builders.events(execution.id, [builders.failed()], after=2))
    assert state() == {
        "schemaVersion": 1,
        "executionId": execution.id,
        "logSize": log_path.stat().st_size,
        "lastSequence": 3,
        "status": "failed",
        "usage": event_json.usage_to_json(builders.usage()),
        "failure": {"reason": "limit_exceeded", "message": "the token limit was passed", "exceeded": "tokens"},
        "startedAt": "2026-01-31T12:00:00.002Z",
        "finishedAt": "2026-01-31T12:00:00.003Z",
        "duration": 1200,
    }


async def test_idempotency_keys_are_hashed_in_names(storage: FileSystemStorage, project: Project, root: Path) -> None:
    key = "../../order 7"
    await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency(key=key)))
    (entry,) = (root / ".index" / "idempotency" / project.id).iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}", entry.name)
