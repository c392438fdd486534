"""What a file of a migration may hold beyond what is asked for ad hoc, and where its statements end."""

from __future__ import annotations

import pytest

from dbward.domain.model import Dialect
from dbward.domain.sql.classify import classify, classify_script
from dbward.domain.sql.facts import facts
from dbward.domain.sql.statements import Kind
from dbward.errors import Invalid

PG, MY, LITE = Dialect.POSTGRESQL, Dialect.MYSQL, Dialect.SQLITE

LOOPS = """
CREATE PROCEDURE fill(n INT)
BEGIN
  DECLARE i INT DEFAULT 0;
  outer_loop: LOOP
    IF i >= n THEN LEAVE outer_loop; ELSEIF i = 2 THEN SET i = i; ELSE SET i = i + 0; END IF;
    WHILE i < 1 DO SET i = i + 1; END WHILE;
    REPEAT SET i = i + 1; UNTIL i > 0 END REPEAT;
    CASE WHEN i > 5 THEN SET i = i; ELSE BEGIN END; END CASE;
    INSERT INTO t VALUES (CASE WHEN i > 1 THEN i ELSE 0 END, IF(i > 1, 'a;b', REPEAT('x', 2)));
  END LOOP;
END
"""

CODE = [
    (PG, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; SELECT 2 $$", "CREATE", "code:create_function"),
    (PG, "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()", "CREATE", "code:create_trig"),
    (PG, "CREATE TYPE e AS ENUM ('a')", "CREATE", "code:create_enum"),
    (PG, "ALTER TYPE e ADD VALUE 'b'", "ALTER", "code:alter_enum"),
    (PG, "CREATE SCHEMA s", "CREATE", "code:create_schema"),
    (PG, "CREATE EXTENSION IF NOT EXISTS pgcrypto", "CREATE", "code:create_extension"),
    (PG, "DO $$ BEGIN PERFORM 1; END $$", "DO", "code:do"),
    (PG, "GRANT SELECT ON t TO reader", "GRANT", "code:grant"),
    (PG, "DROP FUNCTION f() CASCADE", "DROP", "code:function"),
    (PG, "DROP SCHEMA s", "DROP", "code:schema"),
    (PG, "ALTER TABLE t DISABLE TRIGGER ALL", "ALTER", "code:disabletrigall"),
    (PG, "ALTER SCHEMA s RENAME TO z", "ALTER", "code:schema"),
    (PG, "COMMENT ON FUNCTION f() IS 'x'", "COMMENT", "code:function"),
    (MY, LOOPS, "CREATE", "code:procedure"),
    (MY, "CREATE OR REPLACE FUNCTION f(a INT) RETURNS INT DETERMINISTIC RETURN a + 1", "CREATE", "code:function"),
    (MY, "CREATE DEFINER=`a`@`%` TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET NEW.a = 1", "CREATE", "code:trigger"),
    (
        MY,
        "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW IF NEW.a THEN SET NEW.a = 1; END IF",
        "CREATE",
        "code:trigger",
    ),
    (MY, "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO BEGIN DELETE FROM t; END", "CREATE", "code:event"),
    (MY, "DROP PROCEDURE IF EXISTS p", "DROP", "code:procedure"),
    (MY, "SET FOREIGN_KEY_CHECKS = 0", "SET", "setting:foreign_key_checks"),
    (LITE, "CREATE TRIGGER IF NOT EXISTS x AFTER INSERT ON t BEGIN UPDATE t SET a = 1; END", "CREATE", "code:trigger"),
    (
        LITE,
        "CREATE TEMP TRIGGER x AFTER INSERT ON t WHEN CASE NEW.a WHEN 1 THEN 1 ELSE 0 END BEGIN SELECT 1; END",
        "CREATE",
        "code:trigger",
    ),
    (LITE, "CREATE VIRTUAL TABLE f USING fts5(a)", "CREATE", "code:virtual_table"),
    (LITE, "DROP TRIGGER x", "DROP", "code:trigger"),
]


@pytest.mark.parametrize(("dialect", "text", "verb", "reason"), CODE)
def test_a_file_may_hold_code_of_which_nothing_is_known(dialect: Dialect, text: str, verb: str, reason: str) -> None:
    before, found, after = classify_script(f"SELECT 1; {text}; UPDATE t SET a = 1 WHERE b = 2", dialect).statements
    assert (before.verb, found.verb, after.verb) == ("SELECT", verb, "UPDATE")
    assert reason in found.reasons
    assert found.kind in {Kind.DML, Kind.DDL, Kind.DESTRUCTIVE_DDL}
    known = facts(found, dialect)
    assert not known.known or not known.acts or reason.startswith("code:disable")
    assert found.text.strip().rstrip(";") == text.strip()


@pytest.mark.parametrize(("dialect", "text", "verb", "reason"), CODE)
def test_nobody_may_ask_for_it_outside_a_file(dialect: Dialect, text: str, verb: str, reason: str) -> None:
    with pytest.raises(Invalid):
        classify(text, dialect)


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (PG, "CREATE ROLE r"),
        (PG, "ALTER SYSTEM SET work_mem = '1GB'"),
        (PG, "COPY t FROM PROGRAM 'id'"),
        (PG, "COPY t TO '/tmp/x'"),
        (PG, "GRANT admin TO bob"),
        (PG, "LOAD 'x'"),
        (PG, "CREATE DATABASE d"),
        (PG, "DROP SCHEMA s CASCADE"),
        (PG, "DROP TYPE e CASCADE"),
        (PG, "DROP EXTENSION IF EXISTS hstore CASCADE"),
        (PG, "SET ROLE postgres"),
        (PG, "SET search_path = s"),
        (PG, "BEGIN"),
        (PG, "COMMIT"),
        (PG, "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p"),
        (PG, "ALTER TABLE t ALTER COLUMN a SET DEFAULT 1, SET TABLESPACE x"),
        (MY, "CREATE USER u"),
        (MY, "GRANT ALL ON *.* TO u"),
        (MY, "CREATE DATABASE d"),
        (MY, "SET GLOBAL FOREIGN_KEY_CHECKS = 0"),
        (MY, "SET FOREIGN_KEY_CHECKS = (SELECT 1)"),
        (MY, "SET sql_mode = ''"),
        (MY, "LOAD DATA INFILE 'x' INTO TABLE t"),
        (MY, "COMMIT"),
        (MY, "DELIMITER //"),
        (MY, "CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2"),
        (MY, "CREATE /*! DEFINER=a */ PROCEDURE p() SELECT 1"),
        (MY, "CREATE USER TRIGGER"),
        (MY, "CREATE DEFINER=a@b USER event"),
        (MY, "CREATE DEFINER=CURRENT_USER VIEW v AS SELECT event FROM t"),
        (MY, "CREATE FUNCTION f RETURNS STRING SONAME 'udf.so'"),
        (MY, "CREATE PROCEDURE p() BEGIN SELECT CASE WHEN 1 THEN 2 END"),
        (PG, "-- and done \rGRANT ALL ON t TO eve"),
        (PG, "GRANT SET ON PARAMETER log_statement TO eve"),
        (PG, "GRANT USAGE ON FOREIGN SERVER s TO eve"),
        (PG, "ALTER DATABASE d OWNER TO eve"),
        (PG, "CREATE FUNCTION f(text) RETURNS int LANGUAGE c AS 'libc', 'system'"),
        (PG, "CREATE FUNCTION f(int) RETURNS int LANGUAGE INTERNAL AS 'int4abs'"),
        (LITE, "ATTACH 'x' AS y"),
        (LITE, "PRAGMA writable_schema = 1"),
        (LITE, "CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE t SET a = 1;"),
    ],
)
def test_what_reaches_beyond_the_database_is_refused_in_a_file_too(dialect: Dialect, text: str) -> None:
    with pytest.raises(Invalid) as refused:
        classify_script(text, dialect)
    assert refused.value.code in {"sql.rejected", "sql.unparsable"}


