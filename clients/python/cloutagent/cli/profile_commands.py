"""`profile`: list, use, remove."""

from __future__ import annotations

from typing import Annotated

import typer

from cloutagent.cli.confirming import confirm
from cloutagent.cli.connection import profile_name
from cloutagent.cli.endings import CommandError
from cloutagent.cli.profiles import complete_profile
from cloutagent.cli.session import Session, command

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_profile, show_default=False)]


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Profiles: addresses and keys by name. `login` makes them.", no_args_is_help=True)
    command(group, "list")(list_profiles)
    command(group, "use")(use)
    command(group, "remove")(remove)
    cli.add_typer(group, name="profile")


def list_profiles(session: Session) -> None:
    """List the profiles, never their keys. The one in use has a star."""
    profiles = session.profiles
    used = profile_name(session.options, profiles)
    found = [(name, profile) for name in profiles.names() if (profile := profiles.get(name)) is not None]
    if session.output.json:
        session.output.document(
            {
                "profiles": [
                    {
                        "name": name,
                        "used": name == used,
                        "address": profile.address,
                        "hasKey": profile.api_key is not None,
                        **({} if profile.project_id is None else {"projectId": profile.project_id}),
                    }
                    for name, profile in found
                ]
            }
        )
        return
    session.output.table(
        ("", "profile", "address", "key", "project"),
        [
            (
                "*" if name == used else "",
                name,
                profile.address,
                "no" if profile.api_key is None else "yes",
                profile.project_id or "",
            )
            for name, profile in found
        ],
    )


def use(session: Session, name: Name) -> None:
    """Use a profile whenever none is named."""
    _must_exist(session, name)
    session.profiles.use(name)
    session.output.done("using profile", name)


def remove(
    session: Session, name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Remove a profile with its key, which goes on working: `key revoke` ends one."""
    _must_exist(session, name)
    confirm(session.output, f"Remove profile {name} and its key?", yes)
    session.profiles.remove(name)
    session.output.done("removed profile", name)


def _must_exist(session: Session, name: str) -> None:
    if name not in session.profiles.names():
        raise CommandError(f"there is no profile {name}")
