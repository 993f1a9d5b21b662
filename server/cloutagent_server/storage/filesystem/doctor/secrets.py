"""Whether every sealed value is well formed and opens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.storage.filesystem.doctor.findings import FROM_BACKUP, Finding, Folder, Severity
from cloutagent_server.storage.filesystem.documents import load
from cloutagent_server.storage.filesystem.secret_records import key_check_from_json, secrets_from_json


def check_secrets(folder: Folder) -> Iterable[Finding]:
    """Every secrets.enc and what tells which key sealed them; every value is opened if there is a key."""
    fault_of = folder.fault_of
    key_check = folder.relative(folder.layout.key_check)
    try:
        noted = load(folder.layout.key_check, key_check_from_json)
    except StoredDataDamaged as fault:
        noted = None
        yield folder.damaged(fault)
    if noted is not None and fault_of is not None and fault_of(noted) is not None:
        yield Finding(
            Severity.ERROR, key_check, "ENCRYPTION_KEY is not the key that sealed the secrets", "set the right key"
        )
        fault_of = None
    elif fault_of is None and any(folder.layout.secrets(project_id).exists() for project_id in folder.project_ids()):
        yield Finding(
            Severity.WARNING, ".", "secrets were not opened: there is no ENCRYPTION_KEY", "set it and look again"
        )
    for project_id in folder.project_ids():
        path = folder.layout.secrets(project_id)
        try:
            secrets = load(path, secrets_from_json) or {}
        except StoredDataDamaged as fault:
            yield folder.damaged(fault)
            continue
        if fault_of is not None:
            for fault_text in _faults(secrets, fault_of):
                yield Finding(Severity.ERROR, folder.relative(path), fault_text, FROM_BACKUP + ", or set it again")


def _faults(secrets: Mapping[str, SealedSecret], fault_of: Callable[[SealedSecret], str | None]) -> Iterable[str]:
    for name, sealed in secrets.items():
        fault = fault_of(sealed)
        if fault is not None:
            yield f"{name} cannot be opened: {fault}"
