"""What a strict type checker knows of the clients. `make typecheck` reads it; nothing runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import assert_type

from cloutagent import AsyncClient, BudgetExceededError, Client, errors, types
from cloutagent.types import ApiKey, Execution, ExecutionEvent, Model, NewProject, Project, ProjectSummary, UsageReport


def blocking(client: Client) -> None:
    """The blocking client."""
    with client as entered:
        assert_type(entered, Client)
    created = client.projects.create(name="p", agent=types.AgentConfig(name="a", system_prompt="s", model="m"))
    assert_type(created, NewProject)
    assert_type(created.api_key, str)
    assert_type(client.projects.get(), Project)
    assert_type(client.projects.list(), Iterator[ProjectSummary])
    assert_type(client.keys.list(), Sequence[ApiKey])
    assert_type(client.secrets.get("A"), str)
    assert_type(client.executions.run("hello", max_tokens=5, labels={"a": "b"}), Execution)
    assert_type(client.executions.list(statuses=[Execution.Status.failed]), Iterator[Execution])
    with client.executions.watch("e") as events:
        for event in events:
            assert_type(event, ExecutionEvent)
            assert_type(event.text_delta.text, str)
        assert_type(events.last_sequence, int)
    for report in client.usage.watch():
        assert_type(report, UsageReport)
    assert_type(client.usage.estimate(prompt_tokens=1), float)
    assert_type(client.system.models(), Sequence[Model])


async def asynchronous(client: AsyncClient) -> None:
    """The client for asyncio."""
    async with client as entered:
        assert_type(entered, AsyncClient)
    assert_type(await client.projects.get(), Project)
    assert_type(client.projects.list(), AsyncIterator[ProjectSummary])
    assert_type(await client.executions.run("hello"), Execution)
    async with client.executions.watch("e") as events:
        async for event in events:
            assert_type(event, ExecutionEvent)
    async for report in client.usage.watch():
        assert_type(report, UsageReport)


def failing(error: BudgetExceededError | errors.InvalidArgumentError | errors.ExecutionFailedError) -> None:
    """Errors."""
    if isinstance(error, BudgetExceededError):
        assert_type(error.used, float | None)
    elif isinstance(error, errors.InvalidArgumentError):
        assert_type(error.violations, Sequence[errors.Violation])
    else:
        assert_type(error.execution, Execution | None)


def refused(client: Client) -> None:
    """What a checker refuses. A line that it did not would be an unused ignore, which is an error too."""
    client.executions.run("hello", max_token=5)  # type: ignore[call-arg]
    client.executions.run("hello", labels=5)  # type: ignore[arg-type]
    client.projects.create("p")  # type: ignore[call-arg]
    Client("http://127.0.0.1:3001")  # type: ignore[call-arg]
