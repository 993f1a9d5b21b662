"""The SDK is imported when there is time for it, once, and beside the event loop."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cloutagent_server.engine import sdk
from cloutagent_server.engine.sdk import SdkLoader

WAIT = 5.0


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a module that can be imported, of this source, and tells its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str) -> str:
        name = f"stands_for_the_sdk_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return make


def test_a_server_does_not_import_it_to_start() -> None:
    told = "import sys, cloutagent_server.app; print(*sorted({'claude_agent_sdk', 'mcp'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, check=True).stdout.strip() == b""


async def test_whoever_needs_it_waits_for_one_import_in_a_thread(module: Callable[[str], str]) -> None:
    threads: list[threading.Thread] = []
    name = module("import threading\nTHREADS = [threading.current_thread()]\n")
    loader = SdkLoader(lambda: threads.append(threading.current_thread()), name)
    await asyncio.wait_for(asyncio.gather(*(loader.loaded() for _ in range(3))), WAIT)
    assert threads == sys.modules[name].THREADS
    assert threads != [threading.current_thread()]


async def test_it_is_imported_when_nobody_needed_it_for_a_while(module: Callable[[str], str]) -> None:
    imported = asyncio.Event()
    loop = asyncio.get_running_loop()
    loader = SdkLoader(lambda: loop.call_soon_threadsafe(imported.set), module(""))
    loader.start(idle_seconds=0.01)
    await asyncio.wait_for(imported.wait(), WAIT)


async def test_a_server_that_stops_begins_no_import(module: Callable[[str], str]) -> None:
    name = module("")
    loader = SdkLoader(module=name)
    loader.start(idle_seconds=0.0)
    loader.stop()
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, passed.set)
    await passed.wait()
    assert name not in sys.modules


async def test_what_the_import_raises_is_told_and_logged_and_may_be_mended(
    module: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    name = module("raise ImportError('its version does not fit')")
    loader = SdkLoader(module=name)
    for tries in (1, 2):
        with pytest.raises(ImportError, match="does not fit"):
            await asyncio.wait_for(loader.loaded(), WAIT)
        told = f"{name} cannot be imported: ImportError('its version does not fit')"
        assert [record.getMessage() for record in caplog.records] == [told] * tries
        assert (loader.fault, loader.ready) == (told, False)
    module("")
    importlib.invalidate_caches()
    await asyncio.wait_for(loader.loaded(), WAIT)
    assert (loader.fault, loader.ready) == (None, True)
    loader.stop()


async def test_what_failed_is_tried_again_by_itself(
    module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk, "_RETRY_SECONDS", 0.01)
    tries = 0
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            loop.call_soon_threadsafe(enough.set)
        raise OSError("too many open files")

    loader = SdkLoader(fail, module(""))
    loader.start(idle_seconds=0.0)
    await asyncio.wait_for(enough.wait(), WAIT)
    loader.stop()


async def test_who_waits_and_leaves_does_not_stop_it_for_others(module: Callable[[str], str]) -> None:
    going = threading.Event()
    loader = SdkLoader(lambda: going.wait(WAIT), module(""))
    leaving = asyncio.create_task(loader.loaded())
    staying = asyncio.create_task(loader.loaded())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    going.set()
    await asyncio.wait_for(staying, WAIT)
