"""`era upload`: a whole directory into a session."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from era.cli.common import Common, Remote, UsageError
from era.cli.output import note, print_json, size

if TYPE_CHECKING:
    from era.client import Files, Upload

MOST_FAILURES: Final = 100
"""An exit code says no more."""


def run(session_id: str, folder: str, server: Remote, common: Common) -> int:
    """Upload; the number of files that failed."""
    with server.open() as era:
        era.session(session_id).info()  # nothing to upload to: one refusal, not one for each file
        files = era.session(session_id).files
        try:
            done = _upload(files, folder, common)
        except NotADirectoryError:
            raise UsageError(f"{folder} is not a directory") from None
    failed = [upload for upload in done if upload.error is not None]
    total = sum(upload.size for upload in done)
    if common.json:
        errors = [{"path": upload.path, "error": str(upload.error)} for upload in failed]
        uploaded = len(done) - len(failed)
        print_json({"uploaded": uploaded, "failed": len(failed), "bytes": total, "errors": errors})
    else:
        print(
            f"Upload complete: {len(done) - len(failed)} uploaded ({size(total)}), "
            f"{len(failed)} failed"
        )
    return min(len(failed), MOST_FAILURES)


def _upload(files: Files, folder: str, common: Common) -> list[Upload]:
    if common.json or not sys.stderr.isatty():
        return files.upload_directory(folder, progress=None if common.json else _failures)
    return _with_bar(files, folder)


def _failures(upload: Upload) -> None:
    if upload.error is not None:
        note(f"{upload.path}: {upload.error}")


def _with_bar(files: Files, folder: str) -> list[Upload]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from era.client.folders import found

    columns = (TextColumn("uploading"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(found(folder)))
        return files.upload_directory(folder, progress=_counting(lambda: bar.advance(task)))


def _counting(advance: Callable[[], None]) -> Callable[[Upload], None]:
    def told(upload: Upload) -> None:
        _failures(upload)
        advance()

    return told
