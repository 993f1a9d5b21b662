"""Leases of servers on one folder: who answers for an execution, and who does once that server is gone."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.unit.storage.conftest import OpenStorage
from tests.unit.storage.test_sharing import DEADLINE, REPOSITORY


async def test_nobody_claims_what_a_server_at_work_owns(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution
) -> None:
    other = await open_storage()
    assert list(await other.executions.list_abandoned()) == []
    assert await other.executions.claim(execution.id) is None
    assert list(await storage.executions.list_abandoned()) == [execution.id]


async def test_what_a_server_leaves_is_claimed_by_one(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, root: Path
) -> None:
    others = [await open_storage() for _ in range(3)]
    await storage.stop()
    for other in others:
        assert list(await other.executions.list_abandoned()) == [execution.id]
    claims = await asyncio.gather(*(other.executions.claim(execution.id) for other in others))
    assert [claim for claim in claims if claim is not None] == [execution]
    owner = others[next(n for n, claim in enumerate(claims) if claim is not None)]
    for other in others:
        assert list(await other.executions.list_abandoned()) == ([execution.id] if other is owner else [])


async def test_a_killed_server_owns_nothing(storage: FileSystemStorage, project: Project, root: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.second_process", str(root)),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(["create execution", project.id, "key"]).encode() + b"\n")
        answers = [json.loads(await asyncio.wait_for(process.stdout.readline(), DEADLINE)) for _ in range(2)]
        execution_id = answers[1]
        assert list(await storage.executions.list_abandoned()) == []
        assert await storage.executions.claim(execution_id) is None
        assert len(list((root / ".servers").iterdir())) == 2
    finally:
        process.kill()
        await process.wait()
    assert list(await storage.executions.list_abandoned()) == [execution_id]
    assert await storage.executions.claim(execution_id) is not None
    await storage.executions.list_abandoned()
    assert len(list((root / ".servers").iterdir())) == 1, "the dead server's lease is removed"


async def test_an_owner_that_cannot_be_read_is_none(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path
) -> None:
    (log_path.parent / "owner.json").write_bytes(b"")
    other = await open_storage()
    assert await other.executions.claim(execution.id) == execution


async def test_executions_of_earlier_versions_have_no_owner(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path
) -> None:
    (log_path.parent / "owner.json").unlink()
    other = await open_storage()
    assert list(await other.executions.list_abandoned()) == [execution.id]
    assert await other.executions.claim(execution.id) == execution


async def test_one_that_is_only_in_the_index_so_far_is_nobodys(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path
) -> None:
    other = await open_storage()
    hidden = log_path.parent.with_name("being-created")
    log_path.parent.rename(hidden)
    assert list(await other.executions.list_abandoned()) == []
    hidden.rename(log_path.parent)
    await storage.stop()
    assert list(await other.executions.list_abandoned()) == [execution.id]


async def test_requests_to_cancel_are_seen_by_all(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution
) -> None:
    other = await open_storage()
    await other.executions.request_cancel(execution.id)
    assert list(await storage.executions.list_cancel_requests()) == [execution.id]
    events = builders.events(execution.id, [builders.cancelled()])
    await storage.executions.append(events)
    await storage.executions.drop_cancel_request(execution.id)
    assert list(await other.executions.list_cancel_requests()) == []
