"""What server.toml may say, what each mistake is called, and what stays secret."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from dbward.domain.model import (
    Dialect,
    Operation,
    Ownership,
    Permission,
    RiskLevel,
    Selector,
    SelectorKind,
    Target,
)
from dbward.errors import Misconfigured
from dbward.settings.server import load_server, parse_listen
from dbward.settings.server_limits import Limits
from dbward.settings.server_oidc import OidcSettings, RoleMapping

TOKEN = "dbw_" + "0123456789abcdef" * 2
OIDC = '[auth.oidc]\nissuer = "https://x"\nclient_id = "x"\n'
MINIMAL = """
state_dir = "state"
[[databases]]
name = "app"
environments = ["development", "production"]
[[workflows]]
[workflows.auto_approve]
mode = "always"
"""
FULL = """
state_dir = "/var/lib/dbward"
trusted_proxies = ["10.0.0.0/8", "::1"]
allow_private_networks = true

[server]
listen = "[::1]:3001"
max_polls = 100
pin_cpu = false
graceful_timeout_secs = 10

[limits]
reads_per_minute = 600
writes_per_minute = 0
polls_per_token = 1
polls_per_agent_token = 20
failed_sign_ins_per_minute = 5

[state]
url = "postgres://dbward:hunter2@db.internal/dbward"
exclusive = false
lock_wait_secs = 3

[requests]
max_detail_bytes = 1000000
dispatch_timeout_secs = 60

[auth]
mode = "token"
default_role = "reader"
[auth.token_policy]
max_active_tokens_per_user = 0
[[auth.roles]]
name = "reader"
permissions = ["request.query", "request.view:any", "result.view:own"]
databases = ["app"]
[[auth.roles]]
name = "root"
permissions = ["*"]
[[auth.groups]]
name = "dba"
roles = ["approver", "reader"]
[[auth.users]]
id = "alice@example.com"
roles = ["requester"]
groups = ["dba"]
token = "${ALICE}"
[[auth.users]]
id = "bob"
[auth.oidc]
issuer = "https://id.example.com"
client_id = "dbward"
[[auth.oidc.role_mappings]]
claim = "groups"
value = "dbas"
role = "reader"
[[auth.oidc.role_mappings]]
claim = "a.b"
value = "x"
role = "root"

[[databases]]
name = "app"
environments = ["development", "production"]
dialect = "mariadb"
vouched_functions = ["refund_total", "app.score"]
[[databases]]
name = "shop"
environments = ["production"]

[[workflows]]
database = "app"
environment = "production"
operations = ["query"]
explain = false
[workflows.auto_approve]
mode = "risk_based"
risk = "medium"
allow_read_only = false
max_estimated_rows = 5
[[workflows.steps]]
mode = "any"
approvers = [{ role = "approver", min = 2 }, { group = "dba" }, { user = "bob" }]
[[workflows]]
database = "app"
environment = "production"
operations = ["execute_dml", "migrate_up"]
require_reason = true
allow_self_approve = true
allow_same_approver_across_steps = true
pending_ttl_secs = 60
approval_ttl_secs = 3600
statement_timeout_secs = 9
[[workflows.steps]]
approvers = [{ user = "bob" }]
[[workflows.steps]]
approvers = [{ user = "bob" }]

[[execution_policies]]
environment = "production"
max_executions = 3
execution_window_secs = 600
retry_on_failure = true
statement_timeout_secs = 60
max_statement_timeout_secs = 120
max_rows = 5
migration_lease_duration_secs = 600
migration_statement_timeout_secs = 0
[[result_policies]]
database = "app"
retention_days = 7
delivery_mode = "stream"
access = ["group:dba", "requester", "user:carol", "role:reader"]
[[sql_review]]
drop_table = "warn"
[[webhooks]]
id = "ops-1"
url = "https://hooks.example.com/x?key=hunter2"
events = ["request.*"]
format = "slack"
secret = "hunter2"
[[notification_policies]]
webhooks = ["ops-1"]
events = ["request.created"]

