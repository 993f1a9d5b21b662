"""Runs the demo: `python -m scripts.demo`, or with `--live` against the vendor (ANTHROPIC_API_KEY must be set)."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.demo.rest import Json, Rest
from scripts.demo.scenes import CANCELLED, LIMITED, MAIN, PROJECT, Scene
from scripts.demo.stack import Stack, StackFailed
from scripts.demo.view import RunView


class DemoFailed(Exception):
    """Something did not happen as the demo promises."""


def main() -> int:
    """Run the demo; 0 if everything happened as promised."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--live", action="store_true", help="use the vendor's API instead of the local model")
    live: bool = parser.parse_args().live
    console = Console()
    if live and not os.environ.get("ANTHROPIC_API_KEY"):
        console.print("[red]LIVE=1 needs ANTHROPIC_API_KEY")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="cloutagent-demo-"))
    try:
        play(console, folder, live)
    except (DemoFailed, StackFailed) as fault:
        console.print(f"[red]The demo failed:[/] {fault}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print("Everything was stopped and removed.")
    return 0


def play(console: Console, folder: Path, live: bool) -> None:
    """Start the stack, go through the scenes, and stop it."""
    console.rule("A project, a secret, a run, its tokens watched live")
    console.print("starting the server and Envoy …" if live else "starting the server, Envoy and the local model …")
    token = f"crm-{secrets.token_hex(12)}"
    with Stack(folder, live) as stack:
        rest = Rest(stack.url)
        try:
            console.print(f"REST and gRPC are at {stack.url}")
            project = create_project(console, rest)
            rest.call("PUT", f"/api/v1/projects/{project['id']}/secrets/CRM_TOKEN", {"value": token})
            console.print("stored the secret CRM_TOKEN")
            ends = [run(console, rest, project, scene, live) for scene in (MAIN, LIMITED, CANCELLED)]
            console.rule("What is left")
            check_secret(console, rest, stack, project, token, ends[0])
            show_table(console, ends)
        finally:
            rest.close()
    check_traces(console, stack, token)


def create_project(console: Console, rest: Rest) -> Json:
    """Create the demo's project and use its key from here on."""
    created = rest.call("POST", "/api/v1/projects", PROJECT)
    project: Json = created["project"]
    rest.use_key(created["apiKey"])
    console.print(f"created the project {project['name']!r} ({project['id']}); its API key is shown only once")
    return project


def run(console: Console, rest: Rest, project: Json, scene: Scene, live: bool) -> Json:
    """Start an execution, show it as it happens, and return it after its end."""
    console.rule(scene.title)
    started = rest.call("POST", f"/api/v1/projects/{project['id']}/executions", scene.request(live))
    execution: Json = started["execution"]
    with RunView(console, scene.title, execution["limits"]) as view:
        for event in rest.events(execution["id"]):
            view.show(event)
            if scene.cancel_at == event["kind"]:
                rest.call("POST", f"/api/v1/executions/{execution['id']}/cancel", {})
    ended: Json = rest.call("GET", f"/api/v1/executions/{execution['id']}")["execution"]
    expect(ended["status"] == scene.status, f"{scene.title}: ended as {ended['status']}, not {scene.status}")
    if scene.exceeded is not None:
        expect(ended["failure"].get("exceeded") == scene.exceeded, f"{scene.title}: {ended['failure']['message']}")
    return ended


def check_secret(console: Console, rest: Rest, stack: Stack, project: Json, token: str, ended: Json) -> None:
    """Show the result, and the secret as it is on disk."""
    console.print(f"result by REST: {ended['result']}")
    sealed = stack.projects / project["id"] / ".secrets" / "secrets.enc"
    console.print(f"the secret on disk: {sealed.read_text()[:100]}…")
    stored = rest.call("GET", f"/api/v1/projects/{project['id']}/secrets/CRM_TOKEN")
    expect(stored["value"] == token, "the secret does not read back")


def check_traces(console: Console, stack: Stack, token: str) -> None:
    """Look for the secret in every file of data and logs, after everything has stopped."""
    files = [path for path in stack.log.parent.rglob("*") if path.is_file()]
    found = [str(path) for path in files if token.encode() in path.read_bytes()]
    expect(not found, f"the secret stands in {found}")
    console.print(f"the secret's value is in none of {len(files)} files: data, events, logs")


def show_table(console: Console, ends: list[Json]) -> None:
    """What happened, in one table."""
    columns: list[tuple[str, Callable[[Json], Any]]] = [
        ("status", lambda e: e["status"]),
        ("limit", lambda e: e.get("failure", {}).get("exceeded", "")),
        ("calls", lambda e: e["usage"]["modelCalls"]),
        ("tokens in", lambda e: f"{e['usage']['promptTokens']:,}"),
        ("out", lambda e: f"{e['usage']['completionTokens']:,}"),
        ("cost", lambda e: f"${e['usage']['totalCost']:.6f}"),
        ("time", lambda e: f"{e['duration'] / 1000:.1f} s"),
        ("events", lambda e: e["lastSequence"]),
    ]
    table = Table(title="What happened")
    for name, _ in columns:
        table.add_column(name)
    for end in ends:
        table.add_row(*(str(value(end)) for _, value in columns))
    console.print(table)


def expect(holds: bool, otherwise: str) -> None:
    """Raise DemoFailed unless it holds."""
    if not holds:
        raise DemoFailed(otherwise)


if __name__ == "__main__":
    sys.exit(main())
