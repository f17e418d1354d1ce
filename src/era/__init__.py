"""ERA: a self-hosted service that runs untrusted code in boxes and keeps its state.

`from era import Era` is the SDK (`era.client`).  It is loaded when one of its names is asked for, so
the server's own processes pay nothing for it; `__init__.pyi` tells type checkers the names.
"""

from typing import Any, Final

__version__: Final = "0.1.0"


def __getattr__(name: str) -> Any:
    """A name of the SDK."""
    if name.startswith("_"):
        raise AttributeError(f"module 'era' has no attribute {name!r}")
    import importlib

    # "from era import x" asks for a submodule of that name next, once this has refused.
    sdk = importlib.import_module("era.client")
    if name not in sdk.__all__:
        raise AttributeError(f"module 'era' has no attribute {name!r}")
    return getattr(sdk, name)


def __dir__() -> list[str]:
    """The names of the SDK among the others."""
    import importlib

    return sorted({*globals(), *importlib.import_module("era.client").__all__})
