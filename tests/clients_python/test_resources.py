"""Every call of the client reaches the server and brings the answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cloutagent import AsyncClient
from cloutagent.types import Budget, BudgetLimit, Execution, Limits, NewProject, StartOptions
from tests.clients_python.conftest import ADMIN_KEY, MODEL, agent
from tests.support.python_client.two_clients import Kind, make_client


async def test_projects(admin: AsyncClient, client: AsyncClient, project: NewProject) -> None:
    assert (project.project.name, project.project.agent.model) == ("notes", MODEL)
    assert await client.projects.get() == project.project == await admin.projects.get(project.project.id)
    assert (await client.projects.current()).project == project.project
    assert (await admin.projects.current()).admin
    changed = await client.projects.update(name="ideas", agent=agent(temperature=0.2), limits=Limits(max_tokens=500))
    assert (changed.name, changed.agent.temperature, changed.limits.max_tokens) == ("ideas", 0.2, 500)
    described = await client.projects.update(description="of mine", budget=Budget(daily=BudgetLimit(max_cost=2)))
    assert (described.name, described.description, described.budget.daily.max_cost) == ("ideas", "of mine", 2)
    assert not (await client.projects.update(update_mask=["description"])).HasField("description")
    assert await admin.projects.exists(project.project.id)
    await admin.projects.delete(project.project.id)
    assert not await admin.projects.exists(project.project.id)


async def test_a_list_goes_over_all_pages(admin: AsyncClient) -> None:
    made = {(await admin.projects.create(name=f"p{n}", agent=agent())).project.id for n in range(3)}
    listed = [summary.id async for summary in admin.projects.list(page_size=1)]
    assert made <= set(listed) and len(listed) == len(set(listed))


async def test_keys(kind: Kind, address: str, client: AsyncClient) -> None:
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    made = await client.keys.create(name="ci", expires_at=expiry)
    assert made.key.name == "ci" and made.key.expires_at.ToDatetime(tzinfo=UTC) == expiry
    assert [key.name for key in await client.keys.list()] == ["default", "ci"]
    rotated = await client.keys.rotate(key_id=made.key.id, grace_period=timedelta(minutes=1))
    async with make_client(kind, address=address, api_key=rotated.api_key) as other:
        assert (await other.projects.current()).project == await client.projects.get()
    await client.keys.revoke(rotated.key.id)
    assert rotated.key.id not in {key.id for key in await client.keys.list()}
    assert rotated.api_key not in repr(rotated)


async def test_secrets(client: AsyncClient) -> None:
    assert (await client.secrets.set("TOKEN", "one", expected_version=0)).version == 1
    assert (await client.secrets.set("TOKEN", "two")).version == 2
    assert await client.secrets.get("TOKEN") == "two"
    assert await client.secrets.get("TOKEN", version=1) == "one"
    assert list(await client.secrets.list()) == ["TOKEN"]
    assert (await client.secrets.metadata("TOKEN")).version == 2
    assert (await client.secrets.restore("TOKEN", 1)).version == 3
    assert [version.version for version in await client.secrets.versions("TOKEN")] == [3, 2, 1]
    await client.secrets.delete("TOKEN")
    assert not await client.secrets.list()
    assert await client.secrets.decrypt(await client.secrets.encrypt("sealed")) == "sealed"


async def test_executions(client: AsyncClient) -> None:
    options: StartOptions = {
        "variables": {"who": "Ada"},
        "labels": {"team": "search"},
        "max_tokens": 5000,
        "max_duration": timedelta(seconds=90),
    }
    estimate = await client.executions.estimate("greet {{who}}", **options)
    assert (estimate.model, estimate.limits.max_tokens) == (MODEL, 5000)
    started = await client.executions.start("greet {{who}}", **options)
    assert started.limits.timeout == 90_000
    kinds = [event.kind async for event in client.executions.watch(started.id)]
    assert kinds == ["queued", "started", "token_usage", "text_delta", "text_delta", "message", "completed"]
    ended = await client.executions.get(started.id)
    assert (ended.status, ended.result) == (Execution.Status.completed, "echo: greet Ada")
    cost = await client.executions.cost(started.id)
    assert cost.current_cost == ended.usage.total_cost == (await client.executions.receipt(started.id)).usage.total_cost
    hanging = await client.executions.start("hang")
    found = client.executions.list(statuses=[Execution.Status.completed], labels={"team": "search"})
    assert [execution.id async for execution in found] == [started.id]
    since = client.executions.list(created_after=datetime(2020, 1, 1, tzinfo=UTC))
    assert [execution.id async for execution in since] == [hanging.id, started.id]
    paged = client.executions.list(page_size=1)
    assert [execution.id async for execution in paged] == [hanging.id, started.id]
    assert (await client.executions.cancel(hanging.id)).status == Execution.Status.cancelled
    await client.executions.delete(hanging.id)
    assert [execution.id async for execution in client.executions.list()] == [started.id]


async def test_usage(client: AsyncClient) -> None:
    ended = await client.executions.run("hello")
    today = datetime.now(UTC).date()
    report = await client.usage.get(from_day=today - timedelta(days=1), to_day=today.isoformat())
    assert report.sum.total_cost == ended.usage.total_cost > 0
    assert await client.usage.estimate(prompt_tokens=1_000) == pytest.approx(0.003)
    async with client.usage.watch() as reports:
        first = await anext(reports)
        await client.executions.run("hello")
        while first.sum.model_calls < 2:
            first = await anext(reports)
    assert first.sum.total_cost == pytest.approx(2 * ended.usage.total_cost)


async def test_system(client: AsyncClient, kind: Kind, address: str) -> None:
    async with make_client(kind, address=address) as without_key:
        assert (await without_key.system.health()).status == "ok"
    assert MODEL in [model.id for model in await client.system.models()]


async def test_a_time_without_a_zone_is_refused(client: AsyncClient) -> None:
    with pytest.raises(ValueError, match="time zone"):
        await client.keys.create(name="ci", expires_at=datetime(2100, 1, 1))  # noqa: DTZ001 - that is the point


async def test_a_value_that_a_field_does_not_take_is_refused_by_the_fields_name(client: AsyncClient) -> None:
    with pytest.raises(TypeError, match=r"^max_tokens: .*'str'"):
        await client.executions.start("hello", max_tokens="abc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^max_tokens: .*out of range"):
        await client.executions.start("hello", max_tokens=2**70)
    with pytest.raises(TypeError, match=r"^variables: "):
        await client.executions.run("hello", variables={"customer": 5})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"^value: ") as refused:
        await client.secrets.set("TOKEN", b"\xffs3cret")  # type: ignore[arg-type]
    assert "s3cret" not in str(refused.value)
    with pytest.raises(TypeError, match=r"^description: "):
        await client.projects.update(description=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^prompt_tokens: "):
        await client.usage.estimate(prompt_tokens="many")  # type: ignore[arg-type]


async def test_no_key_is_shown(client: AsyncClient, project: NewProject, address: str) -> None:
    assert project.api_key not in f"{client!r} {project!r} {vars(client)}"
    assert address in repr(client)
    assert ADMIN_KEY not in repr(make_client("async", address=address, api_key=ADMIN_KEY))
