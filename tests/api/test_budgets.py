"""A project's budget holds for all its executions together, and says which limit it was."""

from __future__ import annotations

import pytest

from tests.support.api import failing
from tests.support.api.scenario import Projects
from tests.support.api.stage import DEPTHS
from tests.support.fake_engine import FakeEngine, answer, ask, report

BUDGET = {"daily": {"maxTokens": 300}, "total": {"maxCost": 2.5}}


@pytest.mark.depths(*DEPTHS)
async def test_a_budget_is_set_changed_and_taken_away(projects: Projects) -> None:
    project = await projects(budget=BUDGET)
    assert (await project.call("GetProject"))["project"]["budget"] == BUDGET

    async def update(mask: str | None = None, **fields: object) -> object:
        body = {"project": {"id": project.id, **fields}, **({} if mask is None else {"updateMask": mask})}
        return (await project.api.call("UpdateProject", body, project.key))["project"].get("budget")

    changed = {**BUDGET, "monthly": {"maxCost": 0.5}}
    assert await update(budget={"monthly": {"maxCost": 0.5}}) == changed
    assert await update("budget.daily", budget={"daily": {"maxTokens": 7}}) == {**changed, "daily": {"maxTokens": 7}}
    assert await update("budget.total.maxCost") == {"daily": {"maxTokens": 7}, "monthly": {"maxCost": 0.5}}
    assert await update("budget") is None


@pytest.mark.parametrize("limit", [{"maxTokens": 0}, {"maxCost": 0}, {"maxCost": -1}])
async def test_a_budget_of_nothing_is_refused(projects: Projects, limit: dict[str, object]) -> None:
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST"):
        await projects(budget={"daily": limit})


@pytest.mark.depths(*DEPTHS)
async def test_a_budget_ends_the_run_that_meets_it_and_refuses_the_next(projects: Projects, engine: FakeEngine) -> None:
    project = await projects(budget={"daily": {"maxTokens": 300}})
    engine.script = lambda prompt: [ask(200, input_tokens=100), report(100, 80), answer("done")]
    assert (await project.call("Execute", prompt="hello"))["status"] == "completed"
    engine.script = lambda prompt: [ask(200, input_tokens=100), report(100, 20), ask(1), answer("never")]
    result = await project.call("Execute", prompt="hello")
    assert (result["status"], result["cost"]["completionTokens"]) == ("failed", 20)
    assert engine.executors[result["id"]].allowed == [20]
    failure = (await project.execution(result["id"]))["failure"]
    assert (failure["reason"], failure["exceeded"]) == ("limit_exceeded", "tokens")
    assert failure["budget"] == {"scope": "daily", "exceeded": "tokens", "limit": 300.0, "used": 300.0, "left": 0.0}
    assert "the project's daily token budget of 300" in failure["message"] and "0 are left" in failure["message"]
    with failing("FAILED_PRECONDITION", 400, "BUDGET_EXCEEDED") as caught:
        await project.call("StartExecution", prompt="hello")
    assert caught.failure.metadata == {
        "scope": "daily",
        "exceeded": "tokens",
        "limit": "300",
        "used": "300",
        "left": "0",
    }


async def test_a_repeated_start_gets_its_execution_although_nothing_is_left(
    projects: Projects, engine: FakeEngine
) -> None:
    project = await projects(budget={"total": {"maxTokens": 300}})
    engine.script = lambda prompt: [ask(200, input_tokens=100), report(100, 200), answer("done")]
    first = await project.call("Execute", prompt="hello", idempotencyKey="k")
    again = await project.call("Execute", prompt="hello", idempotencyKey="k")
    assert (again["id"], again["status"]) == (first["id"], "completed")
    with failing("FAILED_PRECONDITION", 400, "BUDGET_EXCEEDED"):
        await project.call("Execute", prompt="hello", idempotencyKey="other")
