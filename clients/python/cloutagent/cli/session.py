"""What every command has: the options that all share, where it goes, and where it writes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, ParamSpec

import typer

from cloutagent.cli.connection import Connection, Options, connect
from cloutagent.cli.output import Output
from cloutagent.cli.profiles import Profiles, complete_profile
from cloutagent.cli.shapes import Command
from cloutagent.errors import AuthenticationError, NoProjectError, PermissionDeniedError, UnavailableError

if TYPE_CHECKING:
    from rich.console import Console

    from cloutagent import Client

P = ParamSpec("P")

_PANEL: Final = "Options of every command"
_PROFILE = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="Profile to use. Default: CLOUTAGENT_PROFILE, else the current one.",
        rich_help_panel=_PANEL,
        autocompletion=complete_profile,
    ),
]
_ADDRESS = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="The server. Default: that of --profile, CLOUTAGENT_ADDRESS, else the profile's.",
        rich_help_panel=_PANEL,
    ),
]
_PROJECT = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="ID",
        help="The project. Default: that of --profile, CLOUTAGENT_PROJECT_ID, else the profile's, else the key's.",
        rich_help_panel=_PANEL,
    ),
]
_JSON = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.", rich_help_panel=_PANEL)]


class Session:
    """One call of the command.

    Attributes:
        options: What the command line says about the connection.
        output: Where it writes.
        profiles: The user's profiles.
    """

    def __init__(self, options: Options, output: Output) -> None:
        self.options = options
        self.output = output
        self.profiles = Profiles()
        self._connection: Connection | None = None
        self._client: Client | None = None

    @property
    def connection(self) -> Connection:
        """Where it goes. Raises CommandError, ConfigurationError."""
        if self._connection is None:
            self._connection = connect(self.options, self.profiles)
        return self._connection

    @property
    def withheld(self) -> str:
        """What was not used of what is there for a connection, as far as there was one."""
        return "" if self._connection is None else self._connection.withheld

    @property
    def client(self) -> Client:
        """The client, made when it is first asked for."""
        if self._client is None:
            self._client = self.connection.client()
        return self._client

    def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            self._client.close()


class Consoles:
    """The consoles of a call that is drawn elsewhere than on this terminal: pass it as `obj`."""

    def __init__(self, out: Console, err: Console) -> None:
        self.out = out
        self.err = err


def command(
    app: typer.Typer, name: str, **settings: Any
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[Concatenate[Session, P], None]]:
    """Make a function a command. It takes a session first, and its other parameters are the command's own.

    The command has the options that all have beside them. `settings` are those of `Typer.command`.
    """

    def register(body: Callable[Concatenate[Session, P], None]) -> Callable[Concatenate[Session, P], None]:
        def run(
            *,
            ctx: typer.Context,
            profile: str | None,
            address: str | None,
            project: str | None,
            as_json: bool,
            **given: Any,
        ) -> None:
            consoles = ctx.obj
            output = (
                Output(json=as_json, out=consoles.out, err=consoles.err)
                if isinstance(consoles, Consoles)
                else Output(json=as_json)
            )
            session = Session(Options(profile, address, project), output)
            try:
                body(session, **given)  # type: ignore[call-arg]
            except (AuthenticationError, NoProjectError, PermissionDeniedError, UnavailableError) as error:
                if session.withheld:
                    error.message += f"; {session.withheld}"
                raise
            finally:
                session.close()

        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        parameters = [
            inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
            *(
                inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                for option, default, kind in _SHARED
            ),
        ]
        # What typer reads the parameters from.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = body.__doc__
        app.command(name, cls=Command, **settings)(run)
        return body

    return register


_SHARED: Final = (
    ("profile", None, _PROFILE),
    ("address", None, _ADDRESS),
    ("project", None, _PROJECT),
    ("as_json", False, _JSON),
)
