"""Imported by a Python that is to stand ready, at the end of its own start.

Python imports `sitecustomize` after everything is set up and before it looks at the program it was
given.  Standing ready there, a fork that returns from here goes on to run that program exactly as
the interpreter would have: same frames, same tracebacks, same exit.

`ImportError` with this module's name is how Python learns that there is none (site.py): nothing of
this remains in the program's interpreter.
"""

import os
import sys


def _stand_ready() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    source = os.path.abspath(os.path.join(here, *[os.pardir] * 5))
    sys.path.remove(here)
    sys.path.append(source)
    from era.sandbox.namespaces.child import standby

    standby.stand_ready()
    if source in sys.path:
        sys.path.remove(source)
    for place in (here, source):
        sys.path_importer_cache.pop(place, None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "era"]:
        del sys.modules[name]


try:
    _stand_ready()
except BaseException:  # noqa: BLE001 - whatever it was, this must not become an interpreter
    os._exit(1)  # never go on as an interpreter that was not made ready in full
raise ImportError("there is no sitecustomize", name="sitecustomize")
