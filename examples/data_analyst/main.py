"""Answers a question about a CSV file by computing, not by guessing.

Shows: tools in a sandbox of the run's own (it needs a server that can isolate agents), files in its working directory,
and the receipt of the run. What the agent writes there is gone with the run; what it found is its result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cloutagent import BudgetExceededError, Client, CloutAgentError
from cloutagent.errors import ExecutionTimedOutError, InvalidArgumentError
from cloutagent.types import AgentConfig, Execution, Limits
from examples.live import cost, run_live
from examples.projects import open_project

SYSTEM_PROMPT = """\
You are a data analyst. Your working directory is /work; it is empty when you begin, and only you use it.

1. Write the data that you are given to /work/data.csv, unchanged.
2. Compute with Bash: awk, sort and their like are there, python3 may be. Never compute in your head.
3. Check that the number of rows that you used is the number of rows in the file.
4. Answer the question in a sentence, then give the figures that it rests on as a table.
"""
PROMPT = """\
{{question}}

The data, as CSV:

{{data}}
"""
AGENT = AgentConfig(
    name="data analyst",
    system_prompt=SYSTEM_PROMPT,
    model="claude-sonnet-4-5",
    temperature=0,
    enabled_tools=["Bash", "Read", "Write"],
)
LIMITS = Limits(max_tokens=200_000, max_cost=1.00, timeout=120_000)


def main() -> int:
    """Answer the question; 0 if that was done."""
    parser = argparse.ArgumentParser(description="Answers a question about a CSV file.")
    parser.add_argument("--file", type=Path, default=Path(__file__).with_name("sales.csv"))
    parser.add_argument("--question", default="Which product brought in the most money?")
    given = parser.parse_args()
    try:
        variables = {"question": given.question, "data": given.file.read_text(encoding="utf-8")}
        with Client(api_key=open_project("data-analyst", AGENT, limits=LIMITS)) as client:
            execution = run_live(client, PROMPT, variables=variables, labels={"file": given.file.name})
            print(f"\n{execution.result}\n{cost(execution)}")
            show_receipt(client, execution)
    except InvalidArgumentError as error:
        print("the server refuses it:", *(f"{one.field}: {one.description}" for one in error.violations))
        return 1
    except (BudgetExceededError, ExecutionTimedOutError) as error:
        print(f"it took too much: {error}")
        return 1
    except UnicodeDecodeError:
        print(f"not answered: {given.file} is not UTF-8; iconv makes it so")
        return 1
    except (CloutAgentError, OSError) as error:
        print(f"not answered: {error}")
        return 1
    return 0


def show_receipt(client: Client, execution: Execution) -> None:
    """Print each model call of the run, and the digest of its log."""
    receipt = client.executions.receipt(execution.id)
    for number, call in enumerate(receipt.calls, 1):
        print(f"  call {number}: {call.prompt_tokens} tokens in, {call.completion_tokens} out, {call.cost:.6f} USD")
    print(f"  log of events 1 to {receipt.log.last_sequence}: sha256 {receipt.log.sha256}")


if __name__ == "__main__":
    sys.exit(main())
