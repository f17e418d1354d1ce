"""Events come out of a stream however it is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era import AnswerError, Event, NotFoundError, UnavailableError
from era.client.events import EventReader

TEXT = st.text(st.characters(codec="utf-8"))
OUTPUT = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), TEXT), max_size=8)


def stream(output: list[tuple[str, str]], last: dict[str, Any]) -> bytes:
    """A stream as the service writes it, with pings in between."""
    events: list[dict[str, Any]] = [{"type": kind, "content": text} for kind, text in output]
    lines = [
        f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n: ping\n\n"
        for e in [*events, last]
    ]
    return "".join(lines).encode()


def read(pieces: list[bytes]) -> list[Event]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


@given(OUTPUT, st.lists(st.integers(0, 400)))
def test_events_however_they_are_cut(output: list[tuple[str, str]], cuts: list[int]) -> None:
    text = stream(output, {"type": "done", "content": "", "exit_code": 3})
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    *events, done = read(pieces)
    assert [(event.kind, event.text) for event in events] == output
    assert done.kind == "done"
    assert done.result is not None
    assert done.result.exit_code == 3
    for kind in ("stdout", "stderr"):
        whole = "".join(text for name, text in output if name == kind)
        assert getattr(done.result, kind) == whole


def test_an_error_event_is_raised() -> None:
    refusal = {"type": "error", "content": "", "error": "gone", "code": "session_not_found"}
    with pytest.raises(NotFoundError, match="gone"):
        read([stream([], refusal)])
    with pytest.raises(UnavailableError):
        read([stream([], refusal | {"code": "shutting_down"})])
    with pytest.raises(AnswerError, match="gone"):
        read([stream([], refusal | {"code": "new"})])


@pytest.mark.parametrize("data", ["{", "[]", '{"type":"done"}'])
def test_an_event_that_is_none(data: str) -> None:
    with pytest.raises(AnswerError):
        read([f"data: {data}\n\n".encode()])
