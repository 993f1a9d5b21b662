"""A project, for people."""

from __future__ import annotations

from collections.abc import Iterator

from cloutagent.cli.output import Output
from cloutagent.cli.text import count, duration, local_time, money, one_line
from cloutagent.types import BudgetLimit, Project


def show_project(output: Output, project: Project) -> None:
    """What it is and what holds for it."""
    agent, limits = project.agent, project.limits
    output.facts(
        (
            ("project", project.id),
            ("name", one_line(project.name)),
            ("description", one_line(project.description)),
            ("agent", one_line(agent.name)),
            ("model", one_line(agent.model)),
            ("prompt", one_line(agent.system_prompt, 200)),
            ("tools", ", ".join(map(one_line, agent.enabled_tools))),
            ("mcp", ", ".join(map(one_line, sorted(agent.mcp_servers)))),
            (
                "a run",
                f"{count(limits.max_tokens)} tokens, {money(limits.max_cost)}, {duration(limits.timeout)}",
            ),
            ("budget", ", ".join(_budget(project))),
            ("created", local_time(project.created_at)),
        )
    )


def _budget(project: Project) -> Iterator[str]:
    for name, limit in (
        ("a day", project.budget.daily),
        ("a month", project.budget.monthly),
        ("in total", project.budget.total),
    ):
        for amount in _amounts(limit):
            yield f"{amount} {name}"


def _amounts(limit: BudgetLimit) -> Iterator[str]:
    if limit.HasField("max_tokens"):
        yield f"{count(limit.max_tokens)} tokens"
    if limit.HasField("max_cost"):
        yield money(limit.max_cost)
