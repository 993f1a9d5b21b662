"""Starting agent processes and ending them with all that they started."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cloutagent_server.engine import process
from cloutagent_server.engine.launch import KEEP, PARENT
from cloutagent_server.engine.process import RUN_MARKER, install_launcher, kill_run, reap_orphans

PLAIN = {"PATH": os.environ["PATH"]}

FAMILY = """
import os, signal, subprocess, sys, time
obedient, generations = sys.argv[1] == "obedient", int(sys.argv[2])
if not obedient:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
if generations:
    subprocess.Popen([sys.executable, "-c", os.environ["FAMILY"], sys.argv[1], str(generations - 1)],
                     start_new_session=True)
    if len(sys.argv) > 3:
        sys.exit()
time.sleep(120)
"""


@contextmanager
def family(manner: str, generations: int, *abandon: str, run: Path | None = None) -> Iterator[list[int]]:
    """A process and its descendants, each in a session of its own; with `abandon` the first leaves the others alone."""
    env = {**PLAIN, "FAMILY": FAMILY} | ({RUN_MARKER: str(run)} if run else {})
    command = [sys.executable, "-c", FAMILY, manner, str(generations), *abandon]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        pids = [int(first.stdout.readline()) for _ in range(generations + 1)]
        try:
            if abandon:
                first.wait(10)
            yield pids
        finally:
            for pid in pids:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def launch(tmp_path: Path, program: str, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = shutil.which(program)
    assert path is not None
    launcher = install_launcher(tmp_path, Path(path))
    return subprocess.run([launcher, *arguments], env=env, capture_output=True, text=True, timeout=20, check=False)


def test_kill_run_asks_first(tmp_path: Path) -> None:
    with family("obedient", 2, run=tmp_path) as pids:
        start = time.monotonic()
        kill_run(tmp_path, grace=10)

        assert time.monotonic() - start < 10
        assert not any(map(alive, pids))


def test_kill_run_ends_those_that_do_not_listen(tmp_path: Path) -> None:
    with family("deaf", 2, run=tmp_path) as pids:
        start = time.monotonic()
        kill_run(tmp_path, grace=0.3)

        assert time.monotonic() - start >= 0.3
        assert not any(map(alive, pids))


def test_kill_run_of_a_run_that_is_gone_does_nothing(tmp_path: Path) -> None:
    assert kill_run(tmp_path) == 0


def test_kill_run_leaves_the_exit_status_to_the_parent(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], env={**os.environ, RUN_MARKER: str(tmp_path)}) as child:
        kill_run(tmp_path, grace=2)

        assert child.wait(5) == -signal.SIGTERM


def test_kill_run_finds_what_left_the_tree(tmp_path: Path) -> None:
    with (
        family("deaf", 2, "abandon", run=tmp_path / "a") as ours,
        family("obedient", 0, run=tmp_path / "ab") as others,
    ):
        assert not alive(ours[0])

        assert kill_run(tmp_path / "a") == 2

        assert not any(map(alive, ours))
        assert all(map(alive, others))


def test_reap_orphans_ends_all_runs_of_this_root_only(tmp_path: Path) -> None:
    root, other = tmp_path / "runs", tmp_path / "runs-of-another"
    with (
        family("obedient", 1, "abandon", run=root / "a") as first,
        family("deaf", 0, run=root / "b") as second,
        family("obedient", 0, run=other / "a") as foreign,
        family("obedient", 0) as unmarked,
    ):
        assert reap_orphans(root, grace=0.3) == 2

        assert not any(map(alive, first + second))
        assert all(map(alive, foreign + unmarked))
        assert reap_orphans(root) == 0


def test_the_program_gets_its_arguments_and_the_kept_variables_only(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "SERVER_SECRET": "leak",
        "ANTHROPIC_API_KEY": "token",
        "EMPTY": "",
        KEEP: "ANTHROPIC_API_KEY,EMPTY,NOT_SET",
        PARENT: str(os.getpid()),
    }
    result = launch(tmp_path, "env", "-0", env=env)

    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split("\0")[:-1]) == ["ANTHROPIC_API_KEY=token", "EMPTY="]


def test_arguments_pass_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "a folder's name"
    folder.mkdir()
    arguments = ["%s\n", "", "a b", "$HOME", "'\"`*", "--flag=é"]
    result = launch(folder, "printf", *arguments, env={**PLAIN, KEEP: "PATH", PARENT: str(os.getpid())})

    assert result.stdout.splitlines() == arguments[1:]


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({KEEP: "PATH"}, PARENT),
        ({PARENT: str(os.getpid())}, KEEP),
        ({KEEP: "PATH", PARENT: "1"}, "the server is gone"),
    ],
)
def test_nothing_is_started_without_a_living_server(tmp_path: Path, env: dict[str, str], reason: str) -> None:
    result = launch(tmp_path, "echo", "started", env={**PLAIN, **env})

    assert result.returncode == 1
    assert reason in result.stderr
    assert result.stdout == ""


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    launcher = install_launcher(tmp_path, tmp_path / "nothing")
    env = {KEEP: "", PARENT: str(os.getpid())}
    result = subprocess.run([launcher], env=env, capture_output=True, text=True, timeout=20, check=False)

    assert result.returncode == 1
    assert f"{tmp_path / 'nothing'}: No such file or directory" in result.stderr


def test_the_launcher_is_replaced_and_for_this_user_only(tmp_path: Path) -> None:
    first = install_launcher(tmp_path, Path("/bin/false"))
    second = install_launcher(tmp_path, Path("/bin/true"))

    assert first == second
    assert second.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in tmp_path.iterdir()] == [second.name]
    env = {KEEP: "", PARENT: str(os.getpid())}
    assert subprocess.run([second], env=env, timeout=20, check=False).returncode == 0


def test_the_program_does_not_outlive_a_killed_server(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    launcher = install_launcher(tmp_path, Path(sleep))
    server = f"""
