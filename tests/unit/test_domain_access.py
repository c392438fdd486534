"""Names, roles, permissions: what is not plainly allowed is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain import rbac
from dbward.domain.model import (
    SYSTEM,
    Grant,
    Operation,
    Ownership,
    Permission,
    PolicySet,
    Principal,
    Role,
    Selector,
    SelectorKind,
    Target,
)
from dbward.domain.names import parse_name, parse_operation, parse_selector
from dbward.domain.roles import BUILTIN_ROLES, parse_grant, resolve
from dbward.errors import Invalid
from tests.support.props import calm

PROD = Target("app", "production")
DEV = Target("app", "development")


def person(*roles: Role, subject: str = "ann", groups: tuple[str, ...] = ()) -> Principal:
    return Principal(subject=subject, kind="user", roles=roles, groups=groups)


def agent(*scopes: Target) -> Principal:
    return Principal(subject="a1", kind="agent", roles=(BUILTIN_ROLES["agent-default"],), scopes=scopes)


@pytest.mark.parametrize("text", ["a", "app", "a-b_c9", "z" * 63])
def test_names(text: str) -> None:
    assert parse_name(text, "database") == text


@pytest.mark.parametrize("text", ["", "*", "A", "9a", "-a", "a b", "a\n", "a" * 64, "é", "a\0", "a/b", "a.b"])
def test_not_names(text: str) -> None:
    with pytest.raises(Invalid, match="database"):
        parse_name(text, "database")


@pytest.mark.parametrize("text", ["", "execute", "query", "execute_query", "execute_select"])
def test_aliases_of_select(text: str) -> None:
    assert parse_operation(text) is Operation.EXECUTE_SELECT


@pytest.mark.parametrize("text", ["EXECUTE", "select", "migrate", " execute_dml"])
def test_unknown_operations(text: str) -> None:
    with pytest.raises(Invalid, match="unknown operation"):
        parse_operation(text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("role:dba", SelectorKind.ROLE, "dba"),
        ("group:on-call", SelectorKind.GROUP, "on-call"),
        ("user:auth0|x:1", SelectorKind.USER, "auth0|x:1"),
        ("requester", SelectorKind.REQUESTER, ""),
    ],
)
def test_selectors(text: str, kind: SelectorKind, value: str) -> None:
    assert parse_selector(text) == Selector(kind, value)
    assert str(parse_selector(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "dba", "role:", "role", "requester:", "requester:x", "team:x", "user: a", "user:a\n", "user:" + "x" * 129],
)
def test_not_selectors(text: str) -> None:
    with pytest.raises(Invalid):
        parse_selector(text)


def test_grants() -> None:
    assert parse_grant("*") == Grant(None, Ownership.ANY)
    assert parse_grant("request.view") == Grant(Permission.REQUEST_VIEW, Ownership.OWN)
    assert parse_grant("request.view:any") == Grant(Permission.REQUEST_VIEW, Ownership.ANY)
    for text in ("", "*:any", "request.approve", "request.view:", "request.view:all", "request.view:own:any"):
        with pytest.raises(Invalid):
            parse_grant(text)


def test_built_in_roles_hold_what_the_contract_says() -> None:
    names = {
        name: sorted(f"{grant.permission}{':any' if grant.ownership is Ownership.ANY else ''}" for grant in role.grants)
        for name, role in BUILTIN_ROLES.items()
    }
    assert sorted(names) == ["admin", "agent-default", "approver", "operator", "requester"]
    assert not [one for one in names["admin"] if one.startswith(("request.", "result.", "schema."))]
    assert {"agent.control", "token.revoke:any", "metrics.view"} <= set(names["admin"])
    assert not [one for one in names["requester"] if "break_glass" in one or ":any" in one]
    assert names["approver"] == [
        "request.view",
        "result.view",
        "schema.read",
        "token.create",
        "token.revoke",
        "workflow.read",
    ]
    assert {"request.break_glass_ddl", "request.view:any", "request.cancel:any", "result.view:any"} <= set(
        names["operator"]
    )
    assert "request.preflight" not in names["operator"]
    assert names["agent-default"] == ["agent.operate"]


DBA = Role("dba", (parse_grant("*"),), databases=("app",), environments=("production",))
POLICY = PolicySet(roles={"dba": DBA}, groups={"ops": ("dba", "approver"), "odd": ("gone",)}, default_role="requester")


def resolved(direct: list[str], groups: list[str], ceiling: list[str] | None = None) -> list[str]:
    return [role.name for role in resolve(direct, groups, POLICY, ceiling)]


def test_roles_add_up_and_unknown_names_give_nothing() -> None:
    assert resolved(["approver", "gone"], ["ops", "nobody"]) == ["approver", "dba"]
    assert resolved([], []) == ["requester"]
    assert resolved(["gone"], ["odd"]) == ["requester"]


def test_the_ceiling_only_takes_away() -> None:
    assert resolved(["approver"], ["ops"], ["dba"]) == ["dba"]
    assert resolved(["approver"], ["ops"], []) == []
    assert resolved([], [], ["admin"]) == []
    assert resolved([], [], ["requester"]) == ["requester"]


def test_a_configured_role_cannot_shadow_a_built_in_one() -> None:
    policy = PolicySet(roles={"approver": Role("approver", (parse_grant("*"),))})
    assert resolve(["approver"], [], policy, None) == (BUILTIN_ROLES["approver"],)


def test_scope_counts_unless_the_question_is_global() -> None:
    who = person(DBA)
    assert rbac.allowed(who, Permission.REQUEST_DML, PROD)
    assert not rbac.allowed(who, Permission.REQUEST_DML, DEV)
    assert rbac.allowed(who, Permission.REQUEST_DML, None)
    assert not rbac.allowed(who, Permission.REQUEST_DML, Target("*", "*"))
    assert rbac.allowed(person(BUILTIN_ROLES["operator"]), Permission.REQUEST_DML, Target("*", "*"))


def test_the_widest_ownership_wins() -> None:
    own = Role("own", (parse_grant("request.cancel"),))
    wide = Role("wide", (parse_grant("request.cancel:any"),), environments=("production",))
    who = person(own, wide)
    assert rbac.ownership(who, Permission.REQUEST_CANCEL, PROD) is Ownership.ANY
    assert rbac.ownership(who, Permission.REQUEST_CANCEL, DEV) is Ownership.OWN
    assert rbac.refuse(who, Permission.REQUEST_CANCEL, target=DEV, owner="ann") is None
    assert rbac.refuse(who, Permission.REQUEST_CANCEL, target=DEV, owner="bob") is not None
    assert rbac.refuse(who, Permission.REQUEST_CANCEL, target=PROD, owner="bob") is None
    refusal = rbac.refuse(who, Permission.REQUEST_DML, target=PROD, owner=None)
    assert refusal is not None
    assert "request.dml" in refusal.message
    assert "app/production" in refusal.message


def test_agents_have_agent_operate_in_their_scopes_and_nothing_else() -> None:
    assert rbac.allowed(agent(PROD), Permission.AGENT_OPERATE, PROD)
    assert rbac.allowed(agent(Target("app", "*")), Permission.AGENT_OPERATE, DEV)
    assert not rbac.allowed(agent(PROD), Permission.AGENT_OPERATE, DEV)
    assert not rbac.allowed(agent(), Permission.AGENT_OPERATE, PROD)
    assert rbac.allowed(agent(), Permission.AGENT_OPERATE, None)
    powerful = Principal(subject="a1", kind="agent", roles=(DBA,), scopes=(Target("*", "*"),))
    assert not rbac.allowed(powerful, Permission.REQUEST_DML, PROD)
    everything = Role("everything", (parse_grant("*"),))
    assert not rbac.allowed(person(everything), Permission.AGENT_OPERATE, PROD)
    assert not any(rbac.allowed(SYSTEM, permission, None) for permission in Permission)


@calm
@given(
    st.sets(st.sampled_from(sorted(BUILTIN_ROLES))),
    st.sampled_from(Permission),
    st.sampled_from([None, PROD, DEV]),
    st.sets(st.sampled_from(sorted(BUILTIN_ROLES))),
)
def test_more_roles_never_allow_less(
    names: set[str], permission: Permission, target: Target | None, more: set[str]
) -> None:
    few = person(*(BUILTIN_ROLES[name] for name in sorted(names)))
    many = person(*(BUILTIN_ROLES[name] for name in sorted(names | more)))
    if rbac.allowed(few, permission, target):
        assert rbac.allowed(many, permission, target)
    if not names:
        assert not rbac.allowed(few, permission, target)


def test_selectors_match_people_only() -> None:
    ann = person(BUILTIN_ROLES["approver"], groups=("ops",))
    hit = [text for text in ("role:approver", "group:ops", "user:ann", "requester") if matches(ann, text, "ann")]
    assert hit == ["role:approver", "group:ops", "user:ann", "requester"]
    assert not any(matches(ann, text, "bob") for text in ("role:dba", "group:dba", "user:bob", "requester"))
    machine = Principal(subject="ann", kind="agent", roles=ann.roles, groups=ann.groups)
    assert not any(matches(machine, text, "ann") for text in ("role:approver", "group:ops", "user:ann", "requester"))


def matches(who: Principal, text: str, requester: str) -> bool:
    return rbac.matches(who, parse_selector(text), requester=requester)


@pytest.mark.parametrize(
    ("operation", "flags", "needed"),
    [
        ("execute_select", "", "request.query"),
        ("execute_dml", "", "request.dml"),
        ("execute_dml", "is_ddl contains_ddl", "request.ddl"),
        ("execute_dml", "contains_ddl", "request.dml request.ddl"),
        ("migrate_up", "", "request.dml"),
        ("migrate_status", "", "request.dml"),
        ("execute_select", "emergency", "request.break_glass_query"),
        ("execute_dml", "emergency", "request.break_glass_dml"),
        ("migrate_repair", "emergency", "request.break_glass_dml"),
        ("execute_dml", "emergency contains_ddl", "request.break_glass_dml request.break_glass_ddl"),
        ("execute_dml", "emergency is_ddl contains_ddl", "request.break_glass_dml request.break_glass_ddl"),
        (
            "execute_dml",
            "emergency allow_ddl is_ddl contains_ddl",
            "request.break_glass_dml request.break_glass_ddl",
        ),
    ],
)
def test_what_submitting_needs(operation: str, flags: str, needed: str) -> None:
    said = {flag: flag in flags.split() for flag in ("emergency", "allow_ddl", "is_ddl", "contains_ddl")}
    assert " ".join(rbac.permission_for(Operation(operation), **said)) == needed
