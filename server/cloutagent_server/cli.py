"""The `cloutagent-server` command.

What runs agents takes a second or two to import. Commands that run none do without, so the server is imported by those
that start it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import uvloop

from cloutagent_server import __version__, logs, maintenance, preflight
from cloutagent_server.domain.audit import to_json
from cloutagent_server.domain.errors import CloutAgentError, StorageUnavailable, StoredDataDamaged
from cloutagent_server.folder_lock import FolderInUse
from cloutagent_server.service.key_rotation import Progress
from cloutagent_server.service.secret_care import WrongEncryptionKey
from cloutagent_server.settings import ENV_FILE, InvalidSettings, Settings, load, with_encryption_key
from cloutagent_server.storage.filesystem.backup.archive import BackupDamaged, Manifest
from cloutagent_server.storage.filesystem.backup.verify import RestoreRefused, verify
from cloutagent_server.storage.filesystem.layout import Layout

if TYPE_CHECKING:
    from cloutagent_server.engine.local_model import ScriptLibrary
    from cloutagent_server.supervisor import Stack

cli = typer.Typer(
    name="cloutagent-server",
    help="A self-hosted control plane for Claude agents. Settings come from the environment and .env.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

backup_cli = typer.Typer(help="Back up the data folder, and check backups.", pretty_exceptions_enable=False)
cli.add_typer(backup_cli, name="backup")

LOOPBACK_URL = "http://127.0.0.1"
LocalModelOption = Annotated[
    bool, typer.Option("--local-model", help="Run against the scripted local model: no account needed.")
]
ScriptsOption = Annotated[
    Path | None, typer.Option("--scripts", help="Folder with scripts for the local model, *.script.")
]


@cli.command()
def serve() -> None:
    """Run the server alone (gRPC), until Ctrl-C."""
    settings = _settings()
    from cloutagent_server import supervisor

    _run(supervisor.serve(settings, _announce))


@cli.command()
def up(local_model: LocalModelOption = False, scripts: ScriptsOption = None) -> None:
    """Run the server with Envoy in front of it (REST and gRPC on one port), until Ctrl-C."""
    if scripts is not None and not local_model:
        raise typer.BadParameter("is for the local model: give --local-model, too", param_hint="--scripts")
    settings = _settings(local_model)
    from cloutagent_server import supervisor

    _run(supervisor.serve_stack(settings, _scripts(scripts) if local_model else None, _announce))


@cli.command()
def envoy() -> None:
    """Run Envoy alone, in front of the servers in UPSTREAMS, which run by `serve`, until Ctrl-C."""
    from cloutagent_server import sidecar

    raise typer.Exit(sidecar.main())


@cli.command("local-model")
def local_model(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1. 0: any free one.")] = 8080,
    scripts: ScriptsOption = None,
) -> None:
    """Run the scripted stand-in for the Messages API alone, for development, until Ctrl-C."""
    from cloutagent_server import supervisor

    def announce(url: str) -> None:
        typer.echo(f"local model at {url} (a stand-in, no real model)")

    _run(supervisor.serve_local_model(port, _scripts(scripts), announce))


@cli.command("validate-env")
def validate_env(local_model: LocalModelOption = False) -> None:
    """Check the settings and what they name here; print every fault with its remedy, or the settings without secrets.

    Exits with 1 if there is a fault.
    """
    settings, faults = preflight.examine({"anthropic_base_url": LOOPBACK_URL} if local_model else {})
    if settings is None:
        for fault in faults:
            typer.echo(fault, err=True)
        raise typer.Exit(1)
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
        done = await maintenance.rotate_key(settings, _report)
        for fault in done.faults:
            typer.echo(fault, err=True)
        if done.faults:
            typer.echo("the retired keys are still needed", err=True)
            raise typer.Exit(1)
        typer.echo(f"{done.total} projects are sealed with ENCRYPTION_KEY; the retired keys are not needed any more")

    _run(rotate())


@cli.command()
def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild indexes and remove leftovers; records are left as they are.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="First take secrets that other programs added into the manifests.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check the whole data folder; exit with 1 if something is wrong, with 2 if it cannot be looked at."""
    settings = _settings_of_folder()
    if adopt and settings.encryption_key is None:
        _fail("ENCRYPTION_KEY: is required to adopt secrets", 2)
    try:
        for name in maintenance.adopt(settings) if adopt else ():
            typer.echo(f"adopted {name}", err=True)
        findings = maintenance.examine(settings, repair)
        head = maintenance.audit_head(settings)
    except (OSError, CloutAgentError) as fault:
        _fail(_told(fault), 2)
    if as_json:
        typer.echo(maintenance.to_json(findings, head))
    else:
        for one in findings:
            typer.echo(f"{one.severity}: {one.path}: {one.fault}; {one.remedy}")
        typer.echo(f"audit log: record {head.sequence}, hash {head.hash}", err=True)
    if findings:
        raise typer.Exit(1)


