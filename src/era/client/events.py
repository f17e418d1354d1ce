"""Server-sent events from the bytes of an answer, and the result that a stream adds up to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from era import jsontext
from era.client.answers import Event, Raw, Result, decode
from era.client.errors import AnswerError, from_answer
from era.errors import CODES

_UNKNOWN_STATUS: Final = 500


class EventReader:
    """Takes pieces of an answer, cut anywhere, and gives its events in order."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._output: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.finished = False

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that are complete with this piece.

        Raises:
            EraError: the service failed after the stream began.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif not line.strip() and self._data:
                yield self._event(_object(b"\n".join(self._data)))
                self._data.clear()

    def _event(self, body: Raw) -> Event:
        kind = body.pop("type", "")
        content = body.pop("content", "")
        if kind == "stdout" or kind == "stderr":
            self._output[kind].append(content)
            return Event(kind=kind, text=content)
        if kind == "done":
            self.finished = True
            output = {name: "".join(texts) for name, texts in self._output.items()}
            return Event(kind="done", result=decode(Result, output | body))
        code = CODES.get(str(body.get("code")))
        raise from_answer(code.status if code else _UNKNOWN_STATUS, body)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = jsontext.loads(text)
    except jsontext.JsonTextError as error:
        raise AnswerError(f"an event is not understood: {error}", status=200) from error
    if not isinstance(value, dict):
        raise AnswerError("an event is not understood", status=200)
    return value
