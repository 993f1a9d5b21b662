"""Limits end a run, and what it used is counted and priced."""

from __future__ import annotations

import pytest

from tests.support.api import Api, failing
from tests.support.api.scenario import MODEL, Projects, kinds, project_body
from tests.support.api.stage import DEPTHS
from tests.support.fake_engine import FakeEngine, answer, ask, report, write

INPUT, OUTPUT = 3e-6, 15e-6


@pytest.mark.depths(*DEPTHS)
async def test_passing_the_token_limit_ends_the_run_as_failed(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="three calls", options={"maxTokens": 150})
    assert result["status"] == "failed" and "token limit of 150" in result["error"]
    assert set(result) == {"id", "status", "cost", "duration", "error"}
    assert result["cost"]["promptTokens"] + result["cost"]["completionTokens"] == 240
    execution = await project.execution(result["id"])
    assert execution["limits"]["maxTokens"] == 150
    budget = {"scope": "execution", "exceeded": "tokens", "limit": 150.0, "used": 240.0, "left": 0.0}
    assert execution["failure"] == {
        "reason": "limit_exceeded",
        "message": result["error"],
        "exceeded": "tokens",
        "budget": budget,
    }
    events = await project.watch(result["id"])
    assert kinds(events) == ["queued", "started", "token_usage", "limit_warning", "token_usage", "failed"]
    assert events[3]["limitWarning"] == {"limit": "tokens", "percent": 80.0}
    assert events[4]["tokenUsage"]["percentOfTokenLimit"] == 160.0
    assert events[-1]["failed"]["failure"] == execution["failure"]


@pytest.mark.depths(*DEPTHS)
async def test_passing_the_cost_limit_ends_the_run_as_failed(projects: Projects) -> None:
    project = await projects(limits={"maxCost": 0.0007})
    result = await project.call("Execute", prompt="three calls")
    assert result["status"] == "failed"
    assert result["cost"]["totalCost"] == pytest.approx(0.0012, abs=1e-9)
    execution = await project.execution(result["id"])
    assert (execution["failure"]["reason"], execution["failure"]["exceeded"]) == ("limit_exceeded", "cost")
    warning = [event["limitWarning"] for event in await project.watch(result["id"]) if event["kind"] == "limit_warning"]
    assert warning == [{"limit": "cost", "percent": pytest.approx(85.714, abs=0.001)}]


