"""Every route called as everybody: the answer is the one that `docs/reference/authorization.md` promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dbward import ids
from dbward.db import identities
from dbward.domain.roles import BUILTIN_ROLES
from dbward.services import bootstrap
from dbward.settings.server import load_server
from tests.conftest import State
from tests.web.conftest import POLICY, Caller
from web import authorization, guard
from web.app import bare_app
from web.authorization import AGENT, Cell, cell, declared_routes
from web.endpoint import Endpoint, Extent
from web.examples import example

ROUTES = [(method, rule.rule, declared) for method, rule, declared in declared_routes(bare_app())]
NAMES = [f"{method} {path}" for method, path, _ in ROUTES]
PEOPLE = [name for name in BUILTIN_ROLES if name != AGENT]
SCOPED_ROLE = """
[[auth.roles]]
name = "elsewhere"
permissions = [{permissions}]
databases = ["other"]

[[databases]]
name = "other"
environments = ["production"]
"""


@pytest.fixture
def state(tmp_path: Path) -> State:
    """One kind is enough here: what is tested happens before the store is asked."""
    return State("sqlite", f"sqlite:///{tmp_path / 'state.db'}")


@pytest.fixture
def settings(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("T_ALICE", "T_BOB", "T_OLGA", *(f"T_{name}" for name in (*PEOPLE, "elsewhere"))):
        monkeypatch.setenv(name, ids.new_token())
    people = "".join(
        f'\n[[auth.users]]\nid = "the-{name}"\nroles = ["{name}"]\ntoken = "${{T_{name}}}"\n'
        for name in (*PEOPLE, "elsewhere")
    )
    everything = ", ".join(json.dumps(f"{p}:any") for p in _permissions())
    path = tmp_path / "server.toml"
    home = json.dumps(str(tmp_path / "state"))
    head = f"state_dir = {home}\n[state]\nurl = {json.dumps(state.url)}\n"
    path.write_text(head + POLICY + SCOPED_ROLE.format(permissions=everything) + people)
    return load_server(path)


def _permissions() -> list[str]:
    return sorted({str(permission) for _, _, declared in ROUTES for permission in declared.needs} - {"agent.operate"})


@pytest.fixture
def tokens(rt) -> dict[str, str]:
    known = {user.id.removeprefix("the-"): user.token.reveal() for user in rt.settings.users if user.token is not None}
    return known | {AGENT: (rt.settings.state_dir / bootstrap.AGENT_TOKEN).read_text()}


def call(caller: Caller, method: str, path: str, declared: Endpoint) -> int:
    """The status of the route's own example, about a thing that does not exist."""
    url = re.sub(r"<(?:[^:<>]+:)?(\w+)>", lambda found: str(example(found[1])), path)
    body = example(declared.body) if declared.body is not None else None
    if declared.body_media != "application/json":
        return caller(method, url, data=b"x", content_type=declared.body_media).status_code
    query = _query(declared)
    return caller(method, url + query, body).status_code


def _query(declared: Endpoint) -> str:
    needed = example(declared.query) if declared.query is not None else {}
    required = (
        {name for name, field in declared.query.model_fields.items() if field.is_required()} if declared.query else ()
    )
    return "?" + "&".join(f"{name}={needed[name]}" for name in required) if required else ""


def fits(status: int, promised: Cell) -> bool:
    """With `own` and `any` the thing is unknown, which must not look like a refusal."""
    return status == 403 if promised == "no" else status not in {401, 403, 500}


@pytest.mark.parametrize("role", list(BUILTIN_ROLES))
def test_each_role_gets_what_the_table_says(app, tokens, role):
    caller = Caller(app, tokens[role])
    wrong = {}
    for method, path, declared in ROUTES:
        promised = cell(BUILTIN_ROLES[role], path, declared)
        status = call(caller, method, path, declared)
        if not fits(status, promised) and not _decided_by_the_broker(declared, promised, status):
            wrong[f"{method} {path}"] = (promised, status)
    assert wrong == {}


def _decided_by_the_broker(declared: Endpoint, promised: Cell, status: int) -> bool:
    """The broker looks at the message: an example of it may be one that this kind of token must not send."""
    return declared.extent is Extent.BROKER and promised == "yes" and status == 403


@pytest.mark.parametrize("token", [None, "dbw_" + "0" * 32, "nonsense"])
def test_nobody_gets_past_the_public_routes(app, token):
    caller = Caller(app, token)
    for method, path, declared in ROUTES:
        public = guard.audience(path) == "public"
        assert (call(caller, method, path, declared) in {401, 429}) != public, path


def test_a_suspended_person_is_nobody(app, rt, tokens):
    caller = Caller(app, tokens["operator"])
    assert caller.get("/api/me").status_code == 200

    def suspend(tx) -> None:
        user = identities.find_user(tx.conn, "the-operator")
        identities.save_user(tx, bootstrap.replace(user, status="suspended"))

    rt.store.write(suspend)
    rt.tokens.forget_all()
    for method, path, declared in ROUTES:
        public = guard.audience(path) == "public"
        assert (call(caller, method, path, declared) in {401, 429}) != public, path


def test_a_ceiling_leaves_what_its_roles_may(app, rt, tokens):
    """The bootstrap admin is also a requester; cut down to that, the token is one."""
    admin = Caller(app, (rt.settings.state_dir / bootstrap.ADMIN_TOKEN).read_text())
    wanted = {"subject_id": "admin", "subject_type": "user", "scope_ceiling": {"roles": ["requester"]}}
    caller = Caller(app, admin.post("/api/tokens", wanted).json["token"])
    requester = BUILTIN_ROLES["requester"]
    for method, path, declared in ROUTES:
        assert fits(call(caller, method, path, declared), cell(requester, path, declared)), f"{method} {path}"


def test_a_role_counts_only_in_its_scope(app, tokens):
    """Every permission there is, but for another database: what names this one is refused, or not there."""
    caller = Caller(app, tokens["elsewhere"])
    statuses = {
        f"{method} {path}": call(caller, method, path, declared)
        for method, path, declared in ROUTES
        if declared.extent is Extent.SCOPED and (declared.body is not None or declared.query is not None)
    }
    assert statuses
    assert set(statuses.values()) <= {403, 404}, statuses


def test_the_page_holds_the_table_of_the_code():
    page = authorization.PAGE.read_text()
    assert authorization.page_with(page, authorization.table(bare_app())) == page, "run python -m web.authorization"
