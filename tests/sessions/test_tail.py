"""What is kept of the output of a setup: none of the operator's credentials, however it comes in."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from era.sessions.install import OUTPUT_BYTES, Tail

SECRETS = ("me:abab", "abab", "aba", "ab")


@given(st.lists(st.text("abme:\n", max_size=6).map(str.encode), max_size=12))
def test_secrets_are_masked_wherever_the_output_is_cut(chunks: list[bytes]) -> None:
    tail = Tail(SECRETS)
    for number, chunk in enumerate(chunks):
        tail.feed("stdout", chunk)
        tail.feed("stderr", b"no secret")
        assert not any(secret in tail.last_line for secret in SECRETS)
        if number == len(chunks) // 2:
            tail = tail.copy()
    whole = b"".join(chunks).decode()
    assert tail.texts()[0] == re.sub("|".join(SECRETS), "***", whole)


def test_no_half_of_a_secret_shows_at_either_cut() -> None:
    secret = "sesame-" + "x" * 60
    tail = Tail((secret,))
    for _ in range(4 * OUTPUT_BYTES // len(secret)):
        for half in (secret[:33], secret[33:] + "\n"):
            tail.feed("stdout", half.encode())
            assert "sesame" not in tail.last_line
            assert "x" not in tail.last_line
    text = tail.texts()[0]
    assert 0 < len(text) <= OUTPUT_BYTES
    assert set(text) == set("*\n")


def test_output_without_secrets_comes_out_as_it_is() -> None:
    tail = Tail()
    tail.feed("stderr", b"one\rtwo\n")
    assert (tail.texts(), tail.last_line) == (("", "one\rtwo\n"), "two")
    tail.clear()
    assert (tail.texts(), tail.last_line) == (("", ""), "")
