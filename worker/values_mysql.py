"""MySQL and MariaDB values, from the text protocol to JSON, and the names of column types."""

from __future__ import annotations

from dataclasses import dataclass

from worker.values import FromBytes, JsonValue, from_bytes, from_float, from_integer, from_json, from_text

BINARY_CHARSET = 63
UNSIGNED = 32
ENUM = 256
SET = 2048
LARGEST_SIGNED = 2**63 - 1

_INTEGERS = {1: "tinyint", 2: "smallint", 9: "mediumint", 3: "int", 8: "bigint"}
_FLOATS = {4: "float", 5: "double"}
_DECIMALS = (0, 246)
_TIMES = {
    7: "timestamp",
    10: "date",
    11: "time",
    12: "datetime",
    13: "year",
    14: "date",
    17: "timestamp",
    18: "datetime",
}
_BIT, _JSON, _NULL, _ENUM, _SET, _GEOMETRY = 16, 245, 6, 247, 248, 255
_BLOBS = {249: ("tinyblob", "tinytext"), 250: ("mediumblob", "mediumtext"), 251: ("longblob", "longtext")}
_BLOB, _VARCHARS, _CHAR = 252, (15, 253), 254
_BYTES_PER_CHARACTER = 4
"""Of utf8mb4, the character set results are asked for."""


@dataclass(frozen=True, slots=True)
class Field:
    """A column as the protocol describes it; `length` is in bytes for text, in digits or bits for numbers."""

    type_code: int
    flags: int
    charset: int
    length: int
    scale: int


def column_type(field: Field) -> str:
    """The name as SHOW CREATE TABLE writes it, as far as the protocol tells. MariaDB's JSON is its longtext."""
    code = field.type_code
    unsigned = " unsigned" if field.flags & UNSIGNED else ""
    if code == 1 and field.length == 1 and not unsigned:
        return "tinyint(1)"
    if code in _INTEGERS:
        return _INTEGERS[code] + unsigned
    if code in _FLOATS:
        return _FLOATS[code] + unsigned
    if code in _DECIMALS:
        point_and_sign = (1 if field.scale else 0) + (0 if unsigned else 1)
        return f"decimal({field.length - point_and_sign},{field.scale}){unsigned}"
    if code in _TIMES:
        return _TIMES[code]
    if code == _BIT:
        return f"bit({field.length})"
    if code == _ENUM or field.flags & ENUM:
        return "enum"
    if code == _SET or field.flags & SET:
        return "set"
    return {_JSON: "json", _NULL: "null", _GEOMETRY: "geometry"}.get(code) or _text_type(field)


def _text_type(field: Field) -> str:
    binary = field.charset == BINARY_CHARSET
    size = field.length if binary else field.length // _BYTES_PER_CHARACTER
    if field.type_code in _BLOBS:
        return _BLOBS[field.type_code][0 if binary else 1]
    if field.type_code == _BLOB:
        return _blob_type(field.length, binary=binary)
    if field.type_code in _VARCHARS:
        return f"{'varbinary' if binary else 'varchar'}({size})"
    if field.type_code == _CHAR:
        return f"{'binary' if binary else 'char'}({size})"
    return f"type {field.type_code}"


def _blob_type(length: int, *, binary: bool) -> str:
    """All four sizes arrive as one type; their lengths in bytes tell them apart."""
    family = "blob" if binary else "text"
    factor = 1 if binary else _BYTES_PER_CHARACTER
    for limit, size in ((2**8, "tiny"), (2**16, ""), (2**24, "medium")):
        if length < limit * factor:
            return size + family
    return "long" + family


def reader(field: Field) -> FromBytes:
    code = field.type_code
    if code == 1 and field.length == 1 and not field.flags & UNSIGNED:
        return _from_boolean
    if code == 8 and field.flags & UNSIGNED:
        return _from_unsigned
    if code in _INTEGERS:
        return from_integer
    if code in _FLOATS:
        return from_float
    if code == _BIT:
        return _bits(field.length)
    if code == _JSON:
        return from_json
    if code == _GEOMETRY:
        return from_bytes
    if field.charset == BINARY_CHARSET and (code in _BLOBS or code in _VARCHARS or code in (_BLOB, _CHAR)):
        return from_bytes
    return from_text


def _from_boolean(raw: bytes) -> JsonValue:
    """TINYINT(1) is how BOOLEAN is spelled, but any small number fits in and must not turn into a truth value."""
    number = int(raw)
    return bool(number) if number in (0, 1) else number


def _from_unsigned(raw: bytes) -> JsonValue:
    number = int(raw)
    return number if number <= LARGEST_SIGNED else str(number)


def _bits(width: int) -> FromBytes:
    def read(raw: bytes) -> JsonValue:
        return format(int.from_bytes(raw), f"0{width}b")

    return read
