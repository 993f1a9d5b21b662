"""The `cloutagent-server` command."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn

import typer
import uvloop

from cloutagent_server import __version__, logs, supervisor
from cloutagent_server.app import rotate_key
from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.envoy_process import EnvoyFailed
from cloutagent_server.folder_lock import FolderInUse
from cloutagent_server.service.key_rotation import Progress
from cloutagent_server.service.secret_care import WrongEncryptionKey
from cloutagent_server.settings import ENV_FILE, InvalidSettings, Settings, load, with_encryption_key
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.supervisor import ComponentDied, Stack

cli = typer.Typer(
    name="cloutagent-server",
    help="A self-hosted control plane for Claude agents. Settings come from the environment and .env.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

LOOPBACK_URL = "http://127.0.0.1"
LocalModelOption = Annotated[
    bool, typer.Option("--local-model", help="Run against the scripted local model: no account needed.")
]


@cli.command()
def serve() -> None:
    """Run the server alone (gRPC), until Ctrl-C."""
    settings = _settings()
    _run(supervisor.serve(settings, _announce))


@cli.command()
def up(local_model: LocalModelOption = False) -> None:
    """Run the server with Envoy in front of it (REST and gRPC on one port), until Ctrl-C."""
    settings = _settings(local_model)
    _run(supervisor.serve_stack(settings, local_model, _announce))


@cli.command("local-model")
def local_model(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1. 0: any free one.")] = 8080,
) -> None:
    """Run the scripted stand-in for the Messages API alone, for development, until Ctrl-C."""
    _run(
        supervisor.serve_local_model(port, lambda url: typer.echo(f"local model at {url} (a stand-in, no real model)"))
    )


@cli.command("validate-env")
def validate_env(local_model: LocalModelOption = False) -> None:
    """Check the settings; print every fault with its remedy and exit with 1, or the settings without secrets."""
    settings = _load(local_model)
    for name, value in settings.model_dump(mode="json").items():
        typer.echo(f"{name.upper()}={'' if value is None else value}")


@cli.command("rotate-encryption-key")
def rotate_encryption_key() -> None:
    """Seal all stored secrets with ENCRYPTION_KEY, opening them with ENCRYPTION_KEYS_RETIRED, while servers run.

    It can be killed and run again. Once it exits with 0 the retired keys are not needed any more; with 1 it names what
    could not be sealed anew.
    """
    # What the model needs is of no concern here.
    settings = _load(local_model=True)
    if settings.encryption_key is None:
        typer.echo("ENCRYPTION_KEY: is required here: the key to seal with", err=True)
        raise typer.Exit(1)
    logs.configure(settings.log_level)

    async def rotate() -> None:
        done = await rotate_key(settings, _report)
        for fault in done.faults:
            typer.echo(fault, err=True)
        if done.faults:
            typer.echo("the retired keys are still needed", err=True)
            raise typer.Exit(1)
        typer.echo(f"{done.total} projects are sealed with ENCRYPTION_KEY; the retired keys are not needed any more")

    _run(rotate())


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point of the command."""
    cli()


def _load(local_model: bool = False) -> Settings:
    try:
        return load(anthropic_base_url=LOOPBACK_URL) if local_model else load()
    except InvalidSettings as error:
        for fault in error.faults:
            typer.echo(fault, err=True)
        raise typer.Exit(1) from None


def _settings(local_model: bool = False) -> Settings:
    settings = _load(local_model)
    if settings.encryption_key is None and Layout(settings.project_root).key_check.exists():
        typer.echo("ENCRYPTION_KEY: is required, since PROJECT_ROOT holds secrets that were sealed with one", err=True)
        raise typer.Exit(1)
    settings, generated = with_encryption_key(settings)
    logs.configure(settings.log_level)
    if generated:
        typer.echo(f"a new ENCRYPTION_KEY was written to {ENV_FILE}; keep it: it opens the stored secrets", err=True)
    return settings


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        uvloop.run(main)
    except (ComponentDied, EnvoyFailed, FolderInUse, WrongEncryptionKey, OSError) as fault:
        _fail(str(fault))
    except StorageUnavailable as fault:
        _fail(f"PROJECT_ROOT: {fault.cause}")
    except StoredDataDamaged as fault:
        _fail(f"PROJECT_ROOT: {fault.location}: {fault.fault}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None


def _fail(fault: str) -> NoReturn:
    typer.echo(f"cloutagent-server: {fault}", err=True)
    raise typer.Exit(1) from None


def _report(progress: Progress) -> None:
    typer.echo(
        f"{progress.projects} of {progress.total} projects: {progress.sealed_anew} values sealed anew, "
        f"{len(progress.faults)} faults"
    )


def _announce(stack: Stack) -> None:
    if stack.model_url is not None:
        typer.echo(f"local model   {stack.model_url} (a stand-in, no real model)")
    if stack.rest_port is not None:
        typer.echo(f"REST, gRPC    http://127.0.0.1:{stack.rest_port}")
    typer.echo(f"server (gRPC) 127.0.0.1:{stack.grpc_port}")
    typer.echo("ready")
