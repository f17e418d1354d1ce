"""ERA: a self-hosted service that runs untrusted code in boxes and keeps its state.

`from era import Era` is the SDK (`era.client`).  It is loaded when one of its names is asked for, so
the server's own processes pay nothing for it; `__init__.pyi` tells type checkers the names.
"""

from typing import Any, Final

__version__: Final = "0.1.0"

_SDK: Final = frozenset(
    (
        "AnswerError AsyncEra AsyncFiles AsyncSession AsyncVm BusyError ClientError ConflictError "
        "Era EraError Event FileInfo Files Health Host InputError InternalError NotFoundError "
        "ProgramFailedError Result Session SessionInfo Setup SetupFailedError SetupInfo "
        "SetupProgress SkippedFile StoredCode TooLargeError UnavailableError UnreachableError "
        "Upload Usage Vm VmInfo"
    ).split()
)
"""`era.client.__all__`.  Any other name, such as that of a module, must not load the SDK."""


def __getattr__(name: str) -> Any:
    """A name of the SDK."""
    if name not in _SDK:
        raise AttributeError(f"module 'era' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("era.client"), name)


def __dir__() -> list[str]:
    """The names of the SDK among the others."""
    return sorted({*globals(), *_SDK})
