"""The places of lines: the same whether they were told when they were written or found afterwards."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloutagent_server.storage.filesystem.lines import LineIndex

LINES = st.lists(st.integers(1, 40), max_size=90)


@given(st.lists(st.tuples(st.booleans(), LINES), max_size=4), st.integers(0, 50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_that_were_told_are_found_where_they_are(
    tmp_path: Path, writes: list[tuple[bool, list[int]]], start: int
) -> None:
    """Some are told, others are left to be found, and what follows those is left then, too."""
    path = tmp_path / "lines"
    path.write_bytes(b"." * start)
    told, found, starts = LineIndex(start), LineIndex(start), [start]
    with path.open("ab") as file:
        for tells, lengths in writes:
            end = starts[-1]
            file.write(b"".join(b"x" * (length - 1) + b"\n" for length in lengths))
            for length in lengths:
                starts.append(starts[-1] + length)
            if tells:
                told.add(end, lengths)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert told.extend(descriptor, starts[-1]) == found.extend(descriptor, starts[-1]) == len(starts) - 1
    finally:
        os.close(descriptor)
    assert told.end == found.end == starts[-1]
    for line in range(1, len(starts)):
        first, offset = told.before(line)
        assert (first, offset) == found.before(line)
        assert offset == starts[first - 1]
        assert told.behind(line) == found.behind(line)
