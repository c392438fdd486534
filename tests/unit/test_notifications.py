"""Which webhooks are told of what, and where a server may call."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from dbward.domain.addresses import is_public, refuse_host
from dbward.domain.model import Event, Target
from dbward.domain.notifications import ANNOUNCED, NotificationPolicy, matches, matches_any, recipients

PRODUCTION = Target("app", "production")
HOOKS: dict[str, tuple[str, ...]] = {"all": (), "requests": ("request.*",), "created": ("request.created",)}


def policy(
    database: str, environment: str, webhooks: tuple[str, ...] = (), events: tuple[str, ...] = ()
) -> NotificationPolicy:
    return NotificationPolicy(f"np:{database}:{environment}", database, environment, webhooks, events)


@pytest.mark.parametrize(
    ("filters", "event", "expected"),
    [
        ((), "request.created", True),
        (("*",), "user.created", True),
        (("request.created",), "request.created", True),
        (("request.created",), "request.created_by_nobody", False),
        (("request.*",), "request.created", True),
        (("request.*",), "requests.created", False),
        (("execution.*", "step.approved"), "step.approved", True),
        (("request",), "request.created", False),
        (("request.c*",), "request.created", False),
        (("",), "request.created", False),
    ],
)
def test_filters(filters, event, expected):
    assert matches(filters, event) is expected


def test_a_filter_that_nothing_passes_is_known():
    assert all(map(matches_any, ("*", "request.*", "step.*", "execution.lost", "user.created")))
    assert not any(map(matches_any, ("request.creatd", "request", "token.created", "result.*", "")))


@pytest.mark.parametrize(
    ("event", "target", "policies", "told"),
    [
        (Event.REQUEST_CREATED, PRODUCTION, [], ["all", "requests", "created"]),
        (Event.REQUEST_APPROVED, PRODUCTION, [], ["all", "requests"]),
        (Event.EXECUTION_LOST, PRODUCTION, [], ["all"]),
        (Event.USER_CREATED, None, [], ["all"]),
        (Event.REQUEST_BLOCKED_BY_REVIEW, PRODUCTION, [], ["all", "requests"]),
        # Of these the log is told and nobody else.
        (Event.REQUEST_REFUSED, PRODUCTION, [], []),
        (Event.TOKEN_CREATED, None, [], []),
        (Event.EXECUTION_CLAIMED, PRODUCTION, [policy("*", "*", ("all",), ("*",))], []),
        # A policy names the webhooks, and the events when it lists any.
        (Event.REQUEST_CREATED, PRODUCTION, [policy("*", "*", ("created",))], ["created"]),
        (Event.REQUEST_APPROVED, PRODUCTION, [policy("*", "*", ("created",))], []),
        (Event.REQUEST_APPROVED, PRODUCTION, [policy("*", "*", ("created",), ("request.*",))], ["created"]),
        (Event.REQUEST_CREATED, PRODUCTION, [policy("*", "*", ("all",), ("execution.*",))], []),
        (Event.REQUEST_CREATED, PRODUCTION, [policy("*", "production", ())], []),
        (Event.REQUEST_CREATED, PRODUCTION, [policy("*", "*", ("all", "all", "gone"))], ["all"]),
        # The most specific one holds alone; the environment weighs more.
        (
            Event.REQUEST_CREATED,
            PRODUCTION,
            [policy("*", "*", ("all",)), policy("app", "*", ("requests",)), policy("*", "production", ("created",))],
            ["created"],
        ),
        (
            Event.REQUEST_CREATED,
            PRODUCTION,
            [policy("app", "production", ("requests",)), policy("*", "production", ("created",))],
            ["requests"],
        ),
        # One of another target, and what has no target.
        (Event.REQUEST_CREATED, PRODUCTION, [policy("billing", "*", ())], ["all", "requests", "created"]),
        (Event.USER_CREATED, None, [policy("*", "*", ())], ["all"]),
    ],
)
def test_who_is_told(event, target, policies, told):
    assert recipients(event, target, HOOKS, policies) == told


def test_what_is_announced():
    """Whoever adds an event decides whether it leaves the house."""
    assert {event.partition(".")[0] for event in ANNOUNCED} == {"request", "step", "execution", "user"}
    kept = {event for event in Event if event.partition(".")[0] in {"request", "step", "execution", "user"}} - ANNOUNCED
    assert kept == {
        Event.REQUEST_REFUSED,
        Event.EXECUTION_CLAIMED,
        Event.EXECUTION_RELEASED,
        Event.EXECUTION_TOKEN_REFUSED,
    }


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.8.9.10", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "64:ff9b::169.254.169.254"),
        *("fd00:ec2::254", "::127.0.0.1", "64:ff9b:1::a00:1", "2001:db8::1", "192.0.2.1"),
    ],
)
def test_addresses_that_are_not_public(text):
    assert not is_public(ip_address(text))
    assert refuse_host(text) == "is not a public address"


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(text):
    assert is_public(ip_address(text))
    assert refuse_host(text) is None


@pytest.mark.parametrize(
    "text",
    ["localhost", "LOCALHOST", "localhost.", "api.localhost", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1",
     "017700000001", "127.0.0.1.", "fe80::1%eth0", "0", "127.0.0.0x1", "a.1"],
)  # fmt: skip
def test_other_ways_to_write_them(text):
    assert refuse_host(text) is not None


@pytest.mark.parametrize("text", ["hooks.example.com", "internal", "host1", "1.example", "10.0.0.1.example.com", "x1"])
def test_names_are_for_the_time_of_the_call(text):
    assert refuse_host(text) is None
