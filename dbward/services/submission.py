"""What a text, or the files of a migration, mean for a target, as submitting and preflight both see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dbward import squawk
from dbward.db import agents, schemas
from dbward.db.engine import Connection
from dbward.domain.judge import Judgement, Part, judge
from dbward.domain.migration import Pinned, Repair, Sent, read_files, read_repair, signed_texts
from dbward.domain.model import Dialect, Operation, Target
from dbward.domain.risk import names_of
from dbward.domain.sql.classify import classify, classify_script
from dbward.domain.sql.facts import facts
from dbward.domain.sql.statements import Classification, Facts, Finding
from dbward.errors import Invalid
from dbward.runtime import Runtime

MAX_STATEMENTS_IN_REQUEST: Final = 5000
"""Of all files of a request to migrate; one file may have fewer."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a migration that was read: its statements begin at `first` among those of all files."""

    sent: Sent
    plan: Classification
    first: int

    @property
    def end(self) -> int:
        return self.first + len(self.plan.statements)

    def holds(self, finding: Finding) -> bool:
        """Whether it is about a statement of this file."""
        return self.first <= finding.statement_index < self.end

    @property
    def pinned(self) -> Pinned:
        return Pinned(
            version=self.sent.version,
            name=self.sent.name,
            checksum=self.sent.checksum,
            transactional=self.sent.transactional,
            statements=list(self.plan.texts),
            recorded=self.sent.recorded,
        )


@dataclass(frozen=True, slots=True)
class Submission:
    """A text that was read. `advice` comes from a program of its own, which is why no transaction is open meanwhile.

    Of migrations, `plan` holds the statements of all `files`; of a `repair`, none.
    """

    target: Target
    dialect: Dialect
    plan: Classification
    facts: tuple[Facts, ...]
    advice: tuple[Finding, ...]
    files: tuple[File, ...] = ()
    repair: Repair | None = None

    @property
    def signed(self) -> tuple[str, ...]:
        """The texts that an agent gets, and that its token binds."""
        if self.repair is not None:
            return signed_texts(self.repair)
        return signed_texts([file.pinned for file in self.files]) if self.files else self.plan.texts

    @property
    def sql(self) -> str | None:
        """The SQL alone, for the record: of several files one after the other; None for a repair."""
        if self.repair is not None:
            return None
        return ";\n".join(self.plan.texts)


def read(rt: Runtime, target: Target, sql: str) -> Submission:
    """Classify `sql` in the dialect of `target`. Raises `Invalid` when it cannot be read, or is refused as a whole."""
    dialect = dialect_of(rt, target)
    return _read(target, dialect, classify(sql, dialect, vouched=rt.settings.policy.vouched.get(target, ())))


def read_migration(rt: Runtime, target: Target, operation: Operation, detail: str) -> Submission:
    """Classify each file of `detail` in the dialect of `target`. Raises `Invalid`, which names the file."""
    dialect = dialect_of(rt, target)
    if operation is Operation.MIGRATE_REPAIR:
        repair = read_repair([detail])
        return Submission(target, dialect, Classification(operation, ()), facts=(), advice=(), repair=repair)
    vouched = rt.settings.policy.vouched.get(target, ())
    files: list[File] = []
    for sent in read_files(detail):
        try:
            plan = classify_script(sent.sql, dialect, vouched=vouched)
        except Invalid as e:
            raise Invalid(f"{sent.title}.sql: {e.message}", code=e.code, hint=e.hint, detail=e.detail) from e
        files.append(File(sent, plan, files[-1].end if files else 0))
        if files[-1].end > MAX_STATEMENTS_IN_REQUEST:
            raise Invalid(
                f"the files have more than {MAX_STATEMENTS_IN_REQUEST} statements together",
                code="sql.rejected",
                hint="migrate fewer of them at once: --count",
            )
    statements = tuple(statement for file in files for statement in file.plan.statements)
    return _read(target, dialect, Classification(operation, statements), files=tuple(files))


def _read(target: Target, dialect: Dialect, plan: Classification, *, files: tuple[File, ...] = ()) -> Submission:
    return Submission(
        target=target,
        dialect=dialect,
        plan=plan,
        facts=tuple(facts(statement, dialect) for statement in plan.statements),
        advice=squawk.advice(plan) if dialect is Dialect.POSTGRESQL and plan.contains_ddl else (),
        files=files,
    )


def dialect_of(rt: Runtime, target: Target) -> Dialect:
    """What the file says, or the target's agent; PostgreSQL while neither does."""
    with rt.store.read() as conn:
        return rt.settings.dialects.get(target) or agents.dialect_of(conn, target) or Dialect.POSTGRESQL


def judged(rt: Runtime, conn: Connection, said: Submission, *, emergency: bool) -> Judgement:
    """The verdict under the policies and the schema of now."""
    return judge(
        said.plan,
        said.facts,
        said.dialect,
        said.target,
        rt.settings.policy,
        schemas.neighbourhood(conn, said.target, names_of(said.facts)),
        emergency=emergency,
        now=rt.now(),
        advice=said.advice,
        parts=tuple(Part(file.first, file.end, file.sent.transactional) for file in said.files),
    )


def judged_files(said: Submission, made: Judgement) -> list[dict[str, Any]]:
    """What the verdict says of each file by itself, as it is stored with the request: findings name their line."""
    return [
        {
            "statements": len(file.plan.statements),
            "risk": alone.level,
            "findings": [
                {
                    "rule": one.rule,
                    "action": one.action,
                    "message": one.message,
                    "hint": one.hint,
                    "line": _line(file, one),
                }
                for one in made.findings
                if file.holds(one)
            ],
        }
        for file, alone in zip(said.files, made.of_parts, strict=True)
    ]


def placed(said: Submission, finding: Finding) -> str:
    """What a rule found, with the file and the line that it is about where there are files."""
    for file in said.files:
        if file.holds(finding):
            return f"{file.sent.title}.sql:{_line(file, finding)}: {finding.message}"
    return finding.message


def _line(file: File, finding: Finding) -> int:
    statement = file.plan.statements[finding.statement_index - file.first]
    at = statement.start + max(finding.position - 1, 0)
    return file.sent.line + file.sent.sql.count("\n", 0, at)


def require_registered(rt: Runtime, target: Target) -> None:
    """Raises `Invalid` when the configuration does not list `target`."""
    if target in rt.settings.policy.targets:
        return
    known = sorted({t.environment for t in rt.settings.policy.targets if t.database == target.database})[:5]
    where = f"its environments are: {', '.join(known)}" if known else "no such database"
    raise Invalid(f"{target} is not registered; {where}", code="database.not_registered", hint="see `dbward databases`")
