"""A program of the corpus: run twice, in a box that stood ready and in one made on demand."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is run, with what beside it.  `warm` False: such a program is never run from a Python
    that stands ready."""

    name: str
    source: bytes
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    timeout: float = 30.0
    warm: bool = True


def case(
    name: str,
    code: str | bytes,
    *args: str,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    files: Mapping[str, str | bytes] | None = None,
    timeout: float = 30.0,
    warm: bool = True,
) -> Case:
    """A case from a text that may be indented."""
    return Case(
        name=name,
        source=code if isinstance(code, bytes) else _text(code),
        args=args,
        env=env or {},
        stdin=stdin,
        files={
            path: text if isinstance(text, bytes) else _text(text)
            for path, text in (files or {}).items()
        },
        timeout=timeout,
        warm=warm,
    )


def _text(code: str) -> bytes:
    return textwrap.dedent(code).lstrip("\n").encode()
