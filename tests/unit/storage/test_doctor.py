"""The doctor: finds what is wrong with a folder, says where, and repairs what is derived; nothing else is touched."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.ledger import LedgerTotals, Reservation, Settlement
from cloutagent_server.domain.project import Project
from cloutagent_server.service.cipher import CannotOpen, Cipher
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage, log
from cloutagent_server.storage.filesystem.doctor import CHECKS, Finding, Folder, Severity, examine, repair
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.locks import sharing_file
from cloutagent_server.storage.filesystem.log_lines import sealed, unsealed
from tests.support import builders
from tests.support.folders import tree

CIPHER = Cipher("ab" * 32)
DEADLINE = 30


def fault_with(cipher: Cipher) -> Callable[[Any], str | None]:
    def fault(sealed: Any) -> str | None:
        try:
            cipher.open(sealed)
        except CannotOpen as reason:
            return str(reason)
        return None

    return fault


def look(root: Path, cipher: Cipher = CIPHER) -> list[tuple[str, str]]:
    """What is wrong, as (path, fault)."""
    return [(finding.path, finding.fault) for finding in examine(Folder(root, fault_with(cipher)))]


def mend(root: Path) -> list[tuple[str, str]]:
    folder = Folder(root, fault_with(CIPHER))
    repair(folder, examine(folder))
    return look(root)


@pytest.fixture
async def project(storage: FileSystemStorage) -> Project:
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    secrets = SecretManager(storage.secrets, Keyring("ab" * 32))
    await secrets.check_key()
    await secrets.set_secret(project.id, "TOKEN", "the plain value")
    return project


@pytest.fixture
async def ended(storage: FileSystemStorage, project: Project) -> Execution:
    execution = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    return await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))


@pytest.fixture
async def other(storage: FileSystemStorage) -> Project:
    return await storage.projects.create(builders.project_draft(), builders.credential())


@pytest.fixture
def paths(root: Path, project: Project, ended: Execution) -> dict[str, Path]:
    """A file of every kind."""
    home = root / project.id / "executions" / ended.id
    return {
        "metadata": root / project.id / "metadata.json",
        "secrets": root / project.id / ".secrets" / "secrets.enc",
        "key check": root / ".key-check.json",
        "log": home / "events.jsonl",
        "state": home / "state.json",
        "index": root / ".index" / "version.json",
    }


async def test_one_repair_brings_a_folder_of_project_folders_alone_to_health(
    storage: FileSystemStorage, root: Path, ended: Execution, execution: Execution, other: Project, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir(0o700)
    for project_id in (ended.project_id, other.id):
        shutil.copytree(root / project_id, copy / project_id)
    (copy / other.id / ".tmp-left").touch()
    assert mend(copy) == []
    again = FileSystemStorage(copy)
    await again.start()
    assert (await again.projects.list(10)).items == (await storage.projects.list(10)).items
    assert await again.executions.read(ended.id) == ended
    assert [one.id for one in await again.executions.list_unfinished()] == [execution.id]
    await again.stop()


async def test_a_healthy_folder(root: Path, ended: Execution, execution: Execution) -> None:
    before = tree(root)
    assert look(root) == []
    assert tree(root) == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        examine(Folder(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        examine(Folder(tmp_path / "file"))


def test_an_empty_folder_is_fine(root: Path) -> None:
    root.mkdir(0o700, parents=True)
    assert look(root) == []


@pytest.mark.parametrize("stops_at", ["save_snapshot", "set_finished"])
async def test_a_writer_is_waited_for_that_is_about_to_write_what_belongs_to_an_end(
    storage: FileSystemStorage, root: Path, execution: Execution, monkeypatch: pytest.MonkeyPatch, stops_at: str
) -> None:
    arrived, goes_on = threading.Event(), threading.Event()
    place = {"save_snapshot": log, "set_finished": Index}[stops_at]
    real = getattr(place, stops_at)

    def stopping(*given: object) -> None:
        arrived.set()
        assert goes_on.wait(DEADLINE)
        real(*given)

    def asked_for(path: Path, seconds: float) -> AbstractContextManager[int]:
        goes_on.set()
        return sharing_file(path, max(seconds, DEADLINE))

    monkeypatch.setattr(place, stops_at, stopping)
    monkeypatch.setattr("cloutagent_server.storage.filesystem.doctor.executions.sharing_file", asked_for)
    writing = asyncio.create_task(
        storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
    )
    try:
        assert await asyncio.to_thread(arrived.wait, DEADLINE)
        assert await asyncio.to_thread(look, root) == []
        assert goes_on.is_set(), "it was found at first"
    finally:
        goes_on.set()
        await writing


async def test_beside_writers_at_work_nothing_is_found(storage: FileSystemStorage, root: Path) -> None:
    async def write() -> None:
        while not done.is_set():
            project = await storage.projects.create(builders.project_draft(), builders.credential())
            await SecretManager(storage.secrets, Keyring("ab" * 32)).set_secret(project.id, "A", "b")
            execution = await storage.executions.create(builders.execution(project.id))
            await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
            if len(made) % 2:
                await storage.projects.delete(project.id)
            made.append(project)

    done, made = asyncio.Event(), list[Project]()
    await SecretManager(storage.secrets, Keyring("ab" * 32)).check_key()
    writers = [asyncio.create_task(write()) for _ in range(3)]
    found = [await asyncio.to_thread(look, root) for _ in range(5)]
    done.set()
    await asyncio.gather(*writers)
    assert found == [[]] * 5
    assert made


# --- Damage: each kind in each file, told by the doctor and by the store, and every byte kept


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    match kind:
        case "truncated":
            path.write_bytes(content[: content.index(b"\n") // 2])
        case "empty":
            path.write_bytes(b"")
        case "not JSON":
            path.write_bytes(b"\xff\x00" + content)
        case "wrong schema":
            path.write_bytes(b'{"schemaVersion":1,"foo":{}}\n')
        case "newer schema":
            first, _, rest = content.partition(b"\n" if path.suffix == ".jsonl" else b"\x00")
            path.write_bytes(json.dumps(json.loads(first) | {"schemaVersion": 7}).encode() + b"\n" + rest)
        case "wrong owner":
            os.chown(path, 12345, 12345)
        case "wrong mode":
            path.chmod(0o666)


KINDS = ["truncated", "empty", "not JSON", "wrong schema", "newer schema", "wrong owner", "wrong mode"]
NEED_ROOT = pytest.param("wrong owner", marks=[] if os.geteuid() == 0 else [pytest.mark.xfail(raises=PermissionError)])


async def read_by_the_store(root: Path, kind: str, project: Project, ended: Execution) -> object:
    """Read one kind of file, as a server that has just started would."""
    storage = FileSystemStorage(root)
    match kind:
        case "metadata":
            return await storage.projects.read(project.id)
        case "secrets":
            return await storage.secrets.read(project.id)
        case "key check":
            return await storage.secrets.read_key_check()
        case "log" | "state":
            execution = await storage.executions.read(ended.id)
            await storage.stop()
            return execution
        case _:
            await storage.start()
            return None


@pytest.mark.parametrize("kind", [NEED_ROOT if kind == "wrong owner" else kind for kind in KINDS])
@pytest.mark.parametrize("file", ["metadata", "secrets", "key check", "log", "state", "index"])
async def test_damage_is_told_by_path_and_reason(
    storage: FileSystemStorage,
    root: Path,
    paths: dict[str, Path],
    project: Project,
    other: Project,
    ended: Execution,
    file: str,
    kind: str,
) -> None:
    path = paths[file]
    damage(path, kind)
    content = path.read_bytes()
    found = [(where, fault) for where, fault in look(root) if where == str(path.relative_to(root))]
    assert found, "the doctor names the file"
    if kind == "newer schema" and file != "secrets":
        newest = {"metadata": 2, "index": 2, "log": 3}.get(file, 1)
        assert f"schemaVersion 7 is newer than {newest}, the newest that this server reads" in found[0][1]
    assert path.read_bytes() == content
    if file == "state":
        assert await read_by_the_store(root, file, project, ended) == ended
    else:
        with pytest.raises(StoredDataDamaged) as caught:
            await read_by_the_store(root, file, project, ended)
        assert caught.value.location == str(path)
        assert (found[0][0], caught.value.fault) in found
        assert path.read_bytes() == content
    assert other in (await storage.projects.list(10)).items
    assert await storage.projects.read(other.id) == other


async def test_repair_keeps_the_bytes_of_damaged_records(root: Path, paths: dict[str, Path], other: Project) -> None:
    damaged = {kind: paths[kind] for kind in ("metadata", "secrets", "key check", "log")}
    for path in damaged.values():
        path.write_bytes(b'{"half')
    found = mend(root)
    assert {where for where, _ in found} == {str(path.relative_to(root)) for path in damaged.values()}
    assert all(path.read_bytes() == b'{"half' for path in damaged.values())


# --- Records that are whole and make no sense


def change(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_bytes())
    for name, value in changes.items():
        outer, _, inner = name.partition("__")
        (document[outer] if inner else document)[inner or outer] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"id": new_id()}, "id is another project's"),
        ({"name": " "}, "name is empty"),
        ({"updatedAt": "2001-01-01T00:00:00Z"}, "updatedAt is earlier than createdAt"),
        ({"agent__model": ""}, "agent.model is empty"),
        ({"agent__temperature": 1.5}, "agent.temperature is not between 0 and 1"),
        ({"agent__maxTokens": 0}, "agent.maxTokens is less than 1"),
        ({"limits__maxTokens": 0}, "limits.maxTokens is less than 1"),
        ({"limits__timeout": 0}, "limits.timeout is less than 1"),
        ({"limits__maxCost": 0}, "limits.maxCost is not a finite number above 0"),
        ({"apiKeyHash": "plain"}, "apiKeyHash is not the hash of the first of apiKeys"),
    ],
)
async def test_a_project_that_makes_no_sense(
    root: Path, paths: dict[str, Path], changes: dict[str, Any], fault: str
) -> None:
    change(paths["metadata"], **changes)
    assert (str(paths["metadata"].relative_to(root)), fault) in look(root)


async def test_a_key_whose_hash_makes_no_sense(root: Path, paths: dict[str, Path]) -> None:
    document = json.loads(paths["metadata"].read_bytes())
    document["apiKeyHash"] = document["apiKeys"][0]["hash"] = "plain"
    paths["metadata"].write_text(json.dumps(document))
    assert (str(paths["metadata"].relative_to(root)), "apiKeys[0].hash is not a bcrypt hash") in look(root)


async def test_a_project_without_a_record(root: Path, paths: dict[str, Path], project: Project) -> None:
    paths["metadata"].unlink()
    assert (project.id, "has no metadata.json") in look(root)


async def test_a_value_that_was_altered(root: Path, paths: dict[str, Path]) -> None:
    document = json.loads(paths["secrets"].read_bytes())
    sealed = json.loads(document["TOKEN"])
    sealed["encrypted"] = ("00" if sealed["encrypted"][:2] != "00" else "11") + sealed["encrypted"][2:]
    paths["secrets"].write_text(json.dumps({"TOKEN": json.dumps(sealed)}))
    [(where, fault)] = look(root)
    assert where == str(paths["secrets"].relative_to(root))
    assert fault.startswith("TOKEN cannot be opened: it was altered")


async def test_another_key_is_told_once(root: Path, paths: dict[str, Path]) -> None:
    assert look(root, Cipher("cd" * 32)) == [
        (".key-check.json", "ENCRYPTION_KEY is not the key that sealed the secrets")
    ]


async def test_without_a_key_it_says_what_it_could_not_look_at(root: Path, paths: dict[str, Path]) -> None:
    [finding] = examine(Folder(root))
    assert (finding.severity, finding.path) == (Severity.WARNING, ".")
    assert "no ENCRYPTION_KEY" in finding.fault


# --- Logs


async def test_logs_that_contradict_themselves(root: Path, paths: dict[str, Path], ended: Execution) -> None:
    log = paths["log"]
    lines = log.read_bytes().splitlines(keepends=True)
    where = str(log.relative_to(root))
    log.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert dict(look(root))[where].startswith("line 4, event 3: ")
    log.write_bytes(b"".join(lines) + lines[3])
    assert "event 12: " in dict(look(root))[where]
    log.write_bytes(b"".join(lines) + b'{"half')
    assert dict(look(root))[where] == "something follows the last event"
    moved = unsealed(lines[0][:-1]).replace(ended.project_id.encode(), new_id().encode())
    log.write_bytes(sealed(moved) + b"".join(lines[1:]))
    assert dict(look(root))[where] == "first line: is of another project"
    log.unlink()
    assert dict(look(root))[str(log.parent.relative_to(root))] == "has no events.jsonl"


async def test_a_log_that_was_cut_between_two_lines(root: Path, paths: dict[str, Path]) -> None:
    log = paths["log"]
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert mend(root) == [(str(log.relative_to(root)), "is shorter than state.json tells: it was cut")]


async def test_an_incomplete_line_of_an_execution_under_way(
    root: Path, log_path: Path, execution: Execution, storage: FileSystemStorage
) -> None:
    with log_path.open("ab") as log:
        log.write(b'{"executionId"')
    [(where, fault)] = look(root)
    assert where == str(log_path.relative_to(root))
    assert fault.startswith("ends with an incomplete line")
    await storage.executions.append(builders.events(execution.id, [builders.queued()]))
    assert look(root) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"{"),
        lambda path: change(path, status="running"),
        lambda path: change(path, lastSequence=3),
    ],
    ids=["missing", "damaged", "another status", "another sequence"],
)
async def test_a_state_is_derived_again(
    root: Path, paths: dict[str, Path], ended: Execution, spoil: Callable[[Path], None]
) -> None:
    before = json.loads(paths["state"].read_bytes())
    spoil(paths["state"])
    assert [where for where, _ in look(root)] == [str(paths["state"].relative_to(root))]
    assert mend(root) == []
    assert json.loads(paths["state"].read_bytes()) == before


# --- The index


@pytest.mark.parametrize("part", ["keys", "projects", "executions", "executions-by-project", "idempotency"])
async def test_missing_entries_are_put_back(
    root: Path, storage: FileSystemStorage, project: Project, ended: Execution, execution: Execution, part: str
) -> None:
    index = root / ".index" / part
    before = tree(index)
    for path in [path for path in index.rglob("*") if path.is_file()]:
        path.unlink()
    assert look(root)
    assert mend(root) == []
    assert tree(index) == before


async def test_marks_as_unfinished(root: Path, ended: Execution, execution: Execution) -> None:
    (root / ".index" / "unfinished" / ended.id).touch(0o600)
    (root / ".index" / "unfinished" / execution.id).unlink()
    assert {fault for _, fault in look(root)} == {
        "has ended and is marked as unfinished",
        "has not ended and is not marked as unfinished",
    }
    assert mend(root) == []
    assert [path.name for path in (root / ".index" / "unfinished").iterdir()] == [execution.id]


async def test_entries_that_lead_nowhere_are_removed(root: Path, storage: FileSystemStorage, ended: Execution) -> None:
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    lost = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    files = len(tree(root / ".index"))
    (root / project.id).rename(root.parent / "moved away")
    found = look(root)
    assert len(found) == 5
    assert all(where.startswith(".index/") and "leads to no" in fault for where, fault in found)
    assert any(lost.id in where for where, _ in found)
    assert mend(root) == []
    assert len(tree(root / ".index")) < files


async def test_damaged_entries_are_written_again(root: Path, ended: Execution) -> None:
    entries = [path for path in (root / ".index").rglob("*") if path.is_file() and path.stat().st_size]
    for path in entries:
        if path.name != "version.json":
            path.write_bytes(b"{")
    assert look(root)
    assert mend(root) == []


async def test_what_is_no_place_in_the_list_of_projects_is_removed(root: Path, project: Project) -> None:
    directory = root / ".index" / "projects"
    [place] = [path for path in directory.rglob("*") if path.is_file()]
    strays = [directory / place.name, place.parent.parent / "note", place.parent / "note", directory / "0" / "1" / "x"]
    strays[-1].parent.mkdir(parents=True, mode=0o700)
    for path in strays:
        path.touch(0o600)
    found = [where for where, fault in look(root) if fault == "is no place in the list of projects"]
    assert sorted(found) == sorted(str(path.relative_to(root)) for path in strays)
    mend(root)
    assert [path for path in directory.rglob("*") if path.is_file()] == [place]


async def test_an_index_of_an_earlier_version_is_built_anew(root: Path, ended: Execution) -> None:
    before = tree(root / ".index")
    (root / ".index" / "version.json").write_text('{"schemaVersion":1}')
    assert look(root) == [(".index", "is of an earlier version")]
    assert mend(root) == []
    assert tree(root / ".index") == before


async def test_an_index_that_was_not_built_to_its_end(root: Path, ended: Execution) -> None:
    before = tree(root / ".index")
    (root / ".index" / "version.json").unlink()
    assert look(root) == [(".index", "was not built to its end")]
    assert mend(root) == []
    assert tree(root / ".index") == before


# --- What lies about


async def test_leftovers_are_removed(root: Path, project: Project, ended: Execution, paths: dict[str, Path]) -> None:
    home = root / project.id
    left = [
        root / f".tmp-{new_id()}",
        root / ".tmp-.key-check.json",
        root / ".staging" / f".tmp-{new_id()}",
        root / ".staging" / f".tmp-{project.id}-metadata.json",
        root / ".trash" / f"project-{new_id()}",
        root / ".trash" / f"execution-{new_id()}",
        home / ".tmp-metadata.json",
        home / ".secrets" / ".tmp-secrets.enc",
        home / "executions" / f".tmp-{new_id()}",
        paths["state"].with_name(".tmp-state.json"),
        root / ".index" / "keys" / ".tmp-key",
    ]
    for path in left:
        if path.suffix or path.name == ".tmp-key":
            path.touch(0o600)
        else:
            path.mkdir(0o700)
            (path / "metadata.json").touch(0o600)
    assert sorted(where for where, _ in look(root)) == sorted(str(path.relative_to(root)) for path in left)
    assert mend(root) == []
    assert not any(path.exists() for path in left)


async def test_foreign_files_are_told_and_stay(root: Path, project: Project, paths: dict[str, Path]) -> None:
    foreign = [root / "notes.txt", root / project.id / "copy", paths["log"].with_name("events.jsonl.bak")]
    foreign += [root / project.id / ".secrets" / "secrets.old", root / project.id / "executions" / "x"]
    for path in foreign:
        path.touch(0o600)
    link = root / new_id()
    link.symlink_to(root / project.id, target_is_directory=True)
    found = dict(mend(root))
    for path in foreign:
        assert found[str(path.relative_to(root))] == "is not a file of the store"
        assert path.exists()
    assert found[link.name] == "is neither a file nor a directory"


async def test_modes(root: Path, project: Project, paths: dict[str, Path]) -> None:
    paths["metadata"].chmod(0o640)
    (root / project.id).chmod(0o755)
    assert look(root) == [
        (project.id, "has mode 0755, not 0700"),
        (f"{project.id}/metadata.json", "has mode 0640, not 0600"),
    ]


# --- Ledgers


def _decided(call: Reservation, _: LedgerTotals) -> Reservation:
    return call


async def test_an_altered_record_of_a_ledger_is_found_and_left_alone(
    root: Path, storage: FileSystemStorage, project: Project
) -> None:
    calls = [Reservation("e", new_id(), TokenUsage(9, 1), Decimal("0.5"), builders.at(0)) for _ in range(2)]
    for call in calls:
        await storage.ledger.reserve(project.id, builders.at(0), partial(_decided, call))
    await storage.ledger.settle(project.id, Settlement(calls[0].call_id, TokenUsage(9, 1), Decimal("0.1"), "1"))
    [path] = (root / project.id / "ledger").glob("*.jsonl")
    where, lines = str(path.relative_to(root)), path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + lines[0][:40])
    assert look(root) == []
    for number in (0, 2):
        altered = [*lines]
        altered[number] = altered[number].replace(b'"promptTokens":9', b'"promptTokens":0')
        path.write_bytes(b"".join(altered))
        fault = f"after byte {sum(map(len, lines[:number]))}: its checksum does not fit"
        assert mend(root) == [(where, fault)]
        assert path.read_bytes() == b"".join(altered)
    path.write_bytes(b"".join(lines[1:]))
    assert look(root) == [(where, f"after byte {len(lines[1])}: the call {calls[0].call_id} is not open")]


# --- Further checks


async def test_a_check_of_somebody_else_plugs_in(root: Path, project: Project) -> None:
    def check(folder: Folder) -> list[Finding]:
        return [Finding(Severity.ERROR, one, "is not to my taste", "change it") for one in folder.project_ids()]

    found = examine(Folder(root, fault_with(CIPHER)), (*CHECKS, check))
    assert [(one.path, one.fault) for one in found] == [(project.id, "is not to my taste")]


async def test_damaged_times_of_use_are_found_and_left_alone(
    root: Path, storage: FileSystemStorage, project: Project
) -> None:
    (key,) = await storage.projects.read_keys(project.id)
    await storage.projects.note_key_uses(project.id, {key.id: builders.at(1)})
    assert look(root) == []
    path = root / project.id / ".keys" / "last-used.json"
    path.write_bytes(b"{")
    [(where, fault)] = mend(root)
    assert where == f"{project.id}/.keys/last-used.json"
    assert fault.startswith("Expecting property name")
    assert path.read_bytes() == b"{"