[retention]
request_ttl_days = 1
audit_ttl_days = 2
result_ttl_days = 3
approval_ttl_secs = 4
[audit]
redaction = "full"
[result_storage]
backend = "local"
root_dir = "rows"
bucket = "rows"
region = "eu-west-1"
endpoint = "https://s3.example.com"
access_key_id = "id"
secret_access_key = "hunter2"
path_style = true
prefix = "p"
max_persist_bytes = 5000
[result_channel]
max_slots = 5
slot_ttl_secs = 5
[logging]
level = "warn"
format = "json"
[slack]
bot_token = "hunter2"
signing_secret = "hunter2"
channel = "#x"
[slack.onboarding]
enabled = true
assignable_roles = ["reader"]
assignable_groups = ["dba"]
restricted_roles = []
request_ttl_hours = 1
[mcp]
enabled = false
allowed_origins = ["https://x"]
default_environment = "development"
session_ttl_secs = 10
max_sessions = 1
elicitation_timeout_secs = 10
replay_buffer_size = 1
[preflight]
max_concurrent_per_user = 1
max_explain_timeout_ms = 1
rate_limit_per_minute = 1
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return path


def mistakes(tmp_path: Path, text: str, **env: str) -> list[str]:
    path = write(tmp_path, text)
    with pytest.raises(Misconfigured) as e:
        load_server(path, env)
    assert e.value.code == "config_error"
    found = e.value.message.splitlines()
    assert all(line.startswith(f"{path}: ") for line in found)
    return [line.removeprefix(f"{path}: ") for line in found]


def test_minimal(tmp_path: Path) -> None:
    s = load_server(write(tmp_path, MINIMAL), {})
    assert s.state_dir == tmp_path / "state"
    assert s.state.url == f"sqlite:///{tmp_path / 'state' / 'dbward.db'}"
    assert (s.state.exclusive, s.state.lock_wait) == (True, None)
    assert s.listen == ("127.0.0.1", 3000)
    assert s.policy.targets == (Target("app", "development"), Target("app", "production"))
    assert s.policy.workflows[0].auto_approve is not None
    assert s.results.max_persist_bytes == 10 * 1024 * 1024
    assert s.results.root_dir == tmp_path / "state" / "results"
    assert s.max_detail_bytes == 100_000
    assert s.dispatch_timeout == timedelta(seconds=300)
    assert s.http.max_polls == 512
    assert s.limits == Limits(12_000, 3_000, polls_per_token=128, polls_per_agent_token=256)
    assert re.fullmatch("[0-9a-f]{64}", s.config_digest)
    assert s.warnings == ()


def test_everything(tmp_path: Path) -> None:
    s = load_server(write(tmp_path, FULL), {"ALICE": TOKEN})
    assert s.state_dir == Path("/var/lib/dbward")
    assert s.listen == ("::1", 3001)
    assert s.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert s.state.url == "postgresql://dbward:hunter2@db.internal/dbward"
    assert (s.state.exclusive, s.state.lock_wait) == (False, timedelta(seconds=3))
    assert (s.http.max_polls, s.http.pin_cpu, s.http.graceful_timeout) == (100, False, timedelta(seconds=10))
    assert s.limits == Limits(600, 0, 1, 20, 5)
    assert (s.max_detail_bytes, s.dispatch_timeout) == (1_000_000, timedelta(seconds=60))
    assert s.max_active_tokens_per_user == 0
    assert s.policy.default_role == "reader"
    reader = s.policy.roles["reader"]
    assert [(g.permission, g.ownership) for g in reader.grants] == [
        (Permission.REQUEST_QUERY, Ownership.OWN),
        (Permission.REQUEST_VIEW, Ownership.ANY),
        (Permission.RESULT_VIEW, Ownership.OWN),
    ]
    assert (reader.databases, reader.environments) == (("app",), ("*",))
    assert s.policy.groups == {"dba": ("approver", "reader")}
    alice, bob = s.users
    assert alice.token is not None
    assert (alice.id, alice.roles, alice.groups, alice.token.reveal()) == (
        "alice@example.com",
        ("requester",),
        ("dba",),
        TOKEN,
    )
    assert (bob.id, bob.token) == ("bob", None)
    assert s.dialects[Target("app", "production")] is Dialect.MYSQL
    assert Target("shop", "production") not in s.dialects
    assert s.policy.vouched[Target("app", "production")] == {"refund_total", "app.score"}
    assert Target("shop", "production") not in s.policy.vouched

    first, second = s.policy.workflows
    assert first.operations == (Operation.EXECUTE_SELECT,)
    assert first.auto_approve is not None
    assert first.auto_approve.risk is RiskLevel.MEDIUM
    assert [(str(a.selector), a.min) for a in first.steps[0].approvers] == [
        ("role:approver", 2),
        ("group:dba", 1),
        ("user:bob", 1),
    ]
    assert first.steps[0].mode == "any"
    assert re.fullmatch("wf:app:production:[0-9a-f]{12}", first.id)
    assert first.id != second.id
    assert (second.pending_ttl, second.approval_ttl) == (timedelta(seconds=60), timedelta(hours=1))
    assert second.require_reason
    assert second.allow_self_approve

    rule = s.policy.execution_policies[0]
    assert (rule.id, rule.max_executions, rule.max_rows) == ("ep:*:production", 3, 5)
    assert rule.migration_statement_timeout == timedelta(0)
    keep = s.policy.result_policies[0]
    assert (keep.id, keep.retention, keep.delivery_mode) == ("rp:app:*", timedelta(days=7), "stream")
    assert keep.access[1] == Selector(SelectorKind.REQUESTER)
    assert s.retention.approval_ttl == timedelta(seconds=4)
    assert s.audit_redaction == "full"
    assert s.results.root_dir == tmp_path / "rows"
    assert s.logging.level == "warning"
    assert s.features.slack is not None
    assert s.policy.sql_review[0].rules == {"drop_table": "warn"}
    assert s.oidc == OidcSettings(
        "https://id.example.com",
        "dbward",
        None,
        (RoleMapping("groups", "dbas", "reader"), RoleMapping("a.b", "x", "root")),
    )
    for section in ("slack", "mcp", "webhooks", "result_channel"):
        assert any(f"[{section}]" in warning for warning in s.warnings), section


