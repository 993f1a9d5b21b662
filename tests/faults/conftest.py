"""What the fault suite counts, and the lines in which it says so at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

KINDS = (
    "kill points",
    "injected faults",
    "power-loss prefixes",
    "power-loss states",
    "random steps",
    "racing operations",
)
LOSSES = "losses"

Count = Callable[..., None]


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Notes how many of something were tried, and what was lost, and fails when anything was."""

    def note(kind: str, number: int, lost: list[str] | None = None) -> None:
        assert kind in KINDS
        record_property(kind, number)
        record_property(LOSSES, len(lost or ()))
        assert not lost, "\n".join(lost[:20])

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each kind of fault, from the reports of the tests that tried it."""
    totals: Counter[str] = Counter()
    failed = 0
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            noted = Counter[str]()
            for name, number in getattr(report, "user_properties", ()):
                if name in KINDS or name == LOSSES:
                    noted[name] += number
            totals += noted
            failed += outcome != "passed" and not noted[LOSSES]
    terminalreporter.section("faults tried")
    for kind in KINDS:
        terminalreporter.line(f"{totals[kind]} {kind}")
    terminalreporter.line(
        f"{totals[LOSSES]} losses" + (f", and {failed} tests that did not get so far" if failed else "")
    )
