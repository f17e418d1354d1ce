"""Request bodies into the service's own values: types, bounds, aliases, ignored fields.

The order of checks is fixed: types and required fields in the order of the model, then pairs of
spellings, then each value's own rules in the order of the contract's tables.
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
from era.api.excess import first_fault, shown, warnings
from era.api.options import Bounds
from era.api.schemas import (
    POSITIVE,
    Body,
    CodeBody,
    CopyBody,
    CreateBody,
    ExecuteBody,
    FileBody,
    Must,
    PatchBody,
    RunBody,
    SetupBody,
)
from era.errors import InputError, TooLargeError, invalid_field, missing_field
from era.ids import check_session_id
from era.languages.asked import parse_setup
from era.languages.environment import check_env
from era.languages.table import canonical
from era.models import (
    UNSET,
    JsonText,
    NewCopy,
    NewSession,
    RunRequest,
    SessionPatch,
    SetupSpec,
    Unset,
)
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


def _one_of(body: Body, *names: str) -> Any:
    """The value that a field has under several spellings, None when it has none.

    Raises:
        InputError: `conflicting_fields`.
    """
    given = [(name, value) for name in names if (value := getattr(body, name)) is not None]
    for name, value in given[1:]:
        if value != given[0][1]:
            raise InputError("conflicting_fields", f"{given[0][0]} and {name} differ")
    return given[0][1] if given else None


def _text(field: str, text: str) -> str:
    """`text` when it can be encoded; lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid_field(field, "valid Unicode text") from None
    return text


def _json(value: Any, limit: int, code: str) -> JsonText:
    """Compact JSON text within `limit` bytes, else TooLargeError `code`."""
    text = jsontext.dumps(value)
    if len(text) > limit or len(text.encode()) > limit:
        raise TooLargeError(code, limit)
    return text


# --- values -----------------------------------------------------------------------------------


def _code(text: str, bounds: Bounds) -> str:
    size = len(_text("code", text).encode())
    if size > bounds.code_bytes:
        raise TooLargeError("code_too_large", bounds.code_bytes)
    return text


def _timeout(body: ExecuteBody | RunBody, bounds: Bounds) -> float | None:
    """Seconds; None for the default, which 0 also asks for."""
    seconds = _positive("timeout", body.timeout)
    ms = _positive("timeout_ms", body.timeout_ms)
    if ms is not None:
        if seconds is not None and not math.isclose(seconds * 1000, ms, rel_tol=1e-9):
            raise InputError("conflicting_fields", "timeout and timeout_ms differ")
        seconds = ms / 1000 if seconds is None else seconds
    if seconds is not None and seconds > bounds.max_timeout_seconds:
        longest = f"{bounds.max_timeout_seconds:g}"
        raise InputError("timeout_too_large", f"timeout exceeds the maximum of {longest} seconds")
    return seconds or None


def _positive(field: str, value: float | None) -> float | None:
    if value is not None and not 0 <= value < math.inf:
        raise invalid_field(field, POSITIVE)
    return value


def _default_timeout(value: float | None, bounds: Bounds) -> float | None:
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


def _env(body: ExecuteBody | RunBody) -> dict[str, str]:
    value = _one_of(body, "env", "envs")
    name = "env" if body.env is not None else "envs"
    return check_env(name, value) if value else {}


def _args(args: list[str] | None) -> tuple[str, ...]:
    if not args:
        return ()
    if len(args) > MAX_ARGS:
        raise invalid_field("args", f"an array of at most {MAX_ARGS} strings")
    if any("\0" in arg for arg in args):
        raise invalid_field("args", "an array of strings without NUL")
    sizes = [len(_text("args", arg).encode()) for arg in args]
    if sum(sizes) > MAX_ARGS_BYTES:
        raise invalid_field("args", f"at most {MAX_ARGS_BYTES} bytes in total")
    if max(sizes) > MAX_ARG_BYTES:
        raise invalid_field("args", f"an array of strings of at most {MAX_ARG_BYTES} bytes")
    return tuple(args)


def _within(field: str, value: int | None, least: int, most: int) -> int | None:
    if value is not None and not least <= value <= most:
        raise invalid_field(field, f"an integer from {least} to {most}")
    return value


def _cpus(value: int | None, bounds: Bounds) -> int | None:
    return _within("cpu_count", value, 1, bounds.max_cpus)


def _memory(value: int | None, bounds: Bounds) -> int | None:
    return _within("memory_mib", value, MIN_MEMORY_MIB, bounds.max_memory_mib)


def _files(files: dict[str, str | FileBody] | None) -> dict[RelPath, bytes]:
    placed = {user_path(name): _content(name, content) for name, content in (files or {}).items()}
    # NUL, which no path holds, sorts before all else: what lies below a path comes next to it.
    ordered = sorted(path.replace("/", "\0") for path in placed)
    if any(below.startswith(f"{path}\0") for path, below in pairwise(ordered)):
        raise InputError("invalid_path", details="a file cannot lie below another file")
    return placed


