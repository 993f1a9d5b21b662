"""`claude_agent_sdk.query()` by itself, in a process of its own: `python -m benchmarks.executions.alone MODEL RUNS`.

The environment is the one that was given, and nothing else, so that the command line inherits it. Prints, as JSON, how
many seconds each run took from the call to the end of its messages.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

from claude_agent_sdk import ClaudeAgentOptions, query

PROMPT: Final = "[[say: All done.]]"


async def _seconds(model: str) -> float:
    options = ClaudeAgentOptions(
        model=model,
        system_prompt="You help.",
        tools=[],
        permission_mode="dontAsk",
        setting_sources=[],
        include_partial_messages=True,
        extra_args={"no-session-persistence": None, "bare": None},
    )
    begun = time.perf_counter()
    async for _ in query(prompt=PROMPT, options=options):
        pass
    return time.perf_counter() - begun


async def _main(model: str, runs: int) -> None:
    print(json.dumps([await _seconds(model) for _ in range(runs)]))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