def test_webhooks_may_stay_at_home_when_that_is_allowed(tmp_path: Path) -> None:
    hooks = "".join(
        f'[[webhooks]]\nid = "hook-{n}"\nurl = "http://{host}:8080/x"\n'
        for n, host in enumerate(("localhost", "10.0.0.1", "[::1]"))
    )
    settings = load_server(write(tmp_path, f"allow_private_networks = true\n{MINIMAL}\n{hooks}"), {})
    assert len(settings.features.webhooks) == 3


def test_an_event_that_does_not_exist_is_named(tmp_path: Path) -> None:
    text = (
        f'{MINIMAL}\n[[webhooks]]\nid = "a"\nurl = "https://x"\nevents = ["request.*", "request.creatd"]\n'
        '[[notification_policies]]\nenvironment = "production"\nwebhooks = ["a"]\n'
        'events = ["token.*", "user.created"]\n'
    )
    settings = load_server(write(tmp_path, text), {})
    told = [warning for warning in settings.warnings if "no event" in warning]
    assert [warning.partition(":")[0] for warning in told] == ["webhooks[0].events", "notification_policies[0].events"]
    assert "'request.creatd'" in told[0]
    assert settings.features.notification_policies[0].id == "np:*:production"


def test_no_secret_in_the_repr(tmp_path: Path) -> None:
    text = repr(load_server(write(tmp_path, FULL), {"ALICE": TOKEN}))
    assert "hunter2" not in text
    assert TOKEN not in text


def test_every_mistake_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """
        stat_dir = "x"
        [[databases]]
        name = "App"
        environments = ["*"]
        [[workflows]]
        [[workflows.steps]]
        approvers = [{ role = "nobody", min = 0 }]
        [auth]
        mode = "magic"
        [retention]
        approval_ttl_secs = 0
        [no_such_section]
        """,
    )
    keys = [line.split(": ")[0] for line in found]
    assert keys == [
        "state_dir",
        "databases[0].name",
        "databases[0].environments",
        "workflows[0].steps[0].approvers[0].min",
        "auth.mode",
        "workflows[0].steps[0].approvers",
        "retention.approval_ttl_secs",
        "stat_dir",
        "no_such_section",
    ]


