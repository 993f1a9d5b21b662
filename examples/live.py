"""A run in the terminal: its text as it comes, its tools, and what it cost."""

from __future__ import annotations

from typing import Unpack
from uuid import uuid4

from google.protobuf.json_format import MessageToJson

from cloutagent import Client
from cloutagent.types import Execution, ExecutionEvent, StartOptions

_SHOWN_CHARACTERS = 400


def run_live(client: Client, prompt: str, **options: Unpack[StartOptions]) -> Execution:
    """Do what `executions.run` does, and show the events while they happen.

    Raises:
        CloutAgentError: As `executions.run`.
    """
    options["idempotency_key"] = options.get("idempotency_key") or str(uuid4())
    follow(client, client.executions.start(prompt, **options).id)
    # The same start with the same key is the same execution. It has ended, so this returns it, or raises how it ended.
    return client.executions.run(prompt, **options)


def follow(client: Client, execution_id: str) -> None:
    """Show the events of an execution from the first to the last, while they happen.

    Raises:
        ApiError: They cannot be read.
    """
    with client.executions.watch(execution_id) as events:
        for event in events:
            show(event)
    print()


def show(event: ExecutionEvent) -> None:
    """Print what people want to see of an event."""
    match event.kind:
        case "text_delta":
            print(event.text_delta.text, end="", flush=True)
        case "tool_use":
            given = MessageToJson(event.tool_use.input, indent=None, sort_keys=True)
            print(f"\n[calls {event.tool_use.name} {_short(given)}]")
        case "tool_result":
            print(f"[{'failed' if event.tool_result.is_error else 'answer'}: {_short(event.tool_result.content)}]")


def cost(execution: Execution) -> str:
    """What a run cost, in a line."""
    usage = execution.usage
    tokens = usage.prompt_tokens + usage.completion_tokens
    return f"{usage.total_cost:.6f} USD for {tokens} tokens in {usage.model_calls} model calls"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
