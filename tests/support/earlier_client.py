"""What a user's program does with the client of whichever release it was written for. Run, not imported.

It takes no more of the client than the first release had: what is added here later is asked of that one, too. Its
argument is the folder that the client must be in; it prints the client's version, and as JSON what it saw.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloutagent
from cloutagent import AsyncClient, Client, errors
from cloutagent.types import AgentConfig, Execution, Limits


def blocking() -> tuple[str, dict[str, Any]]:
    """Each service, a whole run, and errors. Returns a key of the project, and what was seen."""
    seen: dict[str, Any] = {}
    agent = AgentConfig(name="assistant", system_prompt="You help.", model="claude-sonnet-4-5")
    with Client() as client:
        seen["health"] = client.system.health().status
        created = client.projects.create(name="Earlier", agent=agent, limits=Limits(max_cost=1.0))
    client = Client(api_key=created.api_key)
    client.projects.update(description="of an earlier client")
    seen["description"] = client.projects.get().description
    seen["secret"] = client.secrets.set("TOKEN", "s3cret").version, list(client.secrets.list())
    spare = client.keys.create(name="spare", expires_at=None)
    seen["rotated"] = client.keys.rotate(key_id=spare.key.id, grace_period=timedelta(seconds=5)).key.name

    started = client.executions.start("Greet {{customer}}.", variables={"customer": "Ada"}, labels={"team": "search"})
    with client.executions.watch(started.id) as events:
        told = list(events)
    numbers = [event.sequence for event in told]
    seen["sequences"] = (
        numbers == sorted(set(numbers)) and numbers[-1] == client.executions.get(started.id).last_sequence
    )
    # A later server may tell more than these.
    known = ("queued", "started", "text_delta", "token_usage", "completed")
    seen["kinds"] = [kind for kind in known if kind in {event.kind for event in told}]
    execution = client.executions.get(started.id)
    seen["status"] = Execution.Status.Name(execution.status)
    text = "".join(event.text_delta.text for event in told if event.kind == "text_delta")
    seen["result"] = execution.result == text != ""
    seen["listed"] = [each.id for each in client.executions.list(labels={"team": "search"})] == [started.id]
    seen["cost"] = client.executions.cost(started.id).current_cost == execution.usage.total_cost > 0
    seen["receipt"] = len(client.executions.receipt(started.id).calls)
    seen["usage"] = client.usage.get().sum.total_cost == execution.usage.total_cost

    seen["errors"] = []
    for call in (
        lambda: client.secrets.get("MISSING"),
        lambda: client.executions.start("Greet {{nobody}}."),
        lambda: client.executions.run("Greet Ada.", max_tokens=10),
        lambda: Client(api_key="cla_wrong").projects.get(created.project.id),
    ):
        try:
            call()
        except errors.CloutAgentError as error:
            seen["errors"].append(type(error).__name__)
    return created.api_key, seen


async def concurrent(api_key: str) -> list[str]:
    """The client for asyncio: two runs at a time; how they ended."""
    async with AsyncClient(api_key=api_key) as client:
        runs = await asyncio.gather(*(client.executions.run(f"Greet {name}.") for name in ("Ada", "Grace")))
        return [Execution.Status.Name(run.status) for run in runs]


def main() -> None:
    """Run all of it."""
    if not Path(cloutagent.__file__).is_relative_to(sys.argv[1]):
        sys.exit(f"another client than the one to try: {cloutagent.__file__}")
    print(cloutagent.__version__)
    api_key, seen = blocking()
    seen["concurrent"] = asyncio.run(concurrent(api_key))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
