"""Servers, one after another, on one data folder, each killed by SIGKILL; real agents, and a model that outlives them.

A `Stand` starts them, has runs started and watched over gRPC, and says what was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import psutil

from cloutagent.v1 import execution_pb2 as executions
from cloutagent.v1 import execution_pb2_grpc, project_pb2, project_pb2_grpc
from tests.support.faults.asked import ENDLESS, SCRIPTS, TERMINAL, Run
from tests.support.faults.spawned import spawn
from tests.support.faults.total_budget import TotalBudget
from tests.support.processes import Tree, frozen

DEADLINE: Final = 120.0
NOTHING_LEFT_SECONDS: Final = 5.0

_KEY: Final = "ab" * 32
_FIRST_MARK: Final = 20
AT_A_TIME: Final = 4
MOST_RUNS: Final = 40


class Stand:
    """The folder, the model, and the server that works at the moment. Use it as a context manager.

    Attributes:
        hit: What acknowledged runs were doing at the kills.
        unanswered: The runs whose first start was under way at the last kill; `starts` is their number at all kills.
        processes: The names of what descended from the killed servers.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.runs: list[Run] = []
        self.losses: list[str] = []
        self.kills = 0
        self.hit: Counter[str] = Counter()
        self.unanswered: list[Run] = []
        self.starts = 0
        self.processes: Counter[str] = Counter()
        self._hit_runs: set[str] = set()
        self._folder = folder
        self._nap = f"300.{self.random.randrange(10**8, 10**9)}"
        self._model: asyncio.subprocess.Process | None = None
        self._model_url = ""
        self._server: asyncio.subprocess.Process | None = None
        self._channel: grpc.aio.Channel | None = None
        self._project_id = self._api_key = ""
        self._budget = TotalBudget()
        self._under_way: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Stand:
        self._model = await spawn(self._folder, "model", {}, "local-model", "--port", "0")
        self._model_url = (await self._said(self._model, "model", " (")).split(" at ")[1].split(" (")[0]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._part()
        for process in (self._server, self._model):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
        async with asyncio.timeout(DEADLINE):
            while self.left_over():  # noqa: ASYNC110 - they are other processes
                await asyncio.sleep(0.1)

    @property
    def hit_runs(self) -> int:
        """How many runs were acknowledged and had not ended, as far as a watcher knew, when a server was killed."""
        return len(self._hit_runs)

    async def start(self) -> None:
        """Start a server and wait until it takes calls."""
        await self._start()
        assert self._server is not None
        port = (await self._said(self._server, "server", "ready")).split("server (gRPC) 127.0.0.1:")[1].split()[0]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        if not self._project_id:
            stub: Any = project_pb2_grpc.ProjectServiceStub(self._channel)
            made = await stub.CreateProject(
                project_pb2.CreateProjectRequest(
                    name="killed",
                    agent=project_pb2.AgentConfig(
                        name="a",
                        system_prompt="s",
                        model="claude-sonnet-4-5",
                        max_tokens=500,
                        enabled_tools=["TodoWrite", "Bash"] if self._isolated() else ["TodoWrite"],
                    ),
                    budget=self._budget.message,
                )
            )
            self._project_id, self._api_key = made.project.id, made.api_key

    async def start_and_kill(self, seconds: float) -> None:
        """Kill a server so long after its start, ready or not."""
        await self._start()
        await asyncio.sleep(seconds)
        await self.kill()

    def watch_all(self) -> None:
        """Watch, and begin again where a watcher left off or, to see that all is as it was, from the first event."""
        for run in self.runs:
            if run.id is not None and not run.ended:
                self._do(self._watch(run, self.random.choice((0, len(run.seen)))))

    def request(self, script: str) -> Run:
        """Have a run started, and watched from its acknowledgement on. Returns at once."""
        mark = _FIRST_MARK + len(self.runs)
        prompt = SCRIPTS[script](f"[[usage: input={mark}]]", self._nap)
        run = Run(script, prompt, f"key-{mark}", mark)
        self.runs.append(run)
        self.repeat(run)
        return run

    def repeat(self, run: Run) -> None:
        """Ask for the same run again, and watch it if that is the first answer. Returns at once."""
        run.asking = True
        self._do(self._begin(run))

    def scripts(self) -> list[str]:
        """What may be drawn: tools that run code only where agents are isolated."""
        return [name for name in SCRIPTS if name != "lasts" and (name != "sleeps" or self._isolated())]

    async def until(self, condition: Callable[[], bool], pause: float = 0.01) -> None:
        """Return when `condition` holds, looked at after each `pause`. Raises TimeoutError at the deadline."""
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 - it lies in other processes
                await asyncio.sleep(pause)

    async def pause(self, seconds: float) -> None:
        """Let so much time pass: the moment of a kill is drawn at random."""
        await asyncio.sleep(seconds)

    async def until_one_is(self, stage: str, runs: list[Run]) -> None:
        """Return when all of `runs` are acknowledged and one of them has come to this stage."""
        await self.until_acknowledged(runs)
        await self.until(lambda: any(run.stage == stage for run in runs))

    async def until_acknowledged(self, runs: list[Run]) -> None:
        """Return when all of `runs` are acknowledged."""
        await self.until(lambda: all(run.id is not None for run in runs))

    async def until_called(self, runs: list[Run]) -> None:
        """Return when the model has told each of `runs` something."""
        await self.until(lambda: all(run.called for run in runs))

    async def kill(self) -> None:
        """Kill the server, and see that no process of a run outlives it for long."""
        assert self._server is not None
        tree = frozen(self._server.pid)
        await self._kill(self._server, tree)

    async def kill_while_recovering(self, runs: list[Run]) -> bool:
        """Start a server, and kill it when it has ended some of the interrupted `runs`; whether that was the moment."""
        await self._start()
        assert self._server is not None
        await self.until(lambda: self._recovered(runs) > 0, 0.001)
        tree = frozen(self._server.pid)
        met = self._recovered(runs) < len(runs)
        await self._kill(self._server, tree)
        return met

    async def kill_when_stored(self, script: str) -> None:
        """Ask for runs until one is stored and its caller has no answer yet; kill the server at that moment."""
        while not await self._killed_when_stored(self.request(script)):
            assert len(self.runs) < MOST_RUNS

    async def _killed_when_stored(self, run: Run) -> bool:
        assert self._server is not None
        known = sum(run.id is not None for run in self.runs)
        await self.until(lambda: not run.asking or self._on_disk() > known, 0.001)
        tree = frozen(self._server.pid)
        # What it had sent by then is read.
        await asyncio.sleep(0.1)
        if not run.asking:
            psutil.Process(self._server.pid).resume()
            return False
        await self._kill(self._server, tree)
        return True

    def programs(self) -> list[str]:
        """The names of all processes under the server."""
        assert self._server is not None
        return Tree(self._server.pid).names

    async def stored(self, run: Run) -> bool:
        """Whether an execution is there, whoever knows of it."""
        return run.prompt in {execution.prompt for execution in await self._listed()}

    async def _kill(self, server: asyncio.subprocess.Process, tree: Tree) -> None:
        under_way = [run for run in self.runs if run.id is not None and not run.ended]
        asking = [run for run in self.runs if run.asking]
        server.kill()
        killed = time.monotonic()
        await server.wait()
        await self._part()
        self.kills += 1
        self.processes.update(tree.names)
        # What had reached its watcher before the kill counts, also when it ended the run, and so does an answer.
        for run in under_way:
            if not run.ended:
                self._hit_runs.add(run.key)
                self.hit[run.stage] += 1
        self.unanswered = [run for run in asking if run.id is None]
        self.starts += len(self.unanswered)
        while left := [*tree.left(), *self.left_over()]:
            if time.monotonic() - killed > NOTHING_LEFT_SECONDS:
                self.losses.append(f"kill {self.kills}: left over: {left}")
                break
            await asyncio.sleep(0.05)

    @property
    def _executions(self) -> Path:
        return self._folder / "projects" / self._project_id / "executions"

    def _on_disk(self) -> int:
        """How many executions are stored. A server stores one under its own name when it is whole."""
        return sum(1 for folder in self._executions.glob("[!.]*/state.json")) if self._executions.is_dir() else 0

    def _recovered(self, runs: list[Run]) -> int:
        return sum(b'"failed"' in (self._executions / str(run.id) / "events.jsonl").read_bytes() for run in runs)

    async def finish(self) -> None:
        """See every run to its end, and compare it with what its watchers saw and what the model told."""
        for run in self.runs:
            self.repeat(run)
        await self.until(lambda: all(run.id is not None for run in self.runs))
        self.watch_all()
        for run in self.runs:
            if run.script in ENDLESS:
                await self._call("CancelExecution", executions.CancelExecutionRequest(execution_id=str(run.id)))
        await self.until(lambda: all(run.ended for run in self.runs) or bool(self.losses))
        # What was counted through every kill holds: the budget ends one more run before it calls the model.
        self.losses += await self._budget.tighten(self._channel, self._project_id, self._api_key)
        last = self.request("says")
        await self.until(lambda: last.ended)
        if last.called or not self._budget.ended(last.seen[-1]):
            self.losses.append(f"the budget is met, and the next run goes on: {last.kinds}")
        await self._part()
        for run in self.runs:
            run_again = Run(run.script, run.prompt, run.key, run.mark, run.id)
            await self._watch(run_again, 0)
            await self._compare(run, run_again)
        await self._billed()
        ids = [execution.id for execution in await self._listed()]
        if sorted(ids) != sorted(str(run.id) for run in self.runs):
            self.losses.append(f"{len(self.runs)} runs were asked for, {len(ids)} are listed")

    async def _listed(self) -> list[executions.Execution]:
        request = executions.ListExecutionsRequest(project_id=self._project_id, page_size=1000)
        return list((await self._call("ListExecutions", request)).executions)

    async def _compare(self, run: Run, again: Run) -> None:
        name = f"{run.script} {run.id}"
        if again.seen != run.seen:
            self.losses.append(f"{name}: its log is not what its watchers saw")
        if sum(kind in TERMINAL for kind in again.kinds) != 1 or again.kinds[-1] not in TERMINAL:
            self.losses.append(f"{name}: {again.kinds}")
        begun = await self._start_call(run)
        if begun.id != run.id:
            self.losses.append(f"{name}: the same key is now {begun.id}")
        shown = executions.Execution.Status.Name(begun.status)
        if (shown, begun.last_sequence) != (again.kinds[-1], len(again.seen)):
            self.losses.append(f"{name}: shown as {shown} with {begun.last_sequence} events: {again.kinds}")

    async def _billed(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            calls: list[dict[str, Any]] | None = None
            async with asyncio.timeout(DEADLINE):
                while calls is None or any(call["outcome"] == "running" for call in calls):
                    calls = (await client.get(f"{self._model_url}/ledger")).json()["calls"]
        told = [call for call in calls if call["endpoint"] == "messages" and call["input_tokens"]]
        most = sum(call["input_tokens"] + call["output_tokens"] for call in told)
        if most > self._budget.tokens:
            self.losses.append(f"{most} tokens were billed, of a budget of {self._budget.tokens}")
        for run in self.runs:
            own = [call for call in told if call["input_tokens"] == run.mark]
            usage = (await self._start_call(run)).usage
            counted = (usage.prompt_tokens, usage.completion_tokens, usage.model_calls)
            billed = (run.mark * len(own), sum(call["output_tokens"] for call in own), len(own))
            short = any(mine < theirs for mine, theirs in zip(counted, billed, strict=True))
            if short or (run.kinds[-1] == "completed" and counted != billed):
                self.losses.append(f"{run.script} {run.id}: counted {counted}, billed {billed}: {run.kinds}")
        if len(told) != sum(call["input_tokens"] in {run.mark for run in self.runs} for call in told):
            self.losses.append("calls that belong to no run")

    async def _begin(self, run: Run) -> None:
        try:
            begun = await self._start_call(run)
        finally:
            run.asking = False
        if run.id is None:
            run.id = begun.id
            await self._watch(run, 0)
        elif begun.id != run.id:
            self.losses.append(f"{run.script} {run.id}: the same key is now {begun.id}")

    async def _start_call(self, run: Run) -> Any:
        request = executions.StartExecutionRequest(
            project_id=self._project_id, prompt=run.prompt, idempotency_key=run.key
        )
        return (await self._call("StartExecution", request)).execution

    async def _watch(self, run: Run, after: int) -> None:
        request = executions.WatchExecutionRequest(execution_id=str(run.id), after_sequence=after)
        assert self._channel is not None
        stub: Any = execution_pb2_grpc.ExecutionServiceStub(self._channel)
        async for answer in stub.WatchExecution(request, metadata=(("x-api-key", self._api_key),), timeout=DEADLINE):
            for event in answer.events:
                if event.kind != "heartbeat":
                    self._see(run, event)

    def _see(self, run: Run, event: executions.ExecutionEvent) -> None:
        data = event.SerializeToString(deterministic=True)
        if event.sequence <= len(run.seen):
            if run.seen[event.sequence - 1] != data:
                self.losses.append(f"{run.script} {run.id}: event {event.sequence} is not what it was")
        elif event.sequence != len(run.seen) + 1:
            self.losses.append(f"{run.script} {run.id}: event {event.sequence} comes after {len(run.seen)}")
        else:
            run.seen.append(data)
            run.kinds.append(event.kind)

    async def _call(self, rpc: str, request: object) -> Any:
        assert self._channel is not None
        stub: Any = execution_pb2_grpc.ExecutionServiceStub(self._channel)
        return await getattr(stub, rpc)(request, metadata=(("x-api-key", self._api_key),), timeout=DEADLINE)

    def _do(self, work: Awaitable[None]) -> None:
        """Work at something that a killed server ends."""

        async def done() -> None:
            try:
                await work
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.losses.append(f"a call failed: {error.code()}: {error.details()}")

        task = asyncio.create_task(done())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _part(self) -> None:
        """Wait until what arrived is read and the calls to the killed server have failed; hang up on a living one."""
        if self._server is not None and self._server.returncode is None:
            for task in self._under_way:
                task.cancel()
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=DEADLINE)

    async def _start(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        settings = {
            "HOME": str(self._folder),
            "ANTHROPIC_BASE_URL": self._model_url,
            "ENCRYPTION_KEY": _KEY,
            "GRPC_PORT": "0",
            "METRICS_PORT": "0",
            "PROJECT_ROOT": str(self._folder / "projects"),
            "RUN_ROOT": str(self._folder / "runs"),
            "BACKUP_ENABLED": "false",
            "MAX_CONCURRENT_EXECUTIONS": str(AT_A_TIME),
        }
        self._server = await spawn(self._folder, "server", settings, "serve")

    async def _said(self, process: asyncio.subprocess.Process, name: str, wanted: str) -> str:
        out = self._folder / f"{name}.out"
        try:
            await self.until(lambda: wanted in out.read_text() or process.returncode is not None)
        except TimeoutError:
            raise AssertionError(f"the {name} is not ready: {psutil.Process(process.pid).cpu_times()}") from None
        assert process.returncode is None, (self._folder / f"{name}.log").read_text()
        return out.read_text()

    def _isolated(self) -> bool:
        return "agents are isolated with" in (self._folder / "server.log").read_text()

    def left_over(self) -> list[str]:
        """Processes of runs: agents, sandboxes and tools, which name this folder or sleep as told here."""
        return [] if self._server is None or self._server.returncode is None else list(self._strangers())

    def _strangers(self) -> Iterator[str]:
        own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                words = [*process.cmdline(), *process.environ().values()]
                ours = any(str(self._folder) in word or self._nap in word for word in words)
                model = self._model is not None and process.pid == self._model.pid
                if ours and not model and process.pid not in own and process.status() != psutil.STATUS_ZOMBIE:
                    yield " ".join(process.cmdline())[:200]
