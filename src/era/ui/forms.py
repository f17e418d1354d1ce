"""Forms as browsers send them: fields within bounds, and files as a stream that nobody holds whole."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from era.api import body
from era.api.routing import Call
from era.errors import InputError, TooLargeError
from era.ui.guard import TOKEN, check_token

MAX_FIELDS: Final = 64
MAX_FIELD_BYTES: Final = 8 << 10
"""Of one field beside files."""
MAX_HEADER_BYTES: Final = 8 << 10
_NUMBER: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?")
_AROUND: Final = 1 << 20
"""What may surround a file in its form."""

Form = Mapping[str, str]


async def read_form(call: Call) -> Form:
    """The fields of a form of one of our pages.

    Raises:
        EraError: `foreign_request`, when its token is not that of the pages of this visitor.
        InputError, TooLargeError, BusyError: as for a JSON body.
    """
    options = call.options
    async with body.whole(
        call.scope, call.receive, options.bounds.body_bytes, options.buffer
    ) as raw:
        if len(raw) <= body.SMALL_BYTES:
            form = fields_of(raw)
        else:
            async with options.buffer.turn:
                form = await asyncio.to_thread(fields_of, raw)
    check_token(call, form.get(TOKEN, ""))
    return form


def fields_of(raw: bytes) -> Form:
    """The fields of a form's body.  Browsers send line ends of their own; programs get theirs.

    Raises:
        InputError: `invalid_body`, for more fields than any of our forms has.
    """
    try:
        pairs = parse_qsl(
            raw.decode("latin-1"),
            keep_blank_values=True,
            errors="replace",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise InputError("invalid_body", "request body must be a form") from None
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


# --- what a form asks for, as the members of the API's bodies -----------------------------------


def run_members(form: Form) -> dict[str, Any]:
    """The members of a run."""
    found: dict[str, Any] = {"code": form.get("code", ""), "stdin": form.get("stdin", "")}
    if args := lines(form.get("args", "")):
        found["args"] = args
    found |= _numbers(form, "timeout", "memory_mib")
    return found


def execute_members(form: Form) -> dict[str, Any]:
    """The members of a one-shot execution."""
    found = {**run_members(form), "language": form.get("language", "")}
    found["allowInternetAccess"] = form.get("internet") == "1"
    return found


def create_members(form: Form) -> dict[str, Any]:
    """The members of a new session."""
    entries = {name: lines(form.get(name, "")) for name in ("pip", "npm", "go", "commands")}
    setup = {name: entry for name, entry in entries.items() if entry}
    found: dict[str, Any] = {
        "language": form.get("language", ""),
        "persistent": form.get("persistent") == "1",
        "allowInternetAccess": form.get("internet") == "1",
        **_numbers(form, "memory_mib", "default_timeout"),
    }
    if form.get("id", "").strip():
        found["id"] = form["id"].strip()
    if setup:
        found["setup"] = setup
    return found


def lines(text: str) -> list[str]:
    """The lines that say something."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def _numbers(form: Form, *names: str) -> dict[str, Any]:
    """Numbers as such; what is none is left to the API to refuse by name."""
    return {name: _number(text) for name in names if (text := form.get(name, "").strip())}


def _number(text: str) -> int | float | str:
    if _NUMBER.fullmatch(text) is None:
        return text
    return float(text) if "." in text else int(text)


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a form: `filename` is None for a field."""

    name: str
    filename: str | None
    content_type: str | None


class Parts:
    """The parts of a form with files, one after the other, as they come.

    `next` gives a part once its headers are there; `content` is then to be read to its end.
    """

    def __init__(self, call: Call) -> None:
        kind, options = parse_options_header(call.header("content-type") or "")
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InputError("invalid_body", "request body must be a form with files")
        limit = call.options.bounds.file_bytes + _AROUND
        self._pieces = body.stream(call.scope, call.receive, limit, "body_too_large")
        self._come: deque[Part | bytes | None] = deque()
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._parser = MultipartParser(options[b"boundary"], callbacks=self._callbacks())

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._heard(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._heard(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._begin,
            "on_part_data": lambda data, start, end: self._come.append(bytes(data[start:end])),
            "on_part_end": lambda: self._come.append(None),
        }

    def _heard(self, which: int, data: bytes) -> None:
        self._header[which].extend(data)
        if sum(map(len, self._header)) > MAX_HEADER_BYTES or len(self._headers) > MAX_FIELDS:
            raise TooLargeError("body_too_large", MAX_HEADER_BYTES)

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def _begin(self) -> None:
        _, about = parse_options_header(self._headers.get(b"content-disposition", b""))
        filename = about.get(b"filename")
        kind = self._headers.get(b"content-type")
        self._come.append(
            Part(
                name=about.get(b"name", b"").decode("utf-8", "replace"),
                filename=None if filename is None else _filename(filename),
                content_type=None if kind is None else kind.decode("latin-1"),
            )
        )

    async def _more(self) -> bool:
        """Understand a further piece of the body; whether there was one."""
        piece = await anext(self._pieces, None)
        if piece is None:
            return False
        try:
            self._parser.write(piece)
        except MultipartParseError:
            raise InputError("invalid_body", "request body must be a form with files") from None
        return True

    async def next(self) -> Part | None:
        """The next part, None after the last."""
        while True:
            while self._come:
                found = self._come.popleft()
                if isinstance(found, Part):
                    return found
            if not await self._more():
                return None

    async def content(self) -> AsyncIterator[bytes]:
        """The bytes of the part that `next` gave last."""
        while True:
            while self._come:
                found = self._come.popleft()
                if found is None:
                    return
                assert isinstance(found, bytes)
                yield found
            if not await self._more():
                raise InputError("invalid_body", "the form has no end")

    async def field(self) -> str:
        """The value of the part that `next` gave last, a field."""
        found = b""
        async for piece in self.content():
            found += piece
            if len(found) > MAX_FIELD_BYTES:
                raise TooLargeError("body_too_large", MAX_FIELD_BYTES)
        return found.decode("utf-8", "replace")


def _filename(raw: bytes) -> str:
    """The name of a file, without the folders that some browsers send; a quote is sent as `%22`."""
    text = raw.decode("utf-8", "replace").replace("%22", '"')
    return text.rsplit("/", 1)[-1]


def joined(folder: str, name: str) -> str:
    """A file's path in a folder of the workspace."""
    return "/".join(part for part in (folder.strip().strip("/"), name) if part)
