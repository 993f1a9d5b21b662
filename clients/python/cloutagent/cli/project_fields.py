"""A project's fields on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf import json_format
from google.protobuf.message import Message

from cloutagent.cli.endings import CommandError
from cloutagent.cli.values import MESSAGE_BYTES, SYSTEM_PROMPT_BYTES, file_text, length
from cloutagent.types import Project

Description = Annotated[str | None, typer.Option(help="What the project is for.")]
SystemPrompt = Annotated[str | None, typer.Option(help="System prompt of the agent, a template.")]
SystemPromptFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The same from a file, - from standard input.")
]
Model = Annotated[str | None, typer.Option(help="Model of the agent; `models` lists them.")]
AgentName = Annotated[str | None, typer.Option(help="Name of the agent.")]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature, 0 to 1.")]
Tool = Annotated[list[str] | None, typer.Option("--tool", metavar="NAME", help="Tool to enable; may be repeated.")]
MaxTokens = Annotated[int | None, typer.Option(help="Limit of a run on prompt and completion tokens.")]
MaxCost = Annotated[float | None, typer.Option(help="Limit of a run on cost in US dollars.")]
Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="Limit of a run on time, such as 5min.")]
DailyCost = Annotated[float | None, typer.Option(help="Budget of all runs of a day in US dollars.")]
MonthlyCost = Annotated[float | None, typer.Option(help="Budget of all runs of a month in US dollars.")]
File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Fields as JSON, as REST takes them; - is standard input."),
]

# Where the options go.
_PATHS: Final = {
    "name": "name",
    "description": "description",
    "agent_name": "agent.name",
    "system_prompt": "agent.system_prompt",
    "model": "agent.model",
    "temperature": "agent.temperature",
    "tool": "agent.enabled_tools",
    "max_tokens": "limits.max_tokens",
    "max_cost": "limits.max_cost",
    "timeout": "limits.timeout",
    "daily_cost": "budget.daily.max_cost",
    "monthly_cost": "budget.monthly.max_cost",
}


def read_project(file: Path | None) -> Project:
    """What a file of JSON says of a project. Raises CommandError."""
    project = Project()
    if file is not None:
        try:
            json_format.Parse(file_text(file, MESSAGE_BYTES), project)
        except json_format.ParseError as error:
            raise CommandError(f"{file}: {error}") from None
    return project


def fill(project: Project, **given: Any) -> None:
    """Put what options give over what is there; None is not given. Raises CommandError for what does not fit."""
    for option, value in given.items():
        if value is None:
            continue
        *parents, name = _PATHS[option].split(".")
        message: Any = project
        for parent in parents:
            message = getattr(message, parent)
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        else:
            try:
                setattr(message, name, value)
            except (ValueError, TypeError, OverflowError) as error:
                raise CommandError(f"{_PATHS[option]}: {error}") from None


def system_prompt(text: str | None, file: Path | None) -> str | None:
    """The system prompt, from one place."""
    if text is not None and file is not None:
        raise CommandError("give --system-prompt or --system-prompt-file")
    return text if file is None else file_text(file, SYSTEM_PROMPT_BYTES)


def milliseconds(time: str | None) -> int | None:
    """A limit on time as the API takes it."""
    duration = length(time, "--timeout")
    return None if duration is None else round(duration.total_seconds() * 1000)


def paths(message: Message, prefix: str = "") -> Iterator[str]:
    """The paths of what is set in a message, down to single fields; lists and maps are whole."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is None or field.is_repeated:
            yield path
        else:
            yield from paths(value, f"{path}.")
