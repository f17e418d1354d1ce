"""How programs end: exit codes, exit functions, finalizers, what is flushed when."""

from __future__ import annotations

from tests.corpora.python.case import case

_EXITS = {
    "none": "sys.exit()",
    "None": "sys.exit(None)",
    "0": "sys.exit(0)",
    "3": "sys.exit(3)",
    "255": "sys.exit(255)",
    "256": "sys.exit(256)",
    "large": "sys.exit(2**40 + 7)",
    "huge": "sys.exit(10**40)",
    "negative": "sys.exit(-1)",
    "true": "sys.exit(True)",
    "false": "sys.exit(False)",
    "float": "sys.exit(1.5)",
    "text": "sys.exit('a message')",
    "empty-text": "sys.exit('')",
    "tuple": "sys.exit((1, 2))",
    "list": "sys.exit([])",
    "object": "sys.exit(type('Odd', (), {'__str__': lambda self: 'odd'})())",
    "object-that-fails": "sys.exit(type('Odd', (), {'__str__': lambda self: 1 / 0})())",
    "int-subclass": "sys.exit(type('N', (int,), {})(9))",
    "surrogate": "sys.exit('lone \\ud800 here')",
    "raise": "raise SystemExit",
    "raise-code": "raise SystemExit(4)",
    "raise-two": "raise SystemExit(4, 5)",
    "raise-from": "raise SystemExit(6) from ValueError('why')",
    "quit": "quit(7)",
    "exit": "exit()",
    "os-exit": "print('kept'); os._exit(8)",
    "os-exit-unflushed": "sys.stdout.reconfigure(write_through=False); print('lost'); os._exit(0)",
    "abort": "os.abort()",
    "in-except": "\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    sys.exit(11)",
    "code-attribute": "e = SystemExit(1); e.code = 12; raise e",
    "subclass": "\nclass Leave(SystemExit): pass\nraise Leave(13)",
    "group": "raise BaseExceptionGroup('both', [SystemExit(1), ValueError('v')])",
    "in-finally": "\ntry:\n    sys.exit(14)\nfinally:\n    print('finally')",
    "swallowed": "\ntry:\n    sys.exit(15)\nexcept SystemExit as e:\n    print('went on', e.code)",
    "nested": "\ntry:\n    sys.exit(1)\nexcept SystemExit:\n    sys.exit(16)",
}