@pytest.mark.parametrize(
    ("dialect", "text", "count"),
    [
        (LITE, "CREATE TABLE begin_it (a); SELECT 1", 2),
        (LITE, 'CREATE TABLE "begin" ("end" int); SELECT 1', 2),
        (MY, "CREATE TABLE trigger_log (a INT); SELECT CASE WHEN 1 THEN 2 END; SELECT 3", 3),
        (MY, "CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW SET NEW.x = CASE 1 WHEN 1 THEN 2 END; SELECT 1", 2),
        (MY, "CREATE VIEW v AS SELECT 1; DROP VIEW v", 2),
        (MY, "CREATE TRIGGER a BEFORE UPDATE ON t FOR EACH ROW BEGIN SET NEW.x = NEW.end; END; SELECT 1", 2),
        (MY, "CREATE PROCEDURE p() BEGIN SELECT CASE WHEN 1 THEN IF(1,2,3) END; END; DROP TABLE u; SELECT 1 AS end", 3),
        (MY, "CREATE PROCEDURE p() BEGIN SELECT CASE WHEN 1 THEN REPEAT('x',2) END; END; SELECT 1", 2),
        (MY, "CREATE PROCEDURE p() BEGIN END; CREATE PROCEDURE q() BEGIN BEGIN END; END; SELECT 1", 3),
    ],
)
def test_a_semicolon_ends_a_statement_unless_a_body_is_open(dialect: Dialect, text: str, count: int) -> None:
    assert len(classify_script(text, dialect).statements) == count


def test_a_file_may_be_long() -> None:
    assert len(classify_script("INSERT INTO t VALUES (1);\n" * 1000, PG).statements) == 1000
    with pytest.raises(Invalid, match="1000"):
        classify_script("INSERT INTO t VALUES (1);\n" * 1001, PG)
