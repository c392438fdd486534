"""What an agent collects from real databases: everything there is, in pieces, with what cannot be read named."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from dbward.client.wire import SCHEMA_BATCH_TABLES, WireConstraint, WireTable
from dbward.domain.schema import TableKind
from tests.worker import targets
from worker import schema
from worker.drivers import open_driver
from worker.drivers.errors import CredentialsRefused, Unreachable
from worker.schema import Piece, TooSlow, collect

# As in the agent, where the filter is set once for the process; pytest sets its own for each test.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")


def whole(url: str) -> tuple[dict[str, WireTable], list[str]]:
    """Every table by `schema.name`, and those that could not be read."""
    pieces = list(collect(open_driver(url)))
    tables = [table for piece in pieces for table in piece.tables]
    found = {f"{table.schema_name}.{table.name}": table for table in tables}
    assert len(found) == len(tables)
    return found, [name for piece in pieces for name in piece.unread]


def of_kind(table: WireTable, kind: str) -> list[WireConstraint]:
    return [one for one in table.constraints if one.constraint_type == kind]


def keys(table: WireTable) -> dict[tuple[str, ...], tuple[str, str, tuple[str, ...], str]]:
    return {
        tuple(one.columns): (
            str(one.referenced_schema),
            str(one.referenced_table),
            tuple(one.referenced_columns or ()),
            str(one.on_delete),
        )
        for one in of_kind(table, "foreign_key")
    }


def columns(table: WireTable) -> list[tuple[str, str, bool, str | None, bool]]:
    return [(c.name, c.data_type, c.nullable, c.default_value, c.is_primary_key) for c in table.columns]


def indexes(table: WireTable) -> dict[str, tuple[tuple[str, ...], bool, str]]:
    return {i.name: (tuple(i.columns), i.is_unique, i.index_type) for i in table.indexes}


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

POSTGRESQL = """
CREATE SCHEMA crm;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email varchar(80) NOT NULL UNIQUE,
    feeling mood DEFAULT 'good', tags text[], age positive, span int4range, at timestamptz DEFAULT now(),
    CONSTRAINT adult CHECK (age >= 18)
);
CREATE TABLE crm."Orders" (
    id int, line int, user_id bigint REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (id, line)
);
CREATE INDEX by_lower ON users (lower(email), id);
CREATE INDEX by_tags ON users USING gin (tags);
CREATE TABLE crm.notes (
    id int PRIMARY KEY, order_id int, line int, note_id int REFERENCES crm.notes ON DELETE SET NULL,
    FOREIGN KEY (order_id, line) REFERENCES crm."Orders" (id, line)
);
CREATE TABLE users_archive (LIKE users);
CREATE TABLE crm.users (id int PRIMARY KEY, other bigint REFERENCES public.users ON DELETE SET DEFAULT);
CREATE TABLE nothing ();
CREATE VIEW recent AS SELECT id, email FROM users;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM users;
CREATE TABLE events (at date NOT NULL, n int) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE outside (line text) SERVER files OPTIONS (filename '/dev/null');
INSERT INTO users (email) SELECT 'u' || n FROM generate_series(1, 2000) n;
INSERT INTO events SELECT '2026-01-05', n FROM generate_series(1, 30) n;
INSERT INTO events SELECT '2026-02-05', n FROM generate_series(1, 12) n;
ANALYZE users; ANALYZE events_1; ANALYZE events_2;
"""


HEIRS = """
CREATE TABLE logs (n int);
CREATE TABLE logs_1 (CHECK (n < 10)) INHERITS (logs);
CREATE TABLE both_of () INHERITS (logs, nothing);
INSERT INTO logs VALUES (1);
INSERT INTO logs_1 SELECT 2 FROM generate_series(1, 70);
INSERT INTO both_of SELECT 3 FROM generate_series(1, 5);
ANALYZE logs, logs_1, both_of;
DELETE FROM events;
ALTER TABLE events ADD PRIMARY KEY (at);
CREATE TABLE seen (at date REFERENCES events ON DELETE CASCADE);
"""


@pytest.fixture
def postgres(postgres_url: str) -> str:
    targets.postgresql(postgres_url).direct(POSTGRESQL)
    return postgres_url


def test_postgresql_whole(postgres):
    found, unread = whole(postgres)
    assert unread == []
    assert {name: table.kind for name, table in found.items()} == {
        "public.users": TableKind.TABLE,
        "public.users_archive": TableKind.TABLE,
        "public.nothing": TableKind.TABLE,
        "public.recent": TableKind.VIEW,
        "public.totals": TableKind.MATERIALIZED_VIEW,
        "public.events": TableKind.PARTITIONED,
        "public.events_1": TableKind.TABLE,
        "public.events_2": TableKind.TABLE,
        "public.outside": TableKind.FOREIGN,
        "crm.Orders": TableKind.TABLE,
        "crm.notes": TableKind.TABLE,
        "crm.users": TableKind.TABLE,
    }
    users = found["public.users"]
    assert columns(users) == [
        ("id", "bigint", False, None, True),
        ("email", "character varying(80)", False, None, False),
        ("feeling", "public.mood", True, "'good'::public.mood", False),
        ("tags", "text[]", True, None, False),
        ("age", "public.positive", True, None, False),
        ("span", "int4range", True, None, False),
        ("at", "timestamp with time zone", True, "now()", False),
    ]
    assert [(c.name, c.columns) for c in of_kind(users, "primary_key")] == [("users_pkey", ["id"])]
    assert [(c.name, c.columns) for c in of_kind(users, "unique")] == [("users_email_key", ["email"])]
    assert [c.name for c in of_kind(users, "check")] == ["adult"]
    assert indexes(users) == {
        "users_email_key": (("email",), True, "btree"),
        "by_lower": (("lower(email::text)", "id"), False, "btree"),
        "by_tags": (("tags",), False, "gin"),
    }
    assert keys(found["crm.Orders"]) == {("user_id",): ("public", "users", ("id",), "CASCADE")}
    assert keys(found["crm.notes"]) == {
        ("order_id", "line"): ("crm", "Orders", ("id", "line"), "NO_ACTION"),
        ("note_id",): ("crm", "notes", ("id",), "SET_NULL"),
    }
    assert keys(found["crm.users"]) == {("other",): ("public", "users", ("id",), "SET_DEFAULT")}
    assert [c.name for c in found["public.recent"].columns] == ["id", "email"]
    assert found["public.nothing"].columns == []


def test_postgresql_estimates(postgres):
    found, _ = whole(postgres)
    rows = {name: table.estimated_rows for name, table in found.items()}
    assert rows["public.users"] == 2000
    assert rows["public.events"] == 42  # of its partitions together
    assert rows["public.users_archive"] == 0
    assert rows["public.recent"] is None
    assert rows["public.outside"] is None


def test_postgresql_counts_what_inherits_and_finds_what_refers_to_a_partition(postgres):
    targets.postgresql(postgres).direct(HEIRS)
    found, _ = whole(postgres)
    names = ("logs", "logs_1", "both_of", "nothing")
    assert [found[f"public.{name}"].estimated_rows for name in names] == [76, 70, 5, 5]
    parents = {one.referenced_table for one in of_kind(found["public.seen"], "foreign_key")}
    assert parents == {"events", "events_1", "events_2"}


def test_postgresql_knows_about_a_table_that_was_never_analysed(postgres):
    server = targets.postgresql(postgres)
    server.direct("CREATE TABLE fresh AS SELECT n, 'x' || n AS t FROM generate_series(1, 50000) n")
    server.direct("SELECT pg_stat_reset()")  # as after a crash: the statistics know nothing either
    rows = whole(postgres)[0]["public.fresh"].estimated_rows
    assert rows is not None
    assert rows > 10_000


def test_postgresql_does_not_wait_for_who_alters_a_table(postgres, monkeypatch):
    monkeypatch.setattr("worker.drivers.postgresql.LOCK_WAIT_SECS", 0.05)
    with psycopg.connect(postgres) as other:
        other.execute("LOCK TABLE users_archive IN ACCESS EXCLUSIVE MODE")
        found, unread = whole(postgres)
        assert unread == []
        assert len(found["public.users_archive"].columns) == 7
        assert found["public.users_archive"].estimated_rows is None  # its size was not to be had
        assert found["public.users"].estimated_rows == 2000
        other.rollback()


def test_postgresql_only_reads(postgres):
    driver = open_driver(postgres)
    with driver.reflect() as connection:
        assert connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on"
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "30s"
    with driver.reflect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1


def test_postgresql_of_a_login_that_may_read_nothing(postgres):
    server = targets.postgresql(postgres)
    server.direct("DROP ROLE IF EXISTS looker", "CREATE ROLE looker LOGIN PASSWORD 'looker'")
    parts = urlsplit(postgres)
    url = parts._replace(netloc=f"looker:looker@{parts.hostname}:{parts.port}").geturl()
    try:
        found, unread = whole(url)
    finally:
        server.direct("DROP ROLE looker")
    assert unread == []
    assert keys(found["crm.Orders"]) == {("user_id",): ("public", "users", ("id",), "CASCADE")}


# --- MySQL and MariaDB ------------------------------------------------------------------------------------------------

MYSQL = """
CREATE TABLE users (
    id bigint unsigned PRIMARY KEY AUTO_INCREMENT, email varchar(80) NOT NULL UNIQUE,
    mood enum('good','bad') DEFAULT 'good', at datetime(3) DEFAULT current_timestamp(3), spot point NOT NULL, age int,
    CONSTRAINT adult CHECK (age >= 18), FULLTEXT KEY words (email), KEY by_age (age, email)
);
CREATE TABLE `Orders` (
    id int, line int, user_id bigint unsigned, PRIMARY KEY (id, line),
    CONSTRAINT buyer FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE notes (
    id int PRIMARY KEY, order_id int, line int, note_id int,
    FOREIGN KEY (order_id, line) REFERENCES `Orders` (id, line),
    FOREIGN KEY (note_id) REFERENCES notes (id) ON DELETE SET NULL
);
CREATE VIEW recent AS SELECT id, email FROM users;
INSERT INTO users (email, spot) SELECT concat('u', seq), point(1, 1) FROM seq_1_to_2000;
ANALYZE TABLE users"""


@pytest.fixture
def mariadb(mariadb_url: str) -> str:
    targets.mysql(mariadb_url).direct(*MYSQL.split(";"))
    return mariadb_url


def test_mariadb_whole(mariadb):
    name = urlsplit(mariadb).path[1:]
    found, unread = whole(mariadb)
    assert unread == []
    assert {path.partition(".")[2]: table.kind for path, table in found.items()} == {
        "users": TableKind.TABLE,
        "Orders": TableKind.TABLE,
        "notes": TableKind.TABLE,
        "recent": TableKind.VIEW,
    }
    users = found[f"{name}.users"]
    assert columns(users) == [
        ("id", "bigint(20) unsigned", False, None, True),
        ("email", "varchar(80)", False, None, False),
        ("mood", "enum('good','bad')", True, "'good'", False),
        ("at", "datetime(3)", True, "current_timestamp(3)", False),
        ("spot", "point", False, None, False),
        ("age", "int(11)", True, None, False),
    ]
    assert [c.columns for c in of_kind(users, "primary_key")] == [["id"]]
    assert [c.columns for c in of_kind(users, "unique")] == [["email"]]
    assert [c.name for c in of_kind(users, "check")] == ["adult"]
    assert indexes(users) == {
        "email": (("email",), True, "btree"),
        "words": (("email",), False, "fulltext"),
        "by_age": (("age", "email"), False, "btree"),
    }
    assert keys(found[f"{name}.Orders"]) == {("user_id",): (name, "users", ("id",), "CASCADE")}
    assert keys(found[f"{name}.notes"]) == {
        ("order_id", "line"): (name, "Orders", ("id", "line"), "NO_ACTION"),
        ("note_id",): (name, "notes", ("id",), "SET_NULL"),
    }
    assert [c.name for c in found[f"{name}.recent"].columns] == ["id", "email"]
    assert found[f"{name}.recent"].estimated_rows is None
    assert 1500 < (users.estimated_rows or 0) < 2500
    assert found[f"{name}.notes"].estimated_rows == 0


def test_mariadb_names_what_it_cannot_read(mariadb):
    """A view of a table that is gone; the others are read all the same."""
    targets.mysql(mariadb).direct(
        "CREATE TABLE base (id int)", "CREATE VIEW broken AS SELECT * FROM base", "DROP TABLE base"
    )
    name = urlsplit(mariadb).path[1:]
    found, unread = whole(mariadb)
    assert unread == [f"{name}.broken"]
    assert {path.partition(".")[2] for path in found} == {"users", "Orders", "notes", "recent"}


def test_mariadb_of_a_login_that_may_see_little(mariadb):
    name = urlsplit(mariadb).path[1:]
    server = targets.mysql(mariadb)
    account = f"'looker_{name[-6:]}'@'%'"
    server.direct(
        f"CREATE USER {account} IDENTIFIED BY 'looker'",
        f"GRANT SELECT (id) ON {name}.users TO {account}",
        f"GRANT SELECT ON {name}.notes TO {account}",
        f"GRANT SELECT ON {name}.recent TO {account}",
    )
    parts = urlsplit(mariadb)
    url = parts._replace(netloc=f"looker_{name[-6:]}:looker@{parts.hostname}:{parts.port}").geturl()
    try:
        found, unread = whole(url)
    finally:
        server.direct(f"DROP USER {account}")
    assert set(found) == {f"{name}.notes", f"{name}.recent"}  # a view without the privilege to see its text
    assert unread == [f"{name}.users"]  # one column is not the table
    assert columns(found[f"{name}.recent"])[0] == ("id", "bigint(20) unsigned", False, "0", False)


def test_mariadb_only_reads_and_holds_nothing(mariadb):
    driver = open_driver(mariadb)
    with driver.reflect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM users").scalar_one()
        with pytest.raises(Exception, match="READ ONLY"):
            connection.exec_driver_sql("INSERT INTO notes (id) VALUES (1)")
        targets.mysql(mariadb).direct("SET lock_wait_timeout = 1", "ALTER TABLE users ADD COLUMN more int")


# --- SQLite -----------------------------------------------------------------------------------------------------------

SQLITE = """
CREATE TABLE Users (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, price MONEY(10,2) DEFAULT 0, any_kind,
    doubled INT GENERATED ALWAYS AS (price * 2), CONSTRAINT adult CHECK (id > 0));
CREATE TABLE orders (id INT, line INT, user_id INT REFERENCES users ON DELETE CASCADE, PRIMARY KEY (id, line))
    WITHOUT ROWID;
CREATE TABLE notes (id INTEGER PRIMARY KEY, order_id INT, line INT, gone INT REFERENCES nowhere(x),
    CONSTRAINT about FOREIGN KEY (order_id, line) REFERENCES ORDERS (id, line) ON DELETE SET NULL);
CREATE TABLE hidden (rowid TEXT, x INT);
CREATE TABLE hidden_all (rowid TEXT, oid TEXT, _rowid_ TEXT);
CREATE TABLE counted (id INTEGER PRIMARY KEY, n INT);
CREATE TABLE far (id INTEGER PRIMARY KEY);
CREATE TABLE "odd ""name'" (x INT);
CREATE VIEW recent AS SELECT id, email FROM users;
CREATE VIRTUAL TABLE words USING fts5(body);
CREATE INDEX by_email ON users (email, id);
INSERT INTO users (email) VALUES ('a'), ('b'), ('c');
INSERT INTO hidden VALUES ('x', 1), ('y', 2);
INSERT INTO far VALUES (-9223372036854775808), (9223372036854775807);
"""


@pytest.fixture
def sqlite(sqlite_path: Path) -> str:
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript(SQLITE)
    return f"sqlite://{sqlite_path}"


def test_sqlite_whole(sqlite):
    found, unread = whole(sqlite)
    assert unread == []
    tables = {path.removeprefix("main."): table for path, table in found.items()}
    assert {name for name, table in tables.items() if table.kind is TableKind.VIEW} == {"recent"}
    assert set(tables) >= {"Users", "orders", "notes", "hidden", "words", "words_data", "odd \"name'"}
    users = tables["Users"]
    assert columns(users) == [
        ("id", "INTEGER", True, None, True),
        ("email", "TEXT", False, None, False),
        ("price", "MONEY(10,2)", True, "0", False),
        ("any_kind", "", True, None, False),
        ("doubled", "INT", True, None, False),
    ]
    assert [c.columns for c in of_kind(users, "unique")] == [["email"]]
    assert [c.name for c in of_kind(users, "check")] == ["adult"]
    assert indexes(users) == {"by_email": (("email", "id"), False, "btree")}
    assert [c.columns for c in of_kind(tables["orders"], "primary_key")] == [["id", "line"]]
    # As the parent is really spelled, and with what a column's own REFERENCES says.
    assert keys(tables["orders"]) == {("user_id",): ("main", "Users", ("id",), "CASCADE")}
    assert keys(tables["notes"]) == {
        ("order_id", "line"): ("main", "orders", ("id", "line"), "SET_NULL"),
        ("gone",): ("main", "nowhere", ("x",), "NO_ACTION"),
    }
    assert [c.name for c in tables["recent"].columns] == ["id", "email"]


def test_sqlite_estimates(sqlite, sqlite_path):
    def rows() -> dict[str, int | None]:
        return {path.removeprefix("main."): table.estimated_rows for path, table in whole(sqlite)[0].items()}

    before = rows()
    assert before["Users"] == 3
    assert before["hidden"] == 2  # its column `rowid` is not the row's number
    assert before["counted"] == 0
    assert before["far"] == 2**63 - 1
    assert [before[name] for name in ("orders", "hidden_all", "recent", "words")] == [None, None, None, None]
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript("INSERT INTO orders VALUES (1, 1, 1), (1, 2, 1); INSERT INTO far VALUES (7); ANALYZE;")
    after = rows()
    assert (after["orders"], after["far"], after["Users"]) == (2, 3, 3)


def test_sqlite_names_what_it_cannot_read(sqlite, sqlite_path):
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript(f"CREATE VIEW broken AS SELECT * FROM nowhere; CREATE TABLE {'x' * 300} (id INT);")
    found, unread = whole(sqlite)
    assert sorted(unread) == ["main.broken", "main." + "x" * 300]
    assert "main.Users" in found


def test_sqlite_keeps_no_writer_waiting(sqlite, sqlite_path):
    with open_driver(sqlite).reflect() as connection:
        connection.exec_driver_sql("SELECT * FROM users").all()
        with closing(sqlite3.connect(sqlite_path, timeout=0)) as db, db:
            db.execute("INSERT INTO users (email) VALUES ('d')")
        with pytest.raises(Exception, match="readonly"):
            connection.exec_driver_sql("DELETE FROM users")


def test_a_locked_sqlite_file_is_no_file_of_strange_tables(sqlite, sqlite_path, monkeypatch):
    monkeypatch.setattr("worker.drivers.sqlite.LOCK_WAIT_SECS", 0)
    pieces = collect(open_driver(sqlite))
    with closing(sqlite3.connect(sqlite_path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OperationalError, match="locked"):
            list(pieces)
        db.execute("ROLLBACK")
    assert whole(sqlite)[1] == []


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_tables_come_in_bounded_pieces(sqlite_path):
    many = 6 * SCHEMA_BATCH_TABLES
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript(
            "BEGIN;" + "".join(f"CREATE TABLE t{n} (id INTEGER PRIMARY KEY);" for n in range(many)) + "END"
        )
    held: list[int] = []
    names: set[str] = set()
    for piece in collect(open_driver(f"sqlite://{sqlite_path}")):
        held.append(len(piece.tables))
        names |= {table.name for table in piece.tables}
        assert piece.unread == []
    assert len(names) == sum(held) == many
    assert set(held) == {SCHEMA_BATCH_TABLES}


def test_pieces_are_bounded_by_their_size_too(sqlite_path, monkeypatch):
    monkeypatch.setattr(schema, "BATCH_BYTES", 5000)
    wide = ", ".join(f"c{n}" for n in range(20))  # about 2 KB of JSON
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript("".join(f"CREATE TABLE wide{n} ({wide});" for n in range(5)))
    pieces = list(collect(open_driver(f"sqlite://{sqlite_path}")))
    assert [len(piece.tables) for piece in pieces] == [2, 2, 1]


def test_a_definition_of_excessive_length_is_not_taken_apart(sqlite_path):
    wide = ", ".join(f"column_{n} TEXT DEFAULT '{'x' * 60}'" for n in range(1000))
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript(
            f"CREATE TABLE small (x INT); CREATE TABLE wide ({wide}); CREATE VIEW w AS SELECT '{'x' * 70_000}' AS c"
        )
    found, unread = whole(f"sqlite://{sqlite_path}")
    assert (list(found), unread) == (["main.small"], ["main.w", "main.wide"])


def test_a_table_too_large_for_any_piece_is_named(sqlite_path, monkeypatch):
    monkeypatch.setattr(schema, "SCHEMA_BATCH_BYTES", 4000)
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript(f"CREATE TABLE small (x INT); CREATE TABLE large ({', '.join(f'c{n}' for n in range(50))})")
    (piece,) = collect(open_driver(f"sqlite://{sqlite_path}"))
    assert ([table.name for table in piece.tables], piece.unread) == (["small"], ["main.large"])


def test_an_empty_database_is_an_empty_schema(sqlite_path, postgres_url, mariadb_url):
    sqlite3.connect(sqlite_path).close()
    sqlite_path.touch()
    for url in (f"sqlite://{sqlite_path}", postgres_url, mariadb_url):
        assert [table for piece in collect(open_driver(url)) for table in piece.tables] == []


def test_a_collection_that_takes_too_long_is_given_up(sqlite):
    with pytest.raises(TooSlow):
        list(collect(open_driver(sqlite), most_secs=-1))


def test_what_is_done_with_a_piece_does_not_count_as_slow(sqlite_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(schema, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript("".join(f"CREATE TABLE t{n} (x INT);" for n in range(SCHEMA_BATCH_TABLES * 2)))
    for _ in collect(open_driver(f"sqlite://{sqlite_path}"), most_secs=10):
        clock[0] += 1000


def test_a_table_dropped_meanwhile_is_left_out(sqlite_path, monkeypatch):
    """Listed, then gone before its batch is read."""
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript("".join(f"CREATE TABLE t{n:03} (x INT);" for n in range(SCHEMA_BATCH_TABLES + 2)))
    pieces = collect(open_driver(f"sqlite://{sqlite_path}"))
    first = next(pieces)
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.execute(f"DROP TABLE t{SCHEMA_BATCH_TABLES:03}")
    rest = list(pieces)
    assert len(first.tables) == SCHEMA_BATCH_TABLES
    assert rest == [Piece(tables=rest[0].tables)]
    assert [table.name for table in rest[0].tables] == [f"t{SCHEMA_BATCH_TABLES + 1:03}"]


# --- connections ------------------------------------------------------------------------------------------------------


def wrong_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}:Wr0ng-secret@{parts.hostname}:{parts.port}").geturl()


@pytest.mark.parametrize("engine", ["postgres_url", "mariadb_url"])
def test_a_refused_login_says_so_without_the_password(engine, request):
    with pytest.raises(CredentialsRefused) as raised:
        list(collect(open_driver(wrong_password(request.getfixturevalue(engine)))))
    assert "Wr0ng-secret" not in str(raised.value)


@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
def test_a_connection_lost_on_the_way_is_unreachable(engine, request):
    with targets.proxied(request.getfixturevalue(engine)) as (proxy, url):
        pieces = collect(open_driver(url))
        proxy.cut_on = b"column_type" if engine == "mariadb" else b"format_type"
        with pytest.raises(Unreachable):
            list(pieces)
        assert proxy.seen.is_set()


def test_a_file_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(Unreachable):
        list(collect(open_driver(f"sqlite://{tmp_path / 'nothing.db'}")))
