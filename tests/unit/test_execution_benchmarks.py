"""The benchmarks of executions run, and say when a target is missed."""

from __future__ import annotations

import pytest

from benchmarks.executions.__main__ import QUICK, run
from benchmarks.executions.figures import Figure, percentile, table

pytestmark = pytest.mark.e2e


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_the_quick_form_measures_everything(capsys: pytest.CaptureFixture[str]) -> None:
    await run(QUICK)
    printed = capsys.readouterr().out
    assert "load of the machine" in printed
    for name in (
        "memory per watcher",
        "replay of 2,000 events, gRPC",
        "replay of 2,000 events, NDJSON before Envoy",
        "replay of 2,000 events, REST (NDJSON)",
        "event to watcher, 10 watchers, 10 events/s, p50",
        "event to watcher, 10 watchers, 10 events/s, p99",
        "fan-out to 1 watchers, of a bare stream of what is stored",
        "fan-out to 10 watchers, of a bare stream of what is stored",
        "fan-out to 10 watchers, of a bare stream of what was made before",
        "one stalled watcher",
        "first event, cold, p50",
        "first event, warm, p50",
        "first model request, cold, p50",
        "first model request, warm, p50",
        "added to a run of the SDK alone, cold, p50",
        "added to a run of the SDK alone, warm, p50",
        "gateway, added to the first byte",
    ):
        assert f"\n{name}" in printed


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        (Figure("", 5.0, "ms"), False),
        (Figure("", 5.0, "ms", most=5.0), False),
        (Figure("", 5.1, "ms", most=5.0), True),
        (Figure("", 5.0, "ms", least=5.0), False),
        (Figure("", 4.9, "ms", least=5.0), True),
    ],
)
def test_a_target_is_met_or_missed(figure: Figure, missed: bool) -> None:
    assert figure.missed is missed
    assert ("MISSED" in table([figure])) is missed


def test_a_percentile_lies_between_the_values() -> None:
    assert percentile([float(number) for number in range(101)], 99) == 99.0
