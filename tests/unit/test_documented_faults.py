"""The table of faults names a test for each, and these tests are there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_every_test_in_the_table_of_faults_is_there() -> None:
    page = (REPOSITORY / "docs/executions.md").read_text()
    table = page[page.index("## Faults") :].split("\n## ", 1)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| fault ")]
    assert len(rows) > 25
    assert [row for row in rows if "`test_" not in row] == []
    sources = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert set(re.findall(r"`(test_\w+)`", table)) - set(re.findall(r"def (test_\w+)\(", sources)) == set()
