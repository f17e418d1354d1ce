"""Modules: what is imported, from where, and what a program finds before it imports anything."""

from __future__ import annotations

from tests.corpora.python.case import case

PROGRAMS = (
    case("modules-at-start", "import sys\nprint(*sys.modules, sep='\\n')\n"),
    case("modules-after-import", "import sys\nbefore = set(sys.modules)\nimport json\nprint(*[m for m in sys.modules if m not in before], sep='\\n')\n"),
    *(
        case(f"modules-after-{name}", f"import sys\nbefore = set(sys.modules)\nimport {name}\nprint(*[m for m in sys.modules if m not in before], sep='\\n')\n")
        for name in ("asyncio", "unittest", "urllib.request", "concurrent.futures", "logging.handlers",
                     "typing", "importlib.util", "ctypes", "multiprocessing", "email.mime.text",
                     "http.server", "sqlite3", "xml.etree.ElementTree", "dataclasses", "threading",
                     "subprocess", "tempfile", "pathlib", "random", "datetime", "decimal", "socket",
                     "os.path", "collections.abc", "this", "uuid", "inspect", "pprint", "platform")
    ),
    case("modules-order", "import sys\nbefore = list(sys.modules)\nimport uuid, csv, html, argparse, pickle\nprint(*list(sys.modules)[len(before):], sep='\\n')\n"),
    *(
        case(f"submodule-not-imported-{package}-{name}", f"import {package}\nprint({package}.{name})\n")
        for package, name in (("urllib", "parse"), ("urllib", "request"), ("importlib", "util"),
                              ("importlib", "machinery"), ("importlib", "abc"), ("http", "client"),
                              ("email", "message"), ("concurrent", "futures"), ("xml", "dom"),
                              ("logging", "handlers"), ("unittest", "mock"), ("html", "entities"),
                              ("encodings", "idna"), ("json", "decoder"), ("asyncio", "events"),
                              ("collections", "abc"), ("os", "path"), ("ctypes", "util"),
                              ("multiprocessing", "pool"), ("concurrent", "futures.thread"))
    ),
    case("submodule-imported", "import urllib.parse, importlib.util, concurrent.futures\nprint(urllib.parse.quote('a b'), importlib.util.find_spec('json').name, concurrent.futures.wait.__name__)\nprint(sorted(n for n in vars(__import__('urllib')) if n[0] != '_'))\n"),
    case("submodule-from", "from urllib import parse, request\nfrom email.mime import text\nimport urllib\nprint(urllib.parse is parse, urllib.request is request, text.MIMEText)\n"),
    case("submodule-by-name", "import importlib\nm = importlib.import_module('urllib.parse'); print(m)\nprint(importlib.import_module('.client', 'http'))\nprint(__import__('concurrent.futures'))\nprint(__import__('http.client', fromlist=['x']))\n"),
    case("import-star", "from json import *\nfrom random import *\nfrom math import *\nprint(sorted(n for n in globals() if n[0] != '_'))\n"),
    case("import-in-function", "def f():\n    import statistics, fractions\n    return statistics.mean([1, 2, 4]), fractions.Fraction(1, 3)\nprint(f())\n"),
    case("import-twice", "import json as a\nimport json as b\nimport sys\nprint(a is b is sys.modules['json'])\n"),
    case("import-again", "import sys, json\nfirst = json\ndel sys.modules['json']\nimport json\nprint(json is first, json.loads('1'), json.decoder is first.decoder)\n"),
    case("import-blocked", "import sys\nsys.modules['_json'] = None\nimport json\nprint(json.scanner.c_make_scanner, json.decoder.scanstring.__name__, json.loads('[1, \"a\"]'))\n"),
    case("import-blocked-top", "import sys\nsys.modules['random'] = None\nimport random\n"),
    case("import-replaced", "import sys, types\nfake = types.ModuleType('re'); fake.compile = lambda *a: 'fake'\nsys.modules['re'] = fake\nimport string\n"),
    case("import-replaced-builtin", "import sys\nprint('_json' in sys.builtin_module_names, 'math' in sys.builtin_module_names, sorted(sys.builtin_module_names)[:3], len(sys.stdlib_module_names))\n"),
    *(
        case(
            f"reload-{name}",
            f"import importlib, sys, {name}\nbefore = {name}\nprint(importlib.reload({name}) is before, {name}.__spec__.name, {name}.__loader__ is {name}.__spec__.loader, sys.modules['{name}'] is before)\n",
        )
        for name in ("json", "random", "os", "threading", "logging", "dataclasses", "urllib.parse", "string")
    ),
    *(
        case(f"facts-{name}", f"import {name} as m\nprint(m, m.__name__, getattr(m, '__file__', None), getattr(m, '__cached__', None), m.__spec__, m.__loader__, m.__package__, getattr(m, '__path__', None), m.__spec__._initializing)\n")
        for name in ("json", "random", "os", "math", "asyncio", "urllib.parse", "sys", "zlib", "encodings", "site")
    ),
    case("find-spec", "import importlib.util as u\nfor n in ('json', 'json.decoder', 'math', 'os', 'nothing', 'urllib.parse', '__main__'):\n    try: print(n, u.find_spec(n))\n    except Exception as e: print(n, e)\n"),
    case("pkgutil", "import pkgutil, json\nprint([m.name for m in pkgutil.iter_modules(json.__path__)], pkgutil.get_loader('random') if hasattr(pkgutil, 'get_loader') else 0)\nprint(len(list(pkgutil.iter_modules())) > 100, pkgutil.resolve_name('json:loads'))\n"),
    case("importers", "import sys\nprint(sys.meta_path, sys.path_hooks, sep='\\n')\nprint(*sorted(map(repr, sys.path_importer_cache.items())), sep='\\n')\n"),
    case("importers-after", "import sys, json, colorsys\nprint(*sorted(map(repr, sys.path_importer_cache.items())), sep='\\n')\n"),
    case(
        "finder-of-the-program",
        """
        import sys
        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                print("asked for", name, path is None)
                return None
        sys.meta_path.insert(0, Finder)
        import json, random
        import urllib.parse
        """,
    ),
    case(
        "finder-of-the-program-last",
        """
        import sys
        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                print("asked for", name)
        sys.meta_path.append(Finder)
        import json
        try:
            import nothing_here
        except ImportError as error:
            print(error)
        """,
    ),
    case(
        "importer-of-the-program",
        """
        import builtins
        real = builtins.__import__
        def mine(name, *more):
            print("import", name)
            return real(name, *more)
        builtins.__import__ = mine
        import json
        from urllib import parse
        """,
    ),
    case(
        "local-modules",
        """
        import helper, package
        from package import sub
        from package.sub import value
        print(helper.value, package.name, sub.value, value, helper.__file__, helper.__cached__)
        print(helper, package, package.__path__, helper.__spec__)
        """,
        files={
            "helper.py": "value = __name__\n",
            "package/__init__.py": "name = __name__\n",
            "package/sub.py": "value = (__name__, __package__)\n",
        },
    ),
    case("local-namespace", "import space.inner as i\nimport space\nprint(i.x, space, list(space.__path__))\n", files={"space/inner.py": "x = 5\n"}),
    case("local-main-imported", "import helper\nprint(helper.main.x if hasattr(helper.main, 'x') else 'not yet')\nx = 1\n", files={"helper.py": "import __main__ as main\nprint(main.__file__, hasattr(main, 'x'))\n"}),
    case("local-circular", "import a\nprint(a.x, a.b.y)\n", files={"a.py": "import b\nx = 1\n", "b.py": "import a\ny = getattr(a, 'x', 'partial')\n"}),
    *(
        case(f"shadow-{name}", f"import {name}\nprint({name}.__file__, getattr({name}, 'mine', None))\nimport urllib.request, json, random, unittest\nprint('done')\n", files={f"{name}.py": "mine = True\n"})
        for name in ("json", "random", "re", "string", "os", "sys", "types", "email", "enum", "queue",
                     "token", "code", "site", "logging", "numbers", "ctypes", "socket", "math", "zlib")
    ),
    case("shadow-package-email", "import email, email.mine\nprint(email.__file__, email.mine.x)\nimport urllib.request\n", files={"email/__init__.py": "", "email/mine.py": "x = 1\n"}),
    case("shadow-namespace", "import json\nprint(json.__file__)\n", files={"json/readme.txt": "no package\n", "random/x.py": ""}),
    case("shadow-by-data", "import json\nprint(json.__file__, open('json.txt').read())\n", files={"json.txt": "data"}),
    case(
        "shadow-made-at-run-time",
        """
        with open("queue.py", "w") as file:
            file.write("mine = True\\n")
        import queue
        print(queue.__file__, getattr(queue, "mine", None))
        """,
    ),
    case(
        "shadow-made-at-run-time-indirect",
        """
        with open("string.py", "w") as file:
            file.write("mine = True\\n")
        try:
            import textwrap, random, string
            print(string.mine, string.__file__)
        except Exception as error:
            print(type(error), error)
        """,
    ),
    case("shadow-by-path", "import sys\nsys.path.insert(0, 'lib')\nimport queue, calendar, json\nprint(queue.__file__, calendar.__file__, json.__file__)\n", files={"lib/queue.py": "", "lib/calendar.py": ""}),
    case("shadow-by-path-indirect", "import sys\nsys.path.insert(0, '/workspace/lib')\nimport random\n", files={"lib/bisect.py": "raise ValueError('local bisect')\n"}),
    case("shadow-by-path-appended", "import sys\nsys.path.append('lib')\nimport queue, mine\nprint(queue.__file__, mine.__file__)\n", files={"lib/queue.py": "", "lib/mine.py": ""}),
    case("path-emptied", "import sys\nsys.path.clear()\nimport json\n"),
    case("path-emptied-import", "import sys\nsys.path.clear()\nimport importlib.util, math\nprint(importlib.util.__file__)\nimport random\n"),
    case("path-hooks-emptied", "import sys\nsys.path_hooks.clear(); sys.path_importer_cache.clear()\nimport json\n"),
    case("meta-path-emptied", "import sys\nsys.meta_path.clear()\nimport json\n"),
    case("path-by-env", "import mine, sys\nprint(mine.x, sys.path)\n", env={"PYTHONPATH": "/workspace/lib"}, files={"lib/mine.py": "x = 'lib'\n"}),
    case("path-by-env-odd", "import sys\nprint(sys.path)\n", env={"PYTHONPATH": "lib:/workspace/lib::/nothing:/tmp/../tmp:./lib/"}, files={"lib/mine.py": ""}),
    case("path-by-env-shadow", "import queue\nprint(queue.__file__)\n", env={"PYTHONPATH": "/workspace/lib"}, files={"lib/queue.py": ""}),
    case("path-by-env-shadow-start", "import os\nprint(os.__file__, __import__('sys').modules['site'].__file__)\n", env={"PYTHONPATH": "/workspace/lib"}, files={"lib/os.py": "print('mine')\n", "lib/site.py": "print('my site')\n"}),
    case("path-by-env-encodings", "print('runs')\n", env={"PYTHONPATH": "/workspace/lib"}, files={"lib/encodings/__init__.py": "print('mine')\n"}),
    case("path-by-env-zip", "import sys\nprint(sys.path)\n", env={"PYTHONPATH": "/workspace/lib.zip:/usr/lib/python311.zip"}),
    case("sitecustomize-local", "import sys\nprint('sitecustomize' in sys.modules)\n", files={"sitecustomize.py": "print('never')\n", "usercustomize.py": "print('never')\n"}),
    case("sitecustomize-by-env", "import sys\nprint('sitecustomize' in sys.modules)\n", env={"PYTHONPATH": "/workspace/lib"}, files={"lib/sitecustomize.py": "print('customized')\n"}),
    case("sitecustomize-imported", "import sitecustomize\nprint(sitecustomize.__file__)\n"),
    case("sitecustomize-imported-local", "import sitecustomize, usercustomize\nprint(sitecustomize.__file__)\n", files={"sitecustomize.py": "", "usercustomize.py": ""}),
    case("usercustomize-in-home", "import os, sys\nprint(sys.flags.no_user_site, 'usercustomize' in sys.modules)\n"),
    case("era-is-nowhere", "import sys\nprint([m for m in sys.modules if 'era' in m.split('.') or 'sitecustom' in m])\ntry: import era\nexcept ImportError as e: print(e)\n"),
    case("site-facts", "import site\nprint(site.ENABLE_USER_SITE, site.PREFIXES, site.getsitepackages(), site.getuserbase(), site.getusersitepackages())\n"),
    case("zipimport", "import sys, zipfile\nwith zipfile.ZipFile('a.zip', 'w') as z: z.writestr('inzip.py', 'x = __file__')\nsys.path.insert(0, 'a.zip')\nimport inzip\nprint(inzip.x, inzip.__loader__)\nimport os; os.remove('a.zip')\n"),
    case("zipimport-shadow", "import sys, zipfile\nwith zipfile.ZipFile('a.zip', 'w') as z: z.writestr('queue.py', 'x = __file__')\nsys.path.insert(0, 'a.zip')\nimport queue\nprint(queue.x)\nimport os; os.remove('a.zip')\n"),
    case("runpy-path", "import runpy\nprint(runpy.run_path('other.py', run_name='named')['x'])\n", files={"other.py": "import sys\nx = (__name__, __file__, sys.argv)\n"}),
    case("runpy-module", "import runpy\nrunpy.run_module('other', run_name='__main__', alter_sys=True)\n", files={"other.py": "import sys\nprint(__name__, __file__, sys.argv, __spec__)\n"}),
    case("runpy-standard", "import runpy, sys\nsys.argv[1:] = ['-h']\nrunpy.run_module('json.tool', run_name='__main__')\n"),
    case("pycache-not-written", "import helper, os\nprint(sorted(os.listdir('.')))\n", files={"helper.py": ""}),
    case("pycache-used", "import py_compile, os\npy_compile.compile('helper.py', 'bare.pyc')\nimport bare\nprint(bare.x, bare.__file__)\n", files={"helper.py": "x = 1\n"}),
    case("preloaded-shares-nothing", "import json, random, threading, logging\nprint(logging.root.handlers, logging.root.level, threading.active_count(), json.loads, logging._handlerList)\n"),
    case("abc-registry", "import collections.abc as c, numbers, io\nprint(issubclass(list, c.Sequence), issubclass(int, numbers.Number), isinstance(open(__file__), io.IOBase))\n"),
    case("typing-hints", "import typing, __main__\nx: int = 1\ny: 'typing.List[int]' = []\nclass C:\n    a: 'C'\nprint(typing.get_type_hints(__main__), typing.get_type_hints(C))\n"),
    case("dataclass-main", "from __future__ import annotations\nimport dataclasses, typing\n@dataclasses.dataclass\nclass P:\n    x: int\n    y: typing.ClassVar[int] = 3\nprint(P(1), dataclasses.fields(P), P.__module__)\n"),
    case("pickle-main", "import pickle, copy\nclass C:\n    def __init__(self): self.x = 1\nd = pickle.dumps(C()); print(d); print(pickle.loads(d).x, copy.deepcopy(C()).x)\n"),
    case("pickle-protocols", "import pickle, datetime, decimal, re, uuid, collections\nfor p in range(6): print(pickle.dumps([datetime.date(2020, 1, 2), decimal.Decimal('1.5'), re.compile('a'), collections.OrderedDict(a=1)], p))\n"),
    case("doctest", "def f(x):\n    '''\n    >>> f(2)\n    4\n    >>> f(3)\n    7\n    '''\n    return x * 2\nimport doctest\nprint(doctest.testmod())\n"),
    case("enum-main", "import enum\nclass E(enum.Enum):\n    A = enum.auto()\n    B = 'b'\nprint(E.A, repr(E.B), E.__module__, list(E))\nprint(enum.global_enum)\n"),
    case("named-tuple", "import collections, typing\nP = collections.namedtuple('P', 'x y'); print(P(1, 2), P.__module__)\nclass Q(typing.NamedTuple):\n    a: int = 1\nprint(Q(), Q.__module__)\n"),
    case("zoneinfo", "import zoneinfo, datetime\nprint(datetime.datetime(2020, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')).utcoffset())\n"),
    case("sqlite", "import sqlite3\nc = sqlite3.connect(':memory:'); c.execute('create table t(x)'); c.execute('insert into t values (1)'); print(c.execute('select * from t').fetchall())\n"),
    case("ssl", "import ssl\nc = ssl.create_default_context(); print(c.verify_mode, ssl.OPENSSL_VERSION, c.get_ciphers()[0]['name'])\n"),
    case("decimal-context", "import decimal\nprint(decimal.getcontext()); decimal.getcontext().prec = 5; print(decimal.Decimal(1) / 3)\n"),
    case("locale-module", "import locale\nprint(locale.getlocale(), locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(), locale.localeconv()['decimal_point'])\n"),
    case("mimetypes", "import mimetypes\nprint(mimetypes.guess_type('a.json'), mimetypes.inited)\n"),
    case("unicodedata", "import unicodedata\nprint(unicodedata.name('é'), unicodedata.unidata_version)\n"),
    case("curses", "import curses\nprint(curses.version)\n"),
    case("readline", "import readline, sys\nprint('readline' in sys.modules)\n"),
    case("tkinter", "import tkinter\n"),
    case("ensurepip", "import ensurepip\nprint(ensurepip.version())\n"),
    case("pip", "import subprocess, sys\nprint(subprocess.run([sys.executable, '-m', 'pip', '--version'], capture_output=True))\n"),
)
