"""Cursors and ranges in byte order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.errors import InputError
from era.storage.records.cursors import LAST, decode, encode, prefix_range

TEXT = st.text(st.characters(codec="utf-8"))
EDGES = st.text(st.sampled_from("a/0\0\ud7ff\ue000\uffff\U00010000\U0010fffe\U0010ffff"))


@given(TEXT)
def test_a_cursor_gives_its_key_back(key: str) -> None:
    assert decode("files", encode("files", key)) == key


@given(TEXT)
def test_a_cursor_of_another_list_is_refused(key: str) -> None:
    with pytest.raises(InputError):
        decode("sessions", encode("files", key))


@given(st.text(), st.integers(0, 10))
def test_other_texts_are_refused(text: str, cut: int) -> None:
    with pytest.raises(InputError):
        decode("files", text)
    good = encode("files", "a/b")
    with pytest.raises(InputError):
        decode("files", good[:cut] + text + "=" + good[cut:])


@given(st.one_of(TEXT, EDGES), st.one_of(TEXT, EDGES))
def test_a_range_holds_exactly_what_begins_with_the_prefix(prefix: str, text: str) -> None:
    found = prefix_range(prefix)
    if "\0" in prefix:
        assert found is None
        return
    assert found is not None
    low, high = found
    for candidate in (text, prefix + text, prefix):
        if len(candidate.encode()) <= 1024:
            inside = low.encode() <= candidate.encode() < high.encode()
            assert inside == candidate.startswith(prefix)


def test_a_prefix_that_is_no_text_has_no_range() -> None:
    assert prefix_range("\ud800") is None
    assert prefix_range("") == ("", LAST)
