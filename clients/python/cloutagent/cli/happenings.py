"""What happens in a run beside its text, each on one line."""

from __future__ import annotations

import json
from typing import Final

from google.protobuf import json_format
from rich.text import Text

from cloutagent.cli.text import count, one_line
from cloutagent.types import ExecutionEvent, LimitCheckResult

_LONGEST: Final = 160


def happening(event: ExecutionEvent) -> Text | None:
    """The line for an event; None for those that have none: text, and what the gauges and the summary tell."""
    match event.kind:
        case "queued" if event.queued.position:
            return Text(f"· queued behind {count(event.queued.position)}", "dim")
        case "started":
            return Text(f"· started with {one_line(event.started.model)}", "dim")
        case "tool_use":
            arguments = json.dumps(json_format.MessageToDict(event.tool_use.input), ensure_ascii=False, sort_keys=True)
            return Text.assemble(
                ("→ ", "cyan"),
                (one_line(event.tool_use.name, 80), "bold"),
                (f" {one_line(arguments, _LONGEST)}", "dim"),
            )
        case "tool_result":
            mark, style = ("✗ ", "red") if event.tool_result.is_error else ("← ", "green")
            return Text.assemble((mark, style), (one_line(event.tool_result.content, _LONGEST), "dim"))
        case "limit_warning":
            warning = event.limit_warning
            limit = limit_name(warning.limit)
            return Text(f"! {warning.percent:.0f} % of the limit on {limit} is used", "yellow")
        case _:
            return None


def limit_name(limit: LimitCheckResult.Exceeded.ValueType) -> str:
    """`tokens` or `cost`; the number of what only a newer server knows."""
    try:
        return LimitCheckResult.Exceeded.Name(limit)
    except ValueError:
        return str(limit)
