"""`secret`: set, list, get, versions, restore, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloutagent.cli.asking import secret_input
from cloutagent.cli.confirming import confirm
from cloutagent.cli.output import as_dict
from cloutagent.cli.session import Session, command
from cloutagent.cli.shapes import Group
from cloutagent.cli.text import local_time
from cloutagent.cli.values import LARGEST

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the secret.", show_default=False)]


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=Group, help="Secrets of a project, filled into prompts as {{secret:NAME}}.", no_args_is_help=True
    )
    command(group, "set")(set_secret)
    command(group, "list")(list_secrets)
    command(group, "get")(get)
    command(group, "versions")(versions)
    command(group, "restore")(restore)
    command(group, "delete")(delete)
    cli.add_typer(group, name="secret")


def set_secret(
    session: Session,
    name: Name,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Take the value from a file, byte by byte.")
    ] = None,
    expected_version: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST, help="Only if it is at this version now, 0 if there is none."),
    ] = None,
) -> None:
    """Set a secret. The value is asked for, or read from the standard input, where one line end is taken off."""
    value = secret_input(f"Value of {name}", file, twice=True)
    stored = session.client.secrets.set(name, value, expected_version=expected_version)
    if session.output.json:
        session.output.document(stored)
    else:
        session.output.line(f"set {stored.name}, version {stored.version}")


def list_secrets(session: Session) -> None:
    """List the names of the secrets, never their values."""
    names = session.client.secrets.list()
    if session.output.json:
        session.output.document({"names": list(names)})
        return
    for name in names:
        session.output.line(name)


def get(
    session: Session,
    name: Name,
    version: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="An earlier version. Default: the current one.")
    ] = None,
) -> None:
    """Write the value of a secret: as it is, but on a terminal without what would control it."""
    value = session.client.secrets.get(name, version=version)
    if session.output.json:
        session.output.document({"name": name, "value": value})
    elif session.output.out.is_terminal:
        session.output.line(value)
    else:
        session.output.out.file.write(value)
        session.output.out.file.flush()


def versions(session: Session, name: Name) -> None:
    """List the versions of a secret that are kept, newest first, never their values."""
    found = session.client.secrets.versions(name)
    if session.output.json:
        session.output.document({"versions": [as_dict(each) for each in found]})
        return
    session.output.table(
        ("version", "set"),
        [(str(each.version), local_time(each.created_at) if each.HasField("created_at") else "") for each in found],
        right=("version",),
    )


def restore(
    session: Session,
    name: Name,
    version: Annotated[int, typer.Argument(min=1, max=LARGEST, help="Which.", show_default=False)],
) -> None:
    """Make the value of an earlier version the current one again."""
    stored = session.client.secrets.restore(name, version)
    if session.output.json:
        session.output.document(stored)
    else:
        session.output.line(f"set {stored.name}, version {stored.version}")


def delete(
    session: Session, name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Delete a secret with all its versions."""
    confirm(session.output, f"Delete secret {name} with all its versions?", yes)
    session.client.secrets.delete(name)
    session.output.done("deleted", name)
