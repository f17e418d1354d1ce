"""Members of request bodies, checked: types and their messages, spellings, bounds, values.

`parse` puts them together to the service's own values, in the order the contract gives.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from era import jsontext
from era.api.excess import first_fault, warnings
from era.api.options import Bounds
from era.api.schemas import (
    MILLISECONDS,
    POSITIVE,
    SECONDS,
    Body,
    ExecuteBody,
    FileBody,
    Must,
    RunBody,
    VmCommandBody,
)
from era.errors import InputError, TooLargeError, invalid_field, missing_field
from era.languages.asked import parse_setup
from era.languages.environment import check_env
from era.models import JsonText, SetupSpec
from era.relpath import RelPath, user_path

MAX_ARGS: Final = 1024
MAX_ARGS_BYTES: Final = 128 << 10
MAX_ARG_BYTES: Final = (128 << 10) - 1
"""Of one argument, a command included: the kernel takes no longer one (execve(2))."""
MIN_MEMORY_MIB: Final = 64

_EXPECTATIONS: Final[Mapping[str, str]] = {
    "string_type": "a string",
    "float_type": "a number",
    "finite_number": "a number",
    "int_type": "an integer",
    "bool_type": "a boolean",
    "dict_type": "an object",
    "list_type": "an array",
}

M = TypeVar("M", bound=Body)


# --- types ------------------------------------------------------------------------------------


def checked(model: type[M], members: Mapping[str, Any]) -> tuple[M, tuple[str, ...]]:
    """The body as its model, and the names of the members that the model does not know.

    Raises:
        InputError: `missing_field`, `invalid_field`; of several the first in the model's order.
    """
    names = model.model_fields
    unknown = tuple(name for name in members if name not in names)
    try:
        known = {name: value for name, value in members.items() if name in names}
        value = model.model_validate(first_fault(known))
    except ValidationError as error:
        _refuse(model, error.errors(include_url=False, include_context=False)[0])
    return value, unknown


def _refuse(model: type[Body], detail: ErrorDetails) -> NoReturn:
    name = str(detail["loc"][0])
    if detail["type"] == "missing":
        raise missing_field(name)
    if name == "default_timeout":
        raise _bad_default(f"default_timeout must be {POSITIVE}")
    must = [rule for rule in _rules(model, name) if isinstance(rule, Must)]
    if must:
        raise invalid_field(name, must[0].expectation)
    raise invalid_field(name, _EXPECTATIONS.get(detail["type"], "a valid value"))


def _rules(model: type[Body], name: str) -> list[Any]:
    """The annotations of a field, also those inside `... | None`."""
    info = model.model_fields[name]
    found = list(info.metadata)
    for part in getattr(info.annotation, "__args__", ()):
        found += getattr(part, "__metadata__", ())
    return found


def one_of(body: Body, *names: str) -> Any:
    """The value that a field has under several spellings, None when it has none.

    Raises:
        InputError: `conflicting_fields`.
    """
    given = [(name, value) for name in names if (value := getattr(body, name)) is not None]
    for name, value in given[1:]:
        if value != given[0][1]:
            raise InputError("conflicting_fields", f"{given[0][0]} and {name} differ")
    return given[0][1] if given else None


def text_of(field: str, text: str) -> str:
    """`text` when it can be encoded; lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid_field(field, "valid Unicode text") from None
    return text


def json_of(value: Any, limit: int, code: str) -> JsonText:
    """Compact JSON text within `limit` bytes, else TooLargeError `code`."""
    text = jsontext.dumps(value)
    if len(text) > limit or len(text.encode()) > limit:
        raise TooLargeError(code, limit)
    return text


# --- values -----------------------------------------------------------------------------------


def code_of(text: str, bounds: Bounds) -> str:
    """A program within its bound; raises TooLargeError."""
    size = len(text_of("code", text).encode())
    if size > bounds.code_bytes:
        raise TooLargeError("code_too_large", bounds.code_bytes)
    return text


def timeout_of(body: ExecuteBody | RunBody | VmCommandBody, bounds: Bounds) -> float | None:
    """Seconds; None for the default, which 0 also asks for."""
    seconds = _at_least_0("timeout", body.timeout, SECONDS)
    ms = _at_least_0("timeout_ms", body.timeout_ms, MILLISECONDS)
    if ms is not None:
        if seconds is not None and not math.isclose(seconds * 1000, ms, rel_tol=1e-9):
            raise InputError("conflicting_fields", "timeout and timeout_ms differ")
        seconds = ms / 1000 if seconds is None else seconds
    if seconds is not None and seconds > bounds.max_timeout_seconds:
        longest = f"{bounds.max_timeout_seconds:g}"
        raise InputError("timeout_too_large", f"timeout exceeds the maximum of {longest} seconds")
    return seconds or None


