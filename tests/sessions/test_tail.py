"""What is kept and told of the output of a setup: plain text, and nobody's secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.sessions.output import OUTPUT_BYTES, Tail, plain

SECRETS = ("me:abab", "abab", "aba", "ab")


@given(st.lists(st.text("abme:\n", max_size=6).map(str.encode), max_size=12))
def test_secrets_are_masked_wherever_the_output_is_cut(chunks: list[bytes]) -> None:
    tail, whole = Tail(SECRETS), Tail(SECRETS)
    for number, chunk in enumerate(chunks):
        tail.feed("stdout", chunk)
        assert not any(secret in tail.last_line for secret in SECRETS)
        tail.feed("stderr", b"no secret")
        if number == len(chunks) // 2:
            tail = tail.copy()
    whole.feed("stdout", b"".join(chunks))
    assert tail.texts()[0] == whole.texts()[0]
    assert not any(secret in tail.texts()[0] for secret in SECRETS)


@pytest.mark.parametrize("filler", ["", "x"])
def test_no_half_of_a_secret_shows_at_either_cut(filler: str) -> None:
    secret = "sesame-" + "y" * 60
    tail = Tail((secret,))
    for number in range(4 * OUTPUT_BYTES // len(secret)):
        for half in (secret[:33], secret[33:] + filler * (number % 7) + "\n"):
            tail.feed("stdout", half.encode())
            assert not {*"sesame-y"} & {*tail.last_line}
    text = tail.texts()[0]
    assert 0 < len(text) <= OUTPUT_BYTES
    assert set(text) == {*"*\n", *filler}


@given(st.integers(0, 3))
def test_a_cut_leaves_characters_whole(shift: int) -> None:
    tail = Tail()
    for _ in range(5):
        tail.feed("stderr", ("x" * shift + "€😀é" * 9000).encode())
    text = tail.texts()[1]
    assert len(text.encode()) <= OUTPUT_BYTES
    assert "\ufffd" not in text


def test_output_without_secrets_comes_out_as_it_is() -> None:
    tail = Tail()
    tail.feed("stderr", b"one\r\x1b[1mtwo\n")
    assert (tail.texts(), tail.last_line) == (("", "one\r\x1b[1mtwo\n"), "two")
    tail.clear()
    assert (tail.texts(), tail.last_line) == (("", ""), "")


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("\x1b[32m✓ ready\x1b[0m\n", "✓ ready"),
        ("\x1b]0;owned\x07\x1b[2J\x1b[Hname 日本\t👩‍💻\x1b(B\n", "name 日本 👩‍💻"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x07\x9b5m\n", "link 5m"),
        ("begun\n\x1b[31", "begun"),
        ("50 %\r100 %\r", "100 %"),
        ("ab\u202ecd\u2066\x00\x7f\n", "abcd"),
        ("one\x1b[K\n\x1b[0m\n", "one"),
        ("\x1bPq#0\x1b\\after\n", "after"),
        ("two\u2028three\n", "three"),
    ],
)
def test_the_last_line_has_nothing_that_a_terminal_obeys(written: str, line: str) -> None:
    tail = Tail()
    tail.feed("stdout", written.encode())
    assert tail.last_line == line


@given(st.text())
def test_plain_text_is_plain(text: str) -> None:
    assert plain(plain(text)) == plain(text)
    if text.isprintable():
        assert plain(text) == text


def test_a_secret_that_colours_cut_is_masked_in_the_last_line() -> None:
    tail = Tail(("sesame",))
    tail.feed("stdout", b"it is ses\x1b[1mame!\n")
    assert tail.last_line == "it is ***!"


@pytest.mark.parametrize(
    "named",
    [
        "npm error A complete log of this run can be found in: /opt/x/_logs/1.log\n",
        "npm ERR! A complete log of this run can be found in:\nnpm ERR!     /opt/x/_logs/1.log\n",
    ],
)
def test_a_log_that_nobody_can_read_is_not_named(named: str) -> None:
    tail = Tail()
    tail.feed("stderr", f"npm error code E404\n{named}".encode())
    assert tail.texts()[1] == "npm error code E404\n"
    assert tail.last_line == "npm error code E404"
