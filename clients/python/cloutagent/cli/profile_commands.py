"""`profile`: list, use, remove."""

from __future__ import annotations

from typing import Annotated

import typer

from cloutagent.cli.confirming import confirm
from cloutagent.cli.connection import profile_name
from cloutagent.cli.endings import CommandError
from cloutagent.cli.profiles import Profile, complete_profile
from cloutagent.cli.session import Session, command
from cloutagent.cli.shapes import Group
from cloutagent.cli.text import one_line

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_profile, show_default=False)]


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=Group, help="Profiles: addresses and keys by name. `login` makes them.", no_args_is_help=True
    )
    command(group, "list")(list_profiles)
    command(group, "use")(use)
    command(group, "remove")(remove)
    cli.add_typer(group, name="profile")


def list_profiles(session: Session) -> None:
    """List the profiles, never their keys. The one in use has a star."""
    profiles = session.profiles
    used = profile_name(session.options, profiles)
    found: list[tuple[str, Profile]] = []
    bad: list[tuple[str, str]] = []
    for name in profiles.names():
        try:
            profile = profiles.get(name)
        except CommandError as error:
            bad.append((name, error.message))
        else:
            found += [] if profile is None else [(name, profile)]
    if session.output.json:
        good = [_as_dict(name, profile, used=name == used) for name, profile in found]
        faulty = [{"name": name, "used": name == used, "error": why} for name, why in bad]
        session.output.document({"profiles": [*good, *faulty]})
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
    for name, why in bad:
        session.output.note(f"profile {name} cannot be used: {one_line(why)}", "red")


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
    now = session.profiles.settle()
    if now is not None:
        session.output.note(f"profile {now} is in use now; `cloutagent profile use` chooses another one")


def _as_dict(name: str, profile: Profile, *, used: bool) -> dict[str, object]:
    known = {"name": name, "used": used, "address": profile.address, "hasKey": profile.api_key is not None}
    return known if profile.project_id is None else {**known, "projectId": profile.project_id}


def _must_exist(session: Session, name: str) -> None:
    if name not in session.profiles.names():
        raise CommandError(f"there is no profile {name}")