async def test_exactly_the_limit_is_within_it(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello", options={"maxTokens": 120, "maxCost": 0.0006})
    assert result["status"] == "completed"
    check = (await project.about("GetExecutionCost", result["id"]))["limitCheck"]
    assert check == {"withinLimits": True, "percentOfTokenLimit": 100.0, "percentOfCostLimit": 100.0}


async def test_a_call_that_nothing_is_left_for_does_not_go_out(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    engine.script = lambda prompt: [ask(), report(90, 30), ask(), write("never"), answer("never")]
    result = await project.call("Execute", prompt="hello", options={"maxTokens": 120})
    assert (result["status"], result["cost"]["completionTokens"]) == ("failed", 30)
    assert (await project.execution(result["id"]))["failure"]["exceeded"] == "tokens"
    assert engine.executors[result["id"]].allowed == [120]


@pytest.mark.depths(*DEPTHS)
async def test_a_run_that_takes_too_long_fails_with_a_timeout(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hang", options={"timeout": 1000})
    assert result["status"] == "failed" and 1000 <= result["duration"] < 10_000
    failure = (await project.execution(result["id"]))["failure"]
    assert failure == {"reason": "timeout", "message": result["error"]}


async def test_a_request_lowers_limits(projects: Projects, engine: FakeEngine) -> None:
    project = await projects(limits={"maxTokens": 1000, "maxCost": 0.5, "timeout": 5000})
    options = {"maxTokens": 999, "maxCost": 0.25, "timeout": 1000}
    lowered = await project.call("Execute", prompt="hello", options=options)
    assert (await project.execution(lowered["id"]))["limits"] == options
    same = await project.call("Execute", prompt="hello", options=project.document["limits"])
    assert (await project.execution(same["id"]))["limits"] == project.document["limits"]


async def test_a_request_cannot_raise_limits(projects: Projects, engine: FakeEngine) -> None:
    project = await projects(limits={"maxTokens": 1000, "maxCost": 0.5, "timeout": 5000})
    options = {"maxTokens": 1001, "maxCost": 0.51, "timeout": 5001}
    for rpc in ("Execute", "StartExecution"):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call(rpc, prompt="hello", options=options)
        assert set(caught.failure.violations) == {"options.maxTokens", "options.maxCost", "options.timeout"}
    assert engine.executors == {}


async def test_options_have_their_rules(projects: Projects) -> None:
    project = await projects()
    for name, value in (
        ("maxTokens", 0),
        ("maxTokens", -1),
        ("maxCost", 0),
        ("maxCost", -0.5),
        ("timeout", 999),
        ("timeout", 0),
    ):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call("Execute", prompt="hello", options={name: value})
        assert list(caught.failure.violations) == [f"options.{name}"]


@pytest.mark.depths(*DEPTHS)
async def test_the_cost_of_an_execution_is_held_against_its_own_limits(projects: Projects) -> None:
    project = await projects(limits={"maxTokens": 1200, "maxCost": 0.006})
    result = await project.call("Execute", prompt="hello")
    cost = await project.about("GetExecutionCost", result["id"])
    assert cost == {
        "usage": {
            "promptTokens": 100,
            "completionTokens": 20,
            "cacheReadTokens": 0,
            "cacheWriteTokens": 0,
            "totalCost": 0.0006,
            "modelCalls": 1,
        },
        "currentCost": 0.0006,
        "limitCheck": {"withinLimits": True, "percentOfTokenLimit": 10.0, "percentOfCostLimit": 10.0},
    }


@pytest.mark.depths(*DEPTHS)
async def test_the_cost_of_an_execution_is_held_against_limits_that_are_given(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    for limits, expected in (
        ({"maxTokens": 100}, {"withinLimits": False, "percentOfTokenLimit": 120.0, "exceeded": "tokens"}),
        ({"maxTokens": 120}, {"withinLimits": True, "percentOfTokenLimit": 100.0}),
        ({"maxCost": 0.0003}, {"withinLimits": False, "percentOfCostLimit": 200.0, "exceeded": "cost"}),
        (
            {"maxTokens": 60, "maxCost": 0.0006},
            {
                "withinLimits": False,
                "percentOfTokenLimit": 200.0,
                "percentOfCostLimit": 100.0,
                "exceeded": "tokens",
            },
        ),
        (
            {"maxTokens": 60, "maxCost": 0.0003},
            {
                "withinLimits": False,
                "percentOfTokenLimit": 200.0,
                "percentOfCostLimit": 200.0,
                "exceeded": "tokens",
            },
        ),
    ):
        answer = await project.about("GetExecutionCost", result["id"], limits=limits)
        assert answer["limitCheck"] == expected
        assert answer["currentCost"] == 0.0006


async def test_limits_that_are_given_have_their_rules(projects: Projects) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")
    for name, value in (("maxTokens", 0), ("maxCost", 0), ("maxCost", -1)):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.about("GetExecutionCost", result["id"], limits={name: value})
        assert list(caught.failure.violations) == [f"limits.{name}"]


async def test_the_cost_of_a_run_under_way_can_be_asked_for(projects: Projects) -> None:
    project = await projects()
    execution = await project.start("hang")
    await project.reaches(execution["id"], "token_usage")
    assert (await project.about("GetExecutionCost", execution["id"]))["currentCost"] == 0.0006
    assert (await project.execution(execution["id"]))["usage"]["promptTokens"] == 100
    await project.about("CancelExecution", execution["id"])


@pytest.mark.depths(*DEPTHS)
async def test_an_estimate_is_tokens_times_list_price(projects: Projects) -> None:
    project = await projects()
    for fields, expected in (
        ({"promptTokens": 1000}, 1000 * INPUT),
        ({"promptTokens": 1000, "completionTokens": 1000}, 1000 * INPUT + 1000 * OUTPUT),
        ({"promptTokens": 0, "completionTokens": 7}, 7 * OUTPUT),
        ({}, 0),
    ):
        estimate = await project.call("EstimateCost", **fields)
        assert estimate == {"estimatedCost": pytest.approx(expected, abs=1e-12)}
    opus = await projects(agent={**project_body()["agent"], "model": "claude-opus-4"})
    assert await opus.call("EstimateCost", promptTokens=1000) == {"estimatedCost": pytest.approx(0.015, abs=1e-12)}


async def test_an_estimate_needs_numbers_that_can_be(projects: Projects) -> None:
    project = await projects()
    for name in ("promptTokens", "completionTokens"):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call("EstimateCost", **{name: -1})
        assert list(caught.failure.violations) == [name]


async def test_models_are_listed_with_their_prices(api: Api, projects: Projects) -> None:
    project = await projects()
    models = (await api.call("ListModels", {}, project.key))["models"]
    names = [model["id"] for model in models]
    assert names == sorted(names) and {MODEL, "claude-opus-4"} <= set(names)
    sonnet = models[names.index(MODEL)]
    assert (sonnet["promptTokenPrice"], sonnet["completionTokenPrice"]) == (INPUT, OUTPUT)
    assert sonnet["cacheReadTokenPrice"] < INPUT < sonnet["cacheWriteTokenPrice"]
    assert all(model["displayName"] and model["completionTokenPrice"] > 0 for model in models)
    for name in names:
        agent = {**project_body()["agent"], "model": name}
        assert (await projects(agent=agent)).document["agent"]["model"] == name
