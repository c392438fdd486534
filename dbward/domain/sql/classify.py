"""What kind of request a SQL text is, and where its statements begin and end.

Deny by default: `execute_select` needs statements that every reading of them holds for plain reads, and of which only
the last returns rows. What is merely readable is `execute_dml`; what is not, or should never run here, is `Invalid`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from dbward.domain.model import Dialect, Operation
from dbward.domain.sql.mysql_sqlite import classify_mysql, classify_sqlite
from dbward.domain.sql.postgresql import classify_postgresql
from dbward.domain.sql.statements import Classification, Kind, Statement
from dbward.errors import Invalid

MAX_BYTES = 1_048_576

_CLASSIFIERS: dict[Dialect, Callable[..., tuple[Statement, ...]]] = {
    Dialect.POSTGRESQL: classify_postgresql,
    Dialect.MYSQL: classify_mysql,
    Dialect.SQLITE: classify_sqlite,
}


def classify(text: str, dialect: Dialect, *, vouched: Collection[str] = ()) -> Classification:
    """Judge `text`. `vouched`: lower-case names of functions of the target that are trusted to only compute.

    Raises `Invalid` with code `sql.empty`, `sql.unparsable` or `sql.rejected`.
    """
    statements = _statements(text, dialect, vouched)
    reads = all(statement.kind is Kind.SELECT for statement in statements)
    if reads:
        _refuse_several_results(statements)
    return Classification(Operation.EXECUTE_SELECT if reads else Operation.EXECUTE_DML, statements)


def classify_script(text: str, dialect: Dialect, *, vouched: Collection[str] = ()) -> Classification:
    """Judge a file of a migration. Unlike what `classify` takes, it may hold several reads, of which nothing is shown,
    and triggers, routines, types, schemas and the like, of which nobody knows what they do: their risk is unknown.
    """
    if "\r" in text.replace("\r\n", ""):  # which ends a comment on PostgreSQL, and on nobody's screen
        raise Invalid(
            "the SQL holds a carriage return that ends no line", code="sql.rejected", hint="end lines with a line feed"
        )
    return Classification(Operation.EXECUTE_DML, _statements(text, dialect, vouched, script=True))


def _statements(
    text: str, dialect: Dialect, vouched: Collection[str], *, script: bool = False
) -> tuple[Statement, ...]:
    _refuse_raw(text)
    statements = _CLASSIFIERS[dialect](text, vouched=vouched, script=script)
    if not statements:
        raise Invalid("there is no SQL statement", code="sql.empty")
    return statements


def _refuse_raw(text: str) -> None:
    if len(text) > MAX_BYTES:
        raise Invalid(f"the SQL is larger than {MAX_BYTES:,} bytes", code="sql.rejected")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Invalid("the SQL is not valid Unicode text", code="sql.rejected") from None
    if size > MAX_BYTES:
        raise Invalid(f"the SQL is larger than {MAX_BYTES:,} bytes", code="sql.rejected")
    if "\0" in text:
        raise Invalid("the SQL holds a NUL character", code="sql.rejected")


def _refuse_several_results(statements: Sequence[Statement]) -> None:
    """SET may come before a read; two results, or a SET behind one, may not be."""
    if any(statement.verb != "SET" for statement in statements[:-1]):
        raise Invalid(
            "several reads at once: only one result can be shown", code="sql.rejected", hint="send them one by one"
        )
