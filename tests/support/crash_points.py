"""An operation that dies at each of its steps in turn: how the test on crashes makes its crashes.

Started as `python -m tests.support.crash_points BASE WORK OPERATION PROJECT EXECUTION`. For n = 1, 2, … it copies the
folder BASE to WORK/n and runs the operation there in a process that ends, as if it were killed, just before its n-th
call that changes a file; a write is done by half. It stops when the operation came to its end, and prints n.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cloutagent_server.domain.audit import AuditEntry
from cloutagent_server.domain.project import ProjectChanges
from cloutagent_server.service.key_rotation import rotate_encryption_key
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secret_care import adopt
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.secret_changes import put_secret

_KILLED = 77
_CHANGING = ("write", "fsync", "rename", "unlink", "mkdir", "rmdir", "ftruncate", "open")

Operation = Callable[[FileSystemStorage, str, str], Awaitable[object]]

NEW_CREDENTIAL = builders.credential(digest="ab" * 32, hash="$2b$10$" + "a" * 53)


async def _note_key_uses(storage: FileSystemStorage, project_id: str, _: str) -> None:
    keys = await storage.projects.read_keys(project_id)
    await storage.projects.note_key_uses(project_id, {key.id: builders.at(1) for key in keys})


OPERATIONS: dict[str, Operation] = {
    "create project": lambda storage, _, __: storage.projects.create(builders.project_draft(), builders.credential()),
    "update project": lambda storage, project_id, _: storage.projects.update(project_id, ProjectChanges(name="new")),
    "delete project": lambda storage, project_id, _: storage.projects.delete(project_id),
    "change keys": lambda storage, project_id, _: storage.projects.change_keys(
        project_id, lambda keys: (builders.api_key(id=project_id, credential=NEW_CREDENTIAL), *keys[1:])
    ),
    "note key uses": _note_key_uses,
    "put secret": lambda storage, project_id, _: put_secret(storage, project_id, "NEW", builders.sealed_secret()),
    "create execution": lambda storage, project_id, _: storage.executions.create(
        builders.execution(project_id, idempotency=builders.idempotency(key="crash"))
    ),
    "append": lambda storage, _, execution_id: storage.executions.append([builders.event(execution_id, 3)]),
    "finish": lambda storage, _, execution_id: storage.executions.append(
        builders.events(execution_id, [builders.completed()], after=2)
    ),
    "delete execution": lambda storage, _, execution_id: storage.executions.delete(execution_id),
}


# On a folder whose secrets were sealed with `OLD_KEY`.
OLD_KEY, NEW_KEY = "01" * 32, "02" * 32
BOTH_KEYS = Keyring(NEW_KEY, [OLD_KEY])
SECRET_OPERATIONS: dict[str, Operation] = {
    "set secret": lambda storage, project_id, _: _manager(storage).set_secret(project_id, "TOKEN", "set"),
    "set first secret": lambda storage, project_id, _: _manager(storage).set_secret(project_id, "FIRST", "set"),
    "delete secret": lambda storage, project_id, _: _manager(storage).delete_secret(project_id, "TOKEN"),
    "adopt secrets": lambda storage, project_id, _: adopt(storage.secrets, BOTH_KEYS, project_id),
    "rotate key": lambda storage, _, __: rotate_encryption_key(storage.secrets, BOTH_KEYS, False, lambda _: None),
}


async def _append_audit(storage: FileSystemStorage, _: str, __: str) -> None:
    """One record that is written alone, and three that share a write."""
    for count in (1, 3):
        entries = [AuditEntry("admin", "secret.set", "ok", request_id=f"{count}-{each}") for each in range(count)]
        await asyncio.gather(*map(storage.audit.append, entries))


AUDIT_OPERATIONS: dict[str, Operation] = {"append to audit log": _append_audit}


def _manager(storage: FileSystemStorage) -> SecretManager:
    return SecretManager(storage.secrets, BOTH_KEYS)


def _die_before_call(number: int) -> None:
    left = number

    def dying(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            left -= 1
            if left == 0:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os._exit(_KILLED)
            return real(*args, **kwargs)

        return call

    for name in _CHANGING:
        setattr(os, name, dying(name))


async def _run(root: Path, operation: Operation, number: int, project_id: str, execution_id: str) -> None:
    storage = FileSystemStorage(root)
    await storage.start()
    _die_before_call(number)
    await operation(storage, project_id, execution_id)


def _died(root: Path, operation: Operation, number: int, project_id: str, execution_id: str) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(_run(root, operation, number, project_id, execution_id))
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, _KILLED):
        raise SystemExit(f"the operation failed at step {number}")
    return code == _KILLED


def main() -> None:
    base, work, name, project_id, execution_id = sys.argv[1:]
    number = 1
    while True:
        root = Path(work) / str(number)
        shutil.copytree(base, root)
        if not _died(
            root, {**OPERATIONS, **SECRET_OPERATIONS, **AUDIT_OPERATIONS}[name], number, project_id, execution_id
        ):
            print(number)
            return
        number += 1


if __name__ == "__main__":
    main()
