"""Backups: whole, checked with distrust, restored in steps that are done or not done."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import shutil
import stat
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.service.cipher import Cipher
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage, files
from cloutagent_server.storage.filesystem.backup import archive, keeping
from cloutagent_server.storage.filesystem.backup.archive import BackupDamaged, File, Manifest
from cloutagent_server.storage.filesystem.backup.create import BackupCancelled, back_up
from cloutagent_server.storage.filesystem.backup.restore import Restored, restore
from cloutagent_server.storage.filesystem.backup.verify import RestoreRefused, verify
from cloutagent_server.storage.filesystem.doctor import Folder, examine
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.log_lines import sealed, unsealed
from tests.support import builders
from tests.support.folders import tree
from tests.support.secret_changes import put_secret, secrets_of
from tests.unit.storage.conftest import OpenStorage

KEY = "ab" * 32
EMPTY = hashlib.sha256().hexdigest()
VALUE = "a value that nobody else may read"


def faults_with(key: str) -> Callable[[Any], str | None]:
    cipher = Cipher(key)

    def fault(sealed: Any) -> str | None:
        try:
            cipher.open(sealed)
        except Exception as reason:
            return str(reason)
        return None

    return fault


@pytest.fixture
async def project(storage: FileSystemStorage) -> Project:
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    manager = SecretManager(storage.secrets, Keyring(KEY))
    await manager.check_key()
    await manager.set_secret(project.id, "TOKEN", VALUE)
    return project


@pytest.fixture
async def ended(storage: FileSystemStorage, project: Project) -> Execution:
    execution = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    return await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "one.tar.gz"


@pytest.fixture
async def other_root(tmp_path: Path) -> Path:
    """A folder that a server has used, and that is empty."""
    root = tmp_path / "other"
    await FileSystemStorage(root).start()
    return root


def bring_back(target: Path, root: Path, *, replace: bool = False, dry_run: bool = False) -> Restored:
    return restore(target, root, replace_existing=replace, dry_run=dry_run, fault_of=faults_with(KEY))


def healthy(root: Path) -> bool:
    return examine(Folder(root, faults_with(KEY))) == []


async def test_an_empty_folder_gets_all_back(
    storage: FileSystemStorage, root: Path, target: Path, other_root: Path, ended: Execution, execution: Execution
) -> None:
    made = back_up(root, target, "1.2.3", executions=True)
    assert made.left_out == ()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    manifest = verify(target, faults_with(KEY))
    assert (manifest, manifest.server_version) == (made.manifest, "1.2.3")
    assert bring_back(target, other_root) == Restored((ended.project_id,))
    restored = FileSystemStorage(other_root)
    await restored.start()
    assert (await restored.projects.list(10)).items == (await storage.projects.list(10)).items
    assert await restored.secrets.read(ended.project_id) == await storage.secrets.read(ended.project_id)
    assert await restored.executions.read(ended.id) == ended
    assert [found.id for found in await restored.executions.list_unfinished()] == [execution.id]
    assert (await restored.executions.list(ended.project_id, 10)).items == (
        await storage.executions.list(ended.project_id, 10)
    ).items
    await restored.stop()
    assert healthy(other_root)


async def test_executions_are_left_out_unless_asked(root: Path, target: Path, ended: Execution) -> None:
    manifest = back_up(root, target, "1").manifest
    home = ended.project_id
    assert [file.path for file in manifest.files] == [
        ".key-check.json",
        f"{home}/metadata.json",
        f"{home}/.secrets/secrets.enc",
        f"{home}/.secrets/manifest.json",
    ]


async def test_the_manifest_comes_first_and_tells_each_file(root: Path, target: Path, ended: Execution) -> None:
    back_up(root, target, "1", executions=True)
    with tarfile.open(target) as opened:
        names = opened.getnames()
        member = opened.extractfile("manifest.json")
        assert member is not None
        manifest = json.load(member)
        assert names == ["manifest.json", *(file["path"] for file in manifest["files"])]
        for file in manifest["files"]:
            content = opened.extractfile(file["path"])
            assert content is not None
            data = content.read()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
    assert manifest["schemaVersion"] == 2


async def test_no_plain_value_is_in_a_backup(root: Path, target: Path, ended: Execution) -> None:
    back_up(root, target, "1", executions=True)
    content = gzip.decompress(target.read_bytes())
    assert VALUE.encode() not in content
    assert b"cla_" not in content
    assert b"secrets.enc" in content


async def test_a_growing_log_is_copied_up_to_its_last_whole_line(
    root: Path, target: Path, other_root: Path, execution: Execution, log_path: Path, storage: FileSystemStorage
) -> None:
    await storage.executions.append(builders.events(execution.id, [builders.queued(), builders.started()]))
    with log_path.open("ab") as log:
        log.write(b'{"executionId":"' + b"x" * 500_000)
    back_up(root, target, "1", executions=True)
    bring_back(target, other_root)
    restored = FileSystemStorage(other_root)
    found = await restored.executions.read(execution.id)
    assert found is not None
    assert found.last_sequence == 2
    await restored.stop()


async def test_damaged_records_are_left_out_and_told(
    storage: FileSystemStorage, root: Path, target: Path, project: Project
) -> None:
    damaged = await storage.projects.create(builders.project_draft(), builders.credential())
    (root / damaged.id / "metadata.json").write_bytes(b"{")
    made = back_up(root, target, "1")
    assert [fault.location for fault in made.left_out] == [str(root / damaged.id / "metadata.json")]
    assert {file.project_id for file in verify(target).files} == {None, project.id}


async def test_what_cannot_be_finished_leaves_nothing(root: Path, target: Path, project: Project) -> None:
    with pytest.raises(BackupCancelled):
        back_up(root, target, "1", cancelled=lambda: True)
    assert list(target.parent.iterdir()) == []
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        back_up(root, target, "1")
    assert target.read_bytes() == b"mine"
    with pytest.raises(FileNotFoundError):
        back_up(root / "nowhere", target.with_name("two"), "1")


# --- Size


async def test_what_is_read_by_line_may_have_any_size(
    storage: FileSystemStorage,
    root: Path,
    target: Path,
    other_root: Path,
    ended: Execution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy project has hundreds of megabytes of ledger in a month; logs and the audit log grow too."""
    log = root / ended.project_id / "executions" / ended.id / "events.jsonl"
    ledger = root / ended.project_id / "ledger" / "2026-01.jsonl"
    audit = root / ".audit" / "000001.jsonl"
    for path in (ledger, audit):
        path.parent.mkdir(0o700)
        path.write_bytes(b"{}\n" * log.stat().st_size)
        path.chmod(0o600)
    monkeypatch.setattr(archive, "MOST_WHOLE", log.stat().st_size - 1)
    assert back_up(root, target, "1", executions=True).left_out == ()
    assert bring_back(target, other_root).created == (ended.project_id,)
    for path in (log, ledger):
        assert (other_root / path.relative_to(root)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["secrets.enc", "manifest.json"])
