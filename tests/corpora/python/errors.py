"""Errors as programs show them: tracebacks to the last byte, warnings, recursion."""

from __future__ import annotations

from tests.corpora.python.case import case

PROGRAMS = (
    case("trace-plain", "def f(n):\n    return 1 / n\n\nf(0)\n"),
    case("trace-one-line", "1/0"),
    case("trace-nested", "def a(): b()\ndef b(): c()\ndef c(): raise KeyError('k')\na()\n"),
    case(
        "trace-chained",
        """
        def a():
            try:
                {}["missing"]
            except KeyError as error:
                raise ValueError("wrapped") from error
        try:
            a()
        except ValueError:
            raise RuntimeError("during")
        """,
    ),
    case("trace-from-none", "try:\n    1/0\nexcept ZeroDivisionError:\n    raise OSError(2, 'x') from None\n"),
    case(
        "trace-notes",
        """
        error = ValueError("noted")
        error.add_note("first note")
        error.add_note("second\\nnote")
        raise error
        """,
    ),
    case(
        "trace-group",
        """
        raise ExceptionGroup("many", [ValueError(1), ExceptionGroup("inner", [KeyError("k")])])
        """,
    ),
    case(
        "trace-carets",
        """
        x = {"a": {"b": None}}
        y = (1 + 2) * x["a"]["b"]["c"] + (
            3
        )
        """,
    ),
    case("trace-syntax", "print('before')\nif True\n    pass\n"),
    case("trace-syntax-unclosed", "x = (1,\n\n"),
    case("trace-syntax-late", "print('never printed')\n" * 50 + "return 1\n"),
    case("trace-indentation", "def f():\nreturn 1\n"),
    case("trace-tabs", "if 1:\n\tx = 1\n        y = 2\n"),
    case("trace-unicode", "def größe(名前):\n    raise ValueError('ünïcödé 名前 🙂')\ngröße(1)\n"),
    case("trace-long-line", "x = [" + "1, " * 3000 + "]; x['a']\n"),
    case("trace-long-message", "raise ValueError('m' * 100_000)\n"),
    case("trace-surrogate", "raise ValueError('\\ud800 lone')\n"),
    case("trace-custom-str", "class E(Exception):\n    def __str__(self): return 'mine'\nraise E(1)\n"),
    case("trace-broken-str", "class E(Exception):\n    def __str__(self): 1/0\nraise E(1)\n"),
    case("trace-not-an-exception", "raise 'text'\n"),
    case("trace-name-hint", "import collections\ncolection = 1\nprint(colections)\n"),
    case("trace-attribute-hint", "import json\njson.dump_s\n"),
    case("trace-import", "import no_such_module_here\n"),
    case("trace-import-from", "from json import no_such_name\n"),
    case("trace-import-submodule", "import json.nothing\n"),
    case("trace-import-not-package", "import re.x.y; import os.nothing\n"),
    case(
        "trace-in-a-module",
        "import helper\nhelper.f()\n",
        files={"helper.py": "def f():\n    g()\ndef g():\n    raise LookupError('in helper')\n"},
    ),
    case(
        "trace-while-importing",
        "import helper\n",
        files={"helper.py": "import other\n", "other.py": "x = 1\n1/0\n"},
    ),
    case(
        "trace-syntax-in-a-module",
        "import helper\n",
        files={"helper.py": "def f(:\n    pass\n"},
    ),
    case(
        "trace-in-a-package",
        "from package.inner import deep\ndeep.f()\n",
        files={
            "package/__init__.py": "",
            "package/inner/__init__.py": "from . import deep\n",
            "package/inner/deep.py": "def f():\n    import package.inner.missing\n",
        },
    ),
    case("trace-exec", "exec('def f():\\n    1/0\\nf()')\n"),
    case("trace-exec-named", "exec(compile('1/0', 'made up', 'exec'))\n"),
    case("trace-eval", "eval('1 +')\n"),
    case(
        "trace-standard-library",
        """
        import json
        json.loads('{"a": }')
        """,
    ),
    case("trace-standard-library-deep", "import datetime\ndatetime.datetime.strptime('x', '%Y')\n"),
    case("trace-subprocess", "import subprocess\nsubprocess.run(['false'], check=True)\n"),
    case("trace-urllib", "import urllib.request\nurllib.request.urlopen('nothing://x')\n"),
    case("trace-int-digits", "print(len(str(10**5000)))\n"),
    case(
        "trace-thread",
        """
        import threading
        def work():
            raise ValueError("in a thread")
        t = threading.Thread(target=work, name="worker")
        t.start(); t.join()
        print("main goes on")
        """,
    ),
    case(
        "trace-thread-hook",
        """
        import threading
        threading.excepthook = lambda a: print("hook", a.exc_type.__name__, a.thread.name)
        t = threading.Thread(target=lambda: 1 / 0, name="worker")
        t.start(); t.join()
        """,
    ),
    case(
        "trace-low-level-thread",
        """
        import _thread, time
        done = _thread.allocate_lock(); done.acquire()
        def work():
            try:
                1 / 0
            finally:
                done.release()
        _thread.start_new_thread(work, ())
        done.acquire()
        time.sleep(0.2)
        """,
    ),
    case(
        "trace-pool",
        """
        from concurrent.futures import ThreadPoolExecutor
        def work(n):
            return 1 // n
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work, 0).result()
        """,
    ),
    case(
        "trace-asyncio",
        """
        import asyncio
        async def inner():
            await asyncio.sleep(0)
            raise ValueError("in a task")
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(inner())
        asyncio.run(main())
        """,
    ),
    case(
        "trace-asyncio-never-retrieved",
        """
        import asyncio, gc
        async def bad():
            raise ValueError("nobody asks")
        async def main():
            task = asyncio.create_task(bad())
            await asyncio.sleep(0)
            del task
            gc.collect()
        asyncio.run(main())
        """,
    ),
    case("recursion", "def f(): f()\nf()\n"),
    case(
        "recursion-depth",
        """
        import sys
        depth = 0
        def f():
            global depth
            depth += 1
            f()
        try:
            f()
        except RecursionError as error:
            print(depth, error, sys.getrecursionlimit())
        """,
    ),
    case(
        "recursion-depth-by-import",
        """
        import sys
        sys.setrecursionlimit(200)
        depth = 0
        def f():
            global depth
            depth += 1
            f()
        try:
            f()
        except RecursionError as error:
            print(depth, error)
        import email.mime.text
        print(email.mime.text.__name__)
        """,
    ),
    case(
        "recursion-lifted",
        """
        import sys
        sys.setrecursionlimit(20_000)
        def f(n): return 0 if n == 0 else 1 + f(n - 1)
        print(f(15_000))
        """,
    ),
    case("recursion-repr", "a = []\nfor _ in range(100_000): a = [a]\nprint(repr(a))\n"),
    case("recursion-parser", "eval('(' * 300 + ')' * 300)\n"),
    case("recursion-stack", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()\n"),
    case("warning-deprecation", "import warnings\nwarnings.warn('old', DeprecationWarning)\n"),
    case(
        "warning-once",
        """
        import warnings
        for _ in range(3):
            warnings.warn("shown once")
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("shown twice")
        """,
    ),
    case("warning-error", "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('x')\n"),
    case("warning-syntax", "x = 1\nprint(x is 1)\nprint('\\d')\nassert (x, 'always')\n"),
    case("warning-filters", "import warnings\nprint(*warnings.filters, sep='\\n')\n"),
    case(
        "warning-as-error-imports",
        """
        import warnings
        warnings.simplefilter("error")
        import asyncio, unittest, urllib.request, logging, typing, platform, uuid, tempfile
        import argparse, inspect, pickle, secrets, fractions, statistics, html, calendar
        print("no warnings")
        """,
    ),
    case(
        "warning-resource",
        """
        import warnings
        warnings.simplefilter("always")
        open("x", "w")
        import socket
        s = socket.socket()
        del s
        """,
    ),
    case("warning-env", "import warnings\nwarnings.warn('shown', DeprecationWarning)\n",
         env={"PYTHONWARNINGS": "error"}, warm=False),
    case(
        "trace-print",
        """
        import traceback, sys
        def f():
            traceback.print_stack()
            try:
                1 / 0
            except ZeroDivisionError:
                traceback.print_exc()
                print(traceback.format_exc())
                print(sys.exc_info()[2].tb_lineno)
        f()
        """,
    ),
    case(
        "trace-limit",
        """
        import sys
        sys.tracebacklimit = 1
        def f(): g()
        def g(): 1 / 0
        f()
        """,
    ),
    case("assert", "assert 1 == 2, 'not equal'\n"),
    case("stop-iteration", "def g():\n    raise StopIteration('x')\n    yield\nnext(g())\n"),
    case("memory-error", "x = bytearray(2**62)\n"),
    case("out-of-memory", "x = []\nwhile True: x.append(bytearray(16 << 20))\n"),
    case("timeout", "import time\nprint('before', flush=True)\ntime.sleep(600)\n", timeout=1.5),
    case("timeout-in-a-loop", "print('before', flush=True)\nwhile True: pass\n", timeout=1.5),
)