@cli.command("audit")
def audit_log() -> None:
    """Print the audit log, one JSON line for each record, oldest first."""
    settings = _settings_of_folder()
    try:
        for record in maintenance.audit_records(settings):
            typer.echo(json.dumps(to_json(record), ensure_ascii=False))
    except (OSError, CloutAgentError) as fault:
        _fail(_told(fault))


@backup_cli.callback(invoke_without_command=True)
def backup(
    context: typer.Context,
    executions: Annotated[bool, typer.Option("--executions", help="Take the executions' event logs along.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: a new one in BACKUP_ROOT, where old ones are removed.")
    ] = None,
) -> None:
    """Back up the data folder, beside a running server or without one, to one compressed file."""
    if context.invoked_subcommand is not None:
        return
    settings = _settings_of_folder()
    try:
        made = maintenance.make_backup(settings, output, executions)
    except (OSError, CloutAgentError, BackupDamaged) as fault:
        _fail(_told(fault))
    typer.echo(f"{made.path}: {_count(made.manifest)}")
    for left_out in made.left_out:
        typer.echo(f"left out: {_told(left_out)}", err=True)
    if made.left_out:
        raise typer.Exit(1)


@backup_cli.command("verify")
def verify_backup(file: Annotated[Path, typer.Argument(help="The backup.")]) -> None:
    """Check that a backup is whole and, with ENCRYPTION_KEY, that its secrets were sealed with that key."""
    settings = _settings_of_folder()
    try:
        manifest = verify(file, maintenance.fault_of(settings))
    except (OSError, BackupDamaged, RestoreRefused) as fault:
        _fail(_told(fault))
    typer.echo(f"{file}: whole; {_count(manifest)}, made at {manifest.created_at.isoformat()}")


@cli.command()
def restore(
    file: Annotated[Path, typer.Argument(help="The backup.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace projects that are there already.")] = False,
) -> None:
    """Put the projects of a backup into PROJECT_ROOT. Those that are there already stay as they are."""
    settings = _settings_of_folder()
    try:
        done = maintenance.restore_backup(settings, file, replace, dry_run)
    except (OSError, CloutAgentError, BackupDamaged, RestoreRefused) as fault:
        _fail(_told(fault))
    for verb, project_ids in (("create", done.created), ("replace", done.replaced), ("keep", done.kept)):
        for project_id in project_ids:
            typer.echo(f"{verb} {project_id}")
    created, replaced, kept = len(done.created), len(done.replaced), len(done.kept)
    typer.echo(f"{'would be ' if dry_run else ''}created {created}, replaced {replaced}, kept {kept}")


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
        typer.echo(preflight.KEY_MISSING, err=True)
        raise typer.Exit(1)
    settings, generated = with_encryption_key(settings)
    from cloutagent_server.monitoring.tracing import name_trace

    logs.configure(settings.log_level, name_trace)
    if generated:
        typer.echo(f"a new ENCRYPTION_KEY was written to {ENV_FILE}; keep it: it opens the stored secrets", err=True)
    return settings


def _scripts(folder: Path | None) -> ScriptLibrary:
    from cloutagent_server.engine.local_model import ScriptError, ScriptLibrary

    if folder is None:
        return ScriptLibrary()
    try:
        return ScriptLibrary.read(folder)
    except (OSError, ScriptError) as fault:
        _fail(f"--scripts: {fault}")


def _settings_of_folder() -> Settings:
    """The settings for work on the data folder, for which no model is needed."""
    settings = _load(local_model=True)
    logs.configure(settings.log_level)
    return settings


def _count(manifest: Manifest) -> str:
    projects = len({file.project_id for file in manifest.files} - {None})
    logs_too = "with" if manifest.executions else "without"
    return f"{projects} projects, {logs_too} executions"


def _run(main: Coroutine[Any, Any, None]) -> None:
    from cloutagent_server.envoy_process import EnvoyFailed
    from cloutagent_server.foreground import ComponentDied

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


def _told(fault: Exception) -> str:
    """A fault of work on the data folder, for the operator."""
    match fault:
        case StorageUnavailable(cause=str(cause)):
            return cause
        case StoredDataDamaged(location=location, fault=reason):
            return f"{location}: {reason}"
        case _:
            return str(fault)


def _fail(fault: str, code: int = 1) -> NoReturn:
    typer.echo(f"cloutagent-server: {fault}", err=True)
    raise typer.Exit(code) from None


def _report(progress: Progress) -> None:
    typer.echo(
        f"{progress.projects} of {progress.total} projects: {progress.sealed_anew} values sealed anew, "
        f"{len(progress.faults)} faults"
    )


def _announce(stack: Stack) -> None:
    if stack.model_url is not None:
        typer.echo(f"local model   {stack.model_url} (a stand-in, no real model)")
    if stack.rest_port is not None:
        scheme = "https" if stack.tls else "http"
        typer.echo(f"REST, gRPC    {scheme}://{stack.rest_host}:{stack.rest_port}")
    typer.echo(f"server (gRPC) {stack.grpc_socket or f'{stack.grpc_host}:{stack.grpc_port}'}")
    typer.echo("ready")
