"""What the demo runs: one project and three executions, for the local model and for the vendor's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

TOOL: Final = "TodoWrite"

PROJECT: Final[Json] = {
    "name": "Support assistant",
    "description": "Answers customers",
    "agent": {
        "name": "assistant",
        "systemPrompt": "You are the support assistant of {{project_name}}. Be brief.",
        "model": "claude-sonnet-4-5",
        "temperature": 0.2,
        "enabledTools": [TOOL],
    },
    "limits": {"maxTokens": 20000, "maxCost": 0.5, "timeout": 60000},
}

_PLAN: Final = (
    '{"todos": [{"content": "Read the question", "status": "in_progress", "activeForm": "Reading the question"}, '
    '{"content": "Write the answer", "status": "pending", "activeForm": "Writing the answer"}]}'
)


@dataclass(frozen=True, slots=True)
class Scene:
    """One execution.

    Attributes:
        title: What it shows.
        local_prompt: The prompt for the local model, with its directives.
        live_prompt: The prompt for the vendor's model.
        status: How it must end.
        options: The execution's options.
        exceeded: The limit that must end it.
        cancel_at: The kind of event at which it is cancelled.
    """

    title: str
    local_prompt: str
    live_prompt: str
    status: str
    options: Json = field(default_factory=dict)
    exceeded: str | None = None
    cancel_at: str | None = None

    def request(self, live: bool) -> Json:
        """The body that starts it."""
        return {"prompt": self.live_prompt if live else self.local_prompt, "options": self.options}


MAIN: Final = Scene(
    title="A run that uses a secret and a tool",
    local_prompt=(
        "The CRM's token is {{secret:CRM_TOKEN}}; the customer is {{customer}}. [[rate: 60/s]]"
        "[[say: I sign in to the CRM with {{secret:CRM_TOKEN}} and make a plan for {{customer}}. ]]"
        f"[[tool: {TOOL} {_PLAN}]]"
        "[[say: The plan stands. Dear {{customer}}, your order left our house this morning and reaches you tomorrow.]]"
    ),
    live_prompt=(
        "The CRM's token is {{secret:CRM_TOKEN}}; repeat it once. "
        f"Then make a plan of two steps with the tool {TOOL}, and tell {{{{customer}}}} "
        "that the order arrives tomorrow."
    ),
    status="completed",
    options={"variables": {"customer": "Ada"}},
)
LIMITED: Final = Scene(
    title="A run that its token limit stops",
    local_prompt="Write a long story. [[rate: 300/s]] [[tokens: 4000]]",
    live_prompt="Write a story of 4000 words.",
    status="failed",
    options={"maxTokens": 3500},
    exceeded="tokens",
)
CANCELLED: Final = Scene(
    title="A run that is cancelled",
    local_prompt="Count. [[rate: 20/s]] [[tokens: 2000]]",
    live_prompt="Count from 1 to 2000 in words.",
    status="cancelled",
    cancel_at="text_delta",
)
