"""What most scenarios begin with: projects with their keys, and runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.api.driver import Api
from tests.support.api.json_form import Json

MODEL = "claude-sonnet-4-5"
NO_ID = "00000000-0000-4000-8000-000000000000"
FOREIGN_KEY = "cla_00000000-0000-4000-8000-000000000000"


def project_body(**changes: Any) -> Json:
    """What asks for a project with nothing but what is required, and `changes`."""
    return {"name": "notes", "agent": {"name": "helper", "systemPrompt": "You help.", "model": MODEL}, **changes}


@dataclass(frozen=True)
class ProjectHandle:
    """A project of a scenario, spoken to with its key."""

    api: Api
    document: Json
    key: str

    @property
    def id(self) -> str:
        """Its id."""
        identifier: str = self.document["id"]
        return identifier

    async def call(self, rpc: str, *, http: int = 200, **fields: Any) -> Json:
        """A call about this project."""
        return await self.api.call(rpc, {"projectId": self.id, **fields}, self.key, http=http)

    async def about(self, rpc: str, execution_id: str, *, http: int = 200, **fields: Any) -> Json:
        """A call about one of its executions."""
        return await self.api.call(rpc, {"executionId": execution_id, **fields}, self.key, http=http)

    async def start(self, prompt: str, http: int = 201, **fields: Any) -> Json:
        """Queue a run; returns the execution."""
        started = await self.call("StartExecution", prompt=prompt, http=http, **fields)
        execution: Json = started["execution"]
        await _later_than(execution["createdAt"])
        return execution

    async def execution(self, execution_id: str) -> Json:
        """One of its executions as it stands."""
        answer: Json = (await self.about("GetExecution", execution_id))["execution"]
        return answer

    async def first_execution(self) -> Json:
        """The first of its executions, once there is one."""

        async def there() -> bool:
            return bool((await self.call("ListExecutions"))["executions"])

        await eventually(there)
        found: Json = (await self.call("ListExecutions"))["executions"][-1]
        return found

    async def watch(self, execution_id: str, after_sequence: int = 0) -> list[Json]:
        """The events after a sequence number, to the end of the execution."""
        return [event async for event in self.watching(execution_id, after_sequence)]

    def watching(self, execution_id: str, after_sequence: int = 0) -> AsyncIterator[Json]:
        """The same, one by one."""
        body = {"executionId": execution_id, "afterSequence": after_sequence}
        return self.api.events("WatchExecution", body, self.key)

    async def ended(self, execution_id: str) -> Json:
        """An execution once it has ended."""
        await self.watch(execution_id)
        return await self.execution(execution_id)

    async def reaches(self, execution_id: str, kind: str) -> Json:
        """The first event of this kind, as soon as it is there."""
        events: Any = self.watching(execution_id)
        async with aclosing(events):
            async for event in events:
                if event["kind"] == kind:
                    found: Json = event
                    return found
        raise AssertionError(f"the execution ended without {kind}")


class Projects:
    """Makes projects."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, key: str | None = None, **changes: Any) -> ProjectHandle:
        """A new project, asked for with `key`."""
        created = await self._api.call("CreateProject", project_body(**changes), key, http=201)
        await _later_than(created["project"]["createdAt"])
        return ProjectHandle(self._api, created["project"], created["apiKey"])


def kinds(events: list[Json]) -> list[str]:
    """Kinds of events, in order."""
    return [event["kind"] for event in events]


async def _later_than(time: str) -> None:
    """Return once the clock shows another millisecond: lists order by the time of creation, which counts those."""
    created = datetime.fromisoformat(time)

    async def gone_on() -> bool:
        return datetime.now(UTC) - created >= timedelta(milliseconds=1)

    await eventually(gone_on)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once the condition holds, within 10 s."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - the condition lies behind the API
            await asyncio.sleep(0.001)


def merged(document: Mapping[str, Any], path: str, value: object) -> Json:
    """A document with one value put at a path such as `agent.model`."""
    head, _, tail = path.partition(".")
    inner = merged(document.get(head, {}), tail, value) if tail else value
    return {**document, head: inner}