def _at_least_0(field: str, value: float | None, expectation: str) -> float | None:
    if value is not None and not 0 <= value < math.inf:
        raise invalid_field(field, expectation)
    return value


def default_timeout_of(value: float | None, bounds: Bounds) -> float | None:
    """Seconds within the maximum; raises InputError `invalid_default_timeout`."""
    if value is None:
        return None
    if not value > 0:
        raise _bad_default(f"default_timeout must be {POSITIVE}")
    if value > bounds.max_timeout_seconds:
        longest = f"{bounds.max_timeout_seconds:g}"
        raise _bad_default(f"default_timeout must be at most {longest} seconds")
    return value


def _bad_default(message: str) -> InputError:
    return InputError("invalid_default_timeout", message=message)


def env_of(body: ExecuteBody | RunBody | VmCommandBody) -> dict[str, str]:
    """The variables of a request, whatever it calls them; raises InputError."""
    value = one_of(body, "env", "envs")
    name = "env" if body.env is not None else "envs"
    return check_env(name, value) if value else {}


def args_of(args: list[str] | None) -> tuple[str, ...]:
    """Arguments of a program within their bounds; raises InputError."""
    if not args:
        return ()
    if len(args) > MAX_ARGS:
        raise invalid_field("args", f"an array of at most {MAX_ARGS} strings")
    if any("\0" in arg for arg in args):
        raise invalid_field("args", "an array of strings without NUL")
    sizes = [len(text_of("args", arg).encode()) for arg in args]
    if sum(sizes) > MAX_ARGS_BYTES:
        raise invalid_field("args", f"at most {MAX_ARGS_BYTES} bytes in total")
    if max(sizes) > MAX_ARG_BYTES:
        raise invalid_field("args", f"an array of strings of at most {MAX_ARG_BYTES} bytes")
    return tuple(args)


def _within(field: str, value: int | None, least: int, most: int) -> int | None:
    if value is not None and not least <= value <= most:
        raise invalid_field(field, f"an integer from {least} to {most}")
    return value


def cpus_of(value: int | None, bounds: Bounds, field: str = "cpu_count") -> int | None:
    """CPUs that may be asked for; raises InputError."""
    return _within(field, value, 1, bounds.max_cpus)


def memory_of(value: int | None, bounds: Bounds, field: str = "memory_mib") -> int | None:
    """Memory that may be asked for; raises InputError."""
    return _within(field, value, MIN_MEMORY_MIB, bounds.max_memory_mib)


def files_of(files: dict[str, str | FileBody] | None) -> dict[RelPath, bytes]:
    """Files to place, by path; raises InputError."""
    placed = {user_path(name): _content(name, content) for name, content in (files or {}).items()}
    # NUL, which no path holds, sorts before all else: what lies below a path comes next to it.
    ordered = sorted(path.replace("/", "\0") for path in placed)
    if any(below.startswith(f"{path}\0") for path, below in pairwise(ordered)):
        raise InputError("invalid_path", details="a file cannot lie below another file")
    return placed


def _content(name: str, content: str | FileBody) -> bytes:
    if isinstance(content, str):
        return text_of("files", content).encode()
    if content.encoding == "utf-8":
        return text_of("files", content.content).encode()
    try:
        return base64.b64decode(content.content, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_field(
            "files", 'base64 text where "encoding" is "base64"', details=name
        ) from None


def setup_of(value: Any) -> tuple[SetupSpec | None, tuple[str, ...]]:
    """The checked setup, and its members that were ignored."""
    if value is None:
        return None, ()
    spec, ignored = parse_setup(value)
    return spec, warnings(ignored, "setup.")


def check_setup_shape(members: Mapping[str, Any]) -> None:
    """Raises InputError `invalid_setup` for what is no object."""
    setup = members.get("setup")
    if setup is not None and not isinstance(setup, dict):
        raise InputError("invalid_setup", "setup must be an object")


def command_of(command: str | None, code: str | None) -> str | None:
    """A shell command within its bound; raises InputError, also when there is `code` beside it."""
    if not command:
        return None
    if code is not None:
        raise InputError("conflicting_fields", "code and command differ", hint="Give one of them.")
    if "\0" in command:
        raise invalid_field("command", "a string without NUL")
    if len(text_of("command", command).encode()) > MAX_ARG_BYTES:
        raise invalid_field("command", f"at most {MAX_ARG_BYTES} bytes")
    return command
