"""Checks of a whole data folder, beside a running server or without one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Final

import structlog

from cloutagent_server.domain.errors import CloutAgentError, StorageUnavailable
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.doctor.audit import check_audit
from cloutagent_server.storage.filesystem.doctor.executions import check_executions
from cloutagent_server.storage.filesystem.doctor.findings import Check, Finding, Folder, Severity
from cloutagent_server.storage.filesystem.doctor.index import check_index
from cloutagent_server.storage.filesystem.doctor.ledgers import check_ledgers
from cloutagent_server.storage.filesystem.doctor.projects import check_projects
from cloutagent_server.storage.filesystem.doctor.secrets import check_secrets
from cloutagent_server.storage.filesystem.doctor.tree import check_tree
from cloutagent_server.storage.filesystem.locks import MOMENT

CHECKS: Final[Sequence[Check]] = (
    check_projects,
    check_secrets,
    check_executions,
    check_ledgers,
    check_audit,
    check_index,
    check_tree,
)

_BATCH: Final = 64

_log = structlog.get_logger(__name__)


def examine(folder: Folder, checks: Sequence[Check] = CHECKS) -> Sequence[Finding]:
    """All that is wrong with a folder, by path. Changes nothing. Blocks.

    What a write under way may look like is looked at once more while writers wait, for a moment at a time.

    Raises:
        OSError: The folder is not there or cannot be read.
    """
    folder.layout.root.stat()
    with os.scandir(folder.layout.root):
        found = dict.fromkeys(finding for check in checks for finding in check(folder))
    settled = [finding for finding in found if finding.still is None]
    rests = True
    for batch in _batches([finding for finding in found if finding.still is not None]):
        with _quiet(folder) if rests else nullcontext(False) as rests:
            settled += [finding for finding in batch if finding.still is None or finding.still()]
    return sorted(settled, key=lambda finding: finding.path)


def repair(folder: Folder, findings: Iterable[Finding]) -> None:
    """Do what the findings say can be done by itself. The bytes of a damaged record are not touched. Blocks.

    Raises:
        StorageUnavailable: Writers did not leave the folder alone for 30 seconds.
    """
    for batch in _batches([finding for finding in findings if finding.repair is not None]):
        # Repairs prepare here what they write, and move here what they remove: no server need have used the folder.
        for directory in (folder.layout.locks, folder.layout.staging, folder.layout.trash):
            files.make_directory(directory)
        with folder.locks.alone():
            for finding in batch:
                _repair(finding)


def _repair(finding: Finding) -> None:
    try:
        if finding.repair is not None and (finding.still is None or finding.still()):
            finding.repair()
    except OSError as fault:
        _log.warning("not_repaired", path=finding.path, fault=files.describe(fault))
    except CloutAgentError as fault:
        _log.warning("not_repaired", path=finding.path, fault=repr(fault))


@contextmanager
def _quiet(folder: Folder) -> Iterator[bool]:
    """Keep writers out if that is possible; tells whether it is.

    On a medium without locks, or where a writer takes too long, do without.
    """
    with ExitStack() as held:
        if folder.layout.locks.is_dir():
            try:
                held.enter_context(folder.locks.alone())
            except (StorageUnavailable, OSError):
                yield False
                return
        yield True


def _batches(findings: Sequence[Finding]) -> Iterator[Sequence[Finding]]:
    """The findings in parts, with a moment between two in which those who wait for the folder get on."""
    for start in range(0, len(findings), _BATCH):
        if start:
            time.sleep(MOMENT)
        yield findings[start : start + _BATCH]


__all__ = ["CHECKS", "Check", "Finding", "Folder", "Severity", "examine", "repair"]
