"""Spans of runs: each belongs to the call that started it, however long it waited, and tells how it ended."""

from __future__ import annotations

import asyncio

from cloutagent_server.domain.execution import Status
from cloutagent_server.service.run_span import describe_end, run_span
from tests.support import builders
from tests.support.service_world import DEADLINE_SECONDS, make_world
from tests.support.spans import Spans, failed, parent_of


async def test_a_run_belongs_to_the_call_that_started_it() -> None:
    spans = Spans()
    world = make_world(max_running=1, tracer=spans.tracer)
    project = await world.project()
    calls, runs = [], []
    # The second waits for the first to end, and is started by that.
    for prompt in ("say hello", "fail now"):
        with spans.tracer.start_as_current_span("call") as call:
            calls.append(call.get_span_context().span_id)
            runs.append(await world.start(project, prompt))
    async with asyncio.timeout(DEADLINE_SECONDS):
        ended = [await world.executions.finished(run.id) for run in runs]
        await world.executions.stop(0)
    first, second = (span for span in spans.ended if span.name == "invoke_agent")
    assert [parent_of(first), parent_of(second)] == calls
    for span, run in zip((first, second), ended, strict=True):
        assert (span.attributes or {})["cloutagent.execution.id"] == run.id
        assert (span.attributes or {})["gen_ai.usage.input_tokens"] == run.usage.prompt_tokens > 0
    assert [run.status for run in ended] == [Status.COMPLETED, Status.FAILED]
    assert [failed(first), failed(second)] == [False, True]
    assert (second.attributes or {})["error.type"] == "model_error"
    assert not any(word in span.to_json() for span in (first, second) for word in ("hello", "overloaded"))


async def test_a_run_that_could_not_start_has_failed() -> None:
    spans = Spans()
    world = make_world(max_running=1, tracer=spans.tracer)
    project = await world.project()
    held = await world.start(project, "hang")
    await world.secrets.set_secret(project.id, "TOKEN", "value")
    waiting = await world.start(project, "{{secret:TOKEN}}")
    await world.secrets.delete_secret(project.id, "TOKEN")
    await world.executions.cancel(held.id)
    async with asyncio.timeout(DEADLINE_SECONDS):
        ended = await world.executions.finished(waiting.id)
        await world.executions.stop(0)
    (span,) = (span for span in spans.ended if (span.attributes or {}).get("cloutagent.execution.id") == waiting.id)
    assert ended.status is Status.FAILED
    assert ((span.attributes or {})["cloutagent.execution.status"], failed(span)) == ("failed", True)


def test_an_end_that_the_storage_has_not_taken_yet_is_no_end() -> None:
    spans = Spans()
    execution = builders.execution()
    with run_span(spans.tracer, execution) as span:
        describe_end(span, execution, stored=False)
    (ended,) = spans.ended
    assert ((ended.attributes or {})["error.type"], failed(ended)) == ("storage", True)
    assert "cloutagent.execution.status" not in (ended.attributes or {})