def _content(name: str, content: str | FileBody) -> bytes:
    if isinstance(content, str):
        return _text("files", content).encode()
    if content.encoding == "utf-8":
        return _text("files", content.content).encode()
    try:
        return base64.b64decode(content.content, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_field("files", "valid base64 where it says so", details=name) from None


def _setup(value: Any) -> tuple[SetupSpec | None, tuple[str, ...]]:
    """The checked setup, and its members that were ignored."""
    if value is None:
        return None, ()
    spec, ignored = parse_setup(value)
    return spec, warnings(ignored, "setup.")


def _setup_shape(members: Mapping[str, Any]) -> None:
    setup = members.get("setup")
    if setup is not None and not isinstance(setup, dict):
        raise InputError("invalid_setup", "setup must be an object")


# --- bodies -----------------------------------------------------------------------------------


def execute(members: Mapping[str, Any], bounds: Bounds) -> RunRequest:
    """The request of POST /api/execute."""
    body, unknown = checked(ExecuteBody, members)
    if not body.code:
        raise missing_field("code")
    return RunRequest(
        code=_code(body.code, bounds),
        language=canonical(body.language),
        timeout_seconds=_timeout(body, bounds),
        env=_env(body),
        files=_files(body.files),
        stdin=_text("stdin", body.stdin or ""),
        args=_args(body.args),
        allow_internet=body.allowInternetAccess,
        cpu_count=_cpus(body.cpu_count, bounds),
        memory_mib=_memory(body.memory_mib, bounds),
        warnings=warnings(unknown),
    )


def run(members: Mapping[str, Any], bounds: Bounds, base_url: str) -> RunRequest:
    """The request of a run in a session."""
    body, unknown = checked(RunBody, members)
    code = body.code if body.code and body.code.strip() else None
    command = _command(body.command, code)
    return RunRequest(
        code=None if code is None else _code(code, bounds),
        command=command,
        timeout_seconds=_timeout(body, bounds),
        env=_env(body),
        stdin=_text("stdin", body.stdin or ""),
        args=_args(body.args),
        update_data=_update(body.update_data, bounds),
        wait_for_setup=body.wait_for_setup is not False,
        cancel_on_disconnect=body.cancel_on_disconnect is True,
        base_url=base_url,
        warnings=warnings(unknown),
    )


def _command(command: str | None, code: str | None) -> str | None:
    if not command:
        return None
    if code is not None:
        raise InputError("conflicting_fields", "code and command differ", hint="Give one of them.")
    if "\0" in command:
        raise invalid_field("command", "a string without NUL")
    if len(_text("command", command).encode()) > MAX_ARG_BYTES:
        raise invalid_field("command", f"at most {MAX_ARG_BYTES} bytes")
    return command


def _update(update: dict[str, Any] | None, bounds: Bounds) -> JsonText | None:
    return None if update is None else _json(update, bounds.data_bytes, "data_too_large")


def create(members: Mapping[str, Any], bounds: Bounds) -> tuple[NewSession, tuple[str, ...]]:
    """The request to create a session, and warnings about ignored fields."""
    _setup_shape(members)
    body, unknown = checked(CreateBody, members)
    wanted = _one_of(body, "id", "session_id")
    session_id = None if wanted is None else check_session_id(wanted)
    language = canonical(body.language)
    metadata = _json(body.metadata or {}, bounds.metadata_bytes, "metadata_too_large")
    data = {} if body.data is None else body.data
    setup, ignored = _setup(body.setup)
    new = NewSession(
        id=session_id,
        language=language,
        persistent=body.persistent is not False,
        metadata=metadata,
        data=_json(data, bounds.data_bytes, "data_too_large"),
        setup=setup,
        allow_internet=body.allowInternetAccess,
        allow_public=body.allowPublicAccess is True,
        default_timeout_seconds=_default_timeout(body.default_timeout, bounds),
        cpu_count=_cpus(body.cpu_count, bounds),
        memory_mib=_memory(body.memory_mib, bounds),
    )
    return new, warnings(unknown) + ignored


def patch(members: Mapping[str, Any], bounds: Bounds) -> SessionPatch:
    """The request to change a session; here a null `default_timeout` is a value.

    Raises:
        InputError: `unknown_field`, `invalid_field`, `invalid_default_timeout`, `no_fields`.
    """
    for name in members:
        if name not in PatchBody.model_fields:
            raise InputError("unknown_field", f"unknown field: {shown(name)}")
    given = {n: v for n, v in members.items() if v is not None or n == "default_timeout"}
    body, _ = checked(PatchBody, given)
    if not given:
        raise InputError("no_fields")
    return SessionPatch(
        default_timeout_seconds=_default_timeout(body.default_timeout, bounds)
        if "default_timeout" in given
        else UNSET,
        allow_internet=_or_unset(body.allowInternetAccess),
        allow_public=_or_unset(body.allowPublicAccess),
        metadata=_json_or_unset(body.metadata, bounds.metadata_bytes, "metadata_too_large"),
        data=_json_or_unset(body.data, bounds.data_bytes, "data_too_large"),
    )


def _or_unset(value: bool | None) -> bool | Unset:
    return UNSET if value is None else value


def _json_or_unset(value: Any, limit: int, code: str) -> JsonText | Unset:
    return UNSET if value is None else _json(value, limit, code)


def copy(members: Mapping[str, Any], bounds: Bounds) -> NewCopy:
    """The request to duplicate a session."""
    body, _ = checked(CopyBody, members)
    wanted = _one_of(body, "id", "session_id", "new_id")
    return NewCopy(
        id=None if wanted is None else check_session_id(wanted, "new id"),
        data=None if body.data is None else _json(body.data, bounds.data_bytes, "data_too_large"),
        include_files=body.include_files,
    )


def setup(members: Mapping[str, Any]) -> SetupSpec | None:
    """The setup to run instead of the stored one, None for the stored one."""
    _setup_shape(members)
    body, _ = checked(SetupBody, members)
    return _setup(body.setup)[0]


def stored_code(members: Mapping[str, Any], bounds: Bounds) -> tuple[str, str | None]:
    """The code to store and its description; None keeps the old description."""
    if not members.get("code") and members.get("code", "") == "":
        raise InputError("missing_field", "code field required")
    body, _ = checked(CodeBody, members)
    description = None if body.description is None else _text("description", body.description)
    return _code(body.code, bounds), description
