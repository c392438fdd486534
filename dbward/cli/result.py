"""`dbward result`: the stored results, under the name that people look for them."""

from __future__ import annotations

import click

from dbward.cli.app import EPILOG, global_options
from dbward.cli.request import result as get
from dbward.cli.request import results as list_


@click.group("result", short_help="List and read stored results.", epilog=EPILOG)
@global_options(hidden=True)
def result() -> None:
    """List and read stored results: the same as `request results` and `request result`."""


result.add_command(list_, "list")
result.add_command(get, "get")
