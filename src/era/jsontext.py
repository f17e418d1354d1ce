"""JSON text: reading it strictly, and writing it so that nothing is lost.

Numbers keep every digit: an integer too long for `int()` is kept as a `Decimal`.  Lone surrogates,
which JSON text may hold as escapes, are read into the string and written as escapes again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import accumulate
from typing import Any, Final

MAX_DEPTH: Final = 500
"""Arrays and objects inside one another; `[]` is 1.  Far below any recursion limit of a parser."""

_INT_DIGITS: Final = 640
"""Up to here `int(text)` and `repr(int)` work however the interpreter is configured."""

# A string that is never closed reaches to the end of the text, so a match that began always ends and
# nothing is tried twice: else a text of nothing but quotes would cost its length squared.  Only single
# characters are possessive: Python before 3.11.5 is wrong about groups.
_QUOTED: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*(?:"|\\?\Z)'
_STRING: Final = re.compile(_QUOTED, re.DOTALL)
_TOKEN: Final = re.compile(_QUOTED + r"|-?[A-Za-z0-9.+-]+", re.DOTALL)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_STEPS: Final = bytes({0x5B: 1, 0x7B: 1, 0x5D: 255, 0x7D: 255}.get(byte, 0) for byte in range(256))
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if not _STEPS[byte])


class JsonTextError(ValueError):
    """The text is not JSON that the service accepts.

    `position` counts characters from 0, `line` and `column` from 1.
    """

    def __init__(self, reason: str, text: str, position: int) -> None:
        self.reason: Final = reason
        self.position: Final = position
        self.line: Final = text.count("\n", 0, position) + 1
        self.column: Final = position - text.rfind("\n", 0, position)
        super().__init__(f"{reason}: line {self.line} column {self.column}")


class JsonDepthError(JsonTextError):
    """Arrays and objects are nested too deeply."""


class _TokenError(Exception):
    """A token of `text` is no JSON value, though it looks like one."""

    def __init__(self, reason: str, token: str) -> None:
        self.reason = reason
        self.token = token


def _int(token: str) -> int | Decimal:
    return int(token) if len(token) <= _INT_DIGITS else Decimal(token)


def _float(token: str) -> float:
    number = float(token)
    if math.isinf(number):
        raise _TokenError("number out of range", token)
    return number


def _constant(token: str) -> Any:
    raise _TokenError(f"{token} is not JSON", token)


_DECODER: Final = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=_constant)
_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
)


def loads(text: str | bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text; of members with the same name the last one counts.

    Objects are `dict`, arrays `list`, integers `int` (or `Decimal` beyond 640 digits), other
    numbers `float`.  Bytes must be UTF-8 without a byte order mark.

    Raises:
        JsonDepthError: nested deeper than `max_depth`.
        JsonTextError: anything else that is not JSON, `NaN`, and numbers beyond a double.
    """
    if not isinstance(text, str):
        text = _decode(text)
    elif not text.isascii() and (raw := _SURROGATE.search(text)):
        raise JsonTextError("invalid Unicode", text, raw.start())
    if depth(text) > max_depth:
        raise _too_deep(text, max_depth)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonTextError(error.msg, text, error.pos) from None
    except _TokenError as error:
        raise JsonTextError(error.reason, text, _find(text, error.token)) from None
    except RecursionError:
        raise _too_deep(text, max_depth) from None


def dumps(value: Any) -> str:
    """Compact JSON text of a value such as `loads` gives; valid Unicode whatever its strings hold.

    Raises:
        ValueError: a number that JSON has no form for.
        TypeError: a value of another type.
    """
    try:
        text = _ENCODER.encode(value)
    except TypeError:
        text = _render(value, indent=None)  # it may hold long integers
    return _escape_surrogates(text)


def pretty(value: Any) -> str:
    """JSON text of `value` over several lines, two spaces for each level."""
    return _escape_surrogates(_render(value, indent=2))


def depth(text: str) -> int:
    """How deeply the arrays and objects of a JSON text are nested; 0 for a plain value."""
    if text.count("[") + text.count("{") <= 1:
        return int("[" in text or "{" in text)
    raw = _STRING.sub("", text).encode("utf-8", "replace")
    steps = raw.translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0)


def _too_deep(text: str, max_depth: int) -> JsonDepthError:
    return JsonDepthError(f"nested deeper than {max_depth} levels", text, 0)


def _decode(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        valid = raw[: error.start].decode()
        raise JsonTextError("invalid UTF-8", valid, len(valid)) from None
    if text.startswith("\ufeff"):
        raise JsonTextError("byte order mark", text, 0)
    return text


def _find(text: str, token: str) -> int:
    """Where `token` stands outside strings."""
    for match in _TOKEN.finditer(text):
        if match[0] == token:
            return match.start()
    return 0


def _escape_surrogates(text: str) -> str:
    if text.isascii():
        return text
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _render(value: Any, indent: int | None) -> str:
    """JSON text of `value`, written without recursion."""
    out: list[str] = []
    open_values = [_pieces(value, indent, 0)]
    while open_values:
        for piece in open_values[-1]:
            if isinstance(piece, str):
                out.append(piece)
            else:
                open_values.append(piece)
                break
        else:
            open_values.pop()
    return "".join(out)


_Pieces = Iterator["str | _Pieces"]


def _pieces(value: Any, indent: int | None, level: int) -> _Pieces:
    """The text of one value in order; a container inside it comes as pieces of its own."""
    if isinstance(value, Decimal) and value.is_finite():
        yield str(value)
    elif isinstance(value, dict) and value:
        yield from _container("{}", _members(value, indent, level + 1), indent, level)
    elif isinstance(value, (list, tuple)) and value:
        items = ((_pieces(item, indent, level + 1),) for item in value)
        yield from _container("[]", items, indent, level)
    else:
        yield _ENCODER.encode(value)


def _members(value: dict[Any, Any], indent: int | None, level: int) -> Iterator[tuple[Any, ...]]:
    colon = ":" if indent is None else ": "
    for key, member in value.items():
        if not isinstance(key, str):
            raise TypeError(f"a member's name must be a string, not {type(key).__name__}")
        yield _ENCODER.encode(key), colon, _pieces(member, indent, level)


def _container(
    brackets: str, items: Iterator[tuple[Any, ...]], indent: int | None, level: int
) -> _Pieces:
    inner = "" if indent is None else "\n" + " " * (indent * (level + 1))
    outer = "" if indent is None else "\n" + " " * (indent * level)
    before = brackets[0] + inner
    for item in items:
        yield before
        yield from item
        before = "," + inner
    yield outer + brackets[1]