STEP = '[[workflows.steps]]\napprovers = [{ role = "approver" }]\n'


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("[[workflows]]", "workflows[0]", "needs"),
        ('[[workflows]]\n[workflows.auto_approve]\nmode = "always"\n' + STEP, "workflows[0].steps", "always"),
        (
            '[[workflows]]\n[workflows.auto_approve]\nmode = "risk_based"\nrisk = "low"',
            "workflows[0].steps",
            "required",
        ),
        (
            '[[workflows]]\n[workflows.auto_approve]\nmode = "risk_based"\n' + STEP,
            "workflows[0].auto_approve.risk",
            "required",
        ),
        (
            '[[workflows]]\n[workflows.auto_approve]\nmode = "risk_based"\nrisk = "critical"\n' + STEP,
            "workflows[0].auto_approve.risk",
            "not one of",
        ),
        ("[[workflows]]\n[workflows.auto_approve]\n", "workflows[0].auto_approve.mode", "required"),
        ("[[workflows]]\n[[workflows.steps]]", "workflows[0].steps[0].approvers", "required"),
        ("[[workflows]]\n[[workflows.steps]]\napprovers = []", "workflows[0].steps[0].approvers", "nobody"),
        (
            '[[workflows]]\n[[workflows.steps]]\napprovers = [{ user = "a", min = 2 }]',
            "workflows[0].steps[0].approvers[0].min",
            "once",
        ),
        (
            '[[workflows]]\n[[workflows.steps]]\napprovers = [{ role = "approver", min = "2" }]',
            "workflows[0].steps[0].approvers[0].min",
            "whole number",
        ),
        (
            '[[workflows]]\n[[workflows.steps]]\napprovers = [{ role = "approver", user = "x" }]',
            "workflows[0].steps[0].approvers[0]",
            "exactly one",
        ),
        (
            '[[workflows]]\n[[workflows.steps]]\napprovers = [{ group = "ghosts" }]',
            "workflows[0].steps[0].approvers",
            "no group 'ghosts'",
        ),
        (
            '[[workflows]]\n[[workflows.steps]]\nmode = "most"\napprovers = [{ role = "approver" }]',
            "workflows[0].steps[0].mode",
            "not one of",
        ),
        (
            (
                '[[workflows]]\n[[workflows.steps]]\napprovers = [{ user = "a" }]\n'
                '[[workflows.steps]]\napprovers = [{ user = "a" }]'
            ),
            "workflows[0].steps[1]",
            "already in steps[0]",
        ),
        ('[[workflows]]\noperations = ["drop"]\n' + STEP, "workflows[0].operations", "unknown operation"),
        ('[[workflows]]\noperations = ["query", "execute"]\n' + STEP, "workflows[0].operations", "already listed"),
        ('[[workflows]]\noperations = [""]\n' + STEP, "workflows[0].operations", "empty"),
        (f"[[workflows]]\n{STEP}[[workflows]]\n{STEP}", "workflows[1]", "all operations"),
        (
            f'[[workflows]]\noperations = ["query"]\n{STEP}[[workflows]]\noperations = ["execute_select"]\n{STEP}',
            "workflows[1]",
            "operation execute_select",
        ),
        (f'[[workflows]]\noperations = ["query"]\n{STEP}[[workflows]]\n{STEP}', "workflows[1]", "all operations"),
        (f'[[workflows]]\n{STEP}[[workflows]]\noperations = ["query"]\n{STEP}', "workflows[1]", "execute_select"),
        (f"[[workflows]]\nallow_selfapprove = true\n{STEP}", "workflows[0].allow_selfapprove", "allow_self_approve"),
        ("[requests]\nmax_detail_bytes = 1048577", "requests.max_detail_bytes", "at most 1048576"),
        ("[[execution_policies]]\nmax_executions = 0", "execution_policies[0].max_executions", "at least 1"),
        (
            "[[execution_policies]]\nstatement_timeout_secs = 601",
            "execution_policies[0].statement_timeout_secs",
            "600",
        ),
        ("[[execution_policies]]\n[[execution_policies]]", "execution_policies[1]", "second entry"),
        ("[[result_policies]]\n[[result_policies]]", "result_policies[1]", "second entry"),
        ('[[result_policies]]\naccess = ["dba"]', "result_policies[0].access", "selector"),
        ('[[result_policies]]\naccess = ["role:dba"]', "result_policies[0].access", "no role"),
        ('[[sql_review]]\ndatabase = "any"', "sql_review[0].database", "reserved"),
        ('[[sql_review]]\ndrop_tables = "warn"', "sql_review[0].drop_tables", "drop_table"),
        ('[[sql_review]]\ndrop_table = "yes"', "sql_review[0].drop_table", "block, warn, off"),
        ('[sql_review]\ndrop_table = "warn"', "sql_review", "[[sql_review]]"),
        ('[[webhooks]]\nurl = "https://hooks.example.com/x"', "webhooks[0].id", "hooks-example-com"),
        ('[[webhooks]]\nid = "A"\nurl = "https://x"', "webhooks[0].id", "lower-case"),
        ('[[webhooks]]\nid = "a"\nurl = "file:///etc/passwd"', "webhooks[0].url", "http"),
        ('[[webhooks]]\nid = "a"\nurl = "https://x:port/"', "webhooks[0].url", "http"),
        ('[[webhooks]]\nid = "a"\nurl = "https://u:p@127.0.0.1/x"', "webhooks[0].url", "allow_private_networks"),
        ('[[webhooks]]\nid = "a"\nurl = "http://[::1]:8080/x"', "webhooks[0].url", "not a public address"),
        ('[[webhooks]]\nid = "a"\nurl = "http://169.254.169.254/latest"', "webhooks[0].url", "not a public address"),
        ('[[webhooks]]\nid = "a"\nurl = "http://localhost/x"', "webhooks[0].url", "this machine"),
        ('[[webhooks]]\nid = "a"\nurl = "http://2130706433/x"', "webhooks[0].url", "a number"),
        ('[[notification_policies]]\nwebhooks = ["x"]', "notification_policies[0].webhooks", "no webhook"),
        ('[[auth.roles]]\nname = "admin"\npermissions = ["*"]', "auth.roles[0].name", "built in"),
        ('[[auth.roles]]\nname = "x"', "auth.roles[0].permissions", "required"),
        ('[[auth.roles]]\nname = "x"\npermissions = ["request.approve"]', "auth.roles[0].permissions", "unknown"),
        ('[[auth.roles]]\nname = "x"\npermissions = ["*:own"]', "auth.roles[0].permissions", "unknown"),
        ('[[auth.groups]]\nname = "x"\nroles = []', "auth.groups[0].roles", "required"),
        ('[[auth.groups]]\nname = "x"\nroles = ["approver"]\nmembers = ["a"]', "auth.groups[0].members", "auth.users"),
        ('[[auth.role_bindings]]\nrole = "x"', "auth.role_bindings", "auth.users"),
        ('[[users]]\nid = "x"', "users", "auth.users"),
        ('[[auto_approve]]\nmode = "x"', "auto_approve", "workflows.auto_approve"),
        ('[[auth.users]]\nid = "x"\ntoken = "secret-text"', "auth.users[0].token", "dbw_"),
        ('[[auth.users]]\nid = "x"\ntoken = ""', "auth.users[0].token", "empty"),
        ('[[auth.users]]\nid = "x"\ntoken = "${NOPE}"', "auth.users[0].token", "NOPE"),
        ('[[auth.users]]\nid = "x"\nroles = ["ghost"]', "auth.users[0].roles", "no role 'ghost'"),
        ('[[auth.users]]\nid = "x"\ngroups = ["ghost"]', "auth.users[0].groups", "no group 'ghost'"),
        ('[[auth.users]]\nid = "system"', "auth.users[0].id", "itself"),
        ('[[auth.users]]\nid = "x"\nroles = ["agent-default"]', "auth.users[0].roles", "agents"),
        ('[[auth.users]]\nid = "x"\n[[auth.users]]\nid = "x"', "auth.users[1].id", "twice"),
        (
            f'[[auth.users]]\nid = "x"\ntoken = "{TOKEN}"\n[[auth.users]]\nid = "y"\ntoken = "{TOKEN}"',
            "auth.users[1].token",
            "another",
        ),
        ('[auth]\ndefault_role = "ghost"', "auth.default_role", "no role"),
        ('[auth.oidc]\nclient_id = "x"', "auth.oidc.issuer_url", "required"),
        ('[auth.oidc]\nissuer = "https://x"', "auth.oidc.client_id", "audience"),
        ('[auth.oidc]\nissuer = "http://id.example.com"\nclient_id = "x"', "auth.oidc.issuer", "https://"),
        ('[auth.oidc]\nissuer_url = "https://a:b@x"\nclient_id = "x"', "auth.oidc.issuer_url", "password"),
        (OIDC + 'jwks_uri = ""', "auth.oidc.jwks_uri", "empty"),
        (OIDC + 'jwks_uri = "ftp://x"', "auth.oidc.jwks_uri", "https://"),
        (
            OIDC + '[[auth.oidc.role_mappings]]\nclaim = "groups"\nvalue = "x"\nrole = "agent-default"',
            "auth.oidc.role_mappings[0].role",
            "agents",
        ),
        ('[server]\nlisten = "3000"', "server.listen", "host:port"),
        ('[state]\nurl = "mysql://x"', "state.url", "sqlite"),
        ('[state]\nurl = "sqlite:///relative.db"', "state.url", "sqlite"),
        ('[result_storage]\naccess_key_id = "x"', "result_storage.access_key_id", "secret_access_key"),
        ('[audit]\nredaction = "some"', "audit.redaction", "literals, full, none"),
        ('[logging]\nlevel = "loud"', "logging.level", "not one of"),
        ('[slack]\nbot_token = "x"', "slack.signing_secret", "required"),
        ("[mcp]\nsession_ttl_secs = 9", "mcp.session_ttl_secs", "at least 10"),
        ('[[databases]]\nname = "x"\n[[databases]]\nname = "x"', "databases[1].name", "twice"),
        ('[[databases]]\nname = "x"\ndialect = "oracle"', "databases[0].dialect", "not one of"),
        (
            '[[databases]]\nname = "x"\nvouched_functions = ["F()"]',
            "databases[0].vouched_functions",
            "no function's name",
        ),
        ('trusted_proxies = ["nowhere"]', "trusted_proxies", "nowhere"),
        ('trusted_proxies = ["10.0.0.1/8"]', "trusted_proxies", "host bits"),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, where: str, words: str) -> None:
    found = mistakes(tmp_path, f'state_dir = "x"\n{text}')
    assert len(found) == 1, found
    assert found[0].startswith(f"{where}: ")
    assert words in found[0]
    assert "secret-text" not in found[0]


