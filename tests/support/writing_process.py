"""A server process that writes to a folder until its input ends. Tells each project that was acknowledged, one a line.

Started as `python -m tests.support.writing_process ROOT KEY`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from cloutagent_server.domain.project import ProjectChanges
from cloutagent_server.service.auth import Authenticator
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders


async def _write(storage: FileSystemStorage, secrets: SecretManager, authenticator: Authenticator, number: int) -> None:
    key = authenticator.generate_api_key()
    credential = await authenticator.credential_for(key) if number % 10 == 0 else builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    await secrets.set_secret(project.id, "TOKEN", f"plain value {number}")
    await storage.projects.update(project.id, ProjectChanges(name=f"number {number}"))
    print(json.dumps({"id": project.id, "apiKey": key}), flush=True)
    execution = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    for event in builders.events(execution.id, builders.payloads_of_a_run()):
        await storage.executions.append([event])
    short_lived = await storage.projects.create(builders.project_draft(), builders.credential())
    await storage.projects.delete(short_lived.id)


async def _serve(root: Path, encryption_key: str) -> None:
    storage = FileSystemStorage(root)
    await storage.start()
    secrets = SecretManager(storage.secrets, Keyring(encryption_key))
    await secrets.check_key()
    authenticator = Authenticator(storage.projects)
    end = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    number = 0
    while not end.done():
        await _write(storage, secrets, authenticator, number)
        number += 1
        # Busy, but not so busy that the folder outgrows what the test has time to look at.
        await asyncio.wait({end}, timeout=0.05)
    authenticator.close()
    await storage.stop()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2]))
