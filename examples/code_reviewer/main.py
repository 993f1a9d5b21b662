"""Reviews a diff and says whether it may be merged: a step for continuous integration.

Shows: a dry run that estimates the cost before anything is spent, a limit on the cost of this one run, and a result
that a program reads. Exits with 0 if the change may be merged, with 1 if not, and with 2 if it could not be reviewed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloutagent import BudgetExceededError, Client, CloutAgentError
from cloutagent.types import AgentConfig, Limits, StartOptions
from examples.live import cost, run_live
from examples.projects import open_project

SYSTEM_PROMPT = """\
You review changes of code. Look for what is wrong: faults, holes in security, broken callers. Leave style alone.

You have an empty directory and Bash. If you suspect a fault that you can try out, try it before you report it.

End with one JSON object and nothing else, no fence around it:
{"summary": "one sentence",
 "findings": [{"file": "path", "line": 1, "severity": "error" or "note", "message": "what is wrong, what is right"}]}
Lines are those of the new file. An error must not be merged; a note may.
"""
PROMPT = "Review this change:\n\n{{diff}}"
AGENT = AgentConfig(
    name="code reviewer",
    system_prompt=SYSTEM_PROMPT,
    model="claude-sonnet-4-5",
    temperature=0,
    max_tokens=2_000,
    enabled_tools=["Bash", "Read", "Write"],
)
LIMITS = Limits(max_tokens=200_000, max_cost=2.00)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a change. Raises ValueError if it is not what the agent was asked for."""

    file: str
    line: int
    severity: str
    message: str

    def __post_init__(self) -> None:
        for name, kind in (("file", str), ("line", int), ("message", str)):
            # A bool is an int, too.
            if type(getattr(self, name)) is not kind:
                raise ValueError(f"the {name} of a finding is {getattr(self, name)!r}")
        if self.severity not in ("error", "note"):
            raise ValueError(f"no such severity: {self.severity}")


def findings(result: str) -> list[Finding]:
    """The findings in the agent's result. Raises ValueError if it is not what was asked for."""
    found = last_object(result).get("findings")
    # Nothing else stands for "nothing was found": what is not understood must not be merged.
    if not isinstance(found, list):
        raise ValueError(f"the review has no list of findings, but {found!r}")
    try:
        return [Finding(**one) for one in found]
    except TypeError as error:
        raise ValueError(f"a finding of the review is malformed: {error}") from error


def last_object(result: str) -> dict[str, Any]:
    """The JSON object that the result ends with. What the agent said before may have braces, too.

    Raises ValueError if it does not end with one.
    """
    text = result.rstrip()
    start = text.find("{")
    while start >= 0:
        end = start + 1
        try:
            document, end = json.JSONDecoder().raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            document = {}
        if document and end == len(text):
            return dict(document)
        # Into an object that is complete there is no need to look.
        start = text.find("{", end)
    raise ValueError("the review does not end with a JSON object")


def main() -> int:
    """Review a diff; see above for what is returned."""
    parser = argparse.ArgumentParser(description="Reviews a diff and says whether it may be merged.")
    parser.add_argument("--diff", type=Path, default=Path(__file__).with_name("change.diff"))
    parser.add_argument("--max-cost", type=float, default=0.50, help="US dollars that this review may cost")
    given = parser.parse_args()
    try:
        options: StartOptions = {
            "variables": {"diff": given.diff.read_text(encoding="utf-8")},
            "max_cost": given.max_cost,
            "labels": {"diff": given.diff.name},
        }
        with Client(api_key=open_project("code-reviewer", AGENT, limits=LIMITS)) as client:
            estimate = client.executions.estimate(PROMPT, **options)
            print(f"one call is estimated at {estimate.estimated_cost:.6f} USD of {estimate.limits.max_cost:.6f} USD")
            if not estimate.limit_check.within_limits:
                print("not reviewed: give it a higher --max-cost")
                return 2
            execution = run_live(client, PROMPT, **options)
        found = findings(execution.result)
    except BudgetExceededError as error:
        print(f"not reviewed to the end: {error}")
        return 2
    except (CloutAgentError, ValueError, OSError) as error:
        print(f"not reviewed: {error}")
        return 2
    print()
    for one in found:
        print(f"{one.file}:{one.line}: {one.severity}: {one.message}")
    print(cost(execution))
    return 1 if any(one.severity == "error" for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
