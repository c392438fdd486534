"""What a check comes to, and how many came to what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from dbward.errors import DbwardError

Status = Literal["pass", "warn", "fail", "skip"]

ABOUT: Final[Mapping[str, str]] = {
    "env_vars": "what the configuration takes from the environment and from files is there",
    "config_parse": "the configuration can be read, and its parts fit each other",
    "config_permissions": "nobody else on this machine can read its secrets or change it",
    "server_url_scheme": "the token and the results are not readable on their way",
    "server_reachable": "the server answers at its address",
    "server_ready": "the server can serve: its state and its result store answer",
    "tls": "the connection is encrypted, and the certificate will go on being accepted",
    "version_info": "this program and the server are the same version",
    "clock": "this machine and the server agree on the time, which tokens and logins depend on",
    "auth_configured": "there is something to sign in with",
    "auth_valid": "the server knows who you are",
    "oidc_discovery": "people can sign in through the identity provider",
    "databases_exist": "there is a database to work on",
    "workflows_exist": "somebody has said what may run and who approves it: without that every request is denied",
    "agents_serve": "an agent runs statements for every database and environment",
    "results_dir": "results can be saved on this machine",
    "agent_version": "the server takes agents of this version",
    "agent_token_valid": "the server accepts the agent",
    "broker": "the agent can fetch jobs",
    "probe_files": "health checks can see that the agent lives",
    "database": "the agent can log in to the database and run statements there",
    "account": "the account may do what the agent offers, and no more",
    "state_dir": "the server can write its keys and its state",
    "state_permissions": "nobody else on this machine can read the server's keys, its first tokens and its record",
    "state_filesystem": "no second server can get at the same SQLite file",
    "state_store": "the state database can be opened, and this version works on its tables",
    "state_clock": "this machine and the state database agree on the time",
    "signing_keys": "the keys are there which the record and the execution tokens are signed with",
    "disk": "there is room for what has to be recorded",
    "server_running": "a server runs on this state",
    "listen": "the server will get the port that its configuration names",
    "result_store": "results can be stored",
    "backup": "the state is backed up, and was lately",
    "admin_token": "the first administrator's token is good: what only the server knows is asked for with it",
    "tokens": "no token is about to expire unnoticed",
    "workflow_validity": "there is something to ask for, and a rule for it",
    "workflow_coverage": "no operation is denied only because it was forgotten",
    "workflow_step_validity": "there are enough people for the approvals that are asked for",
    "sql_review_safety": "what destroys data in production is at least warned of",
}
"""What it means that a check passes, by its id without what follows the `:`."""


@dataclass(frozen=True, slots=True)
class Check:
    """`message` says what was found and `hint` how to mend it; `details` are lines below them.

    `id` is stable, for scripts select by it. What stands behind a `:` says which of several things of that kind was
    looked at.
    """

    id: str
    status: Status
    message: str
    hint: str | None = None
    details: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """What it would mean that it passes."""
        return ABOUT[self.id.partition(":")[0]]

    def as_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"id": self.id, "status": self.status, "message": self.message, "about": self.about}
        if self.hint:
            made["hint"] = self.hint
        if self.details:
            made["details"] = list(self.details)
        return made


def passed(name: str, message: str, details: Iterable[str] = ()) -> Check:
    return Check(name, "pass", message, details=tuple(details))


def warned(name: str, message: str, hint: str | None = None, details: Iterable[str] = ()) -> Check:
    return Check(name, "warn", message, hint, tuple(details))


def failed(name: str, message: str, hint: str | None = None, details: Iterable[str] = ()) -> Check:
    return Check(name, "fail", message, hint, tuple(details))


def skipped(name: str, message: str) -> Check:
    return Check(name, "skip", message)


def refused(name: str, error: DbwardError, hint: str | None = None) -> Check:
    """A failure in the words of the error; `hint` where it has none."""
    first, *rest = error.message.splitlines() or [error.code]
    return failed(name, first, error.hint or hint, rest)


def config_read(found: str, warnings: Sequence[str], *, doubtful: str | None = None) -> Check:
    """`config_parse` of a file that could be read; `doubtful` is what is said of it when it has `warnings`."""
    if warnings:
        said = doubtful or f"read with doubts: {found}"
        return warned("config_parse", said, "each line says what has no effect or is doubtful", warnings)
    return passed("config_parse", found)


def plain_http(url: str) -> Check:
    return warned(
        "server_url_scheme",
        f"plain http to {url}: everybody on the way can read the token and the results",
        "use https; allow_insecure only silences this",
    )


def summary(checks: Sequence[Check]) -> dict[str, int]:
    names: dict[str, Status] = {"passed": "pass", "warnings": "warn", "failed": "fail", "skipped": "skip"}
    return {name: sum(check.status == status for check in checks) for name, status in names.items()}
