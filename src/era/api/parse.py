"""Request bodies into the service's own values: types, bounds, aliases, ignored fields.

The order of checks is fixed: types and required fields in the order of the model, then pairs of
spellings, then each value's own rules in the order of the contract's tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from era.api.excess import shown, warnings
from era.api.given import (
    args_of,
    check_setup_shape,
    checked,
    code_of,
    command_of,
    cpus_of,
    default_timeout_of,
    env_of,
    files_of,
    json_of,
    memory_of,
    one_of,
    setup_of,
    text_of,
    timeout_of,
)
from era.api.options import Bounds
from era.api.schemas import (
    CodeBody,
    CopyBody,
    CreateBody,
    ExecuteBody,
    PatchBody,
    RunBody,
    SetupBody,
)
from era.errors import InputError, missing_field
from era.ids import check_session_id
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

# --- bodies -----------------------------------------------------------------------------------


def execute(members: Mapping[str, Any], bounds: Bounds) -> RunRequest:
    """The request of POST /api/execute."""
    body, unknown = checked(ExecuteBody, members)
    if not body.code:
        raise missing_field("code")
    return RunRequest(
        code=code_of(body.code, bounds),
        language=canonical(body.language),
        timeout_seconds=timeout_of(body, bounds),
        env=env_of(body),
        files=files_of(body.files),
        stdin=text_of("stdin", body.stdin or ""),
        args=args_of(body.args),
        allow_internet=body.allowInternetAccess,
        cpu_count=cpus_of(body.cpu_count, bounds),
        memory_mib=memory_of(body.memory_mib, bounds),
        warnings=warnings(unknown),
    )


def run(members: Mapping[str, Any], bounds: Bounds, base_url: str) -> RunRequest:
    """The request of a run in a session."""
    body, unknown = checked(RunBody, members)
    code = body.code if body.code and body.code.strip() else None
    command = command_of(body.command, code)
    return RunRequest(
        code=None if code is None else code_of(code, bounds),
        command=command,
        timeout_seconds=timeout_of(body, bounds),
        env=env_of(body),
        stdin=text_of("stdin", body.stdin or ""),
        args=args_of(body.args),
        update_data=_update(body.update_data, bounds),
        wait_for_setup=body.wait_for_setup is not False,
        cancel_on_disconnect=body.cancel_on_disconnect is True,
        base_url=base_url,
        warnings=warnings(unknown),
    )


def _update(update: dict[str, Any] | None, bounds: Bounds) -> JsonText | None:
    return None if update is None else json_of(update, bounds.data_bytes, "data_too_large")


def create(members: Mapping[str, Any], bounds: Bounds) -> tuple[NewSession, tuple[str, ...]]:
    """The request to create a session, and warnings about ignored fields."""
    check_setup_shape(members)
    body, unknown = checked(CreateBody, members)
    wanted = one_of(body, "id", "session_id")
    session_id = None if wanted is None else check_session_id(wanted)
    language = canonical(body.language)
    metadata = json_of(body.metadata or {}, bounds.metadata_bytes, "metadata_too_large")
    data = {} if body.data is None else body.data
    setup, ignored = setup_of(body.setup)
    new = NewSession(
        id=session_id,
        language=language,
        persistent=body.persistent is not False,
        metadata=metadata,
        data=json_of(data, bounds.data_bytes, "data_too_large"),
        setup=setup,
        allow_internet=body.allowInternetAccess,
        allow_public=body.allowPublicAccess is True,
        default_timeout_seconds=default_timeout_of(body.default_timeout, bounds),
        cpu_count=cpus_of(body.cpu_count, bounds),
        memory_mib=memory_of(body.memory_mib, bounds),
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
        default_timeout_seconds=default_timeout_of(body.default_timeout, bounds)
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
    return UNSET if value is None else json_of(value, limit, code)


def copy(members: Mapping[str, Any], bounds: Bounds) -> NewCopy:
    """The request to duplicate a session."""
    body, _ = checked(CopyBody, members)
    wanted = one_of(body, "id", "session_id", "new_id")
    return NewCopy(
        id=None if wanted is None else check_session_id(wanted, "new id"),
        data=None if body.data is None else json_of(body.data, bounds.data_bytes, "data_too_large"),
        include_files=body.include_files,
    )


def setup(members: Mapping[str, Any]) -> SetupSpec | None:
    """The setup to run instead of the stored one, None for the stored one."""
    check_setup_shape(members)
    body, _ = checked(SetupBody, members)
    return setup_of(body.setup)[0]


def stored_code(members: Mapping[str, Any], bounds: Bounds) -> tuple[str, str | None]:
    """The code to store and its description; None keeps the old description."""
    if not members.get("code") and members.get("code", "") == "":
        raise InputError("missing_field", "code field required")
    body, _ = checked(CodeBody, members)
    description = None if body.description is None else text_of("description", body.description)
    return code_of(body.code, bounds), description
