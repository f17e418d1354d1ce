"""Session files: the list, and their bytes in and out as streams."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from starlette.responses import Response, StreamingResponse

from era import wire
from era.api import answers_schema as schema
from era.api import body, media
from era.api.answers import json_answer
from era.api.routes.sessions import PAGING
from era.api.routing import Call, Operation
from era.models import FileEntry

if TYPE_CHECKING:
    from era.sessions.files import OpenFile

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def list_files(call: Call) -> Response:
    """The files by path."""
    page = await call.sessions.files(
        call.session_id,
        prefix=call.query("prefix") or "",
        limit=call.limit(),
        cursor=call.query("cursor"),
    )
    answer = wire.page_object("files", [wire.file_object(entry) for entry in page.items], page)
    return json_answer({**answer, "total_size_bytes": page.total_size_bytes})


async def get_file(call: Call) -> Response:
    """The bytes of a file; a path that ends where the list begins is the list."""
    if not call.scope["path_params"]["path"]:
        return await list_files(call)
    path = await call.file_path()
    return answer_file(call, path, await call.sessions.open_file(call.session_id, path))


def answer_file(call: Call, path: str, opened: OpenFile) -> Response:
    """The bytes of an open file, as far as they are asked for."""
    etag = f'"{opened.entry.blob}"'
    if _known(call.header("if-none-match"), etag):
        return Response(status_code=304, headers={"ETag": etag})
    return _download(call, path, opened, etag)


def _known(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


def _download(call: Call, path: str, opened: OpenFile, etag: str) -> Response:
    size = opened.entry.size
    part = _part(call, etag, size)
    start, end = part or (0, size)
    headers = {**_headers(call, path, opened.entry), "ETag": etag}
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 200 if part is None else 206
    if call.head or start == end:
        return Response(status_code=status, headers=headers)
    return StreamingResponse(opened.read(start, end), status, headers)


def _headers(call: Call, path: str, entry: FileEntry) -> dict[str, str]:
    headers = {
        "Content-Type": media.of_file(path, entry.content_type),
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    if call.flag("download"):
        headers["Content-Disposition"] = media.attachment(path)
    return headers


def _part(call: Call, etag: str, size: int) -> tuple[int, int] | None:
    """The one range asked for, as `[start, end)`.  Anything else is answered with the whole."""
    match = _RANGE.fullmatch(call.header("range") or "")
    if match is None or call.header("if-range") not in (None, etag):
        return None
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
    elif last:
        start, end = max(0, size - int(last)), size
    else:
        return None
    return (start, end) if start < end else None


async def put_file(call: Call) -> Response:
    """Store a file from the raw body."""
    path = await call.file_path()
    limit = call.options.bounds.file_bytes
    pieces = body.stream(call.scope, call.receive, limit, "file_too_large")
    content_type = media.chosen(call.header("content-type"))
    entry = await call.sessions.put_file(call.session_id, path, pieces, content_type)
    return json_answer({"path": str(entry.path), "size": entry.size})


async def delete_file(call: Call) -> Response:
    """Delete a file, or with `?recursive=1` a directory."""
    path = await call.file_path()
    await call.sessions.delete_file(call.session_id, path, recursive=call.flag("recursive"))
    return json_answer({"deleted": str(path)})


_FILES: Final = "/api/sessions/{session_id}/files"
_FILE: Final = _FILES + "/{path:path}"

OPERATIONS: Final = (
    Operation(
        method="GET",
        path=_FILES,
        handler=list_files,
        summary="List the files of a session",
        answer=schema.FileList,
        query={"prefix": "Only paths that begin so.", **PAGING},
        errors=("session_not_found", "invalid_field"),
    ),
    Operation(
        method="GET",
        path=_FILE,
        handler=get_file,
        summary="The bytes of a file",
        answer="*/*",
        query={"download": "1: to be saved under its name."},
        errors=("invalid_path", "reserved_path", "session_not_found", "file_not_found"),
    ),
    Operation(
        method="PUT",
        path=_FILE,
        handler=put_file,
        summary="Store a file",
        body=True,
        answer=schema.StoredFile,
        errors=(
            "invalid_path",
            "reserved_path",
            "session_not_found",
            "file_too_large",
            "quota_exceeded",
            "storage_full",
        ),
    ),
    Operation(
        method="DELETE",
        path=_FILE,
        handler=delete_file,
        summary="Delete a file, or a directory",
        answer=schema.Deleted,
        query={"recursive": "1: a directory with all below it."},
        errors=("invalid_path", "reserved_path", "session_not_found", "file_not_found"),
    ),
)
