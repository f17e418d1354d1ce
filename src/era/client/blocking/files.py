# Generated from ../aio by `scripts/sdk`; change that one.
"""The files of a session or a VM: as values, as streams, and from and to local files."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Final

from era.client.answers import FileInfo, decode
from era.client.blocking.connection import Connection
from era.client.bodies import LIST_LIMIT, file_path, given
from era.client.folders import Upload, found
from era.client.worlds import Local, each, iterate, pieces, save
from era.errors import EraError

Source = bytes | str | Iterable[bytes] | Iterable[bytes]
"""Bytes, text (stored as UTF-8), or anything that gives pieces of bytes."""

FileList = list[FileInfo]
Uploads = list[Upload]


class Files:
    """The files of one session or VM.  Paths are relative to its working directory."""

    def __init__(self, connection: Connection, base: str) -> None:
        self._connection: Final = connection
        self._base: Final = base

    def _path(self, path: str) -> str:
        return f"{self._base}/{file_path(path)}"

    def list(self, prefix: str = "") -> FileList:
        """All files whose paths begin so, by path."""
        listed: FileList = []
        query = given(prefix=prefix or None, limit=LIST_LIMIT)
        while True:
            answer = self._connection.json("GET", self._base, query=query)
            listed += [decode(FileInfo, entry) for entry in answer["files"]]
            if "next_cursor" not in answer:
                return listed
            query["cursor"] = answer["next_cursor"]

    def read(self, path: str) -> bytes:
        """The bytes of a file."""
        return b"".join([piece for piece in self.chunks(path)])

    def read_text(self, path: str) -> str:
        """The text of a file, which must be UTF-8."""
        return (self.read(path)).decode()

    def chunks(self, path: str) -> Generator[bytes]:
        """The bytes of a file as they come, so that it may be larger than memory."""
        return self._connection.chunks(self._path(path))

    def write(self, path: str, content: Source, *, content_type: str | None = None) -> FileInfo:
        """Store a file, replacing the one that was there.

        Raises:
            InputError: `invalid_path` or `reserved_path`.
            TooLargeError: the file, or all of the session's files together.
        """
        headers = {"Content-Type": content_type} if content_type else {}
        if isinstance(content, str):
            content = content.encode()
        if isinstance(content, (bytes, bytearray, memoryview)):
            answer = self._connection.json(
                "PUT", self._path(path), content=bytes(content), headers=headers
            )
        else:
            answer = self._connection.json(
                "PUT",
                self._path(path),
                content=lambda: iterate(content),
                headers=headers,
                repeatable=False,  # what gives pieces gives them once
            )
        return decode(FileInfo, answer)

    def upload(self, local: Local, path: str | None = None) -> FileInfo:
        """Store a local file, under its own name where no path is given."""
        answer = self._connection.json(
            "PUT",
            self._path(path or os.path.basename(local)),
            content=lambda: pieces(local),
            headers={"Content-Type": "application/octet-stream"},
        )
        return decode(FileInfo, answer)

    def download(self, path: str, local: Local) -> None:
        """Write a local file; until all of it has come the old one stays."""
        with closing(self.chunks(path)) as coming:
            save(coming, local)

    def upload_directory(
        self,
        local: Local,
        under: str = "",
        *,
        at_once: int = 10,
        progress: Callable[[Upload], None] | None = None,
    ) -> Uploads:
        """Store the files below a local directory, `at_once` at the same time.

        Left out are version control, installed packages, caches, builds and files that look like
        secrets (`era.client.folders.SKIPPED`).  A file that cannot be stored does not end the rest:
        its `error` says why.
        """

        def store(path: str) -> Upload:
            target = f"{under.rstrip('/')}/{path}" if under else path
            try:
                stored = self.upload(os.path.join(local, path), target)
                outcome = Upload(path=target, size=stored.size)
            except EraError as error:
                outcome = Upload(path=target, error=error)
            except OSError as error:
                outcome = Upload(path=target, error=error)
            if progress is not None:
                progress(outcome)
            return outcome

        return each(store, found(local), at_once)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file, or with `recursive` a directory with all below it."""
        query = given(recursive=1 if recursive else None)
        self._connection.json("DELETE", self._path(path), query=query)
