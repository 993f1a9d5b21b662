"""What of a messages request makes its input impossible to bound."""

import pytest

from cloutagent_server.engine.input_bound import facts_of


def _document(source: object) -> dict[str, object]:
    return {"type": "document", "source": source}


def _unbounded(content: list[object]) -> str | None:
    return facts_of({"model": "m", "messages": [{"role": "user", "content": content}]}).unbounded


@pytest.mark.parametrize("kind", ["url", "anything", None, ["url"]])
def test_what_the_vendor_fetches_is_unbounded_however_deep(kind: object) -> None:
    block = _document({"type": kind, "url": "https://a.example/"})
    assert _unbounded([block])
    assert _unbounded([{"type": "tool_result", "content": [block]}])
    assert _unbounded([_document({"type": "content", "content": [block]})])


@pytest.mark.parametrize("kind", ["base64", "text", "content", "file"])
def test_fixed_content_is_not(kind: str) -> None:
    assert _unbounded([_document({"type": kind})]) is None


def test_the_arguments_of_a_tool_are_text() -> None:
    assert _unbounded([{"type": "tool_use", "input": _document({"type": "url"})}]) is None


@pytest.mark.parametrize("kind", ["Hunter2-secret", "a" * 65, "two\nlines"])
def test_what_an_agent_writes_as_a_kind_is_not_repeated(kind: str) -> None:
    told = facts_of({"model": "m", "messages": [], "tools": [{"type": kind}]}).unbounded
    assert told and kind not in told
