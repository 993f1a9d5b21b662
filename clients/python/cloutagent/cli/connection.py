"""Which server a command speaks to, and with which key.

A profile that is named by `--profile` is complete by itself: no setting is taken from the environment then, neither
address and key nor project and certificates, but only from options and the profile, and what both lack has its default.
Without `--profile` each setting is taken from the first of these that has it: the option, the environment, the profile,
the default. A key goes only where it was given for: a profile's to the profile's own address, one from the environment
to the address from there or from the option, else to the default one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cloutagent._address import parse
from cloutagent._configuration import DEFAULT_ADDRESS
from cloutagent.cli.endings import CommandError
from cloutagent.cli.profiles import Profile, Profiles

if TYPE_CHECKING:
    from cloutagent import Client

PROFILE: Final = "CLOUTAGENT_PROFILE"
ADDRESS: Final = "CLOUTAGENT_ADDRESS"
API_KEY: Final = "CLOUTAGENT_API_KEY"
PROJECT: Final = "CLOUTAGENT_PROJECT_ID"
CA_FILE: Final = "CLOUTAGENT_CA_FILE"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about the connection. None: nothing."""

    profile: str | None = None
    address: str | None = None
    project: str | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a command goes.

    Attributes:
        address: Where the server is.
        address_source: What said so.
        api_key: The key, or None.
        key_source: What gave it; None without a key.
        own_key: Whether that is the profile.
        project_id: The project of calls that name none; None for the one that the key belongs to.
        withheld: What was not used since it was given for something else, for people; empty for nothing.
        profile: Name of the profile that holds; None without one.
        ca_file: Certificates of the authorities to believe.
        allow_plaintext_key: Whether the key may go to another machine without TLS.
    """

    address: str
    address_source: str
    api_key: str | None = field(repr=False)
    key_source: str | None
    own_key: bool
    project_id: str | None
    withheld: str
    profile: str | None
    ca_file: str | None
    allow_plaintext_key: bool

    def client(self) -> Client:
        """A client for it. Raises ConfigurationError."""
        from cloutagent import Client

        return Client(
            address=self.address,
            # None would have the client look into the environment, which was done already as far as it may be.
            api_key=self.api_key or "",
            project_id=self.project_id or "",
            ca_file=self.ca_file,
            allow_plaintext_key=self.allow_plaintext_key,
        )


def profile_name(options: Options, profiles: Profiles, environment: Mapping[str, str] = os.environ) -> str | None:
    """The profile that holds: the one that is named, else the current one; None if there is none."""
    return options.profile or environment.get(PROFILE) or profiles.current()


def connect(options: Options, profiles: Profiles, environment: Mapping[str, str] = os.environ) -> Connection:
    """Where the command goes. Raises CommandError for a profile that does not exist, ConfigurationError."""
    name = profile_name(options, profiles, environment)
    profile = None if name is None else profiles.get(name)
    if name is not None and profile is None:
        raise CommandError(f"there is no profile {name}: `cloutagent login --profile {name}` makes it")
    variables = {} if options.profile else environment
    key = variables.get(API_KEY, "").strip() or None
    key_source = API_KEY
    address, source = _address(options, variables, profile if key is None else None, name)
    # What a profile says of its key holds for that key and that server.
    there = profile if profile is not None and str(parse(profile.address)) == str(parse(address)) else None
    own = there if key is None else None
    withheld = _passed_over(options, address, environment) if options.profile else []
    withheld += _withheld(options, key, profile if there is None else None, name)
    if own is not None:
        key, key_source = own.api_key, f"profile {name}"
    return Connection(
        address=address,
        address_source=source,
        api_key=key,
        key_source=None if key is None else key_source,
        own_key=own is not None and key is not None,
        project_id=options.project or variables.get(PROJECT) or (None if own is None else own.project_id),
        withheld="; ".join(withheld),
        profile=name,
        ca_file=_ca_file(address, variables, profile),
        allow_plaintext_key=there is not None and there.allow_plaintext_key,
    )


def _address(
    options: Options, variables: Mapping[str, str], profile: Profile | None, name: str | None
) -> tuple[str, str]:
    if options.address:
        return options.address, "--address"
    if variables.get(ADDRESS):
        return variables[ADDRESS], ADDRESS
    if profile is not None:
        return profile.address, f"profile {name}"
    return DEFAULT_ADDRESS, "default"


def _passed_over(options: Options, address: str, environment: Mapping[str, str]) -> list[str]:
    """What the environment has that a named profile alone keeps from being used. The address has its source told."""
    could = {API_KEY: True, PROJECT: not options.project, CA_FILE: parse(address).tls}
    found = [variable for variable, usable in could.items() if usable and environment.get(variable, "").strip()]
    if not found:
        return []
    return [f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} not used, since --profile decides"]


def _withheld(options: Options, key: str | None, elsewhere: Profile | None, name: str | None) -> list[str]:
    """`key` is the environment's, `elsewhere` the profile if it is for another server."""
    if key is not None and elsewhere is not None and not options.address:
        return [f"the address of profile {name} is not used, since the key comes from {API_KEY}"]
    if key is None and elsewhere is not None and elsewhere.api_key is not None:
        return [f"the key of profile {name} is not used: it is for {elsewhere.address}"]
    return []


def _ca_file(address: str, variables: Mapping[str, str], profile: Profile | None) -> str | None:
    """None where there is no TLS."""
    if not parse(address).tls:
        return None
    return variables.get(CA_FILE) or (None if profile is None else profile.ca_file)
