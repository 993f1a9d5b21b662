"""`login` and `logout`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cloutagent._address import parse
from cloutagent._configuration import DEFAULT_ADDRESS
from cloutagent.cli.asking import secret_input
from cloutagent.cli.connection import ADDRESS, API_KEY, CA_FILE, PROFILE, profile_name
from cloutagent.cli.endings import CommandError
from cloutagent.cli.new_keys import may_replace, same_server
from cloutagent.cli.profiles import DEFAULT, Profile
from cloutagent.cli.session import Session, command
from cloutagent.cli.text import one_line


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    command(cli, "login")(login)
    command(cli, "logout")(logout)


def login(
    session: Session,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Certificates of the authorities to believe, PEM. Default: the profile's, else CLOUTAGENT_CA_FILE.",
        ),
    ] = None,
    allow_plaintext_key: Annotated[
        bool | None,
        typer.Option(
            "--allow-plaintext-key/--no-allow-plaintext-key", help="Whether the key may go elsewhere without TLS."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another key or address of the profile.")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Ask the server whether the key is valid.")] = True,
) -> None:
    """Store an address and a key as a profile, and use it from now on.

    What a profile for the same server says beside the key stays, unless it is given anew. The key is
    asked for, or read from the standard input.
    """
    profiles, output = session.profiles, session.output
    name = session.options.profile or profile_name(session.options, profiles) or DEFAULT
    before = profiles.get(name)
    # A profile that is named and there decides, as for all commands.
    decided = before is not None and session.options.profile is not None
    given = session.options.address or (None if decided else os.environ.get(ADDRESS))
    address = given or (DEFAULT_ADDRESS if before is None else before.address)
    if given is None and output.asks:
        address = typer.prompt("Address of the server", default=address, err=True)
    believed = None if decided or not parse(address).tls else os.environ.get(CA_FILE)
    key = secret_input("API key").strip()
    if not key:
        raise CommandError("there is no key on the standard input")
    same = before is not None and same_server(before, address)
    if before is not None and not (same and before.api_key in (None, key)):
        may_replace(session, name, before, force)
    base = before if before is not None and same else Profile(address)
    profile = Profile(
        address=address,
        api_key=key,
        project_id=session.options.project or base.project_id,
        ca_file=_absolute(ca_file) or base.ca_file or _absolute(believed),
        allow_plaintext_key=base.allow_plaintext_key if allow_plaintext_key is None else allow_plaintext_key,
    )
    whose = _whose(profile) if check else "not checked"
    profiles.put(name, profile)
    profiles.use(name)
    for variable in (API_KEY, PROFILE):
        if os.environ.get(variable):
            output.note(f"{variable} is set, which comes before what is kept")
    if output.json:
        output.document({"profile": name, "address": address, "key": whose})
    else:
        output.line(f"profile {name}: {address}, {whose}")


def logout(session: Session) -> None:
    """Forget the key of a profile. The key itself goes on working: `key revoke` ends one."""
    name = profile_name(session.options, session.profiles)
    profile = None if name is None else session.profiles.get(name)
    if name is None or profile is None:
        raise CommandError("there is no such profile")
    session.profiles.put(name, replace(profile, api_key=None))
    session.output.done("forgot the key of profile", name)


def _absolute(path: str | Path | None) -> str | None:
    return str(Path(path).absolute()) if path else None


def _whose(profile: Profile) -> str:
    """Whose key it is, as the server says."""
    from cloutagent import Client

    with Client(
        address=profile.address,
        api_key=profile.api_key,
        ca_file=profile.ca_file,
        allow_plaintext_key=profile.allow_plaintext_key,
    ) as client:
        current = client.projects.current()
    if not current.HasField("project"):
        return "the admin's key"
    return f"key of project {one_line(current.project.name)} ({current.project.id})"
