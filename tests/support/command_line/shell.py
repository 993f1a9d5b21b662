"""Runs shell scripts whose `cloutagent` is carried out by this process: starting Python for each takes too long."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from tests.support.command_line.commands import Commands

DEADLINE_SECONDS: Final = 60.0

# What the shell runs as `cloutagent`: it has its arguments and its input carried out, and passes on what came of it.
_STAND_IN: Final = """#!{python} -ISs
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as there:
    there.connect({path!r})
    said = dict(arguments=sys.argv[1:], stdin=sys.stdin.read(), environment=dict(os.environ))
    there.sendall(json.dumps(said).encode())
    there.shutdown(socket.SHUT_WR)
    with there.makefile("rb") as answers:
        answer = json.load(answers)
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""


def run_script(script: str, folder: Path, stdin: str) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in this folder, which is the current one, up to its first failure."""
    stand_in = folder / "programs/cloutagent"
    stand_in.parent.mkdir()
    stand_in.write_text(_STAND_IN.format(python=sys.executable, path=str(folder / "s")))
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"}
    done: list[subprocess.CompletedProcess[str]] = []

    def run(listening: socket.socket) -> None:
        try:
            done.append(
                subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", script],
                    cwd=folder,
                    env=environment,
                    input=stdin,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=DEADLINE_SECONDS,
                )
            )
        finally:
            listening.shutdown(socket.SHUT_RDWR)

    with socket.socket(socket.AF_UNIX) as listening:
        # Its name relative to the folder, since the names of sockets are short.
        listening.bind("s")
        listening.listen()
        shell = threading.Thread(target=run, args=(listening,))
        shell.start()
        try:
            _carry_out(listening)
        finally:
            shell.join()
    return done[0]


def _carry_out(listening: socket.socket) -> None:
    """Carry out commands until the shell has ended. They take signals, so it is done in the main thread."""
    while True:
        try:
            asking, _ = listening.accept()
        except OSError:
            return
        with asking, asking.makefile("rb") as said:
            asked = json.load(said)
            settings = {name: value for name, value in asked["environment"].items() if name.startswith("CLOUTAGENT_")}
            result = Commands(settings)(*asked["arguments"], stdin=asked["stdin"])
            answer = {"out": result.out, "err": result.err, "code": int(result.code)}
            asking.sendall(json.dumps(answer).encode())
