"""What commands and groups look like in their help."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption


class Group(TyperGroup):
    """A group of commands."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Its options."""
        return _without_types_of_flags(super().get_params(ctx))


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Its options and arguments."""
        return _without_types_of_flags(super().get_params(ctx))


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """A flag takes no value, so none is shown for it."""
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
