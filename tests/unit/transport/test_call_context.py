"""What is known of a call: its id, its caller, and the HTTP status of its answer."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest

from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.service.auth import Principal
from cloutagent_server.transport import context as call


class Calling:
    """The part of a servicer's context that is used."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata or None
        self.sent: list[Any] = []

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:
        """What the caller sent."""
        return self._metadata

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Keep it."""
        self.sent.append(metadata)


def calling(*metadata: tuple[str, str | bytes]) -> Any:
    return Calling(*metadata)


def test_metadata_is_found_by_name() -> None:
    context = calling(("a", "1"), ("b-bin", b"2"), ("c", b"3"), ("a", "4"))
    assert call.metadata_of(context, "a") == "1"
    assert call.metadata_of(context, "c") is None
    assert call.metadata_of(context, "d") is None
    assert call.metadata_of(calling(), "a") is None


@pytest.mark.parametrize("given", ["a", "A.b_c-1", "x" * 128, "6d0f2c1e-0000-4000-8000-000000000000"])
def test_a_well_formed_request_id_is_kept(given: str) -> None:
    assert call.begin(calling(("x-request-id", given))) == given
    assert call.request_id() == given


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "a/b", "a\nb", 'a"b', "ü"])
def test_any_other_request_id_is_replaced(given: str) -> None:
    assert is_id(call.begin(calling(("x-request-id", given))))


def test_without_a_request_id_each_call_has_one_of_its_own() -> None:
    ids = {call.begin(calling()) for _ in range(10)}
    assert len(ids) == 10 and all(map(is_id, ids))


def test_the_caller_is_known_once_identified() -> None:
    def play() -> None:
        assert call.caller_id() == "-"
        with pytest.raises(LookupError):
            call.caller()
        call.identify(Principal(None, "admin"))
        assert (call.caller().admin, call.caller_id()) == (True, "admin")

    contextvars.Context().run(play)


async def test_an_http_status_is_for_transcoded_calls_alone() -> None:
    transcoded, native = calling(("x-envoy-original-path", "/api/v1/projects")), calling()
    for context in (transcoded, native):
        await call.answer_with(context, 201)
    assert transcoded.sent == [(("x-http-code", "201"),)]
    assert native.sent == []
