"""What tools that run code or touch files can reach: the real command line, told by the local model what to try.

Where the machine cannot isolate an agent's process, the same tests hold that such a run is not started.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from cloutagent_server.domain.events import ToolResult
from cloutagent_server.domain.execution import ExecutionOptions, Status
from tests.support.isolated_stage import SECRET, Stage, call, staged, tested_refusal
from tests.support.messages import RememberingListener
from tests.support.processes import lives

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def stage(tmp_path: Path, record_property: Callable[[str, object], None]) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        if await tested_refusal(stage, record_property):
            pytest.xfail("this machine cannot isolate agents; that it refuses the tools was tested instead")
        yield stage


async def test_bash_works_in_its_own_directory(stage: Stage) -> None:
    said = await stage.bash("echo one > file && cat file && pwd && ls -A && echo $HOME $TMPDIR && touch $TMPDIR/t")
    assert said.split() == ["one", "/work", "file", "/home/agent", "/tmp"]


async def test_files_are_written_read_changed_and_found(stage: Stage) -> None:
    steps = [
        call("Write", file_path="/work/a.txt", content="first line\n"),
        call("Read", file_path="/work/a.txt"),
        call("Edit", file_path="/work/a.txt", old_string="first", new_string="second"),
        call("Grep", pattern="second", path="/work", output_mode="content"),
        call("Glob", pattern="*.txt", path="/work"),
        call("Bash", command="cat /work/a.txt"),
    ]
    result = await stage.run(" ".join(steps) + " [[say: over]]", "Write", "Read", "Edit", "Grep", "Glob", "Bash")
    assert result.result == "over"
    answers = [output for output in stage.listener.outputs if isinstance(output, ToolResult)]
    assert [answer.is_error for answer in answers] == [False] * 6, answers
    assert "first line" in answers[1].content
    assert "second line" in answers[3].content
    assert "a.txt" in answers[4].content
    assert answers[5].content == "second line"


async def test_no_environment_of_the_server_is_read(stage: Stage) -> None:
    # What /proc shows of a process is the environment that it was started with.
    beside = await asyncio.create_subprocess_exec("sleep", "120", env={"PATH": os.environ["PATH"], "KEY": SECRET})
    try:
        assert SECRET.encode() in Path(f"/proc/{beside.pid}/environ").read_bytes()
        said = await stage.bash(
            "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -c ^KEY=; "
            f"ls -d /proc/{os.getpid()} /proc/{beside.pid} 2>/dev/null; ls -d /proc/[0-9]* | wc -l"
        )
    finally:
        beside.kill()
        await beside.wait()
    read, processes = map(int, said.split())
    assert read == 0 and processes < 20


async def test_nothing_of_the_machine_but_its_system_is_seen(stage: Stage) -> None:
    other = await stage.executor(listener=RememberingListener())
    [run] = [entry for entry in stage.root.iterdir() if entry.is_dir()]
    (run / "work" / "secret").write_text(SECRET)
    paths = [
        stage.folder / "projects",
        stage.root,
        run,
        run / "work" / "secret",
        Path("/run"),
        Path("/var"),
        Path("/sys"),
    ]
    paths += [REPOSITORY / ".git", REPOSITORY / "pyproject.toml", Path("/etc/shadow"), Path("/etc/hostname")]
    paths += [Path.home() / ".ssh", Path.home() / ".bashrc", Path.home() / ".profile"]
    said = await stage.bash(
        "; ".join(f"ls -d '{path}' > /dev/null 2>&1 && echo 'seen: {path}'" for path in paths) + "; echo end"
    )
    assert said.split("\n")[-1] == "end"
    assert "seen:" not in said, said
    found = await stage.bash(
        f"grep -rl {SECRET} / --exclude-dir=proc --exclude-dir=usr 2>/dev/null | head -3; echo end"
    )
    assert found == "end"
    await other.stop()
    assert (await other.execute("x", ExecutionOptions())).status is Status.CANCELLED


async def test_read_and_mention_find_only_the_sandbox(stage: Stage) -> None:
    said = await stage.tool("Read", file_path=str(stage.folder / "projects" / "manifest"))
    assert said.is_error and SECRET not in said.content
    said = await stage.tool("Read", file_path="/etc/passwd")
    assert "agent:x:1000" in said.content and "root" not in said.content
    asked = len(stage.model.ledger)
    result = await stage.run("[[say: verbatim]] @/etc/passwd @/work", "Read", "Bash")
    assert result.result == "verbatim"
    await stage.run("[[say: verbatim]] #/etc/passwd #/work", "Read", "Bash")
    mentioned, plain = list(stage.model.ledger)[asked:]
    assert mentioned.input_tokens == plain.input_tokens


async def test_only_the_gateway_is_reached(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as beside, socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0cloutagent-test-{os.getpid()}")
        named.listen()
        ports = [beside.getsockname()[1], int(stage.model.base_url.rpartition(":")[2])]
        tries = [("127.0.0.1", port) for port in ports] + [("192.0.2.1", 80), ("1.1.1.1", 443), ("localhost", 22)]
        script = "".join(
            f"(exec 9<>/dev/tcp/{host}/{port}) 2>/dev/null && echo 'reached {host} {port}'\n" for host, port in tries
        )
        script += "(exec 9<>/dev/tcp/127.0.0.1/8080) 2>/dev/null && echo gateway\n"
        script += (
            '/usr/bin/python3 -c "import socket; socket.socket(socket.AF_UNIX)'
            f".connect('\\0cloutagent-test-{os.getpid()}')\" 2>/dev/null && echo 'reached a socket'\n"
        )
        script += "grep -c : /proc/net/dev; cut -d: -f1 /proc/net/dev | tail -n +3"
        said = await stage.bash(script)
    assert said.split() == ["gateway", "1", "lo"]


async def test_no_process_of_the_machine_is_touched_and_no_privilege_gained(stage: Stage) -> None:
    """Nothing here does harm where the sandbox does not hold: the process is the test's own, and nothing is written."""
    beside = await asyncio.create_subprocess_exec("sleep", "120")
    kernel = "/proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/sysrq-trigger"
    try:
        said = await stage.bash(
            f"kill -9 {beside.pid} 2>/dev/null && echo killed; "
            f"for f in {kernel} / /usr /etc /dev /agent /agent/claude /agent/enter.py /proc/1/oom_score_adj; "
            "do test -w $f && echo writable $f; done; "
            "unshare -U true 2>/dev/null && echo userns; unshare -m true 2>/dev/null && echo mountns; "
            "mkdir own && mount -t tmpfs none own 2>/dev/null && echo mounted; "
            "grep -E 'CapEff|NoNewPrivs' /proc/self/status"
        )
        assert beside.returncode is None and lives(psutil.Process(beside.pid))
    finally:
        beside.kill()
        await beside.wait()
    assert said.split() == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1"]


async def test_no_process_of_the_machine_is_traced(stage: Stage) -> None:
    beside = await asyncio.create_subprocess_exec("sleep", "120")
    attach = f"import ctypes; print(ctypes.CDLL(None).ptrace(16, {beside.pid}, 0, 0))"
    try:
        said = await stage.bash(f'"$(ls /usr/bin/python3 {sys.executable} 2>/dev/null | head -1)" -c "{attach}"')
    finally:
        beside.kill()
        await beside.wait()
    assert said == "-1"


async def test_the_model_is_told_a_neutral_place(stage: Stage) -> None:
    result = await stage.run("[[say: over]]", "TodoWrite")
    assert result.result == "over"
    assert str(stage.root) not in json.dumps([str(planned) for planned in stage.listener.planned])
    said = await stage.bash("cat /proc/self/environ | tr '\\0' '\\n'; env")
    assert str(stage.folder) not in said
