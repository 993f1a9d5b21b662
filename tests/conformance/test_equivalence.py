"""Whatever is done to them, the backends show the same records, before and after they are opened again."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.domain.events import Payload
from cloutagent_server.domain.execution import Execution, Idempotency
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import UNSET, KeyCredential, Project, ProjectChanges, ProjectDraft
from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.storage.base import KeyOwner, Storage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders
from tests.support.secret_changes import put_secret, remove_secret, secrets_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """A backend with what was created in it, so that records can be named by number. `reopen` may replace it."""

    storage: Storage
    reopen: Callable[[Storage], Awaitable[Storage]]
    projects: list[tuple[str, KeyCredential]] = field(default_factory=list)

    def project_id(self, number: int) -> str:
        return self.projects[number % len(self.projects)][0] if self.projects else new_id()

    def shown(self, value: object) -> object:
        """A value without what the backend chose itself."""
        if isinstance(value, Project):
            return replace(value, id=self._number(value.id), created_at=_EPOCH, updated_at=_EPOCH)
        if isinstance(value, Execution):
            return replace(value, project_id=self._number(value.project_id))
        if isinstance(value, (tuple, list)):
            return [self.shown(item) for item in value]
        return value

    def _number(self, project_id: str) -> str:
        return str([known for known, _ in self.projects].index(project_id))


Operation = Callable[[World], Awaitable[object]]
words = st.text(max_size=12)
numbers = st.integers(0, 3)
hexadecimal = st.binary(max_size=12).map(bytes.hex)
drafts = st.builds(
    ProjectDraft,
    words,
    st.builds(builders.agent_config, id=st.just(new_id()), name=words, temperature=st.floats(0, 1)),
    st.builds(builders.limits, max_cost=st.decimals("0.000001", "1000", places=6), timeout=st.integers(1, 10**7)),
    st.none() | words,
)
payloads = st.one_of(
    st.builds(builders.queued, st.integers(0, 9)),
    st.builds(builders.started, words),
    st.builds(builders.text_delta, words),
    st.builds(builders.message, words),
    st.builds(
        builders.token_used,
        usage=st.builds(builders.usage, total_cost=st.decimals("0", "10", places=9), prompt_tokens=st.integers(0)),
    ),
    st.builds(builders.tool_use, input=st.dictionaries(words, st.none() | st.booleans() | words, max_size=2)),
    st.builds(builders.tool_result, content=words, is_error=st.booleans()),
    st.builds(builders.completed, result=words),
    st.builds(builders.failed),
    st.builds(builders.cancelled),
)


@st.composite
def _create_project(draw: st.DrawFn) -> Operation:
    draft, credential = draw(drafts), builders.credential()

    async def operation(world: World) -> object:
        project = await world.storage.projects.create(draft, credential)
        world.projects.append((project.id, credential))
        return project

    return operation


@st.composite
def _update_project(draw: st.DrawFn) -> Operation:
    number, draft, expected = draw(numbers), draw(drafts), draw(st.none() | st.integers(1, 3))
    changes = ProjectChanges(
        name=draft.name if draw(st.booleans()) else UNSET,
        description=draft.description if draw(st.booleans()) else UNSET,
        agent=draft.agent if draw(st.booleans()) else UNSET,
        limits=draft.limits if draw(st.booleans()) else UNSET,
    )
    return lambda world: world.storage.projects.update(world.project_id(number), changes, expected)


@st.composite
def _change_keys(draw: st.DrawFn) -> Operation:
    number, count = draw(numbers), draw(numbers)
    fresh = tuple(builders.api_key() for _ in range(draw(numbers)))
    time = draw(st.integers(0, 9))

    async def operation(world: World) -> object:
        project_id = world.project_id(number)
        keys = await world.storage.projects.change_keys(project_id, lambda stored: (*fresh, *stored[count:]))
        uses = {key.id: builders.at(time + place) for place, key in enumerate(keys)}
        await world.storage.projects.note_key_uses(project_id, uses)
        return [key.credential for key in keys], sorted(uses.values())

    return operation


@st.composite
def _change_secret(draw: st.DrawFn) -> Operation:
    number, name = draw(numbers), draw(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,2}", fullmatch=True))
    sealed = draw(st.none() | st.builds(SealedSecret, hexadecimal, hexadecimal, hexadecimal))
    if sealed is None:
        return lambda world: remove_secret(world.storage, world.project_id(number), name)
    return lambda world: put_secret(world.storage, world.project_id(number), name, sealed)


@st.composite
def _create_execution(draw: st.DrawFn, ids: Sequence[str]) -> Operation:
    number = draw(numbers)
    execution = builders.execution(
        id=draw(st.sampled_from(ids)),
        prompt=draw(words),
        variables=draw(st.dictionaries(words, words, max_size=2)),
        limits=builders.limits(max_cost=Decimal("0.5")),
        created_at=builders.START + timedelta(milliseconds=draw(st.integers(0, 3))),
        idempotency=draw(st.none() | st.builds(Idempotency, st.sampled_from("kl"), st.sampled_from(["00", "11"]))),
    )
    return lambda world: world.storage.executions.create(replace(execution, project_id=world.project_id(number)))


@st.composite
def _append(draw: st.DrawFn, ids: Sequence[str]) -> Operation:
    execution_id, chosen = draw(st.sampled_from(ids)), draw(st.lists(payloads, max_size=5))
    skew = draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1]))
    return lambda world: _append_to(world.storage, execution_id, chosen, skew)


async def _append_to(storage: Storage, execution_id: str, chosen: Sequence[Payload], skew: int) -> Execution:
    execution = await storage.executions.read(execution_id)
    after = 0 if execution is None else execution.last_sequence
    return await storage.executions.append(builders.events(execution_id, chosen, after + skew))


@st.composite
def _delete(draw: st.DrawFn, ids: Sequence[str]) -> Operation:
    number, execution_id = draw(numbers), draw(st.sampled_from(ids))
    if draw(st.booleans()):
        return lambda world: world.storage.projects.delete(world.project_id(number))
    return lambda world: world.storage.executions.delete(execution_id)


async def _reopen(world: World) -> None:
    world.storage = await world.reopen(world.storage)


def _operations(ids: Sequence[str]) -> st.SearchStrategy[list[Operation]]:
    appends, creations = _append(ids), _create_execution(ids)
    kinds = (
        _create_project(),
        _update_project(),
        _change_keys(),
        _change_secret(),
        creations,
        appends,
        appends,
        appends,
        _delete(ids),
    )
    more = st.lists(st.one_of(*kinds, st.just(_reopen)), max_size=25)
    return st.tuples(_create_project(), creations, more).map(_in_order)


def _in_order(drawn: tuple[Operation, Operation, list[Operation]]) -> list[Operation]:
    return [drawn[0], drawn[1], *drawn[2]]


async def _result(world: World, operation: Operation) -> object:
    try:
        return world.shown(await operation(world))
    except (CloutAgentError, ValueError) as fault:
        return type(fault)


async def _everything(world: World, ids: Sequence[str]) -> dict[str, Any]:
    """All that a backend shows."""
    storage = world.storage
    seen: dict[str, Any] = {"unfinished": world.shown(await storage.executions.list_unfinished())}
    listed = [project async for project in _pages(partial(storage.projects.list, 2))]
    assert [project.created_at for project in listed] == sorted(project.created_at for project in listed)
    seen["projects"] = sorted((world.shown(project) for project in listed), key=repr)
    for number, (project_id, credential) in enumerate(world.projects):
        owner = await storage.projects.find_key(credential.digest)
        executions = [one async for one in _pages(partial(storage.executions.list, project_id, 2))]
        seen[f"project {number}"] = (
            world.shown(await storage.projects.read(project_id)),
            await storage.projects.exists(project_id),
            None if owner is None else (owner.project.id == project_id, owner.key.name, owner.key.credential),
            await _keys_of(storage, project_id),
            await secrets_of(storage, project_id),
            world.shown(executions),
        )
    for execution_id in ids:
        execution = await storage.executions.read(execution_id)
        events = () if execution is None else await storage.executions.read_events(execution_id, 0, 1000)
        seen[f"execution {execution_id}"] = (world.shown(execution), events)
    return seen


async def _keys_of(storage: Storage, project_id: str) -> object:
    if not await storage.projects.exists(project_id):
        return await storage.projects.read_key_uses(project_id)
    keys = await storage.projects.read_keys(project_id)
    uses = await storage.projects.read_key_uses(project_id)
    owners = [await storage.projects.find_key(key.credential.digest) for key in keys]
    project = await storage.projects.read(project_id)
    assert project is not None
    assert owners == [KeyOwner(project, key) for key in keys]
    assert set(uses) <= {key.id for key in keys}
    return [(key.name, key.credential, key.expires_at, uses.get(key.id)) for key in keys]


async def _pages(read: Callable[[str | None], Awaitable[Any]]) -> Any:
    token = None
    while True:
        page = await read(token)
        for item in page.items:
            yield item
        token = page.next_page_token
        if token is None:
            return


async def _same_on_both(root: Path, operations: Sequence[Operation], ids: Sequence[str]) -> None:
    async def reopened(storage: Storage) -> Storage:
        await storage.stop()
        again = FileSystemStorage(root)
        await again.start()
        return again

    async def kept(storage: Storage) -> Storage:
        return storage

    async with AsyncExitStack() as stack:
        disk, memory = World(FileSystemStorage(root), reopened), World(MemoryStorage(), kept)
        for world in (disk, memory):
            await world.storage.start()
        stack.push_async_callback(lambda: disk.storage.stop())
        for operation in [*operations, _reopen]:
            assert await _result(disk, operation) == await _result(memory, operation)
        assert await _everything(disk, ids) == await _everything(memory, ids)


def _check(data: st.DataObject) -> None:
    ids = [new_id() for _ in range(3)]
    operations = data.draw(_operations(ids))
    with tempfile.TemporaryDirectory() as root:
        asyncio.run(_same_on_both(Path(root), operations, ids))


@settings(max_examples=12, deadline=None, database=None)
@given(st.data())
def test_the_backends_show_the_same(data: st.DataObject) -> None:
    _check(data)


@pytest.mark.full
@pytest.mark.timeout(900)
@settings(max_examples=300, deadline=None, database=None)
@given(st.data())
def test_the_backends_show_the_same_at_length(data: st.DataObject) -> None:
    _check(data)
