"""Programs whose results must not tell how their box was made: tests/corpora, and odd ones here.

A file of the corpus has one program after the other, each as it would stand in a file of its own:

    #~ program NAME
    #~ args [...]        and env {...}, stdin "...", in JSON; timeout SECONDS
    #~ cold              such a program is never run by a Python that stands ready
    the program
    #~ file PATH
    what stands in a file beside it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

_CORPORA = Path(__file__).parents[1] / "corpora"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is run, with what beside it."""

    name: str
    source: bytes = b""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    timeout: float = 30.0
    warm: bool = True


def _with(case: Case, word: str, value: str) -> Case:
    if word == "args":
        return replace(case, args=tuple(json.loads(value)))
    if word == "env":
        return replace(case, env=json.loads(value))
    if word == "stdin":
        return replace(case, stdin=json.loads(value).encode("latin-1"))
    if word == "timeout":
        return replace(case, timeout=float(value))
    if word == "cold":
        return replace(case, warm=False)
    raise ValueError(f"{case.name}: no such directive: {word}")


def _with_text(case: Case, file: str, lines: list[str]) -> Case:
    text = "\n".join(lines).strip("\n")
    data = f"{text}\n".encode() if text else b""
    if not file:
        return replace(case, source=data)
    return replace(case, files={**case.files, file: data})


def _parse(text: str) -> Iterator[Case]:
    for part in text.split("#~ program ")[1:]:
        name, *lines = part.split("\n")
        case, file, collected = Case(name=name), "", list[str]()
        for line in lines:
            if not line.startswith("#~ "):
                collected.append(line)
                continue
            word, _, value = line[3:].partition(" ")
            if word == "file":
                case = _with_text(case, file, collected)
                file, collected = value, []
            else:
                case = _with(case, word, value)
        yield _with_text(case, file, collected)


def _odd(name: str, source: str | bytes, **more: object) -> Case:
    data = source if isinstance(source, bytes) else source.encode(errors="surrogatepass")
    return Case(name=name, source=data, **more)  # type: ignore[arg-type]


_ODD = (
    _odd("text-no-newline", "print('x')"),
    _odd("text-only-comment", "# nothing"),
    _odd("text-crlf", "print('a')\r\nif 1:\r\n    print('''b\r\nc''')\r\n"),
    _odd("text-cr", "print('a')\rprint('b')\r"),
    _odd("text-form-feed", "\x0cprint('a')\n\x0c\nprint('b')\n"),
    _odd("text-bom", "\ufeffprint('bom')\n"),
    _odd("text-bom-utf16", "print('x')\n".encode("utf-16")),
    _odd("text-nul", "print('a')\n\0print('b')\n"),
    _odd("text-nul-in-string", "print('a\0b')\n"),
    _odd("text-invalid-utf8", b"print('a')\nprint('\xff\xfe')\n"),
    _odd("text-surrogate", "print('\ud800')\n"),
    _odd("text-latin-1", b"# -*- coding: latin-1 -*-\nprint('\xe9', ascii('\xe9'))\n"),
    _odd("text-cookie-second", b"#!/usr/bin/python3\n# vim: set fileencoding=cp1252 :\nprint('\x80')\n"),
    _odd("text-mib", "x = 0\n" + "x += 1  # to fill the file\n" * (_MIB // 27) + "print(x)\n"),
    _odd("text-one-long-line", f"x = '{'y' * _MIB}'; print(len(x))\n"),
    _odd("text-many-functions", "def f(): return 1\n" * 20_000 + "print(f())\n"),
    _odd("end-empty", ""),
    _odd("end-print", "print('hello')"),
    _odd("end-keyboard-interrupt", "raise KeyboardInterrupt"),
    _odd("end-keyboard-interrupt-text", "raise KeyboardInterrupt('stop')"),
    _odd("trace-one-line", "1/0"),
    _odd("stdout-no-newline", "print('end', end='')"),
    _odd(
        "stdin-large",
        "import sys, hashlib\nprint(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())\n",
        stdin=b"0123456789abcdef" * 200_000,
    ),
    _odd(
        "argv-many",
        "import sys\nprint(len(sys.argv), sys.argv[-1], len(sys.orig_argv))\n",
        args=tuple(f"argument-{number}" for number in range(2000)),
    ),
    _odd("argv-long", "import sys\nprint(len(sys.argv[1]))\n", args=("x" * 120_000,)),
    _odd(
        "environ-many",
        "import os\n"
        "text = open('/proc/self/environ', 'rb').read()\n"
        "print(len(os.environ), text.rstrip(b'\\0').count(b'\\0'))\n",
        env={f"VARIABLE_{number}": "v" * 100 for number in range(100)},
        warm=False,
    ),
    _odd(
        "environ-large",
        "import os\nprint(len(os.environ['LARGE']))\n",
        env={"LARGE": "x" * 120_000},
        warm=False,
    ),
    _odd("shadow-by-data", "import json\nprint(json.__file__)\n", files={"json.txt": b"data"}),
    _odd(
        "files-changed",
        "import os\nopen('given', 'a').write(' more'); os.remove('gone'); os.rename('old', 'new')\n",
        files={"given": b"text", "gone": b"", "old": b"o"},
    ),
)  # fmt: skip


def programs() -> tuple[Case, ...]:
    """Every program, each by a name of its own."""
    return _distinct([*_read("python"), *_ODD])


def data_programs() -> tuple[Case, ...]:
    """Programs for the packages that every box has."""
    return _distinct(_read("python_data"))


def _read(corpus: str) -> list[Case]:
    paths = sorted((_CORPORA / corpus).glob("*.txt"))
    return [case for path in paths for case in _parse(path.read_text())]


def _distinct(cases: list[Case]) -> tuple[Case, ...]:
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    return tuple(cases)
