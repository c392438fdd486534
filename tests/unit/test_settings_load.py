"""Reading TOML strictly: expansion, types, unknown keys, everything reported at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.errors import Misconfigured
from dbward.settings.load import FromVariable, Problems, Table, base_of, choose, env_flag, expand, open_file
from dbward.settings.secret import Secret


def read(tmp_path: Path, text: str, **env: str) -> tuple[Table, Problems]:
    path = tmp_path / "c.toml"
    path.write_text(text)
    root, problems, _ = open_file(path, env, shown="c.toml")
    return root, problems


def mistakes(problems: Problems) -> list[str]:
    with pytest.raises(Misconfigured) as e:
        problems.finish()
    assert e.value.detail is not None
    assert e.value.message.splitlines() == e.value.detail["problems"]
    found: list[str] = e.value.detail["problems"]
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${A}", "a"),
        ("x${A}y${B:-b}z", "xaybz"),
        ("${B:-}", ""),
        ("${EMPTY:-not used}", ""),
        ("${B:-a:-b}", "a:-b"),
        ("$${A}", "${A}"),
        ("$A $ {A} }", "$A $ {A} }"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "a", "EMPTY": ""}) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${MISSING}", "MISSING is not set"),
        ("${A", "malformed"),
        ("${}", "malformed"),
        ("${1A}", "malformed"),
        ("${A-b}", "malformed"),
        ("${A:-${B}}", "nest"),
    ],
)
def test_expansion_mistakes(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        expand(text, {"A": "a"})


@given(st.text())
def test_a_value_is_taken_as_it_is(value: str) -> None:
    assert expand("<${A}>", {"A": value}) == f"<{value}>"


def test_expansion_happens_in_values_only(tmp_path: Path) -> None:
    root, problems = read(tmp_path, '# ${NOPE}\na = "${V}"\n[t]\nb = ["${V}", "x"]', V='"\nc = 1')
    assert root.text("a", "") == '"\nc = 1'
    assert root.table("t").texts("b") == ('"\nc = 1', "x")
    problems.finish()


def test_a_reference_to_a_file_is_its_content(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    for content in ("pa${A}ss", "pa${A}ss\n", "pa${A}ss\r\n"):
        secret.write_bytes(content.encode())
        assert expand(f"<${{file:{secret}}}>", {}, files=True) == "<pa${A}ss>"
    secret.write_text("two\nlines\n\n")
    assert expand(f"${{file:{secret}}}", {}, files=True) == "two\nlines\n"


@pytest.mark.parametrize(
    ("content", "path", "said"),
    [
        (None, "{}", "No such file"),
        (None, "secret", "absolute"),
        (b"\xff", "{}", "not UTF-8"),
        (b"x" * 65537, "{}", "larger than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, path: str, said: str) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(ValueError, match=said) as e:
        expand("${file:" + path.format(secret) + "}", {}, files=True)
    assert content is None or content.decode("latin-1") not in str(e.value)


def test_only_the_machines_own_configuration_may_refer_to_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("dbw_0")
    (tmp_path / "config.toml").write_text(f'token = "${{file:{tmp_path / "secret"}}}"')
    with pytest.raises(Misconfigured, match="malformed"):
        open_file(tmp_path / "config.toml", {})[1].raise_found()
    table, problems, _ = open_file(tmp_path / "config.toml", {}, files=True)
    problems.raise_found()
    assert table.text("token", "") == "dbw_0"


def test_an_expanded_text_may_be_a_number_or_a_boolean(tmp_path: Path) -> None:
    root, problems = read(tmp_path, 'n = "${N}"\nb = "${B}"\ns = "5"', N="12", B="true")
    assert root.integer("n", 0) == 12
    assert root.flag("b", default=False) is True
    assert root.integer("s", 7) == 7
    assert mistakes(problems) == ["c.toml: s: must be a whole number, not a text"]


def test_an_unset_variable_is_reported_once_with_its_key(tmp_path: Path) -> None:
    root, problems = read(tmp_path, '[a]\nb = "${NOPE}"\n[[l]]\nx = ["ok", "${NOPE2}"]')
    assert root.table("a").required("b") == ""
    assert root.tables("l")[0].texts("x") == ("ok",)
    assert mistakes(problems) == [
        "c.toml: a.b: environment variable NOPE is not set",
        "c.toml: l[0].x[1]: environment variable NOPE2 is not set",
    ]


def test_unknown_keys_are_found_everywhere(tmp_path: Path) -> None:
    root, problems = read(tmp_path, "hallo = 1\n[a]\nprot = 2\n[[l]]\n[[l]]\nz = 1")
    root.integer("hello", 0)
    root.table("a").integer("port", 0)
    root.tables("l")
    assert mistakes(problems) == [
        "c.toml: hallo: unknown key; did you mean `hello`?",
        "c.toml: a.prot: unknown key; did you mean `port`?",
        "c.toml: l[1].z: unknown key",
    ]


def test_wrong_types_never_show_the_value(tmp_path: Path) -> None:
    root, problems = read(
        tmp_path, 'a = 5\nb = "hunter2"\nc = "hunter2"\nd = [1]\ne = 2026-01-01\nf = "hunter2"\ng = [1]\nh = true'
    )
    root.required("a")
    root.flag("b", default=False)
    root.integer("c", 0)
    root.texts("d")
    root.integer("e", 0)
    root.table("f")
    root.tables("g")
    root.integer("h", 0)
    found = "\n".join(mistakes(problems))
    assert "hunter2" not in found
    assert len(found.splitlines()) == 8


def test_ranges(tmp_path: Path) -> None:
    root, problems = read(tmp_path, "a = -1\nb = 11\nc = 99999999999\nd = 3")
    assert root.integer("a", 5) == 5
    assert root.integer("b", 5, most=10) == 5
    assert root.secs("c", timedelta(1)) == timedelta(1)
    assert root.days("d", timedelta(1)) == timedelta(days=3)
    assert [line.split(": ", 2)[1] for line in mistakes(problems)] == ["a", "b", "c"]


def test_required_and_empty(tmp_path: Path) -> None:
    root, problems = read(tmp_path, 'a = ""\nb = ""')
    root.required("a")
    root.required("missing")
    assert root.maybe("b") is None
    assert mistakes(problems) == ["c.toml: a: is empty", "c.toml: missing: is required"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"a = ", "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"port = ${PORT}", "inside quotes"),
        (b"a = '\xff'", "not UTF-8"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
    ],
)
def test_what_is_not_toml(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(raw)
    with pytest.raises(Misconfigured, match=words):
        open_file(path, {})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"nothere\.toml: there is no such file"):
        open_file(tmp_path / "nothere.toml", {})
    with pytest.raises(Misconfigured, match="cannot be read"):
        open_file(tmp_path, {})


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    root, problems, _ = open_file(path, {})
    assert root.integer("a", 0) == 1
    problems.finish()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("1", True), ("YES", True), ("false", False), ("0", False), ("what", False), ("", None)],
)
def test_env_flag(value: str, expected: bool | None) -> None:
    assert env_flag({"X": value}, "X") is expected
    assert env_flag({}, "X") is None


def test_a_secret_is_never_printed() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {secret!s} {[secret]}"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2") != Secret("other")


# --- the text in the environment --------------------------------------------------------------------------------------


def test_a_named_file_wins_over_the_variable_and_the_variable_over_the_usual_file(tmp_path: Path) -> None:
    usual, env = Path("usual.toml"), {"DBWARD_CONFIG_TOML": "a = 1"}
    assert choose(Path("named.toml"), usual, env, cwd=tmp_path) == tmp_path / "named.toml"
    assert choose(None, usual, env, cwd=tmp_path) == FromVariable(tmp_path)
    assert choose(None, usual, {"DBWARD_CONFIG_TOML": ""}, cwd=tmp_path) == tmp_path / "usual.toml"
    assert choose(Path("/elsewhere/named.toml"), usual, {}, cwd=tmp_path) == Path("/elsewhere/named.toml")
    assert base_of(FromVariable(tmp_path)) == base_of(tmp_path / "usual.toml") == tmp_path


def test_the_variable_is_read_as_a_file_would_be(tmp_path: Path) -> None:
    env = {"DBWARD_CONFIG_TOML": 'a = "${NAME}"\nb = "é"\nwrong = 1\n', "NAME": "it's\nTOMLEOF\n$(id)"}
    root, problems, raw = open_file(FromVariable(tmp_path), env)
    assert (root.text("a", ""), root.text("b", "")) == ("it's\nTOMLEOF\n$(id)", "é")
    assert raw == env["DBWARD_CONFIG_TOML"].encode()
    assert mistakes(problems) == ["DBWARD_CONFIG_TOML: wrong: unknown key"]


def test_a_variable_that_is_not_utf8_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="is not UTF-8 text"):
        open_file(FromVariable(tmp_path), {"DBWARD_CONFIG_TOML": b"a = '\xff'".decode("utf-8", "surrogateescape")})


def test_an_override_makes_its_table_and_replaces_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[there]\nkey = "file"\nother = "file"\n')
    overrides = {"A": ("there", "key"), "B": ("new", "key"), "C": ("there", "other"), "D": ("absent", "key")}
    root, problems, _ = open_file(path, {"A": "${A}", "B": "7", "C": ""}, overrides=overrides)
    there = root.table("there")
    assert (there.text("key", ""), there.text("other", "")) == ("${A}", "file")
    assert root.table("new").integer("key", 0) == 7
    assert not root.table("absent").present
    problems.finish()


def test_an_override_leaves_a_wrong_table_to_be_reported(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("there = 1")
    root, problems, _ = open_file(path, {"A": "x"}, shown="c.toml", overrides={"A": ("there", "key")})
    root.table("there")
    assert mistakes(problems) == ["c.toml: there: must be a table, [there], not a number"]
