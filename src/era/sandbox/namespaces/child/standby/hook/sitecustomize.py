"""Imported by a Python that is to stand ready, at the end of its own start (see the package's doc).

A fork that returns from here goes on to run its program exactly as the interpreter would have: same
frames, same tracebacks, same end.  `ImportError` with this module's name is how Python learns that
there is no such module (site.py).  No function here: it would stay.
"""

import os
import sys

try:
    _here = os.path.dirname(os.path.abspath(__file__))
    _source = os.path.abspath(os.path.join(_here, *[os.pardir] * 6))
    _before = {name: module for name, module in sys.modules.items() if name != __name__}
    sys.path.remove(_here)
    sys.path_importer_cache.pop(_here)
    _searched = dict(sys.path_importer_cache)
    sys.path.append(_source)
    from era.sandbox.namespaces.child.standby import ahead as _ahead

    _resident = _ahead.prepare(_before)
    del _ahead
    _resident["forget"]("era")
    import gc as _gc

    if _resident["loop"]:
        sys.path.remove(_source)
        _resident["hide"](_searched)
        _gc.freeze()
        _at_gate = _resident["stand_in_c"]()
    else:
        _gc.freeze()
        from era.sandbox.namespaces.child.standby import forks as _forks

        sys.path.remove(_source)
        _resident["hide"](_searched)
        _at_gate = _forks.serve(_resident["filter_code"][0])
        del _forks
    _resident["begin"](*_at_gate)
except BaseException:  # noqa: BLE001 - whatever it was, this must not become an interpreter
    os._exit(1)  # never go on as an interpreter that was not made ready in full
raise ImportError("there is no sitecustomize", name="sitecustomize")
