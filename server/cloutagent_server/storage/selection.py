"""Lists of executions that pass a filter, in pages of bounded size and bounded work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cloutagent_server.domain.execution import Execution, ExecutionFilter
from cloutagent_server.storage import paging
from cloutagent_server.storage.base import Page

# Texts of the executions in a page together; the first one is in it whatever its size.
MAX_PAGE_BYTES: Final = 2_097_152
# Executions that one page looks at.
MAX_LOOKED_AT: Final = 1000


def select(
    project_id: str, page_size: int, wanted: ExecutionFilter, candidates: Iterable[tuple[str, Execution | None]]
) -> Page[Execution]:
    """A page of those executions that are wanted.

    `candidates` are places in the order of the list with the execution that stands there, None if it is gone or cannot
    be read. It is read no further than the page needs.
    """
    items: list[Execution] = []
    size, last = 0, ""
    for looked_at, (place, execution) in enumerate(candidates):
        chosen = execution is not None and wanted.matches(execution)
        size += _bytes_of(execution) if execution is not None and chosen else 0
        full = chosen and items and (len(items) == page_size or size > MAX_PAGE_BYTES)
        if full or looked_at == MAX_LOOKED_AT:
            return Page(tuple(items), paging.to_token(project_id, last))
        if execution is not None and chosen:
            items.append(execution)
        last = place
    return Page(tuple(items), None)


def _bytes_of(execution: Execution) -> int:
    """Upper bound of its texts in UTF-8, near enough to keep a page below what a message may have."""
    texts = (execution.prompt, execution.agent.system_prompt, execution.result or "", *execution.labels.values())
    return 1000 + sum(len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in texts)
