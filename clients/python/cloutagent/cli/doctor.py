"""`doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import typer
from rich.text import Text

from cloutagent.cli.checks import Finding, Verdict, clock, reachable, secure
from cloutagent.cli.connection import Connection
from cloutagent.cli.endings import ExitCode, exit_code, told
from cloutagent.cli.session import Session, command
from cloutagent.cli.text import one_line
from cloutagent.errors import CloutAgentError, UnavailableError

_MARKS: Final = {
    Verdict.OK: ("ok", "green"),
    Verdict.WARNING: ("warning", "yellow"),
    Verdict.FAILED: ("failed", "red"),
    Verdict.SKIPPED: ("skipped", "dim"),
}
_TIMEOUT: Final = 10.0


def add_to(cli: typer.Typer) -> None:
    """Add the command."""
    command(cli, "doctor")(doctor)


def doctor(session: Session) -> None:
    """Check the way to the server: address, TLS, server, versions, key, clock. Says what to do about what fails.

    Exits with the code of the first failure.
    """
    findings = []
    for finding in examine(session):
        findings.append(finding)
        if not session.output.json:
            _tell(session, finding)
    if session.output.json:
        session.output.document({"checks": [finding.as_dict() for finding in findings]})
    raise typer.Exit(next((each.code for each in findings if each.verdict is Verdict.FAILED), ExitCode.OK))


def examine(session: Session) -> Iterator[Finding]:
    """The checks, one after the other. What needs one that failed is skipped."""
    connection = session.connection
    there = reachable(connection)
    yield there
    if there.verdict is Verdict.FAILED:
        for name in ("tls", "server", "key", "clock"):
            yield Finding(name, Verdict.SKIPPED, "the address cannot be reached")
        return
    yield secure(connection)
    server = _asked("server", lambda: _server(session))
    yield server
    if server.verdict is Verdict.FAILED:
        yield Finding("key", Verdict.SKIPPED, "the server does not answer")
    else:
        yield _asked("key", lambda: _key(session, connection), f"from {connection.key_source}: ")
    yield clock(connection)


def _server(session: Session) -> Finding:
    import cloutagent

    ours, theirs = cloutagent.__version__, session.client.system.health(timeout=_TIMEOUT).version
    versions = f"server {one_line(theirs)}, this command {ours}"
    if _release(theirs) == _release(ours):
        return Finding("server", Verdict.OK, versions)
    return Finding("server", Verdict.WARNING, versions, "use the same release of both where something does not work")


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def _key(session: Session, connection: Connection) -> Finding:
    if connection.key_source is None:
        advice = "`cloutagent login` stores a key, CLOUTAGENT_API_KEY gives one"
        why = f" ({connection.withheld})" if connection.withheld else ""
        return Finding("key", Verdict.FAILED, f"there is no key for this address{why}", advice, ExitCode.DENIED)
    current = session.client.projects.current(timeout=_TIMEOUT)
    whose = "the admin's"
    if current.HasField("project"):
        whose = f"of project {one_line(current.project.name)} ({current.project.id})"
    return Finding("key", Verdict.OK, f"{whose}, from {connection.key_source}")


def _asked(name: str, check: Callable[[], Finding], source: str = "") -> Finding:
    try:
        return check()
    except UnavailableError as error:
        advice = "something answers there, but no CloutAgent server: is it another service, or a proxy without HTTP/2?"
        return Finding(name, Verdict.FAILED, one_line(str(error)), advice, ExitCode.UNAVAILABLE)
    except CloutAgentError as error:
        return Finding(name, Verdict.FAILED, f"{source}{told(error)}", "", exit_code(error))


def _tell(session: Session, finding: Finding) -> None:
    mark, style = _MARKS[finding.verdict]
    session.output.line(Text.assemble((f"{mark:<8}", style), (f"{finding.name:<8}", "bold"), one_line(finding.found)))
    if finding.advice:
        session.output.line(f"{'':16}{one_line(finding.advice)}")