def test_what_is_odd_but_allowed_is_a_warning(tmp_path: Path) -> None:
    s = load_server(
        write(
            tmp_path,
            'state_dir = "x"\n[[databases]]\nname = "app"\nenvironments = ["production"]\n'
            '[[workflows]]\ndatabase = "shop"\n'
            '[[workflows.steps]]\napprovers = [{ role = "approver" }, { role = "approver", min = 2 }]\n'
            '[[workflows.steps]]\napprovers = [{ role = "approver" }]\n'
            '[[workflows]]\n[workflows.auto_approve]\nmode = "always"\nrisk = "low"\n'
            '[[notification_policies]]\nenvironment = "prod"\n',
        ),
        {},
    )
    text = "\n".join(s.warnings)
    assert "stands there twice" in text
    assert "notification_policies: the entry for */prod matches no entry" in text
    assert "already in steps[0]" in text
    assert "shop/* matches no entry" in text
    assert "no effect with mode `always`" in text


def test_groups_of_an_identity_provider_are_not_known_beforehand(tmp_path: Path) -> None:
    text = (
        'state_dir = "x"\n[auth.oidc]\nissuer_url = "https://id"\naudience = "dbward"\n'
        '[[workflows]]\n[[workflows.steps]]\napprovers = [{ group = "their-dbas" }]'
    )
    assert load_server(write(tmp_path, text), {}).policy.workflows[0].steps