async def test_secrets_that_are_too_many_to_be_restored_are_left_out_and_told(
    storage: FileSystemStorage, root: Path, target: Path, project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    crowded = await storage.projects.create(builders.project_draft(), builders.credential())
    large = root / crowded.id / ".secrets" / name
    for number in range(100):
        await put_secret(storage, crowded.id, f"SECRET_{number}", builders.sealed_secret())
    monkeypatch.setattr(archive, "MOST_WHOLE", large.stat().st_size - 1)
    made = back_up(root, target, "1")
    assert str(large) in [fault.location for fault in made.left_out]
    assert {file.project_id for file in verify(target).files} == {None, project.id}


async def test_a_first_line_that_is_too_long_to_be_restored_is_left_out_and_told(
    root: Path, target: Path, ended: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = root / ended.project_id / "executions" / ended.id / "events.jsonl"
    header, _, events = log.read_bytes().partition(b"\n")
    document = json.loads(unsealed(header))
    document["execution"]["prompt"] = "x" * 10_000
    log.write_bytes(sealed(json.dumps(document).encode()) + events)
    monkeypatch.setattr(archive, "MOST_WHOLE", 10_000)
    assert [fault.location for fault in back_up(root, target, "1", executions=True).left_out] == [str(log)]
    verify(target)


async def test_more_files_than_a_backup_can_list_are_refused(
    root: Path, target: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_WHOLE", 100)
    with pytest.raises(BackupDamaged, match="its list of 1 files is too large"):
        back_up(root, target, "1")
    assert list(target.parent.iterdir()) == []


def test_a_file_may_be_larger_than_the_headers_of_tar_had_room_for() -> None:
    packed = io.BytesIO()
    ledger = File(f"{ID}/ledger/2026-01.jsonl", 9 << 30, "0" * 64)
    manifest = Manifest("1", datetime(2026, 1, 31, tzinfo=UTC), False, (File(RECORD, 0, EMPTY), ledger))
    with pytest.raises(OSError, match="unexpected end"):
        archive.write(packed, manifest, io.BytesIO())
    packed.seek(0)
    read = archive.Archive(packed).files()
    assert [next(read)[0], next(read)[0]] == list(manifest.files)


async def test_a_log_of_another_project_is_left_out_and_told(
    storage: FileSystemStorage, root: Path, target: Path, ended: Execution
) -> None:
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    copied = root / other.id / "executions" / ended.id
    shutil.copytree(root / ended.project_id / "executions" / ended.id, copied)
    made = back_up(root, target, "1", executions=True)
    assert [fault.location for fault in made.left_out] == [str(copied / "events.jsonl")]
    verify(target)


async def test_files_of_other_programs_beside_the_secrets_are_taken_as_they_are(
    root: Path, target: Path, other_root: Path, project: Project
) -> None:
    for name in ("metadata.json", "events.jsonl"):
        (root / project.id / ".secrets" / name).write_bytes(b"mine")
    back_up(root, target, "1")
    bring_back(target, other_root)
    assert (other_root / project.id / ".secrets" / "events.jsonl").read_bytes() == b"mine"


# --- Restoring into a folder that is in use


async def test_projects_that_are_there_stay(
    storage: FileSystemStorage, root: Path, target: Path, project: Project, ended: Execution
) -> None:
    back_up(root, target, "1", executions=True)
    await storage.projects.update(project.id, ProjectChanges(name="newer"))
    before = tree(root)
    assert bring_back(target, root) == Restored(kept=(project.id,))
    assert tree(root) == before


async def test_a_dry_run_changes_nothing(
    storage: FileSystemStorage, root: Path, target: Path, project: Project, tmp_path: Path
) -> None:
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    back_up(root, target, "1")
    await storage.projects.delete(other.id)
    before = tree(root)
    assert bring_back(target, root, dry_run=True) == Restored((other.id,), kept=(project.id,))
    assert bring_back(target, root, replace=True, dry_run=True) == Restored((other.id,), (project.id,))
    assert tree(root) == before
    assert set(bring_back(target, tmp_path / "new", dry_run=True).created) == {project.id, other.id}
    assert not (tmp_path / "new").exists()


async def test_replacing_brings_record_key_and_secrets_back_and_keeps_executions(
    storage: FileSystemStorage, root: Path, target: Path, ended: Execution, open_storage: OpenStorage
) -> None:
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    lost = await storage.executions.create(builders.execution(project.id))
    sealed = builders.sealed_secret()
    await put_secret(storage, project.id, "OLD", sealed)
    back_up(root, target, "1", executions=True)
    await storage.projects.update(project.id, ProjectChanges(name="newer"))
    await storage.projects.update(project.id, ProjectChanges(name="newest"))
    await put_secret(storage, project.id, "NEW", builders.sealed_secret())
    (root / project.id / ".secrets" / "notes").touch(0o600)
    await storage.executions.delete(lost.id)
    later = await storage.executions.create(builders.execution(project.id))

    assert set(bring_back(target, root, replace=True).replaced) == {project.id, ended.project_id}

    found = await storage.projects.read(project.id)
    assert found is not None
    assert (found.name, found.revision) == (project.name, 4)
    assert await secrets_of(storage, project.id) == {"OLD": sealed}
    assert not (root / project.id / ".secrets" / "notes").exists()
    owner = await storage.projects.find_key(credential.digest)
    assert owner is not None and owner.project.id == project.id
    again = await open_storage()
    assert {one.id for one in (await again.executions.list(project.id, 10)).items} == {lost.id, later.id}
    assert await again.executions.read(ended.id) == ended
    assert [one.path for one in examine(Folder(root))] == ["."]


async def test_a_damaged_project_can_be_replaced(root: Path, target: Path, project: Project) -> None:
    back_up(root, target, "1")
    metadata = root / project.id / "metadata.json"
    before = metadata.read_bytes()
    metadata.write_bytes(b"{")
    assert bring_back(target, root, replace=True).replaced == (project.id,)
    assert metadata.read_bytes() == before
    assert healthy(root)


async def test_a_replacement_that_a_crash_interrupts_is_completed_at_the_next_start(
    storage: FileSystemStorage,
    root: Path,
    target: Path,
    ended: Execution,
    open_storage: OpenStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back_up(root, target, "1", executions=True)
    await storage.projects.update(ended.project_id, ProjectChanges(name="newer"))
    await storage.executions.delete(ended.id)
    real, calls = files.write, 0

    class Crash(BaseException):
        pass

    for number in range(1, 20):
        calls = 0

        def write(path: Path, content: bytes, staging: Path | None = None, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                raise Crash
            real(path, content, staging)

        copy = root.parent / f"copy-{number}"
        shutil.copytree(root, copy)
        with monkeypatch.context() as patch:
            patch.setattr(files, "write", write)
            try:
                bring_back(target, copy, replace=True)
                break
            except Crash:
                pass
        await FileSystemStorage(copy).start()
        reopened = FileSystemStorage(copy)
        found = await reopened.projects.read(ended.project_id)
        assert found is not None
        assert found.name in ("Reviews", "newer")
        assert (await reopened.executions.read(ended.id) is not None) == (found.name == "Reviews")
        await reopened.stop()
        assert healthy(copy)
    assert number > 5


@pytest.mark.parametrize("replace", [False, True])
async def test_a_damaged_event_log_hinders_the_restore_of_nothing(
    storage: FileSystemStorage, root: Path, target: Path, ended: Execution, other_root: Path, replace: bool
) -> None:
    log = root / ended.project_id / "executions" / ended.id / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"sequence":2,', b'"sequence":7,'))
    later = await storage.projects.create(builders.project_draft(), builders.credential())
    assert back_up(root, target, "1", executions=True).left_out == ()
    if replace:
        await storage.executions.delete(ended.id)
        assert set(bring_back(target, root, replace=True).replaced) == {ended.project_id, later.id}
    else:
        assert set(bring_back(target, other_root).created) == {ended.project_id, later.id}
    [damaged] = examine(Folder(root if replace else other_root, faults_with(KEY)))
    assert damaged.path == str(log.relative_to(root))
    assert "event 2" in damaged.fault


# --- Keys


async def test_a_backup_of_another_key_is_refused(root: Path, target: Path, project: Project, other_root: Path) -> None:
    back_up(root, target, "1")
    other_key = faults_with("cd" * 32)
    with pytest.raises(RestoreRefused, match="not the key that sealed the secrets of this backup"):
        verify(target, other_key)
    before = tree(other_root)
    with pytest.raises(RestoreRefused):
        restore(target, other_root, replace_existing=False, dry_run=False, fault_of=other_key)
    assert tree(other_root) == before


async def test_a_folder_of_another_key_is_refused(root: Path, target: Path, project: Project, other_root: Path) -> None:
    back_up(root, target, "1")
    storage = FileSystemStorage(other_root)
    await SecretManager(storage.secrets, Keyring("cd" * 32)).check_key()
    with pytest.raises(RestoreRefused, match="secrets of the folder"):
        bring_back(target, other_root)
    with pytest.raises(RestoreRefused, match="set ENCRYPTION_KEY"):
        restore(target, other_root, replace_existing=False, dry_run=False)
    assert restore(target, root, replace_existing=False, dry_run=False).kept == (project.id,)


# --- What leads to a project leads to no other


def take_over(root: Path, victim: str, thief: str, what: str, execution_id: str) -> str:
    """Give a project the API keys, or an execution, of another one. Tells which."""
    if what == "key":
        theirs, mine = (json.loads((root / one / "metadata.json").read_bytes()) for one in (victim, thief))
        kept = {name: theirs[name] for name in ("apiKeys", "apiKeyHash")}
        (root / thief / "metadata.json").write_text(json.dumps({**mine, **kept}))
        return f"API key {theirs['apiKeys'][0]['id']}"
    log = (root / victim / "executions" / execution_id / "events.jsonl").read_bytes()
    header = unsealed(log.partition(b"\n")[0]).replace(victim.encode(), thief.encode())
    forged = root / thief / "executions" / execution_id / "events.jsonl"
    forged.parent.mkdir(0o700)
    forged.write_bytes(sealed(header))
    forged.chmod(0o600)
    return f"execution {execution_id}"


@pytest.mark.parametrize("what", ["key", "execution"])
@pytest.mark.parametrize("there", [False, True])
async def test_a_project_takes_over_neither_key_nor_execution_of_another(
    storage: FileSystemStorage, root: Path, target: Path, ended: Execution, tmp_path: Path, what: str, there: bool
) -> None:
    thief = await storage.projects.create(builders.project_draft(), builders.credential())
    forgery = tmp_path / "forgery"
    shutil.copytree(root, forgery)
    named = take_over(forgery, ended.project_id, thief.id, what, ended.id)
    shutil.rmtree(forgery / ended.project_id)
    assert back_up(forgery, target, "1", executions=True).left_out == ()
    if not there:
        await storage.projects.delete(thief.id)
    before = tree(root)
    for dry_run in (True, False):
        with pytest.raises(RestoreRefused) as refused:
            bring_back(target, root, replace=there, dry_run=dry_run)
        assert str(refused.value) == f"{named} of project {thief.id} is one of project {ended.project_id} here"
    assert tree(root) == before
    if there:
        assert thief.id in bring_back(target, root).kept


@pytest.mark.parametrize("what", ["key", "execution"])
async def test_two_projects_of_a_backup_share_neither_key_nor_execution(
    storage: FileSystemStorage,
    root: Path,
    target: Path,
    ended: Execution,
    other_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    thief = await storage.projects.create(builders.project_draft(), builders.credential())
    named = take_over(root, ended.project_id, thief.id, what, ended.id)
    first, second = sorted([thief.id, ended.project_id])
    [left_out] = back_up(root, target, "1", executions=True).left_out
    assert left_out.location.startswith(f"{root / second}/")
    assert left_out.fault == f"{named} is one of project {first} too"
    verify(target)
    target.unlink()

    home = {path: (root / path).read_bytes() for path in paths_of(root, first) + paths_of(root, second)}
    forge(target, manifest_of(*home.items()), [(tarfile.TarInfo(path), content) for path, content in home.items()])
    before = tree(other_root)
    with pytest.raises(BackupDamaged, match=f"{second}/.*: {named} is one of project {first} too"):
        bring_back(target, other_root)
    assert tree(other_root) == before


def paths_of(root: Path, project_id: str) -> list[str]:
    home = root / project_id
    return [
        f"{project_id}/metadata.json",
        *(str(path.relative_to(root)) for path in sorted(home.glob("executions/*/events.jsonl"))),
    ]


async def test_what_the_index_tells_of_projects_that_are_gone_hinders_nothing(
    root: Path, target: Path, ended: Execution, other_root: Path
) -> None:
    back_up(root, target, "1", executions=True)
    index = Index(other_root / ".index")
    [key] = json.loads((root / ended.project_id / "metadata.json").read_bytes())["apiKeys"]
    index.put_key(key["digest"], new_id())
    index.put_execution(new_id(), ended.id, ended.created_at, None)
    assert bring_back(target, other_root).created == (ended.project_id,)
    assert Index(other_root / ".index").find_key(key["digest"]) == ended.project_id


async def test_a_backup_that_is_altered_after_it_was_checked_is_refused(
    root: Path, target: Path, project: Project, other_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(root, target, "1")
    usage = shutil.disk_usage

    def alter(path: Path) -> object:
        forge(target, manifest_of(), [])
        return usage(path)

    monkeypatch.setattr(shutil, "disk_usage", alter)
    with pytest.raises(BackupDamaged, match="altered while it was read"):
        bring_back(target, other_root)
    assert not (other_root / project.id).exists()


# --- Distrust


def forge(target: Path, manifest: Any, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """An archive with this manifest and these members."""
    head = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    target.parent.mkdir(exist_ok=True)
    with tarfile.open(target, "w:gz", format=tarfile.GNU_FORMAT) as opened:
        for member, content in [(tarfile.TarInfo("manifest.json"), head), *members]:
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return target


def manifest_of(*listed: tuple[str, bytes], **changes: Any) -> dict[str, Any]:
    entries = [{"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in listed]
    document = {"schemaVersion": 1, "serverVersion": "1", "createdAt": "2026-01-31T12:00:00Z", "executions": False}
    return {**document, "files": entries, **changes}


RECORD = "0f0e0d0c-0b0a-4908-8706-050403020100/metadata.json"
ID = "0f0e0d0c-0b0a-4908-8706-050403020100"
OTHER = "1f0e0d0c-0b0a-4908-8706-050403020100"


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "/etc/passwd",
        f"{ID}/../../evil",
        f"{ID}/.secrets/../metadata.json",
        f"{ID}/.secrets/.hidden",
        f"{ID}/.secrets/a/b",
        f"{ID}/executions/../events.jsonl",
        f"{ID}/executions/{ID}/state.json",
        f"{ID}/metadata.json\n",
        f"{ID.upper()}/metadata.json",
        ".index/version.json",
        "manifest.json",
        "",
    ],
)
def test_paths_outside_of_the_store_are_refused(target: Path, other_root: Path, path: str) -> None:
    before = tree(other_root)
    forge(target, manifest_of((path, b"x")), [(tarfile.TarInfo(path), b"x")])
    with pytest.raises(BackupDamaged, match="is not a path of the store"):
        bring_back(target, other_root)
    assert tree(other_root) == before


def linked(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(RECORD)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("manifest", "members", "fault"),
    [
        (manifest_of((RECORD, b"")), [(linked(tarfile.SYMTYPE), b"")], "something else"),
        (manifest_of((RECORD, b"")), [(linked(tarfile.LNKTYPE), b"")], "something else"),
        (manifest_of((RECORD, b"")), [(linked(tarfile.FIFOTYPE), b"")], "something else"),
        (manifest_of((RECORD, b"")), [(linked(tarfile.DIRTYPE), b"")], "something else"),
        (manifest_of((RECORD, b"{}")), [(tarfile.TarInfo("../x"), b"{}")], "something else"),
        (manifest_of((RECORD, b"{}")), [(tarfile.TarInfo("x" * 200), b"{}")], "something else"),
        (manifest_of((RECORD, b"{}")), [], "is missing"),
        (
            manifest_of((RECORD, b"{}")),
            [(tarfile.TarInfo(RECORD), b"{ }")],
            "has 3 bytes",
        ),
        (manifest_of((RECORD, b"{}")), [(tarfile.TarInfo(RECORD), b"[]")], "checksum"),
        (
            manifest_of((RECORD, b"{}")),
            [(tarfile.TarInfo(RECORD), b"{}")],
            "schemaVersion",
        ),
        (manifest_of(), [(tarfile.TarInfo("more"), b"x")], "does not end where"),
        (manifest_of((".key-check.json", b""), (".key-check.json", b"")), [], "stands twice"),
        (manifest_of((f"{ID}/.secrets/secrets.enc", b"")), [], "do not begin with metadata.json"),
        (
            manifest_of((RECORD, b""), (f"{OTHER}/metadata.json", b""), (f"{ID}/.secrets/secrets.enc", b"")),
            [],
            "do not stand together",
        ),
        (manifest_of((RECORD, b""), (".key-check.json", b"")), [], "is not the first"),
        (manifest_of(files=[{"path": f"{ID}/metadata.json", "size": 1 << 40, "sha256": "ab" * 32}]), [], "too large"),
        (manifest_of(files=[{"path": f"{ID}/metadata.json", "size": -1, "sha256": "ab" * 32}]), [], "less than 0"),
        (manifest_of(files=[{"path": f"{ID}/metadata.json", "size": 1, "sha256": "x"}]), [], "checksum"),
        (manifest_of(files=["x"]), [], "not an object"),
        (manifest_of(executions=1), [], "neither true nor false"),
        (manifest_of(schemaVersion=3), [], "schemaVersion 3 is newer than 2"),
        (b"{", [], "manifest.json"),
        (b"[]", [], "is not a JSON object"),
    ],
)
def test_what_is_not_as_listed_is_refused(
    target: Path, other_root: Path, manifest: Any, members: list[tuple[tarfile.TarInfo, bytes]], fault: str
) -> None:
    before = tree(other_root)
    forge(target, manifest, members)
    with pytest.raises(BackupDamaged, match=fault):
        bring_back(target, other_root)
    assert tree(other_root) == before


async def test_any_altered_or_missing_byte_is_noticed(
    root: Path, target: Path, ended: Execution, other_root: Path
) -> None:
    back_up(root, target, "1", executions=True)
    content = target.read_bytes()
    before = tree(other_root)
    # Bytes 3 to 9 of the gzip header are a time and marks that tell nothing of the content.
    for place in [0, 1, 2, *range(10, len(content), 37), len(content) - 1]:
        target.write_bytes(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
        with pytest.raises(BackupDamaged):
            bring_back(target, other_root)
    for length in [0, 1, 20, len(content) // 2, len(content) - 1]:
        target.write_bytes(content[:length])
        with pytest.raises(BackupDamaged):
            bring_back(target, other_root)
    assert tree(other_root) == before


async def test_records_are_read_before_anything_is_changed(root: Path, target: Path, ended: Execution) -> None:
    home = ended.project_id
    good = {path: (root / path).read_bytes() for path in (f"{home}/metadata.json", f"{home}/.secrets/secrets.enc")}
    log = (root / home / "executions" / ended.id / "events.jsonl").read_bytes()
    cases: list[tuple[str, bytes]] = [
        (f"{home}/metadata.json", good[f"{home}/metadata.json"].replace(home.encode(), new_id().encode())),
        (f"{home}/.secrets/secrets.enc", b"[]"),
        (f"{home}/executions/{new_id()}/events.jsonl", log),
        (f"{home}/executions/{ended.id}/events.jsonl", b"no line"),
    ]
    for path, content in cases:
        listed = {**good, path: content}
        members = [(tarfile.TarInfo(name), data) for name, data in listed.items()]
        forge(target, manifest_of(*listed.items()), members)
        with pytest.raises(BackupDamaged, match=path):
            verify(target)


def test_a_full_disk_is_noticed_first(
    root: Path, target: Path, other_root: Path, monkeypatch: pytest.MonkeyPatch, storage: FileSystemStorage
) -> None:
    back_up(root, target, "1")
    usage = type("Usage", (), {"free": -1})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="No space left"):
        bring_back(target, other_root)


# --- Keeping


def test_the_newest_are_kept(tmp_path: Path) -> None:
    start = datetime(2026, 1, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    times = [start + timedelta(hours=hours) for hours in range(5)]
    for time in times:
        keeping.path_at(tmp_path, time).touch()
    (tmp_path / "mine.tar.gz").touch()
    assert keeping.newest(tmp_path) == times[-1]
    keeping.prune(tmp_path, 2)
    kept = [keeping.path_at(tmp_path, time).name for time in times[-2:]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*kept, "mine.tar.gz"]
    assert keeping.newest(tmp_path / "nowhere") is None


def test_what_a_crash_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    left, busy = (files.temporary_path(keeping.path_at(tmp_path, datetime(2026, 1, day, tzinfo=UTC))) for day in (1, 2))
    left.touch()
    with busy.open("wb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        keeping.prune(tmp_path, 2)
        assert list(tmp_path.iterdir()) == [busy]


def test_paths_of_a_backup() -> None:
    assert archive.is_backed_up(f"{ID}/.secrets/manifest.json")
    assert not archive.is_backed_up(f"{ID}/.secrets/.tmp-secrets.enc")