import os, subprocess, time
env = {{{KEEP!r}: "", {PARENT!r}: str(os.getpid())}}
print(subprocess.Popen([{str(launcher)!r}, "120"], env=env).pid, flush=True)
time.sleep(120)
"""
    with subprocess.Popen([sys.executable, "-c", server], env=PLAIN, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: psutil.Process(pid).name() == "sleep")

        parent.kill()
        try:
            wait_until(lambda: not alive(pid))
        finally:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_the_bundled_command_line_is_there() -> None:
    assert os.access(process.bundled_cli(), os.X_OK)


def test_an_sdk_without_its_command_line_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "claude_agent_sdk"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "claude_agent_sdk", raising=False)

    with pytest.raises(FileNotFoundError, match="claude-agent-sdk"):
        process.bundled_cli()


def without_descriptors(check: str, *arguments: str) -> str:
    """What `check` says in a process that can open no file; `kill_run`, `LimitWatch` and `handle` are at hand."""
    script = f"""
import os, resource, sys, time
from pathlib import Path
import psutil
from cloutagent_server.engine import process
from cloutagent_server.engine.limits import DEFAULT_LIMITS, LimitWatch
from cloutagent_server.engine.process import handle_of, kill_run
process._KILL_SECONDS = 0.3
psutil.Process().children()
handle = handle_of(int(sys.argv[1]))
watch = LimitWatch(Path(sys.argv[2]), DEFAULT_LIMITS)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    while True:
        os.dup(0)
except OSError:
    pass
{check}
"""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_server_without_descriptors_ends_the_run_all_the_same(tmp_path: Path) -> None:
    check = """
try:
    kill_run(Path(sys.argv[2]), 0.1, handle)
except OSError as error:
    print(error.errno)
"""
    with family("obstinate", 0, run=tmp_path) as pids:
        said = without_descriptors(check, str(pids[0]), str(tmp_path))
        # It says that it could not look for others.
        assert said == str(errno.EMFILE)
        wait_until(lambda: not alive(pids[0]))


def test_a_watch_without_descriptors_goes_on(tmp_path: Path) -> None:
    assert without_descriptors("print(watch.look(), watch.lives)", str(os.getpid()), str(tmp_path)) == "None True"


def test_a_run_of_which_something_cannot_be_looked_at_is_not_taken_for_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors may be short for a moment only, in the middle of a look."""
    real = psutil.Process.environ
    refused = 20

    def environ(self: psutil.Process) -> dict[str, str]:
        nonlocal refused
        if refused:
            refused -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return real(self)

    monkeypatch.setattr(psutil.Process, "environ", environ)
    with family("obedient", 0, run=tmp_path) as pids:
        assert kill_run(tmp_path) == 1
        assert not alive(pids[0])


@pytest.mark.parametrize(("times", "made"), [(1, True), (99, False)])
def test_the_kept_copy_may_be_removed_by_another_server_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, made: bool
) -> None:
    """Not for ever: then the fault is told."""
    program, copy = tmp_path / "program", tmp_path / "one" / "copy"
    program.write_bytes(b"any")
    copy.parent.mkdir()
    real = Path.hardlink_to
    removed: list[Path] = []

    def removing(path: Path, target: Path) -> None:
        if len(removed) < times:
            removed.append(target)
            target.unlink()
        real(path, target)

    monkeypatch.setattr(Path, "hardlink_to", removing)
    if made:
        assert process.unreadable_copy(program, copy).stat().st_size == 3
    else:
        with pytest.raises(FileNotFoundError):
            process.unreadable_copy(program, copy)
        assert not copy.exists()


def test_a_disk_that_is_too_small_for_the_copy_is_not_left_full(tmp_path: Path) -> None:
    program, copy = tmp_path / "program", tmp_path / "one" / "copy"
    program.write_bytes(bytes(100_000))
    copy.parent.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            process.unreadable_copy(program, copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {*tmp_path.rglob("*")} == {program, copy.parent}
    assert process.unreadable_copy(program, copy).stat().st_size == 100_000


def test_an_unreadable_copy_runs_and_is_not_looked_into(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    for directory in ("one", "other"):
        (tmp_path / directory).mkdir()
    stale = [tmp_path / ".sleep-1-2-older", tmp_path / ".copying-sleep-999999999"]
    for left in stale:
        left.write_bytes(b"")
    copy = process.unreadable_copy(Path(sleep), tmp_path / "one" / "copy")
    assert process.unreadable_copy(Path(sleep), copy) == copy
    other = process.unreadable_copy(Path(sleep), tmp_path / "other" / "copy")
    assert other.samefile(copy), "copied once for all servers"
    assert not any(left.exists() for left in stale)
    assert copy.read_bytes() == Path(sleep).read_bytes() if os.getuid() == 0 else not os.access(copy, os.R_OK)
    assert copy.stat().st_mode & 0o777 == 0o111
    with subprocess.Popen([copy, "60"]) as running:
        try:
            assert alive(running.pid)
        finally:
            running.kill()
