"""Strict reading, and upgrading of older documents."""

from __future__ import annotations

from typing import Any

import pytest

from cloutagent_server.storage.filesystem.schema import Fields, Schema, parse


def renamed(document: dict[str, Any]) -> dict[str, Any]:
    return {"name": document["title"]}


def with_size(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "size": 0}


THIRD = Schema(3, {1: renamed, 2: with_size})


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 1, "title": "x"},
        {"schemaVersion": 2, "name": "x"},
        {"schemaVersion": 3, "name": "x", "size": 0},
    ],
)
def test_an_older_document_is_upgraded_step_by_step(document: dict[str, Any]) -> None:
    original = dict(document)
    fields = THIRD.open(document)
    assert (fields.text("name"), fields.whole("size")) == ("x", 0)
    fields.end()
    assert document == original


def test_a_newer_document_is_refused() -> None:
    with pytest.raises(ValueError, match="schemaVersion 4 is newer than 3"):
        THIRD.open({"schemaVersion": 4})


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_never_was_is_refused(version: int) -> None:
    with pytest.raises(ValueError, match="version"):
        THIRD.open({"schemaVersion": version})


@pytest.mark.parametrize("document", [None, [], "x", 1, {}, {"schemaVersion": None}, {"schemaVersion": 1.0}])
def test_what_has_no_version_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match=r"is not|missing"):
        THIRD.open(document)


def test_a_stamped_document_is_opened() -> None:
    fields = THIRD.open(THIRD.stamp({"name": "x"}))
    assert fields.text("name") == "x"
    fields.end()


@pytest.mark.parametrize("content", [b"", b"{", b"{} x", b"\xff", b"NaN", b'{"a":Infinity}', b"[" * 100_000])
def test_parse_takes_json_alone(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(content)


def test_faults_name_the_field_by_its_path() -> None:
    with pytest.raises(ValueError, match=r"^agent\.model is missing$"):
        Fields({"agent": {}}).fields("agent").text("model")
    with pytest.raises(ValueError, match=r"^agent\.extra is not a field of this record$"):
        Fields({"agent": {"extra": 1}}).fields("agent").end()


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("text", 1),
        ("text", None),
        ("whole", True),
        ("whole", 1.0),
        ("whole", -1),
        ("whole", 10**30),
        ("number", "1"),
        ("number", False),
        ("time", "2026-01-31"),
        ("time", 5),
        ("identifier", "x"),
        ("identifier", "0F0E0D0C-0B0A-4908-8706-050403020100"),
        ("hexadecimal", "abc"),
        ("hexadecimal", "zz"),
        ("texts", "ab"),
        ("texts", ["a", 1]),
        ("text_map", []),
        ("text_map", {"a": 1}),
        ("fields", []),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(method: str, value: object) -> None:
    fields = Fields({"field": value})
    with pytest.raises(ValueError, match=r"^field "):
        getattr(fields, method)("field")


def test_an_absent_field_is_none_where_it_is_optional() -> None:
    fields = Fields({"there": "x"})
    assert fields.optional(fields.text, "there") == "x"
    assert fields.optional(fields.text, "absent") is None
