"""What a program can see of the interpreter it runs in: frames, objects, tracing, memory."""

from __future__ import annotations

from tests.corpora.python.case import case

_OURS = """
import gc, sys, types
gc.unfreeze()
words = ("/era/", "era.sandbox", "sitecustomize", "standby", "quickend", "/work/", "ERA_PAD", "/hook")
found = set()
seen = set()
def look(o, depth=0):
    if id(o) in seen:
        return
    seen.add(id(o))
    if isinstance(o, str):
        text = o
    elif isinstance(o, bytes):
        text = o.decode("latin-1")
    else:
        text = ""
    if o is not words and any(w in text for w in words) and text not in words:
        found.add(text[:200])
mine = set(map(id, [globals(), words, found, seen, look.__code__, look.__code__.co_consts]))
for o in gc.get_objects():
    if id(o) in mine or o is look:
        continue
    for r in [o, *gc.get_referents(o)]:
        if isinstance(r, types.CodeType):
            look(r.co_filename); look(r.co_name)
            [look(c) for c in r.co_consts]
        elif isinstance(r, type):
            look(r.__module__ if isinstance(r.__module__, str) else ""); look(r.__qualname__)
        elif isinstance(r, types.ModuleType):
            look(r.__name__)
        look(r)
"""

PROGRAMS = (
    case("frames", "import inspect, sys\nprint([f.function for f in inspect.stack()], sys._getframe().f_back)\n"),
    case("frames-in-module", "import helper\n", files={"helper.py": "import sys\nf = sys._getframe()\nwhile f: print(f.f_code.co_name, f.f_code.co_filename, f.f_lineno); f = f.f_back\n"}),
    case("frames-in-thread", "import threading, traceback\nt = threading.Thread(target=traceback.print_stack); t.start(); t.join()\n"),
    case("frames-of-all-threads", "import sys\nprint([(f.f_code.co_name, f.f_code.co_filename) for f in sys._current_frames().values()], len(sys._current_exceptions()))\n"),
    case("frames-at-exit", "import atexit, traceback\natexit.register(traceback.print_stack)\n"),
    case("frames-in-del", "import sys\nclass L:\n    def __del__(self):\n        f = sys._getframe()\n        while f: print(f.f_code.co_name); f = f.f_back\nkeep = L()\n"),
    case("settrace", "import sys\ndef t(frame, event, arg):\n    print(event, frame.f_code.co_name, frame.f_lineno)\n    return t\nsys.settrace(t)\ndef f(): return 1\nf()\n"),
    case("settrace-import", "import sys\ncalls = []\ndef t(frame, event, arg):\n    if event == 'call' and 'importlib' not in frame.f_code.co_filename: calls.append((frame.f_code.co_name, frame.f_code.co_filename))\nsys.settrace(t)\nimport fractions\nsys.settrace(None)\nprint(len(calls) > 20, calls[:3])\n"),
    case("setprofile", "import sys\ndef p(frame, event, arg): sys.__stdout__.write(f'{event} {frame.f_code.co_name} {getattr(arg, \"__name__\", \"\")}\\n')\nsys.setprofile(p)\nlen('x')\ndef f(): pass\nf()\n"),
    case("setprofile-threads", "import threading, sys\nthreading.setprofile(lambda *a: None)\nt = threading.Thread(target=len, args=('',)); t.start(); t.join(); print('on')\n"),
    case("profile", "import cProfile, pstats, io\np = cProfile.Profile(); p.enable(); sorted([3, 1, 2]); p.disable()\nprint(sorted(k[2] for k in pstats.Stats(p, stream=io.StringIO()).stats))\n"),
    case("trace-module", "import trace\nt = trace.Trace(count=1, trace=0)\ndef f(n):\n    return n + 1\nt.runfunc(f, 1)\nprint(sorted((k[0][-12:], k[1], v) for k, v in t.results().counts.items() if 'main' in k[0]))\n"),
    case("audit", "import sys\nseen = []\nsys.addaudithook(lambda e, a: seen.append(e))\nimport json\nopen(__file__).close()\nprint('import' in seen, 'open' in seen)\n"),
    case("audit-at-exit", "import sys\ndef hook(event, args):\n    if event in ('cpython._PySys_ClearAuditHooks', 'os.fork', 'import', 'ctypes.dlopen', 'ctypes.dlsym', 'exec', 'object.__getattr__', 'sys._getframe', 'ctypes.call_function'): print(event, str(args)[:60])\nsys.addaudithook(hook)\nprint('end')\n"),
    case("tracemalloc", "import tracemalloc\ntracemalloc.start()\nx = [bytes(1000) for _ in range(100)]\nprint(tracemalloc.get_traced_memory()[0] > 100_000, tracemalloc.take_snapshot().statistics('filename')[0].traceback[0].filename)\n"),
    case("dis", "import dis\ndef f(x): return x + 1\ndis.dis(f)\n"),
    case("gc-state", "import gc\nprint(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks, gc.garbage)\n"),
    case("gc-collect", "import gc\ngc.collect()\nclass C: pass\na = C(); a.a = a; del a\nprint(gc.collect(), gc.collect())\n"),
    case("gc-weak", "import gc, weakref\nclass C: pass\na = C(); a.a = a; r = weakref.ref(a); del a\nprint(r() is not None); gc.collect(); print(r())\n"),
    case("gc-automatic", "import weakref\nclass C: pass\ndead = 0\ndef count(_):\n    global dead\n    dead += 1\nrefs = []\nfor _ in range(20_000):\n    a = C(); a.a = a; refs.append(weakref.ref(a, count))\ndel a\nprint(dead > 15_000)\n"),
    case("ours-in-objects", _OURS + "print(sorted(found))\n"),
    case("ours-in-subclasses", "def walk(c, seen):\n    for s in type.__subclasses__(c):\n        if s not in seen: seen.add(s); walk(s, seen)\nseen = set(); walk(object, seen)\nprint(sorted({c.__module__ for c in seen if 'era' in str(c.__module__).split('.') or 'custom' in str(c.__module__)}))\nprint(sorted(c.__qualname__ for c in seen if c.__module__ in ('__main__',)))\n"),
    case("ours-in-metaclasses", "import enum\nprint([c for c in enum.Enum.__subclasses__() if 'era' in c.__module__.split('.')], [c for c in Exception.__subclasses__() if 'era' in c.__module__.split('.')])\n"),
    case("ours-at-exit", "import atexit, gc\ndef look():\n    print([f for f in map(repr, gc.get_objects()) if '/era/' in f][:3])\natexit.register(look)\n".replace("map(repr, gc.get_objects())", "[getattr(getattr(o, '__code__', None), 'co_filename', '') for o in gc.get_objects()]")),
    case("ours-in-import-system", "import importlib._bootstrap as b, sys\nimport _frozen_importlib as f, _frozen_importlib_external as e\nfor m in (f, e):\n    for n, v in sorted(vars(m).items()):\n        if hasattr(v, '__code__') and n != '_find_known': print(m.__name__, n, v.__code__.co_filename, v.__code__.co_argcount, v.__module__)\n"),
    case("ours-in-fork-hooks", "import os\npid = os.fork()\nif pid == 0:\n    print('child'); os._exit(0)\nos.waitpid(pid, 0)\n"),
    case("ours-in-codecs", "import codecs\nprint(codecs.lookup('utf-8'), codecs.lookup('idna').name, codecs.lookup('latin-1').name, codecs.lookup_error('surrogatepass'))\n"),
    case("ours-in-contextvars", "import contextvars\nprint(dict(contextvars.copy_context()))\n"),
    case("linecache", "import linecache\nprint(sorted(linecache.cache))\n"),
    case("interned-state", "import functools, re, sys\nprint(re.compile('a') is re.compile('a'), functools.lru_cache.__module__, sys.intern('x') is 'x')\n".replace(" is 'x'", " == 'x'")),
    case("unittest", "import unittest\nclass T(unittest.TestCase):\n    def test_ok(self): self.assertEqual(1, 1)\n    def test_bad(self): self.assertEqual([1, 2], [1, 3])\n    @unittest.skip('no')\n    def test_skipped(self): pass\nif __name__ == '__main__':\n    r = unittest.main(exit=False, verbosity=2).result\n".replace("if __name__", "import re, sys, io\nif __name__").replace("    r = unittest.main(exit=False, verbosity=2).result", "    s = io.StringIO()\n    r = unittest.TextTestRunner(stream=s, verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules['__main__']))\n    print(re.sub(r'in [0-9.]+s', 'in _s', s.getvalue()))")),
    case("unittest-main", "import unittest\nclass T(unittest.TestCase):\n    def test_bad(self): self.fail('f')\nunittest.main(argv=['x', '-q'], testRunner=type('R', (unittest.TextTestRunner,), {'run': lambda self, t: print(t) or unittest.TestResult()}))\n"),
    case("logging", "import logging\nlogging.warning('to stderr')\nlogging.basicConfig(level='DEBUG', format='%(levelname)s:%(name)s:%(process)d:%(threadName)s:%(processName)s:%(filename)s:%(lineno)d:%(message)s', force=True)\nlogging.getLogger('x').debug('d')\ntry: 1/0\nexcept ZeroDivisionError: logging.exception('e')\n"),
    case("logging-file", "import logging\nlogging.basicConfig(filename='log', level='INFO', format='%(message)s')\nlogging.info('in the file')\n"),
    case("logging-config", "import logging.config\nlogging.config.dictConfig({'version': 1, 'handlers': {'h': {'class': 'logging.StreamHandler', 'stream': 'ext://sys.stdout'}}, 'root': {'handlers': ['h'], 'level': 'INFO'}})\nlogging.info('configured')\n"),
    case("closures", "import sys\nprint(sys.getrefcount(object()), [sys.getsizeof(x) for x in ((), [], {}, '', 0, object())])\n"),
    case("random-seeded", "import random\nrandom.seed(5); print(random.random(), random.sample(range(100), 5), random.Random(3).random())\n"),
    case("rusage", "import resource, time\nr = resource.getrusage(resource.RUSAGE_SELF); print(r.ru_utime < 5, time.process_time() < 5, r.ru_nswap)\nprint(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"),
)
