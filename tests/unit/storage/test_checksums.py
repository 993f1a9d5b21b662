"""Each line of a log has a checksum, so that no altered byte passes for an event."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.doctor import Folder, examine
from cloutagent_server.storage.filesystem.log_lines import sealed, unsealed
from tests.support import builders
from tests.unit.storage.conftest import OpenStorage

OBJECTS = st.dictionaries(st.text(), st.text() | st.integers(), min_size=1).map(
    lambda document: json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
)


@given(OBJECTS)
def test_a_line_is_json_with_the_checksum_of_what_is_sent(data: bytes) -> None:
    line = sealed(data)
    assert json.loads(line).pop("crc32") == f"{crc32(data):08x}"
    assert unsealed(line.removesuffix(b"\n")) == data


@given(OBJECTS, st.data())
def test_no_flipped_bit_passes(data: bytes, draw: st.DataObject) -> None:
    line = bytearray(sealed(data).removesuffix(b"\n"))
    line[draw.draw(st.integers(0, len(line) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="checksum"):
        unsealed(bytes(line))


@pytest.mark.parametrize("number", [0, 1, 4, 11])
async def test_a_flipped_bit_is_told_by_file_line_and_reason(
    storage: FileSystemStorage, open_storage: OpenStorage, root: Path, execution: Execution, log_path: Path, number: int
) -> None:
    await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
    lines = log_path.read_bytes().splitlines(keepends=True)
    flipped = lines[number].replace(b'Id":"', b'Id":#', 1) if number else lines[0].replace(b"prompt", b"prompu")
    log_path.write_bytes(b"".join([*lines[:number], flipped, *lines[number + 1 :]]))
    where = "first line" if number == 0 else f"line {number + 1}, event {number}"
    other = await open_storage()
    with pytest.raises(StoredDataDamaged) as caught:
        await other.executions.read_events(execution.id, 0, 100)
    assert (caught.value.location, caught.value.fault) == (str(log_path), f"{where}: its checksum does not fit")
    found = {finding.path: finding.fault for finding in examine(Folder(root))}
    assert found[str(log_path.relative_to(root))] == f"{where}: its checksum does not fit"
