"""Print the branch coverage of every module of the service floor and fail when one is below the gate.

A branch is a way on from a line that has more than one. A module without branches is held to its lines instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GATED = "cloutagent_server/service/"
GATE_PERCENT = 90.0


@dataclass(frozen=True, slots=True)
class ModuleCoverage:
    """How much of one module ran.

    Attributes:
        module: Path of the file as the report names it.
        covered: Branches that ran (lines, when the module has no branch).
        total: Branches that there are (lines, when the module has no branch).
    """

    module: str
    covered: int
    total: int

    @property
    def percent(self) -> float:
        """Share that ran, 0 to 100; an empty module has everything covered."""
        return 100.0 * self.covered / self.total if self.total else 100.0


def gated_modules(report: Mapping[str, Any]) -> list[ModuleCoverage]:
    """The modules of the service floor in a report of `coverage json`, by name.

    Raises:
        KeyError: The report was made without branch coverage.
    """
    found = []
    for name, file in sorted(report["files"].items()):
        if GATED not in Path(name).as_posix():
            continue
        summary = file["summary"]
        kind = "branches" if summary["num_branches"] else "lines"
        total = summary["num_branches"] if summary["num_branches"] else summary["num_statements"]
        found.append(ModuleCoverage(name, summary[f"covered_{kind}"], total))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="coverage_gate", description=__doc__)
    parser.add_argument("report", type=Path, help="report of `coverage json`, with branches")
    options = parser.parse_args(arguments)
    modules = gated_modules(json.loads(options.report.read_text(encoding="utf-8")))
    if not modules:
        print(f"{options.report} names no module under {GATED}", file=sys.stderr)
        return 1
    width = max(len(module.module) for module in modules)
    print(f"Branch coverage of the service floor (gate: {GATE_PERCENT:g} % in each module)")
    for module in modules:
        print(f"  {module.module:<{width}}  {module.percent:5.1f} %  {module.covered}/{module.total}")
    below = [module for module in modules if module.percent < GATE_PERCENT]
    for module in below:
        print(f"{module.module}: {module.percent:.1f} % is below {GATE_PERCENT:g} %", file=sys.stderr)
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
