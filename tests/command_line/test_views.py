"""What is drawn, by itself."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from cloutagent.cli.chart import chart, gauges
from cloutagent.cli.endings import ExitCode
from cloutagent.cli.happenings import happening
from cloutagent.cli.live_view import LiveView
from cloutagent.cli.output import Output
from cloutagent.cli.progress import Progress, status_name
from cloutagent.cli.summary import summary_line
from cloutagent.cli.text import money
from cloutagent.types import (
    BudgetExceeded,
    BudgetState,
    Execution,
    ExecutionEvent,
    LimitCheckResult,
    Limits,
    ModelUsage,
    UsageReport,
    UsageSum,
)
from cloutagent.v1.execution_pb2 import LimitWarningEvent, MessageEvent, QueuedEvent, StartedEvent

WIDTH = 60


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=WIDTH, force_terminal=True, color_system=None, markup=False, emoji=False)


def drawn(console: Console) -> list[str]:
    """The lines that were drawn."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def usage(day: str, model: str, cost: float, estimated: float = 0) -> ModelUsage:
    sums = UsageSum(model_calls=1, prompt_tokens=10, total_cost=cost, estimated_cost=estimated)
    return ModelUsage(day=day, model=model, usage=sums)


def report(*days: ModelUsage, to_day: str = "2026-01-31") -> UsageReport:
    total = UsageSum(total_cost=sum(day.usage.total_cost for day in days))
    return UsageReport(from_day="2026-01-01", to_day=to_day, days=days, sum=total)


def bars(console: Console, shown: UsageReport) -> dict[str, str]:
    """The bars of a chart, by day."""
    console.print(chart(shown, lambda sums: sums.total_cost, money, WIDTH))
    return {line[:10]: line[11:].rstrip() for line in drawn(console) if re.match(r"\d{4}-\d\d-\d\d (?!to)", line)}


def test_bars_are_as_long_as_what_they_stand_for(console: Console) -> None:
    found = bars(
        console, report(usage("2026-01-28", "a", 1), usage("2026-01-28", "b", 1), usage("2026-01-30", "a", 0.5))
    )
    whole, part = found["2026-01-28"].split(" ")[0], found["2026-01-30"].split(" ")[0]
    assert found["2026-01-28"].endswith("$2.00")
    assert len(whole) == WIDTH - 26 and len(part) == round(len(whole) / 4 + 0.4)
    assert list(found) == ["2026-01-28", "2026-01-29", "2026-01-30", "2026-01-31"], "days without usage are there"


def test_a_chart_of_many_days_has_those_with_usage(console: Console) -> None:
    found = bars(console, report(usage("2025-06-01", "a", 1, 1), usage("2026-01-01", "a", 0)))
    assert list(found) == ["2025-06-01", "2026-01-01"]
    assert any("about $1.00" in line for line in drawn(console))


def test_budgets_tell_what_is_under_way_and_scopes_that_are_new(console: Console) -> None:
    tokens = LimitCheckResult.Exceeded.tokens
    scope = BudgetExceeded.Scope.daily
    known = BudgetState(scope=scope, limits=tokens, limit=1000, used=400, reserved=500)
    new = BudgetState(scope=9, limits=9, limit=10, used=1)  # type: ignore[arg-type]
    console.width = 100
    console.print(gauges(UsageReport(budgets=[known, new])))
    lines = drawn(console)
    assert any("daily tokens" in line and "400 of 1,000, 500 under" in line for line in lines)
    assert any("9 9" in line for line in lines)


def test_a_queued_run_tells_its_place(console: Console) -> None:
    progress = Progress(Execution(id="e", limits=Limits(max_tokens=10, max_cost=1, timeout=1000)))
    view = LiveView(console, progress)
    event = ExecutionEvent(sequence=1, kind="queued", queued=QueuedEvent(position=3))
    progress.take(event)
    view.show(event)
    console.print(view)
    lines = drawn(console)
    assert lines[0] == "· queued behind 3"
    assert any("queued behind 3  execution e" in line for line in lines)
    assert all(len(line) <= WIDTH for line in lines)


def test_a_message_without_its_pieces_is_shown_whole(console: Console) -> None:
    view = LiveView(console, Progress(Execution()))
    view.show(ExecutionEvent(kind="message", message=MessageEvent(text="one\ntwo")))
    assert [line.rstrip() for line in drawn(console)] == ["one", "two"]


def test_time_is_the_servers_up_to_the_last_event_and_ours_from_there() -> None:
    now = 100.0
    progress = Progress(Execution(), clock=lambda: now)
    assert progress.elapsed == 0
    started = ExecutionEvent(kind="started", started=StartedEvent(model="m"))
    started.time.FromSeconds(5000)
    progress.take(started)
    now = 101.5
    assert progress.elapsed == 1500
    later = ExecutionEvent(kind="message")
    later.time.FromSeconds(5010)
    progress.take(later)
    now = 102.0
    assert progress.elapsed == 10_500


def test_a_watch_from_the_middle_begins_with_what_is_known() -> None:
    execution = Execution(usage={"prompt_tokens": 7})  # type: ignore[arg-type]
    execution.started_at.FromSeconds(5000)
    progress = Progress(execution, 4)
    assert (progress.status, progress.tokens, progress.last_sequence) == ("running", 7, 4)
    assert progress.exit_code is ExitCode.FAILED, "not completed yet"


def test_what_only_a_newer_server_knows_has_its_number() -> None:
    execution = Execution(status=17)  # type: ignore[arg-type]
    assert status_name(execution) == "17"
    progress = Progress(execution)
    progress.settle(execution)
    assert "17 after" in summary_line(progress)
    warning = ExecutionEvent(kind="limit_warning", limit_warning=LimitWarningEvent(limit=9, percent=81))  # type: ignore[arg-type]
    line = happening(warning)
    assert line is not None and line.plain == "! 81 % of the limit on 9 is used"
    assert happening(ExecutionEvent(kind="new")) is None


def test_an_id_is_whole_in_a_table_that_is_too_narrow(console: Console) -> None:
    id_ = "6d0f2c1e-0000-4000-8000-000000000000"
    output = Output(out=console, err=console)
    output.table(("execution", "status", "age", "prompt"), [(id_, "completed", "12 min", "Greet Ada. " * 9)])
    lines = drawn(console)
    assert any(id_ in line for line in lines) and all(len(line) <= WIDTH for line in lines)
    output.table(("key", "name", "created"), [(id_, "ci" * 20, "2026-01-31 12:00:00")])
    lines = drawn(console)
    assert sum(line.count("ci") for line in lines[-9:]) >= 19, "folded, not cut"
