"""The benchmarks run, and say when a target is missed."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import run
from benchmarks.harness import Ratio, Row, compare, ratio_of, table


async def test_the_quick_form_measures_everything(capsys: pytest.CaptureFixture[str]) -> None:
    await run([10, 100], rounds=1)
    printed = capsys.readouterr().out
    for name in (
        "look up a key's digest",
        "authenticate, cold",
        "authenticate, warm",
        "GetProject",
        "ListProjects, first page of 50",
        "ListProjects, middle page of 50",
        "ListProjects, last page of 50",
        "create and delete a project",
        "start, folder in order",
        "start after kill -9",
        "memory after the start",
    ):
        assert f"\n{name}" in printed
    assert "doctor: 0 findings" in printed


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        (Row("", {1: 5.0, 2: 9.0}), False),
        (Row("", {1: 5.0, 2: 9.0}, most=9.0), False),
        (Row("", {1: 9.5, 2: 5.0}, most=9.0), True),
        (Row("", {1: 5.0}, Ratio(1.2, 1.0, 9.0), most_ratio=1.2), False),
        (Row("", {1: 5.0}, Ratio(1.21, 1.0, 9.0), most_ratio=1.2), True),
    ],
)
def test_a_target_is_met_or_missed(row: Row, missed: bool) -> None:
    assert row.missed is missed
    assert ("MISSED" in table([row], [1, 2])) is missed


def test_a_ratio_is_of_what_was_measured_in_one_round() -> None:
    assert ratio_of([2.0, 40.0, 600.0], [1.0, 10.0, 100.0]) == Ratio(4.0, 3.0, 5.0)


async def test_all_sizes_are_measured_equally_often() -> None:
    calls: list[int] = []

    async def work(size: int) -> None:
        calls.append(size)

    row = await compare("", {1: lambda: work(1), 9: lambda: work(9)}, rounds=4)
    assert calls.count(1) == calls.count(9) == 5
    assert row.ratio is not None and row.values.keys() == {1, 9}
