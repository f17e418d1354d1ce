"""The Python SDK: a client of a running service, synchronous and asynchronous.

    from era import Era

    with Era() as era:
        print(era.execute("print(6 * 7)", language="python").stdout)

It needs nothing of the server.
"""

from __future__ import annotations

from era.client.aio.client import AsyncEra
from era.client.aio.files import AsyncFiles
from era.client.aio.session import AsyncSession
from era.client.aio.vm import AsyncVm
from era.client.answers import (
    Event,
    FileInfo,
    Health,
    Host,
    Result,
    SessionInfo,
    SetupInfo,
    SetupProgress,
    SkippedFile,
    StoredCode,
    Usage,
    VmInfo,
)
from era.client.blocking.client import Era
from era.client.blocking.files import Files
from era.client.blocking.session import Session
from era.client.blocking.vm import Vm
from era.client.bodies import Setup
from era.client.errors import (
    AnswerError,
    ClientError,
    ProgramFailedError,
    SetupFailedError,
    UnreachableError,
)
from era.client.folders import Upload
from era.errors import (
    BusyError,
    ConflictError,
    EraError,
    InputError,
    InternalError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)

__all__ = [
    "AnswerError",
    "AsyncEra",
    "AsyncFiles",
    "AsyncSession",
    "AsyncVm",
    "BusyError",
    "ClientError",
    "ConflictError",
    "Era",
    "EraError",
    "Event",
    "FileInfo",
    "Files",
    "Health",
    "Host",
    "InputError",
    "InternalError",
    "NotFoundError",
    "ProgramFailedError",
    "Result",
    "Session",
    "SessionInfo",
    "Setup",
    "SetupFailedError",
    "SetupInfo",
    "SetupProgress",
    "SkippedFile",
    "StoredCode",
    "TooLargeError",
    "UnavailableError",
    "UnreachableError",
    "Upload",
    "Usage",
    "Vm",
    "VmInfo",
]