def test_the_client_id_is_the_audience_when_both_are_given(tmp_path: Path) -> None:
    text = (
        'state_dir = "x"\n[auth.oidc]\nissuer_url = "http://localhost:9"\naudience = "api"\nclient_id = "dbward"\n'
        'default_role = "requester"\njwks_uri = "https://keys.example.com/set"\n'
    )
    s = load_server(write(tmp_path, text), {})
    assert s.oidc == OidcSettings("http://localhost:9", "dbward", "https://keys.example.com/set")
    assert any("default_role has no effect" in warning for warning in s.warnings)
    assert s.policy.default_role is None


def test_the_environment_decides_about_logging(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    s = load_server(path, {"DBWARD_LOG_LEVEL": "debug", "DBWARD_LOG_FORMAT": "json"})
    assert (s.logging.level, s.logging.format) == ("debug", "json")
    with pytest.raises(Misconfigured, match="DBWARD_LOG_LEVEL"):
        load_server(path, {"DBWARD_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:3000", ("127.0.0.1", 3000)),
        ("[::]:80", ("::", 80)),
        (":0", ("0.0.0.0", 0)),
        ("server:65535", ("server", 65535)),
    ],
)
def test_listen(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", "3000", "::1:3000", "x:", "x:65536", "x:-1", "x:1e3", "x:٣"])
def test_no_listen(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_listen(text)
