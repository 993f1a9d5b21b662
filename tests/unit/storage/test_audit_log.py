"""The audit log on disk: torn writes, damage and how the doctor tells it, segments, several processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditEntry, Resource
from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.secret import SecretsHead
from cloutagent_server.storage.filesystem import FileSystemStorage, audit_files
from cloutagent_server.storage.filesystem.audit_files import AuditFiles, segment_numbers, segment_path, snapshot_path
from cloutagent_server.storage.filesystem.doctor import Finding, Folder, examine, repair
from cloutagent_server.storage.filesystem.layout import Layout
from tests.unit.storage.test_crashes import run_crashes

_APPENDING = """
import sys
from pathlib import Path
from cloutagent_server.storage.filesystem.audit_files import AuditFiles
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.domain.audit import AuditEntry
log = AuditFiles(Layout(Path(sys.argv[1])), segment_bytes=4000)
for number in range(int(sys.argv[3])):
    log.append([AuditEntry("operator", "secret.set", "ok", request_id=f"{sys.argv[2]}-{number}")])
"""


@pytest.fixture
async def layout(tmp_path: Path) -> Layout:
    root = tmp_path / "projects"
    storage = FileSystemStorage(root)
    await storage.start()
    await storage.stop()
    return Layout(root)


def entry(number: int = 0, project_id: str | None = None) -> AuditEntry:
    head = None if project_id is None else SecretsHead(number + 1, f"{number:064x}")
    return AuditEntry("admin", "secret.set", audit.OK, Resource(project_id), str(number), secrets_head=head)


def filled(layout: Layout, count: int = 5, **options: int) -> AuditFiles:
    log = AuditFiles(layout, **options)
    for number in range(count):
        log.append([entry(number)])
    return log


def lines(layout: Layout) -> list[bytes]:
    return segment_path(layout.audit, 1).read_bytes().splitlines(keepends=True)


def findings(layout: Layout) -> list[Finding]:
    return [one for one in examine(Folder(layout.root)) if one.path.startswith(".audit")]


def faults(layout: Layout) -> list[str]:
    return [one.fault for one in findings(layout)]


def test_a_sound_log_is_no_finding_and_its_lines_are_json(layout: Layout) -> None:
    filled(layout)
    assert examine(Folder(layout.root)) == []
    assert [json.loads(line)["sequence"] for line in lines(layout)] == [1, 2, 3, 4, 5]
    assert {json.loads(line)["schemaVersion"] for line in lines(layout)} == {1}


@pytest.mark.parametrize("tail", [b'{"schemaVersion":1,"seq', b"\0" * 40, b"\0\0}\n", b"\0" * 9 + b"}\n\0\0"])
def test_what_a_crash_left_of_a_write_is_cut_by_the_next_writer(layout: Layout, tail: bytes) -> None:
    filled(layout)
    path = segment_path(layout.audit, 1)
    sound = path.read_bytes()
    path.write_bytes(sound + tail)
    log = AuditFiles(layout)
    assert log.head().sequence == 5
    [record] = log.append([entry(6)])
    assert record.sequence == 6
    assert path.read_bytes().startswith(sound)
    assert len(lines(layout)) == 6
    assert faults(layout) == []


def _edited(found: list[bytes]) -> list[bytes]:
    return [*found[:2], found[2].replace(b"admin", b"nadim"), *found[3:]]


def _forged(found: list[bytes]) -> list[bytes]:
    """An edit whose own hash was made to fit."""
    document = json.loads(found[2])
    document["actor"] = "nadim"
    document.pop("hash")
    content = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    document["hash"] = hashlib.sha256(content).hexdigest()
    return [*found[:2], json.dumps(document, separators=(",", ":")).encode() + b"\n", *found[3:]]


def _removed(found: list[bytes]) -> list[bytes]:
    return [*found[:2], *found[3:]]


def _reordered(found: list[bytes]) -> list[bytes]:
    return [*found[:2], found[3], found[2], found[4]]


def _garbage(found: list[bytes]) -> list[bytes]:
    return [*found[:2], b"nonsense\n", *found[3:]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_edited, "line 3: was altered: its hash does not fit its content"),
        (_forged, "line 4: record 4 does not follow the record before it: that one was altered"),
        (_removed, "line 3: record 4 follows record 2: what was between them was removed"),
        (_reordered, "line 3: record 4 follows record 2: what was between them was removed"),
        (_garbage, "line 3: Expecting value"),
    ],
)
def test_a_change_shows_in_the_doctor_keeps_its_bytes_and_stops_nobody(
    layout: Layout, change: Callable[[list[bytes]], list[bytes]], expected: str
) -> None:
    filled(layout)
    path = segment_path(layout.audit, 1)
    path.write_bytes(b"".join(change(lines(layout))))
    changed = path.read_bytes()
    assert faults(layout)[0].startswith(expected)
    repair(Folder(layout.root), findings(layout))
    AuditFiles(layout).append([entry(6)])
    assert path.read_bytes().startswith(changed)
    assert faults(layout)[0].startswith(expected)


def test_an_unreadable_last_line_stays_and_the_next_record_follows_the_last_that_can_be_read(layout: Layout) -> None:
    filled(layout)
    path = segment_path(layout.audit, 1)
    path.write_bytes(path.read_bytes() + b"nonsense\n")
    [record] = AuditFiles(layout).append([entry(6)])
    assert record.sequence == 6
    assert record.previous == json.loads(lines(layout)[4])["hash"]
    assert len(faults(layout)) == 1


def test_the_head_shows_that_whole_records_were_cut_off_the_end(layout: Layout) -> None:
    log = filled(layout)
    pinned = log.head()
    segment_path(layout.audit, 1).write_bytes(b"".join(lines(layout)[:3]))
    assert faults(layout) == []
    assert log.head().sequence == 3
    assert AuditFiles(layout).head() != pinned


def test_a_removed_segment_shows_in_the_doctor(layout: Layout) -> None:
    filled(layout, 20, segment_bytes=1000)
    segment_path(layout.audit, 2).unlink()
    assert "the segments before it were removed" in faults(layout)


def test_segments_are_read_on_from_what_stands_beside_the_full_ones(layout: Layout) -> None:
    projects = [new_id() for _ in range(3)]
    log = AuditFiles(layout, segment_bytes=1000)
    for number in range(30):
        log.append([entry(number, projects[number % 3])])
    count = len(segment_numbers(layout.audit))
    assert count > 3
    assert faults(layout) == []
    first = segment_path(layout.audit, 1)
    kept = first.read_bytes()
    first.unlink()
    late = AuditFiles(layout)
    assert [late.secrets_head(one) for one in projects] == [log.secrets_head(one) for one in projects]
    assert late.head() == log.head()
    first.write_bytes(kept)
    first.chmod(0o600)
    assert [record.sequence for record in late.read(12, 5)] == [13, 14, 15, 16, 17]
    for number in range(1, count):
        snapshot_path(layout.audit, number).unlink()
    assert AuditFiles(layout).secrets_head(projects[2]) == log.secrets_head(projects[2])


@pytest.mark.parametrize("content", [None, b"{", b"{}"])
def test_what_stands_beside_a_full_segment_is_not_believed_when_it_does_not_fit(
    layout: Layout, content: bytes | None
) -> None:
    project_id = new_id()
    log = AuditFiles(layout, segment_bytes=1000)
    for number in range(6):
        log.append([entry(number, project_id)])
    number = segment_numbers(layout.audit)[-2]
    path = snapshot_path(layout.audit, number)
    document = json.loads(path.read_bytes())
    document["hash"] = "0" * 64
    path.write_bytes(json.dumps(document).encode() if content is None else content)
    assert AuditFiles(layout).secrets_head(project_id) == log.secrets_head(project_id)
    [finding] = findings(layout)
    assert finding.path == f".audit/{path.name}"
    repair(Folder(layout.root), [finding])
    assert not path.exists()
    assert faults(layout) == []


def test_a_refused_write_leaves_no_record(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(layout)
    before = segment_path(layout.audit, 1).read_bytes()

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            log.append([entry(6)])
    assert segment_path(layout.audit, 1).read_bytes() == before
    assert log.head().sequence == 5
    assert log.append([entry(7)])[0].sequence == 6


async def test_a_refused_write_is_told_to_all_that_wait_for_it(tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    (tmp_path / "projects" / ".audit").write_bytes(b"in the way")
    with pytest.raises(StorageUnavailable):
        await storage.audit.append(entry())
    await storage.stop()


def test_several_processes_keep_one_chain(layout: Layout) -> None:
    each, log = 25, AuditFiles(layout, segment_bytes=4000)
    command = [sys.executable, "-c", _APPENDING, str(layout.root)]
    started = [subprocess.Popen([*command, str(number), str(each)]) for number in range(3)]
    for number in range(each):
        log.append([entry(number)])
    assert [process.wait(60) for process in started] == [0, 0, 0]
    records = log.read(0, 1000)
    assert [record.sequence for record in records] == list(range(1, 4 * each + 1))
    assert len({record.entry.request_id for record in records}) == 4 * each
    assert log.head() == records[-1].head
    assert len(segment_numbers(layout.audit)) > 1
    assert faults(layout) == []


def test_a_killed_process_leaves_a_log_that_goes_on(layout: Layout) -> None:
    command = [sys.executable, "-c", _APPENDING, str(layout.root), "x", "100000"]
    with subprocess.Popen(command) as process:
        log = AuditFiles(layout, segment_bytes=4000)
        while log.head().sequence < 20:
            assert process.poll() is None
        process.kill()
    assert log.append([entry()])[0].sequence > 20
    assert faults(layout) == []


async def test_a_process_that_dies_at_any_step_of_an_append_leaves_a_sound_log(layout: Layout, tmp_path: Path) -> None:
    acknowledged = filled(layout, 2).read(0, 10)
    work = tmp_path / "work"
    tried = await run_crashes(layout.root, work, "append to audit log", new_id(), new_id())
    assert tried >= 5
    lengths = set()
    for folder in work.iterdir():
        place = Layout(folder)
        assert faults(place) == []
        log = AuditFiles(place)
        records = log.read(0, 10)
        assert records[:2] == acknowledged
        assert log.append([entry(9)])[0].sequence == len(records) + 1
        assert faults(place) == []
        lengths.add(len(records))
    assert {2, 3, 6} <= lengths


def test_what_is_stored_is_not_refused_though_it_cannot_be_read_back(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(layout, 1)
    before = log.head()
    written, write = [False], os.fsync

    def synced(descriptor: int) -> None:
        write(descriptor)
        written[0] = True

    def numbers(directory: Path) -> list[int]:
        if written[0]:
            raise OSError(24, "Too many open files")
        return segment_numbers(directory)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        patch.setattr(audit_files, "segment_numbers", numbers)
        (record,) = log.append([entry(1)])
        assert written[0]
    assert record.sequence == before.sequence + 1
    assert log.head() == record.head
    assert [one.sequence for one in log.append([entry(2)])] == [before.sequence + 2]


async def test_a_fault_that_nobody_thought_of_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()

    def broken(files: AuditFiles, entries: object) -> None:
        raise RuntimeError("unthought of")

    with monkeypatch.context() as patch:
        patch.setattr(AuditFiles, "append", broken)
        with pytest.raises(StorageUnavailable) as refused:
            await storage.audit.append(entry())
        assert "RuntimeError" in refused.value.cause
    assert (await storage.audit.append(entry())).sequence == 1
    await storage.stop()
