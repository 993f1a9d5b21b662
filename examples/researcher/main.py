"""Researches a topic from several sides at once, under one budget.

Shows: AsyncClient, several runs of one project at the same time, and a budget of the project that holds for all of them
together: however many run, it is never passed. A side for which nothing is left is missing in the summary, and no more.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from cloutagent import AsyncClient, BudgetExceededError, CloutAgentError
from cloutagent.types import AgentConfig, Budget, BudgetLimit, Execution, Limits
from cloutagent.v1.cost_pb2 import BudgetExceeded
from examples.live import cost
from examples.projects import open_project

SYSTEM_PROMPT = """\
You are a researcher. You have no access to the network: work from what you know, and mark what you are not sure of
with (?). Write at most 120 words of plain prose, without headings. No claim without its reason.
"""
SIDE = "Research {{side}} of {{topic}}."
SUMMARY = """\
Write the summary of this research on {{topic}}: one paragraph that says what matters most, and one open question.

{{notes}}
"""
SIDES = ("the history", "the economics", "the risks")
AGENT = AgentConfig(name="researcher", system_prompt=SYSTEM_PROMPT, model="claude-sonnet-4-5", max_tokens=1_000)
LIMITS = Limits(max_tokens=50_000, max_cost=0.30)


async def research(client: AsyncClient, topic: str, side: str) -> str | None:
    """What the agent finds out about one side; None if nothing: no room in the budget, a failure, a cancellation."""
    try:
        execution = await client.executions.start(
            SIDE, variables={"side": side, "topic": topic}, labels={"topic": topic, "side": side}
        )
        async with client.executions.watch(execution.id) as events:
            async for event in events:
                match event.kind:
                    case "message":
                        print(f"[{side}] {event.message.text}")
                    case "limit_warning":
                        print(f"[{side}] {event.limit_warning.percent:.0f} % of a limit is used")
        ended = await client.executions.get(execution.id)
    except BudgetExceededError as error:
        print(f"[{side}] not researched: {error}")
        return None
    if ended.status != Execution.Status.completed:
        print(f"[{side}] not researched: {ended.failure.message or 'the run was cancelled'}")
        return None
    print(f"[{side}] {cost(ended)}")
    return f"{side}: {ended.result}"


async def summarise(api_key: str, topic: str) -> int:
    """Research all sides at once, then sum them up; 0 if that was done."""
    async with AsyncClient(api_key=api_key) as client:
        found = await asyncio.gather(*(research(client, topic, side) for side in SIDES))
        notes = "\n\n".join(note for note in found if note is not None)
        try:
            if notes:
                execution = await client.executions.run(SUMMARY, variables={"topic": topic, "notes": notes})
                print(f"\n{execution.result}\n{cost(execution)}")
        finally:
            report = await client.usage.get()
            print(f"{report.sum.model_calls} model calls, {report.sum.total_cost:.6f} USD in the last 30 days")
            for budget in report.budgets:
                scope = BudgetExceeded.Scope.Name(budget.scope)
                print(f"{scope} budget: {budget.used:.6f} of {budget.limit} USD used")
    return 0 if notes else 1


def main() -> int:
    """Research a topic; 0 if something was found out."""
    parser = argparse.ArgumentParser(description="Researches a topic from several sides at once, under one budget.")
    parser.add_argument("--topic", default="tidal power")
    parser.add_argument("--budget", type=float, default=1.00, help="US dollars that may be spent a day")
    given = parser.parse_args()
    budget = Budget(daily=BudgetLimit(max_cost=given.budget))
    try:
        key = open_project("researcher", AGENT, limits=LIMITS, budget=budget)
        return asyncio.run(summarise(key, given.topic))
    except CloutAgentError as error:
        print(f"not finished: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
