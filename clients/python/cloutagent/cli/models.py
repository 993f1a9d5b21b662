"""`models`."""

from __future__ import annotations

import typer

from cloutagent.cli.output import as_dict
from cloutagent.cli.session import Session, command
from cloutagent.cli.text import count

_PER: int = 1_000_000


def add_to(cli: typer.Typer) -> None:
    """Add the command."""
    command(cli, "models")(models)


def models(session: Session) -> None:
    """List the models that an agent may use, with their list prices."""
    found = session.client.system.models()
    if session.output.json:
        session.output.document({"models": [as_dict(model) for model in found]})
        return
    session.output.table(
        ("model", "name", "context", "in, $ a million", "out, $ a million"),
        [
            (
                model.id,
                model.display_name,
                count(model.context_window) if model.HasField("context_window") else "",
                f"{model.prompt_token_price * _PER:,.2f}",
                f"{model.completion_token_price * _PER:,.2f}",
            )
            for model in found
        ],
        right=("context", "in, $ a million", "out, $ a million"),
    )
