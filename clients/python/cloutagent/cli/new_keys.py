"""A new API key is shown once, or kept in a profile. It is there once: what makes one holds signals back till then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import typer

from cloutagent._address import parse
from cloutagent.cli.confirming import confirm
from cloutagent.cli.endings import CommandError
from cloutagent.cli.profiles import Profile
from cloutagent.cli.session import Session


def offered_profile(session: Session, wanted: str | None, force: bool, *, own: str | None = None) -> str | None:
    """The profile to keep a key in: the one that is wanted, else what somebody at a terminal answers; None for none.

    Asked before there is a key, so that nothing comes between the key and its place. `own` is the profile whose key is
    replaced; of another one neither the key nor the address is taken unless `force` or an answer says so.
    """
    if wanted is None and session.output.asks:
        wanted = typer.prompt("Keep the key in a profile? Its name, or empty to show it", default="", err=True) or None
    if wanted is not None:
        # A name that cannot be is told before there is a key to lose.
        before = session.profiles.get(wanted)
        if (
            before is not None
            and wanted != own
            and (before.api_key or not same_server(before, session.connection.address))
        ):
            may_replace(session, wanted, before, force)
    return wanted


def may_replace(session: Session, name: str, before: Profile, force: bool) -> None:
    """Return if a profile's key and address may go. Raises CommandError if not."""
    what = f"address {before.address}" if before.api_key is None else f"key for {before.address}"
    confirm(session.output, f"Profile {name} has another {what}. Replace it?", force, "--force")


def same_server(profile: Profile, address: str) -> bool:
    """Whether a profile is for the server at this address."""
    return str(parse(profile.address)) == str(parse(address))


def keep(session: Session, name: str, api_key: str, project_id: str | None) -> str | None:
    """Store a key under the server's address. Returns the key if that failed, so that it can be shown."""
    connection = session.connection
    try:
        before = session.profiles.get(name)
        profile = before or Profile(connection.address)
        session.profiles.put(
            name,
            replace(
                profile,
                address=connection.address,
                api_key=api_key,
                project_id=project_id,
                ca_file=connection.ca_file,
                allow_plaintext_key=connection.allow_plaintext_key,
            ),
        )
    except CommandError as error:
        session.output.note(f"the key is not kept: {error.message}", "red")
        return api_key
    used = session.profiles.settle() == name
    way = "which is in use now" if used else f"`cloutagent profile use {name}` uses it"
    session.output.note(f"the key is kept in profile {name}; {way}")
    return None


@contextmanager
def written_once(session: Session, shown: str | None, what_now: str) -> Iterator[None]:
    """Write a new key; None is one that is kept. If it could not be written, what to do about it is told."""
    try:
        yield
    except OSError:
        if shown is not None:
            session.output.note(
                f"the new API key could not be written, and nobody can read it again; {what_now}", "red"
            )
        raise
