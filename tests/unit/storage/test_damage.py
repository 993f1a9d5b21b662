"""Damaged records are reported by name, never overwritten, and never taken for missing or empty."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.secret_changes import put_secret, remove_secret, secrets_of
from tests.unit.storage.conftest import OpenStorage

NOT_DOCUMENTS = [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe{}", b"{}", b'{"schemaVersion":true}', b"[" * 100_000]


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(path.read_bytes())
    change(document)
    return json.dumps(document).encode()


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda document: document.pop("name"),
    lambda document: document.update(name=7),
    lambda document: document.update(description=None),
    lambda document: document.update(unknown="field"),
    lambda document: document.update(id="x"),
    lambda document: document.update(id="0f0e0d0c-0b0a-4908-8706-050403020100"),
    lambda document: document.update(createdAt="yesterday"),
    lambda document: document.update(createdAt="2026-01-31T12:00:00"),
    lambda document: document.update(revision=0),
    lambda document: document.update(revision=1.5),
    lambda document: document.update(agent=[]),
    lambda document: document["agent"].pop("model"),
    lambda document: document["agent"].update(temperature=True),
    lambda document: document["agent"].update(temperature=float("nan")),
    lambda document: document["agent"].update(enabledTools=["Read", 1]),
    lambda document: document["limits"].update(maxTokens=-1),
    lambda document: document["limits"].update(maxCost="1"),
    lambda document: document["limits"].update(more=1),
    lambda document: document.pop("apiKeyHash"),
    lambda document: document.pop("schemaVersion"),
    lambda document: document.update(schemaVersion="1"),
    lambda document: document.update(schemaVersion=0),
    lambda document: document.update(apiKeyHash="another"),
    lambda document: document.update(apiKeys=[]),
    lambda document: document.update(apiKeys={}),
    lambda document: document.update(apiKeys=["x"]),
    lambda document: document["apiKeys"][0].pop("digest"),
    lambda document: document["apiKeys"][0].update(digest="../../etc/passwd"),
    lambda document: document["apiKeys"][0].update(id="x"),
    lambda document: document["apiKeys"][0].update(expiresAt="tomorrow"),
    lambda document: document["apiKeys"][0].update(unknown=1),
    lambda document: document.update(schemaVersion=1),
    lambda document: document.update(schemaVersion=3),
]


async def refused(path: Path, *calls: Awaitable[object]) -> StoredDataDamaged:
    """Every call reports the file as damaged and leaves it as it is."""
    content = path.read_bytes()
    fault: StoredDataDamaged | None = None
    for call in calls:
        with pytest.raises(StoredDataDamaged) as caught:
            await call
        fault = caught.value
        assert fault.location.startswith(str(path))
        assert str(path) not in fault.message
        assert path.read_bytes() == content
    assert fault is not None
    return fault


@pytest.mark.parametrize("content", NOT_DOCUMENTS, ids=range(len(NOT_DOCUMENTS)))
async def test_metadata_that_is_no_document(
    storage: FileSystemStorage, project: Project, root: Path, content: bytes
) -> None:
    path = root / project.id / "metadata.json"
    path.write_bytes(content)
    await refused(
        path,
        storage.projects.read(project.id),
        storage.projects.update(project.id, ProjectChanges(name="new")),
    )
    assert await storage.projects.exists(project.id)


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
async def test_metadata_that_does_not_fit_the_schema(
    storage: FileSystemStorage, project: Project, root: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    path = root / project.id / "metadata.json"
    path.write_bytes(changed(path, change))
    await refused(path, storage.projects.read(project.id))


async def test_a_newer_schema_is_refused_by_name(storage: FileSystemStorage, project: Project, root: Path) -> None:
    path = root / project.id / "metadata.json"
    path.write_bytes(changed(path, lambda document: document.update(schemaVersion=3, name=["a", "new", "form"])))
    fault = await refused(path, storage.projects.read(project.id))
    assert fault.fault == "schemaVersion 3 is newer than 2, the newest that this server reads"


async def test_a_key_of_a_damaged_project_is_not_taken_for_unknown(storage: FileSystemStorage, root: Path) -> None:
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    path = root / project.id / "metadata.json"
    path.write_bytes(b"{")
    await refused(path, storage.projects.find_key(credential.digest))


async def test_a_damaged_record_of_uses_stays_as_it_is(
    storage: FileSystemStorage, project: Project, root: Path
) -> None:
    (key,) = await storage.projects.read_keys(project.id)
    await storage.projects.note_key_uses(project.id, {key.id: builders.at(0)})
    path = root / project.id / ".keys" / "last-used.json"
    path.write_bytes(b'{"schemaVersion":1,"lastUsedAt":{"x":1}}')
    await refused(
        path,
        storage.projects.read_key_uses(project.id),
        storage.projects.note_key_uses(project.id, {key.id: builders.at(1)}),
    )


async def test_a_change_of_keys_whose_note_is_damaged_stays_noted(
    storage: FileSystemStorage, project: Project, root: Path
) -> None:
    note = root / ".index" / "key-changes" / project.id
    for content in (b"{", b'{"schemaVersion":1,"digests":["../x"]}'):
        note.write_bytes(content)
        with capture_logs() as logs:
            await storage.start()
        assert [entry["location"] for entry in logs if entry["event"] == "damaged_record_left_out"] == [str(note)]
        assert note.read_bytes() == content
    (key,) = await storage.projects.read_keys(project.id)
    assert await storage.projects.find_key(key.credential.digest) is not None


async def test_a_list_leaves_out_damaged_projects_and_logs_them(storage: FileSystemStorage, root: Path) -> None:
    projects = [await storage.projects.create(builders.project_draft(), builders.credential()) for _ in range(5)]
    ordered = (await storage.projects.list(10)).items
    assert set(ordered) == set(projects)
    for damaged in (ordered[1], ordered[4]):
        (root / damaged.id / "metadata.json").write_bytes(b"{")
    with capture_logs() as logs:
        first = await storage.projects.list(2)
        rest = await storage.projects.list(2, first.next_page_token)
    assert first.items + rest.items == (ordered[0], ordered[2], ordered[3])
    assert rest.next_page_token is None
    locations = {entry["location"] for entry in logs if entry["event"] == "damaged_record_left_out"}
    assert locations == {str(root / damaged.id / "metadata.json") for damaged in (ordered[1], ordered[4])}


async def test_a_damaged_project_can_be_deleted(storage: FileSystemStorage, root: Path) -> None:
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    (root / project.id / "metadata.json").write_bytes(b"{")
    await storage.projects.delete(project.id)
    assert not (root / project.id).exists()
    assert await storage.projects.find_key(credential.digest) is None
    assert (await storage.projects.list(10)).items == ()


async def test_a_file_that_may_not_be_read_is_not_missing(
    storage: FileSystemStorage, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> bytes:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(StoredDataDamaged) as caught:
            await storage.projects.read(project.id)
    assert caught.value.fault == "Permission denied"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"TOKEN":{"iv":"00","authTag":"00","encrypted":"00"}}',
        b'{"TOKEN":"{\\"iv\\":\\"00\\",\\"authTag\\":\\"00\\"}"}',
        b'{"TOKEN":"{\\"iv\\":\\"0\\",\\"authTag\\":\\"00\\",\\"encrypted\\":\\"00\\"}"}',
        b'{"TOKEN":"{\\"iv\\":\\"00\\",\\"authTag\\":\\"00\\",\\"encrypted\\":\\"00\\",\\"more\\":\\"\\"}"}',
        b'{"TOKEN":"[]"}',
        b'{"TOKEN":"x"}',
        b'{"no name":"{\\"iv\\":\\"00\\",\\"authTag\\":\\"00\\",\\"encrypted\\":\\"00\\"}"}',
    ],
)
async def test_damaged_secrets(storage: FileSystemStorage, project: Project, root: Path, content: bytes) -> None:
    path = root / project.id / ".secrets" / "secrets.enc"
    path.write_bytes(content)
    await refused(
        path,
        secrets_of(storage, project.id),
        put_secret(storage, project.id, "OTHER", builders.sealed_secret()),
        remove_secret(storage, project.id, "TOKEN"),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 2},
        {"schemaVersion": None},
        {"projectId": "x"},
        {"projectId": "0f0e0d0c-0b0a-4908-8706-050403020100"},
        {"revision": 0},
        {"keyId": "x"},
        {"mac": None},
        {"secrets": []},
        {"secrets": {"no name": {}}},
        {"secrets": {"TOKEN": {}}},
        {"replaces": {}},
        {"replaces": "x"},
        {"more": 1},
    ],
)
async def test_a_damaged_manifest(
    storage: FileSystemStorage, project: Project, root: Path, change: dict[str, object]
) -> None:
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    path = root / project.id / ".secrets" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    await refused(
        path,
        storage.secrets.read(project.id),
        put_secret(storage, project.id, "OTHER", builders.sealed_secret()),
        storage.secrets.update(project.id, lambda _: None),
    )


@pytest.mark.parametrize("history", [{}, [1], [{}], [{"version": 0}]])
async def test_a_damaged_history(storage: FileSystemStorage, project: Project, root: Path, history: object) -> None:
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    path = root / project.id / ".secrets" / "manifest.json"
    document = json.loads(path.read_bytes())
    document["secrets"]["TOKEN"]["history"] = history
    path.write_text(json.dumps(document))
    await refused(path, storage.secrets.read(project.id))


async def test_a_damaged_key_check(storage: FileSystemStorage, root: Path) -> None:
    path = root / ".key-check.json"
    path.write_bytes(b'{"schemaVersion":1,"iv":"00","authTag":"00"}')
    await refused(path, storage.secrets.read_key_check())


async def test_a_log_with_a_damaged_line(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path
) -> None:
    await storage.executions.append(builders.texts(execution.id, 5))
    lines = log_path.read_bytes().split(b"\n")
    for number, damaged in ((3, b"garbage"), (3, lines[3][:-5]), (1, lines[2]), (3, b""), (5, lines[4])):
        log_path.write_bytes(b"\n".join([*lines[:number], damaged, *lines[number + 1 :]]))
        other = await open_storage()
        fault = await refused(
            log_path,
            other.executions.read(execution.id),
            other.executions.read_events(execution.id, 0, 10),
            other.executions.append([builders.event(execution.id, 6)]),
            other.executions.wait_for_events(execution.id, 5),
        )
        assert f"event {number}:" in fault.fault


async def test_a_damaged_line_before_the_snapshot_is_not_replayed(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path
) -> None:
    await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
    lines = log_path.read_bytes().split(b"\n")
    for damaged in (
        b"x" * len(lines[4]),
        lines[4].replace(b'"sequence":4', b'"sequence":5'),
        lines[4].replace(b'"kind"', b'"kond"'),
        lines[4][:-1] + b" ",
    ):
        log_path.write_bytes(b"\n".join([*lines[:4], damaged, *lines[5:]]))
        other = await open_storage()
        assert len(await other.executions.read_events(execution.id, 4, 100)) == 7
        await refused(log_path, other.executions.read_events(execution.id, 0, 100))


@pytest.mark.parametrize("header", [b"", b"{}", b"[]", b"garbage", b'{"schemaVersion":1,"execution":{}}'])
async def test_a_log_with_a_damaged_first_line(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path, header: bytes
) -> None:
    await storage.executions.append(builders.texts(execution.id, 2))
    _, rest = log_path.read_bytes().split(b"\n", 1)
    log_path.write_bytes(header + b"\n" + rest)
    other = await open_storage()
    await refused(log_path, other.executions.read(execution.id))


async def test_a_log_of_another_execution(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, execution: Execution, log_path: Path
) -> None:
    another = await storage.executions.create(builders.execution(project.id))
    log_path.write_bytes((log_path.parents[1] / another.id / "events.jsonl").read_bytes())
    other = await open_storage()
    fault = await refused(log_path, other.executions.read(execution.id))
    assert fault.fault == "first line: is another execution's"


async def test_an_empty_log(open_storage: OpenStorage, execution: Execution, log_path: Path) -> None:
    log_path.write_bytes(b"")
    other = await open_storage()
    await refused(log_path, other.executions.read(execution.id))


async def test_a_log_that_was_cut_while_open(storage: FileSystemStorage, execution: Execution, log_path: Path) -> None:
    """Events that were acknowledged and shown are missing: the log that is open says so, and is opened anew."""
    await storage.executions.append(builders.texts(execution.id, 3))
    content = log_path.read_bytes()
    log_path.write_bytes(content[: content.rstrip(b"\n").rindex(b"\n") + 1])
    with pytest.raises(StoredDataDamaged):
        await storage.executions.read(execution.id)
    reopened = await storage.executions.read(execution.id)
    assert reopened is not None
    assert reopened.last_sequence == 2


async def test_lists_leave_out_damaged_executions_and_log_them(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, execution: Execution, log_path: Path
) -> None:
    kept = await storage.executions.create(builders.execution(project.id))
    log_path.write_bytes(b"garbage\n")
    with capture_logs() as logs:
        other = await open_storage()
        assert (await other.executions.list(project.id, 10)).items == (kept,)
        assert await other.executions.list_unfinished() == (kept,)
    assert str(log_path) in {entry.get("location") for entry in logs}
    assert log_path.read_bytes() == b"garbage\n"


async def test_a_damaged_execution_can_be_deleted(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, execution: Execution, log_path: Path
) -> None:
    log_path.write_bytes(b"garbage\n")
    other = await open_storage()
    await other.executions.delete(execution.id)
    assert not log_path.parent.exists()
    assert await other.executions.list_unfinished() == ()


@pytest.mark.parametrize("fault", ["not JSON", "place", "project"])
async def test_a_damaged_index_entry_is_reported(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, root: Path, fault: str
) -> None:
    path = root / ".index" / "executions" / execution.id[:2] / execution.id
    contents = {
        "not JSON": b"{",
        "place": changed(path, lambda document: document.update(place="../x")),
        "project": changed(path, lambda document: document.update(projectId="..")),
    }
    path.write_bytes(contents[fault])
    other = await open_storage()
    await refused(path, other.executions.read(execution.id))


async def test_an_index_of_a_newer_server_is_refused(root: Path, storage: FileSystemStorage) -> None:
    (root / ".index" / "version.json").write_bytes(b'{"schemaVersion":3}')
    with pytest.raises(StoredDataDamaged):
        await FileSystemStorage(root).start()
