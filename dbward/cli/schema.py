"""`dbward schema`: the tables of a database, as an agent last saw them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome, explained
from dbward.cli.tables import pairs, table
from dbward.cli.times import shown


@click.group("schema", short_help="Show tables and columns.", epilog=EPILOG)
@global_options(hidden=True)
def schema() -> None:
    """Show the tables of --database in -e, as an agent last saw them. Without -e: production first."""


@schema.command("list", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def list_(app: App, /) -> Outcome:
    """List tables and views."""
    found = _ask(app)
    rows = [
        (
            f"{one['schema_name']}.{one['name']}",
            one["kind"].replace("_", " "),
            _rows(one["estimated_rows"]),
            one["column_count"],
            one["index_count"],
        )
        for one in found["tables"]
    ]
    app.out.listing(table(("TABLE", "KIND", "ROWS", "COLUMNS", "INDEXES"), rows), "No tables.")
    return _seen(app, found)


@schema.command("show", epilog=EPILOG)
@click.argument("table", metavar="TABLE")
@global_options(hidden=True)
@pass_app
def show(app: App, /, table: str) -> Outcome:
    """Show the columns, indexes and references of TABLE, a name or SCHEMA.NAME."""
    found = _ask(app, table=table)
    app.out.data(pairs(list(_entries(found["table"]))))
    return _seen(app, found)


def _ask(app: App, **question: str) -> dict[str, Any]:
    from dbward.client.http import part

    settings = app.settings
    path = f"/api/schemas/{part(settings.database())}"
    environment = settings.wanted_environment or settings.default_environment
    with explained():
        found: dict[str, Any] = app.client.get(path, {"environment": environment, **question})
    return found


def _seen(app: App, found: Mapping[str, Any]) -> Outcome:
    """How old it is, and what is missing from it."""
    when = shown(found["collected_at"]) or "never"
    app.out.say(f"({found['database']}/{found['environment']}, {found['dialect']}, seen {when})")
    if found.get("error"):
        app.out.warn(f"it could not be read the last time: {found['error']}")
    if found.get("unread"):
        app.out.warn(f"not read: {', '.join(found['unread'])}")
    return Outcome(dict(found))


def _entries(one: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "Table", f"{one['schema_name']}.{one['name']} ({one['kind'].replace('_', ' ')})"
    yield "Rows", _rows(one["estimated_rows"])
    yield "Columns", "\n" + "\n".join(map(_column, one["columns"]))
    if one["constraints"]:
        yield "Constraints", "\n" + "\n".join(map(_constraint, one["constraints"]))
    if one["indexes"]:
        yield "Indexes", "\n" + "\n".join(map(_index, one["indexes"]))
    reached = [f"{child['schema_name']}.{child['table_name']}" for child in one.get("cascade_children", [])]
    more = ["and more"] if one.get("cascade_children_truncated") else []
    yield "Deleting reaches", ", ".join([*reached, *more]) or None


def _rows(estimated: int) -> str:
    return "unknown" if estimated < 0 else f"about {estimated:,}"


def _column(column: Mapping[str, Any]) -> str:
    said = [column["name"], column["data_type"]]
    said += [] if column["nullable"] else ["NOT NULL"]
    said += [f"DEFAULT {column['default_value']}"] if column["default_value"] is not None else []
    said += ["PRIMARY KEY"] if column["is_primary_key"] else []
    return " ".join(said)


def _constraint(constraint: Mapping[str, Any]) -> str:
    text = f"{constraint['name'] or '-'}: {constraint['constraint_type'].replace('_', ' ')}"
    text += f" ({', '.join(constraint['columns'])})" if constraint["columns"] else ""
    if constraint.get("referenced_table") is None:
        return text
    columns = ", ".join(constraint["referenced_columns"])
    target = f"{constraint['referenced_schema']}.{constraint['referenced_table']} ({columns})"
    return f"{text} to {target}, on delete {constraint['on_delete'].replace('_', ' ').lower()}"


def _index(index: Mapping[str, Any]) -> str:
    unique = "unique " if index["is_unique"] else ""
    return f"{index['name']}: {unique}{index['index_type']} ({', '.join(index['columns'])})"
