"""The table of who may call what, made from the routes' declarations and the built-in roles.

`python -m web.authorization` writes it into `docs/reference/authorization.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from flask import Flask
from werkzeug.routing import Rule

from dbward.domain import rbac
from dbward.domain.model import Ownership, Role
from dbward.domain.roles import BUILTIN_ROLES
from web import guard
from web.endpoint import Endpoint, Extent, declared_by

Cell = Literal["yes", "own", "any", "no"]

AGENT = "agent-default"
PAGE = Path("docs/reference/authorization.md")
BEGIN, END = "<!-- the table is made by `python -m web.authorization` -->", "<!-- end of the table -->"

_OWNED = {Extent.OWN, Extent.VISIBLE, Extent.SHARED}


def cell(role: Role, path: str, declared: Endpoint) -> Cell:
    """Whether somebody with this one role may call the route, and about whose things."""
    audience = guard.audience(path)
    if audience == "public":
        return "yes"
    if audience == ("user" if role.name == AGENT else "agent"):
        return "no"
    if not declared.needs:
        return "yes"
    reach = {rbac.reach(role, permission) for permission in declared.needs}
    if declared.extent is Extent.SELF:
        return "own" if reach == {None} else "any"
    if reach == {None}:
        return "no"
    if declared.extent not in _OWNED:
        return "yes"
    return "any" if Ownership.ANY in reach else "own"


def declared_routes(app: Flask) -> Iterator[tuple[str, Rule, Endpoint]]:
    """Every route with its method, by path."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        declared = declared_by(app.view_functions[rule.endpoint])
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            if declared is not None:
                yield method, rule, declared


def table(app: Flask) -> str:
    """The table in Markdown, a line for each route."""
    roles = list(BUILTIN_ROLES.values())
    lines = [
        "| Route | " + " | ".join(f"`{role.name}`" for role in roles) + " | Needs | Beyond that |",
        "|---" * (len(roles) + 3) + "|",
    ]
    for method, rule, declared in declared_routes(app):
        cells = " | ".join(cell(role, rule.rule, declared) for role in roles)
        needs = " or ".join(f"`{permission}`" for permission in declared.needs) or _without(guard.audience(rule.rule))
        beyond = "" if declared.extent is Extent.HELD else declared.extent
        lines.append(f"| `{method} {rule.rule}` | {cells} | {needs} | {beyond} |")
    return "\n".join(lines)


def _without(audience: guard.Audience) -> str:
    return {"public": "nothing", "any": "any token", "agent": "an agent's token", "user": "a person's token"}[audience]


def page_with(text: str, made: str) -> str:
    """The page with its table replaced. Raises `ValueError` when the marks are not in it."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{PAGE} has lost the marks around its table")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def main() -> None:
    """Write the table of the routes as they are now."""
    from web.app import bare_app

    PAGE.write_text(page_with(PAGE.read_text(), table(bare_app())))
    sys.stdout.write(f"{PAGE} written\n")


if __name__ == "__main__":
    main()
