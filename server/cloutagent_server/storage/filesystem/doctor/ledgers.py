"""Whether every record of the ledgers can be read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.doctor.findings import Finding, Folder, Severity
from cloutagent_server.storage.filesystem.ledger_files import LedgerFiles, months_in

_REMEDY = "no model call goes out on it: put the one of a backup in its place; what was used since is forgotten then"


def check_ledgers(folder: Folder) -> Iterable[Finding]:
    """Every ledger's months, line by line. What a crash left at the end of one is the next write's to cut."""
    for project_id in folder.project_ids():
        directory = folder.layout.ledger(project_id)
        ledger = LedgerFiles(directory)
        for month in months_in(directory):
            fault = _fault(ledger, month)
            if fault is not None:
                still = partial(_is_damaged, ledger, month)
                where = folder.relative(directory / f"{month}.jsonl")
                yield Finding(Severity.ERROR, where, fault, _REMEDY, still)


def _fault(ledger: LedgerFiles, month: str) -> str | None:
    try:
        ledger.check(month)
    except FileNotFoundError:
        return None
    except OSError as fault:
        return files.describe(fault)
    except StoredDataDamaged as fault:
        return fault.fault
    return None


def _is_damaged(ledger: LedgerFiles, month: str) -> bool:
    return _fault(ledger, month) is not None
