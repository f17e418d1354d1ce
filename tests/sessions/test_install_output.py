"""What is told of the output of a setup's steps."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from era.sessions.output import Tail


@given(st.lists(st.integers(0, 40), max_size=6))
def test_the_last_line_is_whole_however_it_came(cuts: list[int]) -> None:
    written = "fetching\n   Building döcopt==0.6.2, key s3cret".encode()
    places = sorted({0, len(written), *(cut for cut in cuts if cut < len(written))})
    tail = Tail(["s3cret"])
    for start, end in pairwise(places):
        tail.feed("stderr", written[start:end])
    assert tail.last_line == "Building döcopt==0.6.2, key ***"


def test_a_line_is_of_one_stream_and_one_step() -> None:
    tail = Tail()
    tail.feed("stdout", b"one")
    tail.feed("stderr", b"two")
    assert tail.last_line == "two"
    tail.begin()
    assert tail.last_line == ""
    tail.feed("stderr", b"\n")
    assert tail.last_line == ""
    tail.feed("stdout", b"three\n")
    assert tail.last_line == "three"
    assert tail.texts() == ("onethree\n", "two\n")
