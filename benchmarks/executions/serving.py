"""The server under measurement, in a process of its own.

Started as `python -m benchmarks.executions.serving ROOT MODEL_URL SETTINGS`. It is the whole server, on a folder under
ROOT, with agents that talk to the local model at MODEL_URL; SETTINGS is a JSON object of further settings. Beside it,
in the same process, listens a bare grpc.aio server that sends messages and does nothing else: what gRPC can do. Orders
come as lines of JSON on standard input, and each is answered by one line on standard output when it has been done.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import grpc
import psutil
import uvloop

from benchmarks.executions.gate import Gate
from benchmarks.executions.remote import BARE_LIVE_METHOD, BARE_METHOD, RESULT
from cloutagent_server import app, interpreter, logs
from cloutagent_server.domain import event_json, timestamps
from cloutagent_server.domain.cost import Usage
from cloutagent_server.domain.events import Completed, Event, Payload, Started, StoredEvent, TextDelta
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import AgentConfig, Limits, Project, ProjectDraft
from cloutagent_server.service.takeover import Takeover
from cloutagent_server.settings import Environment, LogLevel, Settings
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.transport.event_frames import frames

MODEL: Final = "claude-haiku-4-5"
_APPENDED_AT_ONCE: Final = 1_000
_COMPLETED: Final = Completed(usage=Usage(), duration=1, result=RESULT.decode())
_TEXT: Final = "The quick brown fox jumps over the lazy dog. "


class Bench:
    """Carries out the orders."""

    def __init__(self, root: Path, model_url: str, **more: Any) -> None:
        settings = Settings(
            _env_file=None,
            app_env=Environment.TEST,
            anthropic_base_url=model_url,
            anthropic_api_key=None,
            encryption_key="ab" * 32,
            grpc_port=0,
            metrics_port=0,
            backup_enabled=False,
            log_level=LogLevel.ERROR,
            project_root=root / "projects",
            run_root=root / "runs",
            **more,
        )
        self._storage = FileSystemStorage(settings.project_root)
        # The storage is shared with the server, so that what is written by hand wakes its watchers.
        with mock.patch.object(app, "FileSystemStorage", return_value=self._storage):
            self._app = app.App.from_settings(settings)
        self._bare = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._bare.add_generic_rpc_handlers((self._bare_handlers(),))
        self._messages: Sequence[bytes] = ()
        self._bare_go = asyncio.Event()
        self._following: list[asyncio.Queue[bytes]] = []
        self._project: Project | None = None
        self._producing: set[asyncio.Task[None]] = set()
        self._model_url = model_url
        self._gate: Gate | None = None

    async def start(self) -> dict[str, Any]:
        """Start both servers and make a project; tells how they are reached."""
        # As in a server that has run an agent: the first one imports it.
        await asyncio.to_thread(importlib.import_module, "claude_agent_sdk")
        # The executions that are made by hand here belong to no run: the server would end them as abandoned.
        with mock.patch.object(Takeover, "start", return_value=None):
            port = await self._app.start()
        interpreter.settle()
        bare_port = self._bare.add_insecure_port("127.0.0.1:0")
        await self._bare.start()
        agent = AgentConfig(new_id(), "Helper", "You help.", MODEL)
        draft = ProjectDraft("Benchmark", agent, Limits(timeout=60_000))
        self._project, key = await self._app.services.projects.create(draft)
        return {"port": port, "bare_port": bare_port, "project_id": self._project.id, "api_key": key}

    async def stop(self) -> None:
        """Stop both servers."""
        if self._gate is not None:
            await self._gate.close()
        await self._bare.stop(0)
        await self._app.stop()

    async def log(self, events: int, ended: bool) -> dict[str, Any]:
        """A run with so many events, the start and the end included; it goes on unless it has `ended`."""
        execution = await self._begun()
        texts = events - (2 if ended else 1)
        while texts > 0:
            count = min(texts, _APPENDED_AT_ONCE)
            execution = await self._append(execution, [TextDelta(_TEXT)] * count)
            texts -= count
        if ended:
            execution = await self._append(execution, [_COMPLETED])
        return {"execution_id": execution.id, "last": execution.last_sequence}

    async def produce(self, execution_id: str, events: int, group: int, pause: float) -> dict[str, Any]:
        """Let a run write `events`, `group` at a time, every `pause` seconds, and end.

        Answered at once. The text of each event begins with the time at which it was handed to the storage.
        """
        self._in_background(self._produce(execution_id, events, group, pause))
        return {"at": time.monotonic()}

    async def produce_bare(self, events: int, pause: float) -> dict[str, Any]:
        """Hand as many events as `produce` would, one at a time, to the bare server's live streams, and end them."""
        self._in_background(self._produce_bare(events, pause))
        return {"at": time.monotonic()}

    async def produce_stored(self, execution_id: str, events: int, group: int) -> dict[str, Any]:
        """As `produce`, without pauses, for the bare server's live streams: they get what the storage has taken."""
        self._in_background(self._produce_stored(execution_id, events, group))
        return {"at": time.monotonic()}

    async def bare(self, execution_id: str, after: int, group: int) -> dict[str, Any]:
        """Have the bare server send the events of a run after a sequence number, `group` to a message, at `bare_go`."""
        stored, cursor = list[StoredEvent](), after
        while read := await self._storage.executions.read_events(execution_id, cursor, 256):
            stored += read
            cursor = read[-1].sequence
        self._messages = [_answer(stored[at : at + group]) for at in range(0, len(stored), group)]
        self._bare_go.clear()
        return {"bytes": sum(map(len, self._messages))}

    async def bare_go(self) -> dict[str, Any]:
        """Let the bare server's calls send."""
        self._bare_go.set()
        return {"at": time.monotonic()}

    async def gateway(self) -> dict[str, Any]:
        """Open the sessions of a gateway; tells where each is and the token of each."""
        self._gate = Gate(self._storage, self._model_url, MODEL)
        return {"sessions": [(one.base_url, one.token) for one in await self._gate.open()]}

    async def memory(self) -> dict[str, Any]:
        """The process's resident memory in bytes."""
        return {"bytes": psutil.Process().memory_info().rss}

    async def _begun(self) -> Execution:
        assert self._project is not None
        execution = Execution(
            new_id(), self._project.id, "Watch this.", self._project.agent, self._project.limits, timestamps.now()
        )
        return await self._append(await self._storage.executions.create(execution), [Started(MODEL)])

    async def _append(self, execution: Execution, payloads: Sequence[Payload]) -> Execution:
        first = execution.last_sequence + 1
        events = [Event(execution.id, first + at, timestamps.now(), payload) for at, payload in enumerate(payloads)]
        return await self._storage.executions.append(events)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._producing.add(task)
        task.add_done_callback(self._producing.discard)

    async def _produce_bare(self, events: int, pause: float) -> None:
        execution_id, due = new_id(), time.monotonic()
        for sequence in range(1, events + 1):
            due += pause
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            payload = TextDelta(f"at {time.monotonic():.6f} {_TEXT}")
            event = event_json.encode(Event(execution_id, sequence, timestamps.now(), payload))
            self._hand_over(_answer([event]))
        await asyncio.sleep(pause)
        self._hand_over(b"")

    async def _produce_stored(self, execution_id: str, events: int, group: int) -> None:
        execution = await self._storage.executions.read(execution_id)
        assert execution is not None
        for _ in range(0, events, group):
            cursor = execution.last_sequence
            execution = await self._append(execution, [TextDelta(f"at {time.monotonic():.6f} {_TEXT}")] * group)
            self._hand_over(_answer(await self._storage.executions.read_events(execution_id, cursor, group)))
        cursor = execution.last_sequence
        await self._append(execution, [_COMPLETED])
        self._hand_over(_answer(await self._storage.executions.read_events(execution_id, cursor, 1)))
        self._hand_over(b"")

    def _hand_over(self, message: bytes) -> None:
        for one in self._following:
            one.put_nowait(message)

    async def _produce(self, execution_id: str, events: int, group: int, pause: float) -> None:
        execution = await self._storage.executions.read(execution_id)
        assert execution is not None
        due = time.monotonic()
        for _ in range(0, events, group):
            if pause:
                due += pause
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            execution = await self._append(execution, [TextDelta(f"at {time.monotonic():.6f} {_TEXT}")] * group)
        await self._append(execution, [_COMPLETED])

    def _bare_handlers(self) -> grpc.GenericRpcHandler:
        async def send(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await context.send_initial_metadata(())
            await self._bare_go.wait()
            for message in self._messages:
                await context.write(message)

        async def follow(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            messages: asyncio.Queue[bytes] = asyncio.Queue()
            self._following.append(messages)
            await context.send_initial_metadata(())
            over = False
            while not over:
                waiting = [await messages.get()]
                while not messages.empty():
                    waiting.append(messages.get_nowait())
                over = not waiting[-1]
                if waiting[0]:
                    await context.write(b"".join(waiting))
            self._following.remove(messages)

        service, method = BARE_METHOD.strip("/").split("/")
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method: grpc.unary_stream_rpc_method_handler(send),
            BARE_LIVE_METHOD.rpartition("/")[2]: grpc.unary_stream_rpc_method_handler(follow),
        }
        return grpc.method_handlers_generic_handler(service, handlers)


def _answer(events: Sequence[StoredEvent]) -> bytes:
    """Events as WatchExecution answers with them."""
    return b"".join(frames(events))


async def _orders() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def _serve(root: Path, model_url: str, more: dict[str, Any]) -> None:
    bench = Bench(root, model_url, **more)
    orders: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
        "log": bench.log,
        "produce": bench.produce,
        "produce_bare": bench.produce_bare,
        "produce_stored": bench.produce_stored,
        "bare": bench.bare,
        "bare_go": bench.bare_go,
        "gateway": bench.gateway,
        "memory": bench.memory,
    }
    print(json.dumps(await bench.start()), flush=True)
    async for order in _orders():
        answer = await orders[order.pop("order")](**order)
        print(json.dumps(answer), flush=True)
    await bench.stop()


if __name__ == "__main__":
    logs.configure(LogLevel.ERROR)
    uvloop.run(_serve(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