PROGRAMS = (
    case("end-empty", ""),
    case("end-print", "print('hello')"),
    *(case(f"exit-{name}", f"import os, sys\n{code}\n") for name, code in _EXITS.items()),
    case("end-keyboard-interrupt", "raise KeyboardInterrupt"),
    case("end-keyboard-interrupt-text", "raise KeyboardInterrupt('stop')"),
    case(
        "exit-functions-order",
        """
        import atexit, sys
        for i in range(3):
            atexit.register(print, "leaving", i)
        @atexit.register
        def f():
            print("f", sys.argv)
        print("end")
        """,
    ),
    case(
        "exit-functions-fail",
        """
        import atexit
        def bad():
            1 / 0
        atexit.register(print, "after the failure")
        atexit.register(bad)
        print("end")
        """,
    ),
    case(
        "exit-function-exits",
        """
        import atexit, sys
        atexit.register(print, "still")
        atexit.register(sys.exit, 9)
        """,
    ),
    case(
        "exit-function-ends-hard",
        """
        import atexit, os
        atexit.register(print, "never")
        atexit.register(os._exit, 21)
        """,
    ),
    case(
        "exit-function-registers",
        """
        import atexit
        def again():
            print("again")
            atexit.register(print, "registered late")
        atexit.register(again)
        """,
    ),
    case(
        "exit-functions-taken-off",
        """
        import atexit
        class Loud:
            def __del__(self):
                print("loud is gone")
        loud = Loud()
        def f():
            print("f")
        atexit.register(f)
        atexit.unregister(f)
        atexit._clear()
        print("cleared")
        """,
    ),
    case(
        "exit-functions-run-early",
        """
        import atexit
        class Loud:
            def __del__(self):
                print("loud is gone")
        loud = Loud()
        atexit.register(print, "registered")
        atexit._run_exitfuncs()
        print("went on")
        """,
    ),
    case(
        "exit-functions-after-logging",
        """
        import atexit
        def last():
            import logging
            logging.warning("from an exit function")
        atexit.register(last)
        import logging
        class Handler(logging.Handler):
            def emit(self, record):
                print("emit", record.getMessage())
            def close(self):
                print("close")
                super().close()
        logging.getLogger().addHandler(Handler())
        """,
    ),
    case(
        "exit-functions-with-uncaught",
        """
        import atexit, sys
        atexit.register(lambda: print("at exit", getattr(sys, "last_value", None)))
        raise ValueError("uncaught")
        """,
    ),
    case(
        "del-at-exit",
        """
        class Loud:
            def __init__(self, name):
                self.name = name
            def __del__(self):
                print("gone", self.name)
        a = Loud("a")
        b = Loud("b")
        c = Loud("cycle"); c.self = c
        print("end")
        """,
    ),
    case(
        "del-at-exit-uses-modules",
        """
        import json, os, re, sys
        class Loud:
            def __del__(self):
                print(json.dumps({"cwd": os.getcwd(), "m": bool(re.match("a", "a"))}))
                print(sys.modules.get("json"), file=sys.stderr)
        keep = [Loud()]
        keep.append(keep)
        """,
    ),
    case(
        "del-at-exit-imports",
        """
        class Loud:
            def __del__(self):
                try:
                    import colorsys
                    print("imported", colorsys.__name__)
                except BaseException as error:
                    print(type(error), error)
        keep = Loud()
        """,
    ),
    case(
        "del-at-exit-fails",
        """
        class Bad:
            def __del__(self):
                1 / 0
        bad = Bad()
        """,
    ),
    case(
        "del-at-exit-exits",
        """
        import sys
        class Bad:
            def __del__(self):
                sys.exit(5)
        bad = Bad()
        """,
    ),
    case(
        "del-kept-by-a-standard-module",
        """
        import json, logging, threading
        class Loud:
            def __init__(self, name):
                self.name = name
            def __del__(self):
                print("gone", self.name)
        json.kept = Loud("in json")
        logging.Logger.kept = Loud("in a class")
        threading.local().kept = Loud("in a local that nobody holds")
        print("end")
        """,
    ),
    case(
        "del-kept-by-sys",
        """
        import sys
        class Loud:
            def __init__(self, name):
                self.name = name
            def __del__(self):
                print("gone", self.name)
        sys.kept = Loud("public")
        sys._kept = Loud("private")
        sys.path_importer_cache["x"] = Loud("cache")
        sys.modules["odd"] = Loud("module")
        """,
    ),
    case(
        "del-kept-by-builtins",
        """
        import builtins
        class Loud:
            def __init__(self, name):
                self.name = name
            def __del__(self):
                print("gone", self.name)
        builtins.kept = Loud("builtins")
        builtins._kept = Loud("builtins private")
        """,
    ),
    case(
        "del-kept-by-another-module",
        """
        import csv
        class Loud:
            def __init__(self, name):
                self.name = name
            def __del__(self):
                print("gone", self.name)
        csv.kept = [Loud("csv")]
        """,
    ),
    case(
        "del-in-a-module-of-the-session",
        """
        import helper
        class Loud:
            def __del__(self):
                print("main's is gone")
        keep = Loud()
        print("end")
        """,
        files={
            "helper.py": """
                import sys
                class Loud:
                    def __del__(self):
                        # Which of two cycles goes first is the garbage collector's affair.
                        sys.stderr.write("helper's is gone " + name)
                name = "helper"
                keep = Loud()
                """
        },
    ),
    case(
        "del-with-exit-code",
        """
        import sys
        class Loud:
            def __del__(self):
                print("gone")
        keep = Loud()
        sys.exit(3)
        """,
    ),
    case(
        "del-with-uncaught",
        """
        class Loud:
            def __del__(self):
                print("gone")
        keep = Loud()
        raise RuntimeError("end")
        """,
    ),
    case(
        "generators-at-exit",
        """
        def generate(name):
            try:
                yield 1
            finally:
                print("closed", name)
        g = generate("g"); next(g)
        h = generate("h"); next(h)
        loop = [h]; loop.append(loop)
        print("end")
        """,
    ),
    case(
        "coroutines-at-exit",
        """
        async def never():
            pass
        c = never()
        async def agen():
            try:
                yield 1
            finally:
                print("agen finally")
        a = agen()
        print("end")
        """,
    ),
    case(
        "context-at-exit",
        """
        import contextlib
        @contextlib.contextmanager
        def manager():
            print("enter")
            try:
                yield
            finally:
                print("leave")
        stack = contextlib.ExitStack()
        stack.enter_context(manager())
        print("end")
        """,
    ),
    case(
        "weakrefs-at-exit",
        """
        import weakref
        class Thing: pass
        thing, other = Thing(), Thing()
        ref = weakref.ref(thing, lambda r: print("weakref callback"))
        end = weakref.finalize(other, print, "finalize")
        late = weakref.finalize(thing, print, "not at exit"); late.atexit = False
        print("end", end.alive)
        """,
    ),
    case(
        "open-files-at-exit",
        """
        import io
        f = open("written", "w"); f.write("text without a newline")
        g = open("binary", "wb", buffering=4096); g.write(b"x" * 100)
        loop = [open("in a cycle", "w")]; loop.append(loop); loop[0].write("cycle")
        import json
        json.f = open("kept by a module", "w"); json.f.write("module")
        def function(file=open("default", "w")): pass
        function.__defaults__[0].write("default")
        """,
    ),
    case(
        "open-files-at-exit-with-code",
        """
        import sys
        f = open("written", "w"); f.write("text without a newline")
        import json
        json.f = open("kept by a module", "w"); json.f.write("module")
        sys.exit(2)
        """,
    ),
    case(
        "temporary-files-at-exit",
        """
        import tempfile, os
        d = tempfile.TemporaryDirectory()
        f = tempfile.NamedTemporaryFile()
        kept = tempfile.NamedTemporaryFile(delete=False, dir="."); os.rename(kept.name, "kept")
        open(os.path.join(d.name, "x"), "w").close()
        print(os.path.exists(d.name), os.path.exists(f.name))
        """,
    ),
    case(
        "exit-in-a-function-called-at-exit",
        """
        import atexit, sys
        def end():
            print("end")
            raise SystemExit(33)
        atexit.register(end)
        sys.exit(2)
        """,
    ),
    case(
        "excepthook",
        """
        import sys
        def hook(kind, value, trace):
            print("hook", kind.__name__, value)
        sys.excepthook = hook
        raise ValueError("v")
        """,
    ),
    case(
        "excepthook-fails",
        """
        import sys
        def hook(kind, value, trace):
            raise TypeError("in the hook")
        sys.excepthook = hook
        raise ValueError("v")
        """,
    ),
    case(
        "excepthook-exits",
        """
        import sys
        sys.excepthook = lambda *_: sys.exit(17)
        raise ValueError("v")
        """,
    ),
    case(
        "unraisable",
        """
        import sys
        sys.unraisablehook = lambda u: print("unraisable", u.exc_value, u.err_msg)
        class Bad:
            def __del__(self):
                raise ValueError("in del")
        Bad()
        keep = Bad()
        """,
    ),
    case(
        "last-words",
        """
        import sys, types
        class Noisy(types.ModuleType):
            def __del__(self):
                print("module gone", file=sys.__stderr__)
        sys.modules["noisy"] = Noisy("noisy")
        """,
    ),
    case(
        "main-replaced",
        """
        import sys, types
        class Loud:
            def __del__(self):
                print("gone")
        keep = Loud()
        sys.modules["__main__"] = types.ModuleType("other")
        print("end", __name__)
        """,
    ),
    case(
        "main-deleted",
        """
        import sys
        class Loud:
            def __del__(self):
                print("gone")
        keep = Loud()
        del sys.modules["__main__"]
        """,
    ),
    case(
        "modules-cleared",
        """
        import sys
        class Loud:
            def __del__(self):
                print("gone")
        keep = Loud()
        sys.modules.clear()
        """,
    ),
    case(
        "gc-disabled-at-exit",
        """
        import gc
        gc.disable()
        class Loud:
            def __del__(self):
                print("gone")
        loop = Loud(); loop.loop = loop
        """,
    ),
    case(
        "gc-debug-at-exit",
        """
        import gc
        gc.set_debug(gc.DEBUG_SAVEALL)
        class Thing: pass
        t = Thing(); t.t = t; del t
        print(gc.collect() > 0, [type(o).__name__ for o in gc.garbage if type(o) is Thing])
        """,
    ),
    case(
        "gc-callbacks-at-exit",
        """
        import gc
        def callback(phase, info):
            print(phase, info["generation"])
        gc.collect()
        gc.callbacks.append(callback)
        gc.collect()
        """,
    ),
    case(
        "many-objects-at-exit",
        """
        class Node:
            def __init__(self, n):
                self.n = n; self.me = self
        nodes = [Node(i) for i in range(50_000)]
        print(sum(n.n for n in nodes))
        """,
    ),
    case(
        "deep-structure-at-exit",
        """
        deep = None
        for _ in range(200_000):
            deep = [deep]
        print("built")
        """,
    ),
    case(
        "resurrected",
        """
        class Phoenix:
            def __del__(self):
                global again
                again = self
                print("rises")
        Phoenix()
        Phoenix()
        """,
    ),
)
