"""What the SDK raises: the service's own errors, and those that only a client can meet.

EraError
├── InputError · NotFoundError · ConflictError · TooLargeError
├── BusyError · UnavailableError · InternalError     what the service answered, by its code
└── ClientError
    ├── UnreachableError     no answer: nobody listens, the connection broke, time is up
    ├── AnswerError          an answer that is none of this service's, or newer than this SDK
    ├── ProgramFailedError   `Result.check()`: the program did not exit with 0
    └── SetupFailedError     `wait_for_setup()`: the setup failed
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx2

from era.errors import (
    CODES,
    BusyError,
    ConflictError,
    EraError,
    InputError,
    InternalError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)

if TYPE_CHECKING:
    from era.client.answers import Result, SetupInfo

_CLASSES: Final[Mapping[int, type[EraError]]] = {
    404: NotFoundError,
    409: ConflictError,
    429: BusyError,
    500: InternalError,
}
_LIMIT: Final = re.compile(r"(\d+) bytes")
_OTHER_CLIENT_ERRORS: Final = range(400, 500)
_COMMAND: Final = 200
"""Characters shown of a command that failed in a setup."""


class ClientError(EraError):
    """What went wrong between the service and its client; `status` is 0 without an answer."""

    default_code = "client"

    def __init__(
        self,
        text: str,
        *,
        code: str | None = None,
        status: int = 0,
        retry_after_seconds: int | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(code, text, retry_after_seconds=retry_after_seconds, **extra)
        self._status: Final = status

    @property
    def status(self) -> int:
        """The HTTP status that was answered, or 0."""
        return self._status


class UnreachableError(ClientError):
    """There was no answer, or it broke off; whether the request was carried out is not known."""

    default_code = "unreachable"


class AnswerError(ClientError):
    """An answer that this SDK does not know: of another program, or of a newer service."""

    default_code = "unexpected_answer"


class ProgramFailedError(ClientError):
    """A program did not exit with 0; `result` is its result."""

    default_code = "program_failed"

    def __init__(self, result: Result) -> None:
        super().__init__(f"the program ended with exit code {result.exit_code}")
        self.result: Final = result
        if tail := _legible(result.stderr)[-2000:]:
            self.add_note(tail)


class SetupFailedError(ClientError):
    """The setup of a session failed; `setup` says at which step and why."""

    default_code = "setup_failed"

    def __init__(self, setup: SetupInfo) -> None:
        result = setup.result or {}
        super().__init__(_of_setup(result))
        self.setup: Final = setup
        # Many programs say on their output why they fail.
        written = (_legible(str(result.get(name, ""))) for name in ("stderr", "stdout"))
        if tail := next(filter(None, written), "")[-2000:]:
            self.add_note(tail)


_COLOURS: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def _legible(text: str) -> str:
    """What a program wrote, for a traceback: nothing that a terminal would obey."""
    plain = _COLOURS.sub("", text).replace("\r\n", "\n").strip()
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in plain)


def _of_setup(result: Mapping[str, Any]) -> str:
    """What failed in a setup: the kind of step, its exit code, and the command if it was one."""
    words = str(result.get("error", "Setup failed"))
    if (code := result.get("exit_code")) is not None:
        words += f" (exit code {code})"
    if command := str(result.get("command", "")):
        words += f": {command if len(command) <= _COMMAND else command[: _COMMAND - 1] + '…'}"
    return words


def from_answer(
    status: int,
    body: Mapping[str, Any],
    *,
    retry_after_seconds: int | None = None,
    request_id: str | None = None,
) -> EraError:
    """The error that the service raised, from what it answered."""
    extra = {k: v for k, v in body.items() if k not in ("error", "code", "success", "status_code")}
    code, text = str(body.get("code", "")), str(body.get("error", f"status {status}"))
    error = _error(status, code, text, retry_after_seconds)
    error.extra.update(extra)
    for note in (extra.get("message"), extra.get("hint"), request_id and f"request {request_id}"):
        if isinstance(note, str):
            error.add_note(note)
    return error


def _error(status: int, code: str, text: str, retry_after: int | None) -> EraError:
    if code not in CODES:
        return AnswerError(text, code=code or None, status=status, retry_after_seconds=retry_after)
    if status == 413:
        limit = _LIMIT.search(text)
        return TooLargeError(code, int(limit[1]) if limit else 0, text)
    other = InputError if status in _OTHER_CLIENT_ERRORS else UnavailableError
    kind = _CLASSES.get(status, other)
    if kind is BusyError:
        return BusyError(code, text, retry_after_seconds=retry_after or 1)
    return kind(code, text, retry_after_seconds=retry_after)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what goes wrong on the way to `url` into `UnreachableError`."""
    try:
        yield
    except httpx2.TimeoutException as error:
        raise UnreachableError(f"no answer from {url} in time", hint=_HINT) from error
    except httpx2.HTTPError as error:
        raise UnreachableError(f"cannot reach {url}: {_reason(error)}", hint=_HINT) from error
    except (httpx2.InvalidURL, httpx2.StreamError) as error:
        raise UnreachableError(f"cannot reach {url}: {error}", hint=_HINT) from error


_HINT: Final = "Start a server with `era serve`, or name one by its address or ERA_API_URL."


def _reason(error: BaseException) -> str:
    """The words of the operating system, which stand at the end of the chain of causes."""
    cause: BaseException | None = error
    words = str(error) or type(error).__name__
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return words
