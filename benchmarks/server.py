"""A server's process without its transport. Started as `python -m benchmarks.server ROOT TASK`.

`serve` starts as a server does, lists every project, and tells as JSON how long the start took in seconds and how much
memory, in MiB, the process had after it and at most. `work` creates, changes and deletes projects until it is killed,
and prints a line once it is in the middle of that.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Final

import psutil

from benchmarks.stores import new_project
from cloutagent_server.domain.project import ProjectChanges
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage

_WRITERS: Final = 8
_BEFORE_THE_KILL: Final = 20


async def _serve(root: Path) -> None:
    begun = time.perf_counter()
    storage = FileSystemStorage(root)
    await storage.start()
    await SecretManager(storage.secrets, Keyring("ab" * 32)).check_key()
    await storage.executions.list_unfinished()
    seconds = time.perf_counter() - begun
    started = psutil.Process().memory_info().rss / 2**20
    token, listed = None, 0
    while token is not None or not listed:
        page = await storage.projects.list(1_000, token)
        token, listed = page.next_page_token, listed + len(page.items)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    await storage.stop()
    print(json.dumps({"start": seconds, "started": started, "listed": most, "projects": listed}))


async def _work(root: Path) -> None:
    storage = FileSystemStorage(root)
    await storage.start()
    done = 0

    async def write() -> None:
        nonlocal done
        generator = random.Random()
        while True:
            draft, credential, _ = new_project("$2b$10$" + "a" * 53, generator)
            project = await storage.projects.create(draft, credential)
            await storage.projects.update(project.id, ProjectChanges(name="Changed"))
            await storage.projects.delete(project.id)
            done += 1
            if done == _BEFORE_THE_KILL:
                print("at work", flush=True)

    await asyncio.gather(*(write() for _ in range(_WRITERS)))


if __name__ == "__main__":
    asyncio.run({"serve": _serve, "work": _work}[sys.argv[2]](Path(sys.argv[1])))
