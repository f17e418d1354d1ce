"""JSON text: nothing is lost, and nothing that is not JSON gets in."""

from __future__ import annotations

import json
import random
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era import jsontext
from era.jsontext import MAX_DEPTH, JsonDepthError, JsonTextError, depth, dumps, loads, pretty

anything = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**4000), 2**4000).map(lambda n: n if abs(n) < 10**639 else 7)
    | st.floats(allow_nan=False, allow_infinity=False)
    | anything,
    lambda inner: st.lists(inner) | st.dictionaries(anything, inner),
    max_leaves=40,
)


def joined(value: Any) -> Any:
    """The value as JSON can say it: two surrogates that make a pair are one character."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if isinstance(value, dict):
        return {joined(key): joined(member) for key, member in value.items()}
    return [joined(item) for item in value] if isinstance(value, list) else value


@given(values)
def test_a_value_survives_both_forms(value: Any) -> None:
    for text in (dumps(value), pretty(value)):
        assert loads(text) == loads(text.encode()) == joined(value)


@given(values)
def test_forms_agree_with_the_standard_library(value: Any) -> None:
    compact = json.dumps(value, separators=(",", ":"))
    assert json.loads(dumps(value)) == json.loads(compact)
    assert json.loads(pretty(value)) == json.loads(json.dumps(value, indent=2))
    if compact.isascii() and "\\u" not in compact:
        assert dumps(value) == compact
        assert pretty(value) == json.dumps(value, indent=2)


@given(values)
def test_compact_text_is_stable(value: Any) -> None:
    text = dumps(loads(dumps(value)))
    assert dumps(loads(text)) == text
    assert "\n" not in text


@given(
    st.recursive(st.integers(), lambda inner: st.lists(inner) | st.dictionaries(anything, inner))
)
def test_depth_is_that_of_the_value(value: Any) -> None:
    def measured(value: Any) -> int:
        if not isinstance(value, (list, dict)):
            return 0
        items = value.values() if isinstance(value, dict) else value
        return 1 + max(map(measured, items), default=0)

    assert depth(dumps(value)) == depth(pretty(value)) == measured(value)


def outcome(text: str | bytes) -> Any:
    """The value of `text`, or the error when it is one of ours."""
    try:
        return loads(text)
    except JsonTextError as error:
        return error


@given(st.text() | st.binary())
def test_arbitrary_input_gives_a_value_or_our_error(text: str | bytes) -> None:
    value = outcome(text)
    if isinstance(value, JsonTextError):
        assert value.line >= 1
        assert value.column >= 1
    else:
        assert json.loads(text) == value


@given(values, st.randoms(use_true_random=False))
def test_damaged_text_gives_a_value_or_our_error(value: Any, rng: random.Random) -> None:
    text = list(pretty(value))
    for _ in range(3):
        text[rng.randrange(len(text))] = rng.choice('{}[]",:\\0123eE.-+ \n\x00aN')
    error = outcome("".join(text))
    if isinstance(error, JsonTextError):
        assert 0 <= error.position <= len(text)


@pytest.mark.parametrize("digits", [20, 640, 641, 4301, 100_000])
def test_integers_keep_every_digit(digits: int) -> None:
    text = '{"n":-' + "7" * digits + ',"s":"\\ud800"}'
    assert dumps(loads(text)) == text
    assert "7" * digits in pretty(loads(text))


def test_a_long_integer_among_other_things() -> None:
    value = loads(f'[1, {"1" * 700}, {{"a": [], "b": {{}}}}, "\\u00e9", 1.5, null, true]')
    assert value[1] == Decimal("1" * 700)
    assert dumps(value) == f'[1,{"1" * 700},{{"a":[],"b":{{}}}},"é",1.5,null,true]'


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        '{"a":-Infinity}',
        "1e400",
        "[-1e999]",
        "1" + "0" * 400 + ".0",
        "1e999999999",
    ],
)
def test_numbers_json_does_not_have(text: str) -> None:
    with pytest.raises(JsonTextError):
        loads(text)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], Decimal("NaN"), {1}, b"x"])
def test_values_json_does_not_have(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        dumps(value)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"a": 1,\n  "b": }', 2, 8),
        ('{"a": "NaN",\n "b": [1, NaN]}', 2, 11),
        ('["1e400",\n1e400]', 2, 1),
        ("", 1, 1),
        ("\n\n  x", 3, 3),
        (b'["\xc3\xa9\n", \xff]', 2, 4),
        (b"\xef\xbb\xbf{}", 1, 1),
        ("{} // comment", 1, 4),
        ('"\ud800"', 1, 2),
        ('"a\tb"', 1, 3),
    ],
)
def test_an_error_says_where(text: str | bytes, line: int, column: int) -> None:
    with pytest.raises(JsonTextError) as caught:
        loads(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert f"line {line} column {column}" in str(caught.value)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"[[":[', "[ \n\t"])
def test_depth_is_bounded(opening: str) -> None:
    levels = opening.replace('"[["', "").count("[") + opening.count("{")

    def nested(times: int) -> str:
        closing = {"[": "]", "{": "}"}
        ends = [closing[char] for char in opening.replace('"[["', "") if char in closing]
        return opening * times + "1" + "".join(reversed(ends)) * times

    text = nested(MAX_DEPTH // levels)
    assert loads(dumps(loads(text))) == loads(pretty(loads(text))) == loads(text)
    for times in (MAX_DEPTH // levels + 1, 200_000):
        with pytest.raises(JsonDepthError):
            loads(nested(times))
    assert loads(nested(MAX_DEPTH // levels + 1), max_depth=MAX_DEPTH + levels)


def test_brackets_in_strings_are_not_depth() -> None:
    text = json.dumps(["[" * 2000, '\\"' + "{" * 2000, {"[" * 2000: 1}])
    assert depth(text) == 2
    assert loads(text) == json.loads(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '"' + "[" * 100_000, '["\\' + "{[" * 100_000])
def test_deep_text_that_never_ends(text: str) -> None:
    with pytest.raises(JsonTextError):
        loads(text)


def test_a_larger_bound_than_the_parser_has_is_still_an_error_of_ours() -> None:
    levels = sys.getrecursionlimit() * 200
    with pytest.raises(JsonDepthError):
        loads("[" * levels + "]" * levels, max_depth=levels + 1)


def test_the_last_of_equal_members_counts() -> None:
    assert dumps(loads('{"a":1,"b":2,"a":3}')) == '{"a":3,"b":2}'


def test_surrogates() -> None:
    assert loads('"\\ud83d\\ude00"') == "😀"
    assert dumps(loads('{"\\udfff":"\\ud800x"}')) == '{"\\udfff":"\\ud800x"}'
    assert jsontext.pretty(["\ud800"]) == '[\n  "\\ud800"\n]'


def test_names_of_members_are_strings() -> None:
    with pytest.raises(TypeError):
        pretty({1: 2})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ['[["' + '\\"' * 500_000, '[["' + "\\" * 999_999])
def test_a_string_that_is_never_closed_is_read_once(text: str) -> None:
    with pytest.raises(jsontext.JsonTextError):
        jsontext.loads(text)
