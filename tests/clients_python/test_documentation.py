"""The snippets of the documentation run as they are printed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.clients_python.conftest import ADMIN_KEY

REPOSITORY = Path(__file__).parents[2]
PRINTED_ADDRESS = "http://127.0.0.1:3001"


def snippets(document: str) -> str:
    """The Python in a document, in its order."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize(
    ("document", "printed"),
    [
        ("docs/python.md", "echo: Greet Grace."),
        ("README.md", "echo: Greet Ada."),
        ("clients/python/README.md", "ok"),
    ],
)
async def test_the_snippets_of_a_document_run(
    document: str,
    printed: str,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLOUTAGENT_API_KEY", ADMIN_KEY)
    monkeypatch.setenv("CLOUTAGENT_ADDRESS", address)
    code = compile(snippets(document).replace(PRINTED_ADDRESS, address), document, "exec")
    space: dict[str, Any] = {"__name__": "snippet"}
    await asyncio.to_thread(exec, code, space)
    assert printed in capsys.readouterr().out
