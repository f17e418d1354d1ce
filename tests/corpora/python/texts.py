"""Programs by their text: encodings, sizes, odd bytes."""

from __future__ import annotations

from tests.corpora.python.case import case

_MIB = 1 << 20

PROGRAMS = (
    case("text-no-newline", b"print('x')"),
    case("text-only-comment", b"# nothing"),
    case("text-crlf", b"print('a')\r\nif 1:\r\n    print('''b\r\nc''')\r\n"),
    case("text-cr", b"print('a')\rprint('b')\r"),
    case("text-form-feed", b"\x0cprint('a')\n\x0c\nprint('b')\n"),
    case("text-bom", b"\xef\xbb\xbfprint('bom')\n"),
    case("text-bom-utf16", "print('x')\n".encode("utf-16")),
    case("text-nul", b"print('a')\n\0print('b')\n"),
    case("text-nul-in-string", b"print('a\0b')\n"),
    case("text-invalid-utf8", b"print('a')\nprint('\xff\xfe')\n"),
    case("text-surrogate", "print('\ud800')\n".encode(errors="surrogatepass")),
    case("text-latin-1", b"# -*- coding: latin-1 -*-\nprint('\xe9', ascii('\xe9'))\n"),
    case("text-cookie-unknown", b"# coding: nothing-known\nprint(1)\n"),
    case("text-cookie-second-line", b"#!/usr/bin/python3\n# vim: set fileencoding=cp1252 :\nprint('\x80')\n"),
    case("text-rot13", b"# coding: rot13\ncevag('uryyb')\n"),
    case("text-mib", b"x = 0\n" + b"x += 1  # a line of some length to fill the file\n" * (_MIB // 49) + b"print(x)\n"),
    case("text-one-long-line", b"x = '" + b"y" * _MIB + b"'; print(len(x))\n"),
    case("text-many-functions", "".join(f"def f{n}(): return {n}\n" for n in range(20_000)) + "print(f19999())\n"),
    case("text-future", "from __future__ import annotations\ndef f(x: nothing) -> missing: pass\nprint(f.__annotations__)\n"),
    case("text-future-late", "import os\nfrom __future__ import annotations\n"),
    case("text-future-unknown", "from __future__ import braces\n"),
    case("text-main-guard", "def main(): print('main', __name__)\nif __name__ == '__main__':\n    main()\n"),
    case("text-docstring", '"""The doc."""\nprint(__doc__)\n'),
    case("text-annotations", "x: int = 1\ny: 'str'\nprint(__annotations__)\n"),
    case("text-await-outside", "await x\n"),
    case("text-walrus", "print([y := 1, y ** 2])\nif (n := 10) > 5: print(n)\n"),
    case("text-match", "match [1, 2]:\n    case [a, b]: print(a, b)\n"),
    case("text-global", "def f():\n    global g\n    g = 1\nf(); print(g, globals()['g'], vars()['g'])\n"),
    case("text-unicode-names", "π = 3\nprint(π, 'π' in globals())\nﬁ = 1; print(fi)\n"),
    case("text-own-source", "import inspect, sys\ndef f():\n    return 1\nprint(inspect.getsource(f), end='')\nprint(open(__file__).read() == inspect.getsource(sys.modules[__name__]))\n"),
    case("text-deleted-source", "import os\nos.remove(__file__)\ndef f():\n    1/0\nf()\n"),
    case("text-changed-source", "open(__file__, 'w').write('\\n' * 5 + '# other text\\n' * 9)\ndef f():\n    1/0\nf()\n"),
)
