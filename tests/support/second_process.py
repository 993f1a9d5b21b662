"""Another server process on a folder. Reads commands from its input, one JSON list a line, and answers each.

Started as `python -m tests.support.second_process ROOT`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.secret_changes import put_secret


async def _append(storage: FileSystemStorage, execution_id: str, after: int, count: int) -> object:
    return (await storage.executions.append(builders.texts(execution_id, count, after))).last_sequence


async def _finish(storage: FileSystemStorage, execution_id: str, after: int) -> object:
    return (await storage.executions.append(builders.events(execution_id, [builders.cancelled()], after))).status.value


async def _put_secrets(storage: FileSystemStorage, project_id: str, prefix: str, count: int) -> object:
    for number in range(count):
        await put_secret(storage, project_id, f"{prefix}_{number}", builders.sealed_secret())
    return count


async def _create_execution(storage: FileSystemStorage, project_id: str, key: str) -> object:
    idempotency = builders.idempotency(key=key)
    return (await storage.executions.create(builders.execution(project_id, idempotency=idempotency))).id


async def _write_until_all_are_taken(storage: FileSystemStorage, execution_id: str, count: int) -> object:
    """Append `count` events one by one against competition."""
    conflicts = 0
    for _ in range(count):
        while True:
            seen = await storage.executions.read(execution_id)
            assert seen is not None
            try:
                await storage.executions.append([builders.event(execution_id, seen.last_sequence + 1)])
                break
            except CloutAgentError:
                conflicts += 1
    return conflicts


async def _delete(storage: FileSystemStorage, execution_id: str) -> object:
    await storage.executions.delete(execution_id)
    return None


COMMANDS: dict[str, Callable[..., Awaitable[object]]] = {
    "append": _append,
    "finish": _finish,
    "put secrets": _put_secrets,
    "create execution": _create_execution,
    "compete": _write_until_all_are_taken,
    "delete": _delete,
}


async def _serve(root: Path) -> None:
    storage = FileSystemStorage(root)
    await storage.start()
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, *arguments = json.loads(line)
        answer: Any
        try:
            answer = await COMMANDS[name](storage, *arguments)
        except CloutAgentError as fault:
            answer = {"error": type(fault).__name__}
        print(json.dumps(answer), flush=True)
    await storage.stop()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
