"""One question about a database, how statements would run or what is migrated: claim → verify → ask → report.

Nothing is run, so nothing is lost when it goes wrong: until the answer is with the server, the message can be given
back and another agent may ask its database again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dbward.client.agent_api import AgentApi, patiently
from dbward.client.wire import AppliedFound, ExplainClaimed, Explained, ExplainReport, WireApplied
from dbward.domain.model import Operation, StatementError, Target
from dbward.domain.tokens import Binding, Purpose, statements_sha256
from dbward.errors import DbwardError, Unauthorized
from worker.databases import Databases
from worker.drivers.errors import CONNECTION_LOST, CredentialsRefused, StatementCancelled, StatementFailed, Unreachable
from worker.intake import Intake, PutBack
from worker.job import Rejected, Rules, genuine, not_allowed
from worker.jobs import Job
from worker.outcome import surprise, unreachable, wire_error
from worker.surprise import log_surprise

log = logging.getLogger("dbward.agent")

T = TypeVar("T")

_ASKS: Final = {
    "plans": (Operation.EXECUTE_SELECT, Purpose.EXPLAIN),
    "migrations": (Operation.MIGRATE_STATUS, Purpose.MIGRATIONS),
}

NO_TIME: Final = StatementError("explain.no_time", "there was no time left to explain this statement")


@dataclass(frozen=True, slots=True)
class Question:
    """Verified: the database may be asked how it would run exactly these, or with the kind `migrations`, which versions
    it has applied. `lifetime`: how long the answer is wanted."""

    claim_id: str
    kind: Literal["plans", "migrations"]
    target: Target
    statements: tuple[str, ...]
    timeout: timedelta
    lifetime: timedelta


def question(
    claimed: ExplainClaimed, key: Ed25519PublicKey, rules: Rules, *, asked_for: str, now: datetime
) -> Question | Rejected:
    """Check the token against everything that came with it. `asked_for` is the id in the queue message."""
    target = Target(claimed.database, claimed.environment)
    operation, purpose = _ASKS[claimed.kind]

    def expected() -> Binding:
        return Binding(
            claim_id=claimed.claim_id,
            request_id=asked_for,
            execution_id=asked_for,
            agent=rules.node,
            operation=operation,
            database=claimed.database,
            environment=claimed.environment,
            statements_sha256=statements_sha256(claimed.statements),
            statement_timeout_ms=claimed.timeout_ms,
            max_rows=0,
            max_bytes=0,
        )

    token = genuine(key, claimed.token, expected, target, rules, now=now, purpose=purpose)
    if isinstance(token, Rejected):
        return token
    if claimed.kind == "migrations" and operation not in rules.operations:
        return not_allowed(operation)
    timeout = timedelta(milliseconds=claimed.timeout_ms)
    return Question(
        claim_id=claimed.claim_id,
        kind=claimed.kind,
        target=target,
        statements=tuple(claimed.statements),
        timeout=min(timeout, rules.statement_timeout) if rules.statement_timeout else timeout,
        lifetime=claimed.expires_at - claimed.server_time,
    )


class Explainer:
    """Answers questions, each in its caller's thread; safe to use from many.

    `rules` gives the rules of now: the server may rename this agent.
    """

    def __init__(self, api: AgentApi, databases: Databases, intake: Intake, rules: Callable[[], Rules]) -> None:
        self._api = api
        self._databases = databases
        self._intake = intake
        self._rules = rules

    def explain(self, explain_id: str, tag: str) -> None:
        """Take one message to its end. Raises `PutBack` when it is to be delivered again."""
        job = Job(explain_id, explain_id)
        work = partial(self._explain, job, tag)
        self._intake.take(job, work, failure="explaining failed in the agent", explain_id=explain_id)

    def _explain(self, job: Job, tag: str) -> None:
        claimed = self._intake.claim(job, tag, self._api.claim_explain, what="explain")
        if claimed is None:
            return
        until = time.monotonic() + (claimed.expires_at - claimed.server_time).total_seconds()
        asked = self._intake.checked(
            lambda key, now: question(claimed, key, self._rules(), asked_for=job.execution_id, now=now)
        )
        if isinstance(asked, Rejected):
            log.error("explain refused: %s (%s)", asked.message, asked.code)
            error = wire_error(StatementError(asked.code, asked.message, hint=asked.hint))
            if claimed.kind == "migrations":
                refused = ExplainReport(claim_id=claimed.claim_id, applied=AppliedFound(error=error))
            else:
                answers = [Explained(error=error)] * len(claimed.statements)
                refused = ExplainReport(claim_id=claimed.claim_id, statements=answers)
            self._report(job, refused, until)
            return
        if asked.kind == "migrations":
            report = ExplainReport(claim_id=asked.claim_id, applied=self._applied(asked.target))
        else:
            report = ExplainReport(claim_id=asked.claim_id, statements=list(self._answers(job, asked, until)))
        if job.halt.is_set():
            raise PutBack("the agent is stopping")
        self._report(job, report, until)

    def _applied(self, target: Target) -> AppliedFound:
        try:
            ledger = self._databases.driver(target).ledger()
            return AppliedFound(versions=[WireApplied(**asdict(one)) for one in ledger.applied])
        except (Unreachable, CredentialsRefused) as e:
            self._databases.mark_down(target, e.message)
            return AppliedFound(error=wire_error(unreachable(e, target)))
        except StatementFailed as e:
            return AppliedFound(error=wire_error(e.error))
        except Exception as e:  # noqa: BLE001 - whatever it is, whoever waits must hear of it
            log_surprise("the driver failed to read the record of migrations", e)
            return AppliedFound(error=wire_error(surprise(e)))

    def _answers(self, job: Job, asked: Question, until: float) -> Iterator[Explained]:
        """One for each statement; once the database is gone, or time is up, for the rest at once."""
        ended: StatementError | None = None
        for statement in asked.statements:
            left = timedelta(seconds=until - time.monotonic())
            if ended is None and left <= timedelta(0):
                ended = NO_TIME
            if ended is not None or job.halt.is_set():
                yield _failed(ended or NO_TIME)
                continue
            try:
                yield self._ask(job, asked.target, statement, min(asked.timeout, left))
            except (Unreachable, CredentialsRefused) as e:
                log.warning("%s: %s", asked.target, e)
                ended = unreachable(e, asked.target)
                yield _failed(ended)

    def _ask(self, job: Job, target: Target, statement: str, timeout: timedelta) -> Explained:
        with self._databases.open(target) as session:
            job.runs_on(session)
            try:
                return Explained(plan=session.explain(statement, timeout=timeout))
            except (StatementFailed, StatementCancelled) as e:
                if e.code == CONNECTION_LOST:
                    self._databases.mark_down(target, e.message)
                return _failed(e.error)
            except Exception as e:  # noqa: BLE001 - whatever it is, whoever waits must hear of it
                log_surprise("the driver failed to explain", e)
                return _failed(surprise(e))
            finally:
                job.runs_on(None)

    def _report(self, job: Job, report: ExplainReport, until: float) -> None:
        """Until the server has taken it, or nobody waits for it any more."""
        send = partial(self._api.complete_explain, job.execution_id, report)
        try:
            patiently(send, stop=job.halt, what="report", limit_secs=max(0.0, until - time.monotonic()))
        except Unauthorized:
            self._intake.on_unauthorized()
        except DbwardError as e:
            log.warning("the answer was not taken: %s", e.message)
        else:
            log.info("answered: %s", "what is migrated" if report.applied else f"{len(report.statements)} plans")


def _failed(error: StatementError) -> Explained:
    return Explained(error=wire_error(error))
