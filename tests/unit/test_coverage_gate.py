"""The coverage gate: what is below it fails, group by group, and a group that is not measured fails too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import coverage_gate
from scripts.coverage_gate import GROUPS


def report(**changed: dict[str, int]) -> dict[str, Any]:
    """A report in which everything ran, but for modules named by the last part of their path."""
    names = [f"{member}log.py" if member.endswith("/") else member for group in GROUPS.values() for member in group]
    whole = {"num_statements": 100, "covered_lines": 100, "num_branches": 20, "covered_branches": 20}
    return {
        "files": {
            f"server/cloutagent_server/{name}": {"summary": {**whole, **changed.get(Path(name).stem, {})}}
            for name in names
        }
    }


def gate(tmp_path: Path, document: dict[str, Any]) -> int:
    path = tmp_path / "coverage.json"
    path.write_text(json.dumps(document))
    return coverage_gate.main([str(path)])


def test_all_is_well_and_every_group_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(tmp_path, report()) == 0
    shown = capsys.readouterr().out
    for group in GROUPS:
        assert f"{group}: lines" in shown and f"{group}: branches" in shown


@pytest.mark.parametrize(
    ("changed", "below"),
    [
        ({"log": {"covered_lines": 94}}, "storage: lines: 94.0 % is below 95 %"),
        ({"log": {"covered_branches": 18}}, "storage: branches: 90.0 % is below 95 %"),
        ({"access": {"covered_branches": 12}}, "keys and authentication: branches: 94.3 % is below 95 %"),
        ({"cipher": {"covered_branches": 17}}, "cipher.py: 85.0 % is below 90 %"),
    ],
)
def test_what_is_below_its_gate_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, dict[str, int]], below: str
) -> None:
    assert gate(tmp_path, report(**changed)) == 1
    assert below in capsys.readouterr().err


def test_what_is_not_measured_holds_no_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = report()
    del document["files"]["server/cloutagent_server/service/key_uses.py"]
    assert gate(tmp_path, document) == 1
    assert "names nothing under service/key_uses.py" in capsys.readouterr().err
    assert gate(tmp_path, {"files": {}}) == 1
