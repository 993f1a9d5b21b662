"""The command's entry point: what it sets before gRPC is there to read it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Tells what gRPC would find when it is imported, and goes no further.
SEEN_BY_GRPC = """
import os, sys

class Seen:
    @staticmethod
    def find_spec(name, *_):
        if name == "grpc":
            print(os.environ.get("GRPC_VERBOSITY"), os.environ.get("GRPC_ENABLE_FORK_SUPPORT"))
            raise SystemExit(0)

sys.meta_path.insert(0, Seen)
import cloutagent_server.__main__
import cloutagent_server.supervisor
"""


@pytest.mark.parametrize(("given", "seen"), [({}, "NONE 0"), ({"GRPC_VERBOSITY": "debug"}, "debug 0")])
def test_grpc_writes_no_lines_of_its_own_unless_asked_to(given: dict[str, str], seen: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", SEEN_BY_GRPC], env={**inherited, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == seen


def test_commands_that_run_no_server_do_without_what_a_server_needs() -> None:
    program = "import sys, cloutagent_server.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"grpc", "claude_agent_sdk", "aiohttp", "prometheus_client"} & {*done.stdout.split()} == set()
