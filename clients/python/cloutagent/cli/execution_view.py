"""Executions and estimates, for people."""

from __future__ import annotations

from rich.text import Text

from cloutagent.cli.happenings import limit_name
from cloutagent.cli.output import Output
from cloutagent.cli.progress import status_name
from cloutagent.cli.summary import status_text
from cloutagent.cli.text import clean, count, duration, local_time, money, one_line
from cloutagent.types import Execution, ExecutionEstimate, Receipt


def show_estimate(output: Output, estimate: ExecutionEstimate) -> None:
    """What a run would be."""
    if output.json:
        output.document(estimate)
        return
    limits, check = estimate.limits, estimate.limit_check
    within = (
        Text("within the limits", "green")
        if check.within_limits
        else Text(f"would pass the limit on {limit_name(check.exceeded)}", "red")
    )
    output.facts(
        (
            ("model", estimate.model),
            ("one call", f"{count(estimate.prompt_tokens)} tokens in, at most {count(estimate.completion_tokens)} out"),
            ("cost", f"at most {money(estimate.estimated_cost)}"),
            ("limits", f"{count(limits.max_tokens)} tokens, {money(limits.max_cost)}, {duration(limits.timeout)}"),
            ("", within),
            ("secrets", ", ".join(estimate.secret_names)),
        )
    )


def show_execution(output: Output, execution: Execution) -> None:
    """One execution as it stands."""
    if output.json:
        output.document(execution)
        return
    usage, limits = execution.usage, execution.limits
    failure = execution.failure.message if execution.HasField("failure") else ""
    output.facts(
        (
            ("execution", execution.id),
            ("status", status_text(status_name(execution))),
            ("failure", Text(one_line(failure), "red") if failure else None),
            ("project", execution.project_id),
            ("model", execution.agent.model),
            ("prompt", one_line(execution.prompt, 200)),
            ("labels", " ".join(f"{name}={value}" for name, value in sorted(execution.labels.items()))),
            ("secrets", ", ".join(execution.secret_names)),
            ("created", local_time(execution.created_at)),
            ("started", local_time(execution.started_at) if execution.HasField("started_at") else None),
            ("finished", local_time(execution.finished_at) if execution.HasField("finished_at") else None),
            ("time", _of(duration(execution.duration), duration(limits.timeout))),
            ("tokens", _of(count(usage.prompt_tokens + usage.completion_tokens), count(limits.max_tokens))),
            ("cost", _of(money(usage.total_cost), money(limits.max_cost))),
            ("model calls", count(usage.model_calls)),
            ("events", count(execution.last_sequence)),
        )
    )
    if execution.HasField("result"):
        output.line()
        output.line(clean(execution.result))


def show_receipt(output: Output, receipt: Receipt) -> None:
    """What an execution used, call by call."""
    if output.json:
        output.document(receipt)
        return
    output.table(
        ("call", "time", "model", "in", "out", "cache read", "cache write", "cost"),
        [
            (
                str(number),
                local_time(call.time),
                call.model,
                count(call.prompt_tokens),
                count(call.completion_tokens),
                count(call.cache_read_tokens),
                count(call.cache_write_tokens),
                f"{'about ' if call.estimated else ''}{money(call.cost)}",
            )
            for number, call in enumerate(receipt.calls, 1)
        ],
        right=("call", "in", "out", "cache read", "cache write", "cost"),
    )
    log = receipt.log
    output.facts(
        (
            ("total", f"{money(receipt.usage.total_cost)} in {count(receipt.usage.model_calls)} model calls"),
            ("events", f"{log.first_sequence} to {log.last_sequence}, {count(log.size)} bytes"),
            ("sha256", log.sha256),
        )
    )


def _of(used: str, limit: str) -> str:
    return f"{used} of {limit}"
