"""Secrets in output: none is shown, however it comes in and wherever the output is cut."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from era.sessions.masking import SHORTEST, Masker, of_variables

SECRETS = ("me:abab", "abab", "aba", "ab")
MANY = st.lists(st.text("abme:\n", max_size=6), max_size=12).map("".join)


def covered(text: str, secrets: tuple[str, ...]) -> list[bool]:
    """For each character, whether it is one of a secret's."""
    hidden = [False] * len(text)
    for secret in secrets:
        for at in range(len(text)):
            if text.startswith(secret, at):
                hidden[at : at + len(secret)] = [True] * len(secret)
    return hidden


@given(st.text("ab:\n", max_size=40), st.integers(0, 12))
def test_exactly_the_secrets_are_masked_also_where_the_output_begins(text: str, most: int) -> None:
    secrets = ("a:b", "b::", ":\n")
    start = max(len(text) - most, 0)
    hidden = covered(text, secrets)
    seen = "".join(" " if hidden[at] else text[at] for at in range(start, len(text)))
    shown = Masker(secrets).shown(text.encode(), most).decode()
    assert shown.replace("***", "").replace(" ", "") == seen.replace(" ", "")
    assert ("***" in shown) is any(hidden[start:])


@given(MANY)
def test_no_secret_is_shown(text: str) -> None:
    shown = Masker(SECRETS).shown(text.encode(), len(text)).decode()
    assert not any(secret in shown for secret in SECRETS)


@given(st.text("xsecrt", max_size=12))
def test_of_growing_output_no_beginning_of_a_secret_is_shown(before: str) -> None:
    assume("secret" not in before)
    masker = Masker(("secret",))
    written = f"{before}secret!"
    for end in range(len(written) + 1):
        shown = masker.shown(written[:end].encode(), 99, growing=True).decode()
        assert f"{before}***!".startswith(shown)
        assert shown.endswith("***!") or end < len(written)


def test_a_secret_that_was_cut_off_at_the_end_is_masked() -> None:
    assert Masker(("sesame-17",)).shown(b"it is sesame", 99) == b"it is ***"
    assert Masker(("sesame-17",)).shown(b"it is se", 99) == b"it is se"


@pytest.mark.parametrize("size", [5, 4096, 4097, 9000, 128_000])
def test_a_secret_of_any_length_is_masked(size: int) -> None:
    secret = Random(size).randbytes(size).hex()[:size]
    shown = Masker((secret,)).shown(f"<{secret}>".encode(), 2 * size + 9)
    assert set(shown) == set(b"<*>")


def test_what_is_secret_of_variables() -> None:
    key = "-----BEGIN KEY-----\nMIIabcdefgh\nx=\n-----END KEY-----\n"
    found = of_variables({"A": "sesame", "B": "on", "C": " p@ss ", "D": key, "E": "    "})
    assert {"sesame", "p@ss", "p%40ss", key.strip(), "MIIabcdefgh"} < set(found)
    assert not {"on", "x=", "", "    "} & set(found)
    url = {"A": "https://me:se%40same@pip.test/simple"}
    assert {"me:se%40same", "se%40same", "se@same", "me:****"} < set(of_variables(url))
    assert of_variables({"A": "1" * (SHORTEST - 1)}) == ()


def test_a_text_without_secrets_stays_as_it_is() -> None:
    masker = Masker(("sesame",))
    assert masker.text("a\ud800b==1") == "a\ud800b==1"
    assert masker.text("a==1+sesame") == "a==1+***"
    assert Masker(()).shown(b"abc", 2) == b"bc"


def test_a_look_ends_whatever_the_secrets_are() -> None:
    """Each of them may begin at nearly every place."""
    values = {f"V{number}": "a" * 2000 + f"{number:04}" + "a" * 2000 for number in range(256)}
    shown = Masker(of_variables(values)).shown(b"a" * 70_000, 65_536, growing=True)
    assert len(shown) < 65_536
