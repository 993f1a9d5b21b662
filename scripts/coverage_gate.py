"""Print how much of the gated code ran, and fail when something is below its gate.

Every module of the service floor is held to its branches, or, where it has none, to its lines. What keeps data, secrets
and keys is held group by group, to more, and to lines and branches both. A branch is a way on from a line that has more
than one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "cloutagent_server/"
GATED: Final = "service/"
GATE_PERCENT: Final = 90.0
GROUP_GATE_PERCENT: Final = 95.0
# What belongs to a group: folders (with a slash at the end) and modules, from the package on.
GROUPS: Final[Mapping[str, Sequence[str]]] = {
    "storage": ("storage/",),
    "secrets": (
        *(f"service/{name}.py" for name in ("cipher", "key_rotation", "keyring", "manifest", "secret_care", "secrets")),
        "transport/secret_servicer.py",
    ),
    "keys and authentication": (
        *(f"service/{name}.py" for name in ("attempts", "auth", "key_uses", "keys")),
        *(f"transport/{name}.py" for name in ("access", "context", "key_codec")),
    ),
    "redaction": tuple(
        f"service/{name}.py"
        for name in ("forms", "occurrences", "patterns", "prefix_tree", "redaction", "run_redaction")
    ),
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of something ran.

    Attributes:
        name: What it is: the path of a file as the report names it, or a group and what was counted.
        covered: What ran.
        total: What there is.
        gate: Percentage that must have run.
    """

    name: str
    covered: int
    total: int
    gate: float

    @property
    def percent(self) -> float:
        """Share that ran, 0 to 100; what is empty has everything covered."""
        return 100.0 * self.covered / self.total if self.total else 100.0


def gated_modules(report: Mapping[str, Any]) -> list[Coverage]:
    """The modules of the service floor in a report of `coverage json`, by name.

    Raises:
        KeyError: The report was made without branch coverage.
    """
    found = []
    for name, summary in _summaries(report, [GATED]):
        kind, total = ("branches", "num_branches") if summary["num_branches"] else ("lines", "num_statements")
        found.append(Coverage(name, summary[f"covered_{kind}"], summary[total], GATE_PERCENT))
    return found


def gated_groups(report: Mapping[str, Any]) -> list[Coverage]:
    """Lines and branches of every group in a report of `coverage json`.

    Raises:
        KeyError: The report was made without branch coverage.
        ValueError: A member of a group is not in the report, so its gate would hold nothing.
    """
    found = []
    for group, members in GROUPS.items():
        missing = [member for member in members if not any(_summaries(report, [member]))]
        if missing:
            raise ValueError(f"{group}: the report names nothing under {', '.join(missing)}")
        summaries = [summary for _, summary in _summaries(report, members)]
        for kind, total in (("lines", "num_statements"), ("branches", "num_branches")):
            counted = sum(summary[f"covered_{kind}"] for summary in summaries), sum(each[total] for each in summaries)
            found.append(Coverage(f"{group}: {kind}", *counted, GROUP_GATE_PERCENT))
    return found


def _summaries(report: Mapping[str, Any], members: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, file in sorted(report["files"].items()):
        _, _, inside = Path(name).as_posix().rpartition(PACKAGE)
        if any(inside.startswith(member) if member.endswith("/") else inside == member for member in members):
            yield name, file["summary"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="coverage_gate", description=__doc__)
    parser.add_argument("report", type=Path, help="report of `coverage json`, with branches")
    options = parser.parse_args(arguments)
    report = json.loads(options.report.read_text(encoding="utf-8"))
    modules = gated_modules(report)
    if not modules:
        print(f"{options.report} names no module under {PACKAGE}{GATED}", file=sys.stderr)
        return 1
    try:
        groups = gated_groups(report)
    except ValueError as fault:
        print(f"{options.report}: {fault}", file=sys.stderr)
        return 1
    _print(f"Branch coverage of the service floor (gate: {GATE_PERCENT:g} % in each module)", modules)
    _print(f"Coverage of what keeps data, secrets and keys (gate: {GROUP_GATE_PERCENT:g} % in each line)", groups)
    below = [one for one in (*modules, *groups) if one.percent < one.gate]
    for one in below:
        print(f"{one.name}: {one.percent:.1f} % is below {one.gate:g} %", file=sys.stderr)
    return 1 if below else 0


def _print(title: str, gated: Sequence[Coverage]) -> None:
    width = max(len(one.name) for one in gated)
    print(title)
    for one in gated:
        print(f"  {one.name:<{width}}  {one.percent:5.1f} %  {one.covered}/{one.total}")


if __name__ == "__main__":
    sys.exit(main())
