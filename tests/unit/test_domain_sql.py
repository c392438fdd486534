"""SQL classification: no write is a read, statements end where the database says, hostile text costs little."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain.model import Dialect, Operation
from dbward.domain.sql.classify import MAX_BYTES, classify
from dbward.domain.sql.lex import MAX_TOKENS, tokenize
from dbward.domain.sql.lex import Kind as Lexed
from dbward.domain.sql.redact import redact
from dbward.domain.sql.statements import Classification, Kind, Statement
from dbward.errors import Invalid
from tests.support.props import calm

PG, MY, SL = Dialect.POSTGRESQL, Dialect.MYSQL, Dialect.SQLITE
CORPUS = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "sql_corpus.jsonl").read_text("utf-8").splitlines()
]
dialects = pytest.mark.parametrize("dialect", Dialect)


def verdict(sql: str, dialect: Dialect) -> str:
    """`select`, `dml`, or the code of the refusal."""
    try:
        found = classify(sql, dialect)
    except Invalid as e:
        return e.code
    return "select" if found.operation is Operation.EXECUTE_SELECT else "dml"


@pytest.mark.parametrize("dialect", Dialect)
def test_no_statement_of_the_corpus_is_taken_for_a_read_that_is_none(dialect: Dialect) -> None:
    cases = [case for case in CORPUS if case["dialect"] == dialect]
    assert len(cases) > 200
    unsafe = [
        case["id"] for case in cases if verdict(case["sql"], dialect) == "select" and "select" not in case["accept"]
    ]
    assert unsafe == []


@dialects
def test_almost_every_read_of_the_corpus_is_a_read(dialect: Dialect) -> None:
    reads = [case for case in CORPUS if case["dialect"] == dialect and case["accept"] == ["select"]]
    missed = [case["id"] for case in reads if verdict(case["sql"], dialect) != "select"]
    assert len(missed) <= len(reads) // 50, missed


ORDINARY = [
    line.split("\t", 1)
    for line in (Path(__file__).parent / "data" / "ordinary_reads.tsv").read_text("utf-8").splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(("dialect", "sql"), ORDINARY)
def test_ordinary_reads_are_reads(dialect: str, sql: str) -> None:
    assert verdict(sql, Dialect(dialect)) == "select"


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        # What a general parser takes for one plain SELECT, or for a comment.
        (MY, "SELECT {#\nx 1}; DELETE FROM t # #} 1"),
        (MY, "SELECT 1 /*!50000 INTO OUTFILE '/x' */"),
        (MY, "SELECT 1 /*M!100000 INTO OUTFILE '/x' */"),
        (MY, "/*!50000 DELETE */ FROM t WHERE id = 1"),
        (MY, "SELECT 1; /*!40000 DELETE FROM t */"),
        (MY, "SELECT 1 --1 INTO OUTFILE '/x'"),
        (MY, "SELECT 1 INTO @a"),
        (MY, "SELECT app.lower('x')"),
        (MY, "SELECT COUNT (*) FROM t"),
        (MY, "SELECT @a := w()"),
        (MY, "SELECT NEXT VALUE FOR s"),
        (MY, "SHOW TABLES WHERE w()"),
        (MY, "SHOW VARIABLES WHERE NEXT VALUE FOR s1"),
        (MY, "SHOW TABLES WHERE Name = 'a' OR PREVIOUS VALUE FOR s1"),
        (MY, "SELECT 5--/**/1"),
        (PG, "SELECT @ setval(x, y) FROM (SELECT 'app_seq'::regclass AS x, 500::bigint AS y) q"),
        (PG, "SELECT @ bump(id) FROM t"),
        (PG, 'SELECT U&"\\0070g_sleep"(3)'),
        (PG, "LISTEN ch"),
        (PG, "CHECKPOINT"),
        (PG, "SELECT public.lower(name) FROM t"),
        (PG, "SELECT pg_catalog.public.lower(name) FROM t"),
        (PG, "SELECT parse_json('{}')"),
        (PG, "SELECT xor(1, 2)"),
        (PG, "SELECT join(1)"),
        (PG, "SELECT DISTINCT ON (a) setval('s', 1) FROM t"),
        (PG, "SELECT 1 WHERE NOT materialized(1)"),
        (PG, "SELECT a FROM t ORDER BY rollup(a)"),
        (PG, "SELECT mydomain 'x'"),
        (PG, "SELECT s.date 'x'"),
        (PG, "SELECT 'x'::mydomain"),
        (PG, "SELECT 'x'::name.mydomain"),
        (PG, "SELECT CAST('x' AS datetime)"),
        (PG, "SELECT * FROM jsonb_to_recordset('[]') AS x(a mydomain)"),
        (PG, "SELECT * FROM f(1) AS materialized (a mydomain)"),
        (PG, "SELECT * FROM jsonb_to_recordset('[]') AS materialized (values mydomain)"),
        (PG, "SELECT 'x'::public.date"),
        (PG, "SELECT 1 === 2"),
        (PG, "SELECT 1 OPERATOR(public.+) 2"),
        (PG, "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d"),
        (PG, "WITH x AS (SELECT 1) DELETE FROM t"),
        (PG, "SELECT * INTO n FROM t"),
        (PG, "(SELECT * INTO n FROM t)"),
        (PG, "SELECT 1 UNION SELECT 2 INTO n"),
        (PG, "SELECT * FROM t FOR UPDATE"),
        (PG, "SELECT * FROM (SELECT * FROM t FOR NO KEY UPDATE) q"),
        (PG, "EXPLAIN (ANALYZE) DELETE FROM t"),
        (PG, "EXPLAIN CREATE TEMP TABLE x AS SELECT 1"),
        (PG, "EXPLAIN SELECT 1 INTO TEMP x"),
        (PG, "SELECT date_add(a) FROM t"),
        (PG, "SELECT jsonb_populate_record(t, '{}') FROM t"),
        (PG, "SELECT * FROM pg_read_file('/etc/hostname')"),
        (PG, "SELECT pg_sleep_for('1 s')"),
        (PG, "SELECT nextval('s')"),
        (PG, "SELECT lo_import('/etc/passwd')"),
        (PG, "SELECT dblink('x', 'DELETE FROM t')"),
        (PG, "SELECT $1"),
        (PG, "DELETE FROM t\u00a0WHERE id = 1"),
        (PG, "SELECT 1\uff1bDELETE FROM t"),
        (PG, "SELECT {{ x }}"),
        (SL, "SELECT * FROM pragma_optimize"),
        (SL, 'SELECT * FROM "pragma_optimize"'),
        (SL, "SELECT * FROM 'pragma_optimize'"),
        (SL, "SELECT * FROM 'fsdir'('/')"),
        (SL, "SELECT \ufeffload_extension('x')"),
        (SL, "SELECT load_extension('x')"),
        (SL, "SELECT [load_extension]('x')"),
        (SL, "SELECT w(a) AS MATERIALIZED FROM t"),
        (SL, "SELECT writefile('/x', 'y')"),
        (SL, "EXPLAIN PRAGMA query_only = OFF"),
        (SL, "VACUUM INTO '/x'"),
    ],
)
def test_traps(dialect: Dialect, sql: str) -> None:
    assert verdict(sql, dialect) != "select"


@dialects
@pytest.mark.parametrize("sql", ["SELECT 1 END; DELETE FROM t", "SELECT 1; DELETE FROM t", "DELETE FROM t"])
def test_a_write_anywhere_is_no_read(sql: str, dialect: Dialect) -> None:
    assert verdict(sql, dialect) != "select"


@dialects
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        " select a, b from t where c = 'x' order by 1 limit 5 ;",
        "WITH x AS (SELECT 1 AS a) SELECT a FROM x",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT count(*) FROM n",
        "SELECT a FROM t LEFT JOIN (SELECT b FROM u) AS v ON v.b = t.a",
        "SELECT sum(a) OVER (PARTITION BY b ORDER BY c) FROM t",
        "SELECT CASE WHEN a > 1 THEN 'x' ELSE 'y' END FROM t GROUP BY a HAVING count(*) > 1",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SELECT 'DELETE FROM t; DROP TABLE t' AS note -- ; DELETE FROM t",
        "/* leading */ SELECT /* ; DELETE FROM t */ 1",
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u) AND a IN (1, 2) AND (b, c) IN (SELECT 1, 2)",
    ],
)
def test_reads_in_every_dialect(sql: str, dialect: Dialect) -> None:
    assert verdict(sql, dialect) == "select"


@dialects
@pytest.mark.parametrize(
    "word", ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "START TRANSACTION", "END", "SET a = 1"]
)
def test_transactions_and_settings_are_refused_alone_or_behind_others(word: str, dialect: Dialect) -> None:
    for sql in (word, f"DELETE FROM t; {word}", f"{word}; DELETE FROM t", f"/* x */ {word.lower()}"):
        assert verdict(sql, dialect) == "sql.rejected"


@dialects
@pytest.mark.parametrize("sql", ["", " \n\t", ";", ";;;", "-- nothing", "/* nothing */", " ; -- x\n ; "])
def test_nothing(sql: str, dialect: Dialect) -> None:
    assert verdict(sql, dialect) == "sql.empty"


@dialects
@pytest.mark.parametrize(
    "sql", ["SELECT 'abc", 'SELECT "abc', "SELECT /* abc", "SELECT (1", "SELECT 1)", "SELECT FROM WHERE", "SELECT \\"]
)
def test_unreadable(sql: str, dialect: Dialect) -> None:
    assert verdict(sql, dialect) == "sql.unparsable"


@dialects
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1\0",
        "SELECT '\ud800'",
        "SELECT '" + "x" * MAX_BYTES + "'",
        "SELECT '" + "é" * (MAX_BYTES // 2) + "'",
        "INSERT INTO t VALUES (1);" * 101,
        "GRANT ALL ON t TO x",
        "CREATE FUNCTION f() RETURNS int AS 'x'",
        "DROP DATABASE app",
        "SELECT 1; SELECT 2",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT 1" + " + 1" * MAX_TOKENS,
    ],
)
def test_rejected(sql: str, dialect: Dialect) -> None:
    assert verdict(sql, dialect) == "sql.rejected"


@pytest.mark.parametrize("size", [1, MAX_BYTES - len("SELECT ''")])
def test_a_megabyte_is_read(size: int) -> None:
    assert verdict("SELECT '" + "x" * size + "'", PG) == "select"


@pytest.mark.parametrize(
    ("dialect", "sql", "expected"),
    [
        (MY, "UPDATE IGNORE t SET a = 1 WHERE b = 2", "dml"),
        (MY, "INSERT LOW_PRIORITY IGNORE INTO t VALUES (1)", "dml"),
        (MY, "DELETE LOW_PRIORITY QUICK IGNORE FROM t WHERE a = 1", "dml"),
        (MY, "SELECT STRAIGHT_JOIN SQL_NO_CACHE DISTINCT a FROM t", "select"),
        (MY, "SELECT HIGH_PRIORITY w(1)", "dml"),
        (MY, "SELECT ignore(1)", "dml"),
        (MY, "INSERT INTO t (a) VALUES (1) ON DUPLICATE KEY UPDATE quick = 1", "dml"),
        (MY, "WITH x AS (SELECT SQL_NO_CACHE 1 AS a) UPDATE IGNORE t SET a = 1 WHERE b IN (SELECT a FROM x)", "dml"),
        (SL, "UPDATE OR IGNORE t SET a = 1 WHERE b = 1", "dml"),
        (SL, "UPDATE OR 1 SET a = 1", "sql.unparsable"),
    ],
)
def test_words_that_say_how_a_statement_is_done(dialect: Dialect, sql: str, expected: str) -> None:
    assert verdict(sql, dialect) == expected


@pytest.mark.parametrize("sql", ["SELCT 1", "DO x", "/*+ Set(x off) */"])
def test_what_no_grammar_knows_is_refused(sql: str) -> None:
    for dialect in Dialect:
        assert verdict(sql, dialect) in ("sql.rejected", "sql.unparsable", "sql.empty")


def split(sql: str, dialect: Dialect) -> tuple[str, ...]:
    return classify(sql, dialect).texts


def test_statements_lose_their_comments_and_nothing_else() -> None:
    first = "UPDATE t /* why; */ SET a = 'x;y',\r\n\tb = \"c;d\" -- z;\n WHERE i%2 = 0"
    second = "/* lead */ DELETE  FROM t WHERE n = 'ü 😀 %s :name'"
    bare = ("UPDATE t  SET a = 'x;y',\r\n\tb = \"c;d\" \n WHERE i%2 = 0", "DELETE  FROM t WHERE n = 'ü 😀 %s :name'")
    for dialect in Dialect:
        assert split(f"\n {first} ;;\t{second} ; -- trailing ;\n", dialect) == bare
        assert split(f"  {first}\n", dialect) == bare[:1]


@pytest.mark.parametrize(
    "read",
    [
        "WITH c AS (SELECT 1) SELECT * FROM c",  # its first word is a node, whose place is 0 without the comment
        "SELECT * FROM t WHERE a IN (1, 2) AND b = ANY (ARRAY[1, 2])",  # lists say where they begin and end
    ],
)
def test_where_a_statement_stands_is_no_part_of_what_it_says(read: str) -> None:
    assert verdict(f"-- why\n{read}", PG) == "select"
    assert len(classify(f"DELETE FROM t WHERE a IN (1, 2); {read}", PG).statements) == 2


@pytest.mark.parametrize(
    "deep",
    ["SELECT " + "+".join("1" * 40_000), "SELECT 1" + "::int" * 30_000, "SELECT 1" + " UNION SELECT 1" * 30_000],
)
def test_what_would_overflow_the_stack_of_the_grammar_is_refused_before_that(deep: str) -> None:
    assert verdict(deep, PG) == "sql.unparsable"


def test_a_long_list_of_conditions_is_not_deep() -> None:
    assert (
        verdict("SELECT * FROM t WHERE " + " OR ".join(f"a = {n} AND b - 1 > 0" for n in range(4000)), PG) == "select"
    )


def test_a_comment_whose_place_changes_what_is_read_is_refused() -> None:
    assert verdict("DELETE FROM t WHERE a = 5--/**/1 AND b = 2", MY) == "sql.unparsable"
    assert verdict("DELETE FROM t WHERE a = 5- -/**/1 AND b = 2", MY) == "dml"
    assert verdict("DELETE FROM t WHERE a = 5--;", MY) == "sql.unparsable"


def test_a_hint_is_a_comment_and_runs_as_none() -> None:
    for dialect in Dialect:
        assert split("SELECT /*+ Set(x off) */ 1", dialect) == ("SELECT  1",)


def test_statements_know_where_they_began() -> None:
    sql = "/* é */ DELETE FROM t;\n-- x\n  DELETE FROM u"
    for dialect in Dialect:
        starts = [found.start for found in classify(sql, dialect).statements]
        assert [sql[at : at + 13] for at in starts] == ["DELETE FROM t", "DELETE FROM u"]


@pytest.mark.parametrize(
    ("dialect", "first"),
    [
        (PG, "INSERT INTO t VALUES ($$a;b$$, $x$;$$;$x$, E'\\';', U&';', 'a\\')"),
        (PG, "DELETE FROM t /* a /* b; */ ; */ WHERE a = 1"),
        (PG, 'DELETE FROM t WHERE "a;""b" = 1'),
        (PG, "DELETE FROM t WHERE a = 1 --;\r AND b = 2"),
        (MY, "INSERT INTO t VALUES ('a\\';b', \"c\\\";d\", 'e'';f')"),
        (MY, "DELETE FROM `t;``u` WHERE a = 1 # ;\n AND b = 5"),
        (MY, "DELETE FROM t WHERE a = 5--1 OR b = 2"),
        (SL, "INSERT INTO t VALUES ('a\\', ';', [b;c], `d;e`, \"f;g\")"),
        (SL, "DELETE FROM t WHERE a = 1 --;\r AND b = 2\n AND c = 3"),
    ],
)
def test_statements_end_where_the_dialect_says(dialect: Dialect, first: str) -> None:
    second = "DELETE FROM u WHERE a = 1"
    sql = f"{first};{second}"
    assert [token.start for token in tokenize(sql, dialect) if token.text == ";"] == [len(first)]
    if verdict(sql, dialect) != "sql.unparsable":  # the parser's grammar is smaller than the lexer's
        assert split(sql, dialect) == (*split(first, dialect), second)


def test_one_dialects_string_is_anothers_end() -> None:
    sql = "SELECT '\\'; DELETE FROM t; -- '"
    assert verdict(sql, MY) == "select"
    assert split(sql, PG) == ("SELECT '\\'", "DELETE FROM t")
    assert split(sql, SL) == ("SELECT '\\'", "DELETE FROM t")


literals = st.sampled_from(["'a;b'", "1", "''", "'it''s'", '"c;d"', "x", "'-- x'", "'/*'", "/* ; */", "-- ;\n", "(1)"])
gaps = st.sampled_from([" ", "\n", "\t \r\n", " /* gap; */ "])


@calm
@given(st.lists(st.tuples(literals, gaps), min_size=1, max_size=6), st.integers(1, 4), gaps, st.sampled_from(Dialect))
def test_joining_and_splitting_are_inverse(
    pieces: list[tuple[str, str]], count: int, gap: str, dialect: Dialect
) -> None:
    body = "".join(text + space for text, space in pieces if text[0] in "/-")
    values = ", ".join(text for text, _ in pieces if text[0] not in "/-") or "1"
    one = f"INSERT INTO t {body} VALUES ({values})"
    texts = (one,) * count
    (bare,) = split(one, dialect)
    assert split(gap.strip("/* gap;") + ";".join(f" {text}\n" for text in texts), dialect) == (bare,) * count


def test_ddl_is_told_apart() -> None:
    def flags(sql: str) -> tuple[bool, bool]:
        found = classify(sql, PG)
        assert found.operation is Operation.EXECUTE_DML
        return found.is_ddl, found.contains_ddl

    assert flags("CREATE TABLE t (a int)") == (True, True)
    assert flags("DROP TABLE t; TRUNCATE u; CREATE UNIQUE INDEX i ON t (a)") == (True, True)
    assert flags("DROP TABLE t; DELETE FROM u") == (False, True)
    assert flags("SELECT 1; DROP TABLE t") == (True, True)
    assert flags("DELETE FROM u") == (False, False)
    read = Statement("SELECT 1", 0, "SELECT", Kind.SELECT)
    assert classify("SELECT 1", PG) == Classification(Operation.EXECUTE_SELECT, (read,))


def test_reasons_name_what_stands_in_the_way() -> None:
    assert classify("SELECT refund(1)", PG).reasons == ("unvouched_function:refund",)
    assert classify("SELECT 1 FROM t FOR UPDATE", PG).reasons == ("row_lock",)
    assert classify("DELETE FROM t WHERE a = refund(1)", PG).reasons == (
        "statement:delete",
        "unvouched_function:refund",
    )
    assert classify("SELECT refund(1)", MY).reasons == ("unvouched_function:refund",)
    assert classify("DELETE FROM t", SL).reasons == ("statement:delete",)


@dialects
def test_a_vouched_function_may_be_called_in_a_read(dialect: Dialect) -> None:
    sql = "SELECT refund_total(a) FROM t"
    assert classify(sql, dialect, vouched={"refund_total"}).operation is Operation.EXECUTE_SELECT
    assert classify(sql, dialect, vouched={"refund"}).operation is Operation.EXECUTE_DML


@dialects
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "array[" * 30 + "1" + "]" * 30,
        "SELECT a" + "[1]" * 20_000,
        "SELECT " + "NOT " * 30_000 + "1",
        "SELECT " + "- " * 30_000 + "1",
        "SELECT " + "+" * 300_000 + "1",
        "SELECT " + "+-" * 300_000 + "1",
        "SELECT " + "(" * 199 + "1" + ")" * 199,
        "SELECT " + "coalesce(" * 150 + "1" + ")" * 150,
        "SELECT * FROM " + "(SELECT * FROM " * 150 + "t" + ") a" * 150,
        "SELECT " + "case when " * 3000 + "1",
        "/*" * 500_000,
        "SELECT '" + "''" * 500_000,
        "SELECT " + "$a$" * 300_001,
        "WITH " + ", ".join(f"a{i} AS (SELECT 1)" for i in range(3000)) + " SELECT 1",
        "SELECT 1" + ", a(b" * 190 + ")" * 190,
    ],
    ids=range(15),
)
def test_hostile_text_ends_in_a_verdict(sql: str, dialect: Dialect) -> None:
    assert verdict(sql, dialect) in ("select", "dml", "sql.rejected", "sql.unparsable")
    assert isinstance(redact(sql, dialect), str)


soup = st.lists(
    st.sampled_from(
        [
            "SELECT",
            "FROM",
            "t",
            "a",
            "(",
            ")",
            ",",
            ";",
            "'",
            '"',
            "`",
            "[",
            "]",
            "--",
            "/*",
            "*/",
            "#",
            "\n",
            "$$",
            "$a$",
            "E'",
            "\\",
            "::",
            ":=",
            "@",
            ":=",
            ".",
            "1",
            "1.5e",
            "'x'",
            "AS",
            "WITH",
            "INTO",
            "DELETE",
            "UPDATE",
            "danger(",
            "danger",
            "()",
            "OVER",
            "FOR",
            "CAST",
            "MATERIALIZED",
            "VALUES",
            "'",
            "'",
            "*",
            "=",
            "?",
            "{",
            "}",
            "U&",
            "NOT",
            "JOIN",
            "LIKE",
            "BY",
            ",",
            "AS",
            "x(",
        ]
    ),
    max_size=25,
).map(" ".join)


@calm
@given(soup | st.text(max_size=60), st.sampled_from(Dialect))
def test_any_text_gets_a_verdict_and_nothing_unknown_is_called_in_a_read(sql: str, dialect: Dialect) -> None:
    code = verdict(sql, dialect)
    if code not in ("select", "dml"):
        assert code in ("sql.empty", "sql.unparsable", "sql.rejected")
        return
    found = classify(sql, dialect)
    assert [sign for one in found.texts for sign in signs(one, dialect)] == signs(sql, dialect)
    if found.operation is Operation.EXECUTE_SELECT:
        said = signs(sql, dialect)
        called = [one for one, after in pairwise(said) if one == "DANGER" and after == "("]
        assert not called or "AS" in said
        assert not {"DELETE", "UPDATE", "INTO"} & set(said) or "AS" in said or "." in said


def signs(sql: str, dialect: Dialect) -> list[str]:
    """All words and signs, but comments and the ends of statements."""
    return [token.text for token in tokenize(sql, dialect) if token.kind is not Lexed.COMMENT and token.text != ";"]


@dialects
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + " || ',' || ".join(f"c{n}" for n in range(150)) + " FROM t",
        "SELECT " + " + ".join(["1"] * 250),
        "SELECT 1 FROM t AS t0 " + " ".join(f"JOIN t AS t{n} ON t{n}.a = t0.a" for n in range(1, 60)),
        "SELECT " + "(SELECT " * 20 + "1" + ")" * 20,
        "SELECT " + "CASE WHEN a = 1 THEN 1 ELSE " * 20 + "0" + " END" * 20 + " FROM t",
        "SELECT * FROM t WHERE " + " OR ".join(f"(a = {n} AND b = {n})" for n in range(300)),
    ],
    ids=["concat", "sum", "joins", "queries", "cases", "conditions"],
)
def test_long_statements_of_reports_are_reads(sql: str, dialect: Dialect) -> None:
    assert verdict(sql, dialect) == "select"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 " + "/**/" * 99_000,
        "SELECT 1 /*" + "/**/" * 200_000 + "*/",
        "SELECT 1 " + "/*" * 200_000 + "*/" * 200_000,
        "SELECT 1" + "+1" * 45_000,
        "SELECT 1" + "::int" * 30_000,
        "SELECT " + "a[" * 9_000 + "1" + "]" * 9_000,
        "SELECT " + "NOT " * 20_000 + "a",
    ],
    ids=["comments", "comments in a comment", "nested comments", "sum", "casts", "subscripts", "negations"],
)
def test_text_that_hangs_or_kills_the_grammar_is_refused(sql: str) -> None:
    assert verdict(sql, PG) in ("sql.rejected", "sql.unparsable")


@dialects
def test_a_megabyte_of_anything_gets_a_verdict(dialect: Dialect) -> None:
    for unit in ("a", "1", "1,", "'", "(", "\n", "é", "$"):
        sql = "SELECT " + unit * ((MAX_BYTES - 8) // len(unit.encode()))
        assert verdict(sql, dialect) in ("select", "sql.rejected", "sql.unparsable")


def test_the_parser_writes_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        verdict("VACUUM FULL secret_table", PG)
        verdict("ANALYZE secret_table", MY)
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("dialect", "sql", "shown"),
    [
        (PG, "UPDATE t SET a = 'secret', b = -1.5e3 WHERE c = $$secret$$", "UPDATE t SET a = ?, b = -? WHERE c = ?"),
        (PG, "SELECT E'it\\'s', B'1', \"a  b\" FROM t -- secret", 'SELECT ?, ?, "a  b" FROM t'),
        (PG, "SELECT 1_000, 0x1F", "SELECT ?, ?"),
        (PG, "SELECT 1/* secret */+2", "SELECT ? +?"),
        (PG, "select  a\n\tfrom t;delete from t where a=1", "select a from t;delete from t where a=?"),
        (MY, "SELECT \"secret\", 'x', `b c`, x'41', 0x41, 1e3 # secret", "SELECT ?, ?, `b c`, x?, ?, ?"),
        (MY, "SELECT /*!50000 'secret' */ 1", "SELECT ?"),
        (SL, "SELECT \"maybe\", [b], 'x'", "SELECT ?, [b], ?"),
        (PG, "SELECT 'secret", "<unparsable, sha256:9a18c0267715eb4b, 14 bytes>"),
        (PG, "SELECT '\ud800\0", "<unparsable, sha256:1ee62c5977a64458, 12 bytes>"),
    ],
)
def test_redaction(dialect: Dialect, sql: str, shown: str) -> None:
    assert redact(sql, dialect) == shown


@calm
@given(st.text("abc ';\"\\`$-/*\n0", max_size=30), st.sampled_from(Dialect))
def test_redaction_hides_every_digit_and_string(noise: str, dialect: Dialect) -> None:
    shown: Any = redact(f"SELECT 'topsecret', 4711 FROM t WHERE x = {noise}", dialect)
    assert "topsecret" not in shown
    assert "4711" not in shown
