"""What lies in the folder: leftovers, files that are not the store's, owners and modes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage.filesystem import files, layout
from cloutagent_server.storage.filesystem.audit_files import is_name_of_audit_log
from cloutagent_server.storage.filesystem.doctor.findings import BY_REPAIR, Finding, Folder, Severity
from cloutagent_server.storage.filesystem.locks import sharing_file
from cloutagent_server.storage.filesystem.replacing import complete_replacement


def check_tree(folder: Folder) -> Iterable[Finding]:
    """Every file and directory under the root."""
    yield from _access(folder, folder.layout.root)
    yield from _below(folder, folder.layout.root, ())


def _below(folder: Folder, directory: Path, parts: tuple[str, ...]) -> Iterator[Finding]:
    for name in sorted(files.names_in(directory)):
        yield from _entry(folder, directory / name, (*parts, name))


def _entry(folder: Folder, path: Path, parts: tuple[str, ...]) -> Iterator[Finding]:
    name = parts[-1]
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if name.startswith(files.TEMPORARY_PREFIX):
        yield _leftover(folder, path, "was left by a write that did not end", _removal_of(folder, path, parts))
    elif len(parts) == 2 and parts[0] == ".trash":
        yield _leftover(folder, path, "was left by a removal that did not end", folder.removal.empty_trash)
    elif len(parts) == 2 and parts[0] == ".restore" and is_id(name):
        complete = partial(complete_replacement, folder.layout, folder.index, folder.removal, name)
        yield _leftover(folder, path, "was left by a restore that did not end", complete)
    elif not _is_known(parts):
        yield Finding(Severity.WARNING, folder.relative(path), "is not a file of the store", "move it away")
    elif stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        yield Finding(Severity.ERROR, folder.relative(path), "is neither a file nor a directory", "replace it")
    else:
        yield from _access(folder, path)
        if stat.S_ISDIR(mode):
            yield from _below(folder, path, parts)


def _is_known(parts: tuple[str, ...]) -> bool:
    match parts:
        case (name,):
            return name in layout.ROOT_NAMES or is_id(name)
        case (layout.AUDIT, *names):
            return len(names) == 1 and is_name_of_audit_log(names[0])
        case (first, *_) if not is_id(first):
            return True
        case (_, name):
            return name in layout.PROJECT_NAMES
        case (_, layout.SECRETS, name):
            return name in layout.SECRETS_NAMES
        case (_, layout.KEYS, name):
            return name in layout.KEYS_NAMES
        case (_, layout.LEDGER, name):
            return layout.LEDGER_NAME.fullmatch(name) is not None
        case (_, layout.EXECUTIONS, name):
            return is_id(name)
        case (_, layout.EXECUTIONS, _, name):
            return name in layout.EXECUTION_NAMES
        case _:
            return False


def _access(folder: Folder, path: Path) -> Iterator[Finding]:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    where = folder.relative(path)
    if status.st_uid != os.geteuid():
        fault = f"belongs to user {status.st_uid}, not to user {os.geteuid()}"
        yield Finding(Severity.ERROR, where, fault, "run this as the server's user, or chown it to that user")
    wanted = files.DIRECTORY_MODE if stat.S_ISDIR(status.st_mode) else files.FILE_MODE
    mode = stat.S_IMODE(status.st_mode)
    if mode != wanted:
        severity = Severity.ERROR if mode & stat.S_IWOTH else Severity.WARNING
        yield Finding(severity, where, f"has mode {mode:04o}, not {wanted:04o}", f"chmod {wanted:04o} it")


def _leftover(folder: Folder, path: Path, fault: str, remove: Callable[[], None]) -> Finding:
    return Finding(Severity.WARNING, folder.relative(path), fault, BY_REPAIR, partial(_lies_about, path), remove)


def _lies_about(path: Path) -> bool:
    """Whether a leftover is there while nobody appends to the log beside it, if there is one."""
    log = path.parent / layout.LOG
    try:
        with sharing_file(log):
            return os.path.lexists(path)
    except OSError:
        return os.path.lexists(path)


def _removal_of(folder: Folder, path: Path, parts: tuple[str, ...]) -> Callable[[], None]:
    record_id = path.name.removeprefix(files.TEMPORARY_PREFIX)
    match parts:
        case (_,) | (".staging", _) if is_id(record_id):
            return partial(folder.removal.undo_unborn_project, path)
        case (_, layout.EXECUTIONS, _) if is_id(record_id):
            return partial(folder.removal.undo_execution, record_id, [path])
        case _:
            return partial(files.remove_tree, path)
