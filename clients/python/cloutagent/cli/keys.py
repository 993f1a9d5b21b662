"""`key`: create, list, rotate, revoke."""

from __future__ import annotations

from typing import Annotated

import typer

from cloutagent.cli.confirming import confirm
from cloutagent.cli.holding import held
from cloutagent.cli.new_keys import keep, offered_profile, written_once
from cloutagent.cli.output import as_dict
from cloutagent.cli.rotating import replaced
from cloutagent.cli.session import Session, command
from cloutagent.cli.shapes import Group
from cloutagent.cli.text import local_time
from cloutagent.cli.values import length, moment
from cloutagent.types import NewApiKey

SaveAs = Annotated[
    str | None, typer.Option("--save-as", metavar="PROFILE", help="Keep the key in this profile and do not show it.")
]
Force = Annotated[bool, typer.Option("--force", help="Keep it there even if the profile has another key.")]
GracePeriod = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="How long the old key goes on working, such as 5min. Default: not at all."),
]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, which is not the key.", show_default=False)]


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Group, help="API keys of a project.", no_args_is_help=True)
    command(group, "create")(create)
    command(group, "list")(list_keys)
    command(group, "rotate")(rotate)
    command(group, "revoke")(revoke)
    cli.add_typer(group, name="key")


def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends: 2027-01-31, or 30d from now. Default: never.")
    ] = None,
    save_as: SaveAs = None,
    force: Force = False,
) -> None:
    """Create a further key of the project. It is shown this once."""
    expires_at = moment(expires, "--expires", ahead=True)
    profile = offered_profile(session, save_as, force)
    with held():
        show_key(session, session.client.keys.create(name=name, expires_at=expires_at), profile)


def list_keys(session: Session) -> None:
    """List the keys that work, never the keys themselves."""
    keys = session.client.keys.list()
    if session.output.json:
        session.output.document({"keys": [as_dict(key) for key in keys]})
        return
    session.output.table(
        ("key", "name", "created", "expires", "last used"),
        [
            (
                key.id,
                key.name,
                local_time(key.created_at) if key.HasField("created_at") else "",
                local_time(key.expires_at) if key.HasField("expires_at") else "never",
                local_time(key.last_used_at) if key.HasField("last_used_at") else "",
            )
            for key in keys
        ],
    )


def rotate(
    session: Session, key_id: KeyId, grace_period: GracePeriod = None, save_as: SaveAs = None, force: Force = False
) -> None:
    """Replace a key by a new one, which is shown this once. `project rotate-key` does it with the key in use."""
    grace = length(grace_period, "--grace-period")
    profile = offered_profile(session, save_as, force)
    with held():
        show_key(session, replaced(session, grace, key_id=key_id), profile)


def revoke(
    session: Session, key_id: KeyId, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """End a key at once."""
    confirm(session.output, f"Revoke key {key_id}? It stops working at once.", yes)
    session.client.keys.revoke(key_id)
    session.output.done("revoked", key_id)


def show_key(session: Session, created: NewApiKey, profile: str | None) -> None:
    """Show a new key, or keep it in a profile. To be called with signals held, from the call that makes the key on."""
    shown: str | None = created.api_key
    if profile is not None:
        shown = keep(session, profile, created.api_key, None)
    remedy = f"`cloutagent key revoke {created.key.id}` ends it"
    with written_once(session, shown, f"key {created.key.id} of this name is there: {remedy}"):
        if session.output.json:
            document = {"key": as_dict(created.key)}
            session.output.document(document if shown is None else {**document, "apiKey": shown})
            return
        session.output.facts((("key", created.key.id), ("name", created.key.name), ("api key", shown)))
    if shown is not None:
        session.output.note("the API key is shown this once; nobody can read it again")
