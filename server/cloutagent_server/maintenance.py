"""What the operator does with a data folder beside the server: look after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.service.cipher import CannotOpen, Cipher
from cloutagent_server.settings import Settings
from cloutagent_server.storage.filesystem import doctor
from cloutagent_server.storage.filesystem.doctor import Finding, Folder


def examine(settings: Settings, repair: bool = False) -> Sequence[Finding]:
    """What is wrong with the folder of the projects; with `repair`, what is left after repairing what can be.

    Raises:
        OSError: The folder is not there or cannot be read.
        StorageUnavailable: Servers at work did not leave the folder alone for 30 seconds, so that nothing is repaired.
    """
    folder = Folder(settings.project_root, fault_of(settings))
    findings = doctor.examine(folder)
    if repair and findings:
        doctor.repair(folder, findings)
        findings = doctor.examine(folder)
    return findings


def to_json(findings: Sequence[Finding]) -> str:
    """The findings as a JSON text."""
    listed = [
        {"severity": one.severity.value, "path": one.path, "fault": one.fault, "remedy": one.remedy} for one in findings
    ]
    return json.dumps({"findings": listed}, ensure_ascii=False, indent=2)


def fault_of(settings: Settings) -> Callable[[SealedSecret], str | None] | None:
    """What tells why a sealed value does not open with the key of the settings; None without a key."""
    if settings.encryption_key is None:
        return None
    cipher = Cipher(settings.encryption_key.get_secret_value())

    def fault(sealed: SealedSecret) -> str | None:
        try:
            cipher.open(sealed)
        except CannotOpen as reason:
            return str(reason)
        return None

    return fault
