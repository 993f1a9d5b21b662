"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import threading

import pytest

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.storage.filesystem.offload import off_loop

DEADLINE_SECONDS = 20

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.mark.parametrize("apart", [{}, {"waits": True}, {"scans": True}])
async def test_the_work_is_done_in_a_thread_with_the_callers_context(apart: dict[str, bool]) -> None:
    variable.set("the caller's")
    thread, value = await off_loop(lambda: (threading.current_thread(), variable.get()), **apart)
    assert thread is not threading.current_thread()
    assert value == "the caller's"


async def test_what_the_work_raises_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        await off_loop(lambda: 1 // 0)


async def test_an_error_of_the_system_is_told_as_one_of_the_storage() -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

    with pytest.raises(StorageUnavailable) as raised:
        await off_loop(fail)
    assert "No space left on device" in raised.value.cause


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_that_is_cancelled_leaves_when_the_work_has_ended(fails: bool) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go.wait(DEADLINE_SECONDS)
        ended.set()
        if fails:
            raise OSError(errno.EIO, "Input/output error")

    caller = asyncio.create_task(off_loop(work))
    await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    go.set()
    await asyncio.wait({caller}, timeout=DEADLINE_SECONDS)
    assert caller.cancelled()
    assert ended.is_set()


def test_a_loop_that_is_gone_is_told_nothing() -> None:
    """The thread ends in peace when nobody is left who waits."""
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(DEADLINE_SECONDS)
        ended.set()

    loop = asyncio.new_event_loop()
    caller = loop.create_task(off_loop(work))
    while not begun.is_set():
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    go.set()
    assert ended.wait(DEADLINE_SECONDS)
    del caller
