"""Options that take several names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def names_option(*declared: str, help: str, metavar: str = "NAMES") -> Callable[[F], F]:  # noqa: A002 - click's name
    """An option of names, separated by commas, repeatable; None when it was not given."""
    return click.option(*declared, multiple=True, metavar=metavar, help=help, callback=_split)


def _split(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str] | None:
    if not value:
        return None
    names = [name.strip() for text in value for name in text.split(",")]
    if not all(names):
        raise click.BadParameter("a name is empty", ctx, param)
    return names
