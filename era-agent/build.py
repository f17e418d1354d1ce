"""Builds `agent`: one file with the service, its list of packages and a launcher.

usage: build.py OUTPUT.  The same sources give the same bytes.  Standard library only.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHEBANG = b"#!/usr/bin/env python3\n"
WHOLE = ("pyproject.toml", "README.md", "requirements/serve.txt", "requirements/data.txt")
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the archive, so that only content counts."""


def members() -> Iterator[tuple[str, Path]]:
    """Name in the archive, file."""
    yield "__main__.py", HERE / "launcher.py"
    for name in WHOLE:
        yield f"source/{name}", ROOT / name
    for path in sorted((ROOT / "src").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield f"source/{path.relative_to(ROOT)}", path


def build(output: Path) -> None:
    """Write the archive aside, and put it in its place when it is whole."""
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, path in members():
                    info = zipfile.ZipInfo(name, LONG_AGO)
                    info.external_attr = 0o644 << 16
                    info.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(info, path.read_bytes())
        draft.chmod(0o755)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: build.py OUTPUT")
    build(Path(sys.argv[1]))
