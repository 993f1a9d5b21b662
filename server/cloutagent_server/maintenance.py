"""What the operator does with a data folder beside the server: look after it, back it up, restore it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from cloutagent_server import __version__
from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditHead, AuditRecord, Resource
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.secret import SealedSecret, SecretsHead
from cloutagent_server.service import secret_care
from cloutagent_server.service.audit import AuditTrail, HeldAgainstAudit, by_operator
from cloutagent_server.service.cipher import CannotOpen
from cloutagent_server.service.daily import Daily
from cloutagent_server.service.key_rotation import Progress, rotate_encryption_key
from cloutagent_server.service.secret_care import check_key
from cloutagent_server.settings import Environment, Settings, keyring_of
from cloutagent_server.storage.filesystem import FileSystemStorage, doctor
from cloutagent_server.storage.filesystem.backup import keeping, restore
from cloutagent_server.storage.filesystem.backup.create import Backup, back_up
from cloutagent_server.storage.filesystem.backup.restore import Restored
from cloutagent_server.storage.filesystem.backup.verify import verify
from cloutagent_server.storage.filesystem.doctor import Finding, Folder
from cloutagent_server.storage.filesystem.doctor.findings import FROM_BACKUP, Check, Severity

log: Final = logging.getLogger(__name__)


def examine(settings: Settings, repair: bool = False) -> Sequence[Finding]:
    """What is wrong with the folder of the projects; with `repair`, what is left after repairing what can be.

    Raises:
        OSError: The folder is not there or cannot be read.
        StorageUnavailable: Servers at work did not leave the folder alone for 30 seconds, so that nothing is repaired.
    """
    folder = Folder(settings.project_root, fault_of(settings))
    checks: Sequence[Check] = (*doctor.CHECKS, partial(_check_bindings, settings))
    findings = doctor.examine(folder, checks)
    if repair and findings:
        doctor.repair(folder, findings)
        findings = doctor.examine(folder, checks)
    return findings


def adopt(settings: Settings) -> Sequence[str]:
    """Take what other programs added to the secrets of projects into their manifests; returns `project: name` of each.

    Raises:
        ValueError: There is no ENCRYPTION_KEY.
        StoredDataDamaged: A manifest is not to be trusted; the projects before it are done.
    """
    keyring = keyring_of(settings)

    async def work() -> Sequence[str]:
        storage = FileSystemStorage(settings.project_root)
        await storage.start()
        trail, secrets = AuditTrail(storage.audit), HeldAgainstAudit(storage.secrets, storage.audit)
        adopted: list[str] = []
        try:
            for owner in await secrets.list_owners():
                begun = await trail.begin(by_operator(audit.ADOPT_SECRETS, owner))
                outcome, manifest = audit.FAILED, None
                try:
                    names = await secret_care.adopt(secrets, keyring, owner)
                    outcome, manifest = audit.OK, (await secrets.read(owner)).manifest
                finally:
                    await trail.end(begun, outcome, secrets_head=None if manifest is None else manifest.head)
                adopted += [f"{owner}: {name}" for name in names]
            return adopted
        finally:
            await storage.stop()

    return asyncio.run(work())


def audit_head(settings: Settings) -> AuditHead:
    """What stands for the audit log up to its last record."""
    return asyncio.run(FileSystemStorage(settings.project_root).audit.head())


def audit_records(settings: Settings) -> Iterator[AuditRecord]:
    """The records of the audit log that can be read, in their order."""
    records, last = FileSystemStorage(settings.project_root).audit, 0
    while page := asyncio.run(records.read(last, 1000)):
        yield from page
        last = max(record.sequence for record in page)


def adopted_only(settings: Settings) -> bool:
    """Whether secrets that another program added are refused until they are adopted."""
    return settings.app_env is Environment.PRODUCTION


async def rotate_key(settings: Settings, report: Callable[[Progress], None]) -> Progress:
    """Seal all stored secrets with ENCRYPTION_KEY; see `rotate_encryption_key`."""
    storage = FileSystemStorage(settings.project_root)
    await storage.start()
    trail, secrets = AuditTrail(storage.audit), HeldAgainstAudit(storage.secrets, storage.audit)
    outcome = audit.FAILED
    try:
        await check_key(secrets, keyring_of(settings))
        begun = await trail.begin(by_operator(audit.ROTATE_ENCRYPTION_KEY))

        async def changed(project_id: str, head: SecretsHead) -> None:
            await trail.end(begun, audit.OK, Resource(project_id), head)

        try:
            done = await rotate_encryption_key(secrets, keyring_of(settings), adopted_only(settings), report, changed)
            outcome = audit.FAILED if done.faults else audit.OK
            return done
        finally:
            await trail.end(begun, outcome)
    finally:
        await storage.stop()


def _check_bindings(settings: Settings, folder: Folder) -> Iterable[Finding]:
    """Whether each value is the one that the manifest binds to its name and project. Needs a key."""
    if settings.encryption_key is None:
        return
    keyring, storage = keyring_of(settings), FileSystemStorage(settings.project_root)
    secrets = HeldAgainstAudit(storage.secrets, storage.audit)
    for project_id in folder.project_ids():
        for one in asyncio.run(secret_care.inspect(secrets, keyring, project_id)):
            path = f"{folder.relative(folder.layout.secrets(project_id))}"
            severity = Severity.WARNING if one.adoptable else Severity.ERROR
            remedy = "adopt it with --adopt" if one.adoptable else FROM_BACKUP + ", or set it again"
            yield Finding(severity, path, f"{one.location}: {one.fault}", remedy)


def to_json(findings: Sequence[Finding], head: AuditHead) -> str:
    """The findings, and the head of the audit log, as a JSON text."""
    listed = [
        {"severity": one.severity.value, "path": one.path, "fault": one.fault, "remedy": one.remedy} for one in findings
    ]
    return json.dumps(
        {"findings": listed, "auditLog": {"sequence": head.sequence, "hash": head.hash}}, ensure_ascii=False, indent=2
    )


def make_backup(
    settings: Settings,
    output: Path | None = None,
    executions: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> Backup:
    """Back the folder up: to `output`, or to the folder of backups, where old ones are removed. Blocks.

    While something is left out no backup is removed: an old one may be the last that has it whole.

    Raises:
        OSError, StorageUnavailable, BackupDamaged: There is no new backup, and no old one is removed.
        BackupCancelled: `cancelled` said so.
    """
    target = keeping.path_at(settings.backup_root, datetime.now(UTC)) if output is None else output.absolute()
    backup = back_up(settings.project_root, target, __version__, executions=executions, cancelled=cancelled)
    for fault in backup.left_out:
        log.error("record_not_backed_up", extra={"location": fault.location, "fault": fault.fault})
    if output is None and not backup.left_out:
        keeping.prune(settings.backup_root, settings.backup_keep)
    return backup


def daily_backup(settings: Settings) -> Daily:
    """What makes a backup each day, beside the event loop.

    It makes none of a folder without projects: nothing is lost with that, and if it is empty by mistake, as when a
    volume is missing, backups of it would take the places of those that hold the projects.
    """

    async def work() -> None:
        if not await asyncio.to_thread(_has_projects, settings.project_root):
            log.info("nothing_to_back_up")
            return
        cancelled = threading.Event()
        making = asyncio.ensure_future(asyncio.to_thread(partial(make_backup, settings, cancelled=cancelled.is_set)))
        try:
            backup = await asyncio.shield(making)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.gather(making, return_exceptions=True)
            raise
        log.info("backup_made", extra={"path": str(backup.path), "files": len(backup.manifest.files)})

    return Daily("backup", settings.backup_hour, work, partial(keeping.newest, settings.backup_root))


def _has_projects(root: Path) -> bool:
    return any(is_id(entry.name) for entry in root.iterdir())


def restore_backup(settings: Settings, path: Path, replace_existing: bool, dry_run: bool) -> Restored:
    """Put the projects of a backup into the folder, which is made if there is none. See `restore.restore`. Blocks."""
    put_back = partial(
        restore.restore,
        path,
        settings.project_root,
        replace_existing=replace_existing,
        dry_run=dry_run,
        fault_of=fault_of(settings),
    )
    if not dry_run:
        verify(path, fault_of(settings))
        asyncio.run(_make_ready(settings.project_root))
    return put_back()


async def _make_ready(root: Path) -> None:
    storage = FileSystemStorage(root)
    await storage.start()
    await storage.stop()


def fault_of(settings: Settings) -> Callable[[SealedSecret], str | None] | None:
    """What tells why a sealed value does not open with the key of the settings; None without a key."""
    if settings.encryption_key is None:
        return None
    keyring = keyring_of(settings)

    def fault(sealed: SealedSecret) -> str | None:
        try:
            keyring.open(sealed)
        except CannotOpen as reason:
            return str(reason)
        return None

    return fault
