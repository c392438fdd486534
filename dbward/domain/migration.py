"""Migrations as a request pins them: which files, in which order, and exactly the statements of each. No I/O.

A client sends the files that are to run as the `detail` of its request: the JSON of `write_files`. What is signed and
sent to an agent are texts, one for each file, in the order in which they run: the canonical JSON of a `Pinned`, or of
the one `Repair`. So a token covers the version, the checksum and every statement of each file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from dbward.canonical import canonical_json
from dbward.domain.model import Operation, Target
from dbward.errors import Invalid

MIGRATING: Final = frozenset({Operation.MIGRATE_UP, Operation.MIGRATE_DOWN, Operation.MIGRATE_REPAIR})
"""What changes a database's record of its migrations, and so runs alone in it."""

FILES_MAX: Final = 500
"""The most that one request takes."""

Version = Annotated[str, Field(pattern=r"^[0-9]{1,32}$")]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+$")]
"""On one line and without signs that nobody sees: it is shown to whoever approves."""
LINE_MAX: Final = 2_000_000

T = TypeVar("T")

_STRICT: Final = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Pinned:
    """One direction of one file. `checksum` is the SHA-256 of the whole file, in hex; `recorded`, of what is to be
    reverted, the one that the database has recorded with it.

    With `transactional` its statements and the record of its version are one transaction, where the engine can.
    """

    version: Version
    name: FileName
    checksum: Checksum
    transactional: bool
    statements: Annotated[list[str], Field(min_length=1)]
    recorded: Checksum | None = None

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Sent:
    """One file as a client sends it: the SQL of the direction asked for, which begins in `line` of the file, from 1.

    `checksum` is the client's word for the whole file, of which the server sees a part; `reversible`: it can be undone;
    `recorded`: as in `Pinned`.
    """

    version: Version
    name: FileName
    checksum: Checksum
    transactional: bool
    reversible: bool
    sql: str
    line: Annotated[int, Field(ge=1, le=LINE_MAX)]
    recorded: Checksum | None = None

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class _Files:
    format: Literal["v3"]
    migrations: Annotated[list[Sent], Field(min_length=1, max_length=FILES_MAX)]


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Repair:
    """Mend the record and nothing else. `name` and `checksum` are those of the file, None without one (`remove`)."""

    action: Literal["mark_applied", "remove"]
    version: Version
    name: FileName | None = None
    checksum: Checksum | None = None


class StepOutcome(StrEnum):
    """What became of one pinned file; `skipped`: it was applied (up), or was not (down), before it was its turn."""

    APPLIED = "applied"
    REVERTED = "reverted"
    MARKED = "marked"
    REMOVED = "removed"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True)
class Applied:
    """One applied version as the database has it. All but `version` None: another tool applied it."""

    version: str
    name: str | None = None
    checksum: str | None = None
    applied_at: datetime | None = None
    request_id: str | None = None


def repair_command(action: Literal["mark_applied", "remove"], version: str, target: Target) -> str:
    """What to type to mend the record of one version, whatever made that necessary."""
    return (
        f"dbward -d {target.database} -e {target.environment} migrate repair"
        f" --action {action.replace('_', '-')} --version {version} --emergency --reason '…'"
    )


def write_files(files: Sequence[Sent]) -> str:
    """The `detail` of a request to migrate up or down: `files` in the order in which they run."""
    return canonical_json(asdict(_Files("v3", list(files))))


def read_files(detail: str) -> tuple[Sent, ...]:
    """What `write_files` wrote. Raises `Invalid` (`migration.malformed`), also when a version comes twice."""
    found = tuple(_read(_FILES, detail).migrations)
    _refuse_twice(found)
    return found


def write_repair(repair: Repair) -> str:
    """The `detail` of a request to repair."""
    return canonical_json(asdict(repair))


def signed_texts(what: Sequence[Pinned] | Repair) -> tuple[str, ...]:
    """The texts that are signed, and that `read_pinned` and `read_repair` read."""
    return tuple(canonical_json(asdict(one)) for one in ([what] if isinstance(what, Repair) else what))


def read_pinned(texts: Sequence[str]) -> tuple[Pinned, ...]:
    """The files of an up or a down. Raises `Invalid` (`migration.malformed`), also when a version comes twice."""
    found = tuple(_read(_PINNED, text) for text in texts)
    if not found:
        raise Invalid("there is no migration", code="migration.malformed")
    _refuse_twice(found)
    return found


def read_repair(texts: Sequence[str]) -> Repair:
    """The one repair, also from a `detail`. Raises `Invalid` (`migration.malformed`)."""
    if len(texts) != 1:
        raise Invalid("a repair is one text", code="migration.malformed")
    return _read(_REPAIR, texts[0])


_FILES: Final = TypeAdapter(_Files)
_PINNED: Final = TypeAdapter(Pinned)
_REPAIR: Final = TypeAdapter(Repair)


def _refuse_twice(found: Sequence[Sent | Pinned]) -> None:
    if len({int(one.version) for one in found}) != len(found):
        raise Invalid("a version comes twice in the list of migrations", code="migration.malformed")


def _read(kind: TypeAdapter[T], text: str) -> T:
    try:
        return kind.validate_json(text)
    except ValidationError as e:
        raise Invalid("a migration of the request is not what this version writes", code="migration.malformed") from e
