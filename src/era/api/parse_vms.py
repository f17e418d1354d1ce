"""Request bodies of managed VMs into the service's own values; as `parse` does for sessions.

Both families of paths ask for the same under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from era.api.excess import shown, warnings
from era.api.given import (
    checked,
    command_of,
    cpus_of,
    env_of,
    memory_of,
    one_of,
    text_of,
    timeout_of,
)
from era.api.options import Bounds
from era.api.schemas import (
    VmBody,
    VmCleanBody,
    VmCommandBody,
    VmCreateBody,
    VmExecuteBody,
    VmPatchBody,
    VmStopBody,
    VmTempBody,
)
from era.errors import InputError, invalid_field, missing_field
from era.languages.table import canonical
from era.models import VM_NETWORKS, NewVm, RunRequest

_DEFAULT: Final = NewVm(language="python")

Members = Mapping[str, Any]


def create(members: Members, bounds: Bounds) -> tuple[NewVm, tuple[str, ...]]:
    """The request of POST /api/vm, and warnings about ignored fields."""
    body, unknown = checked(VmBody, members)
    new = NewVm(
        language=canonical(body.language),
        cpu_count=cpus_of(body.cpu_count, bounds) or _DEFAULT.cpu_count,
        memory_mib=memory_of(body.memory_mib, bounds) or _DEFAULT.memory_mib,
        network_mode=_network("network_mode", body.network_mode),
        persist=body.persist is True,
        image=body.image or "",
    )
    return new, warnings(unknown)


def _network(field: str, mode: str | None) -> str:
    if mode is None:
        return _DEFAULT.network_mode
    if mode not in VM_NETWORKS:
        *most, last = VM_NETWORKS
        raise invalid_field(field, f"{', '.join(most)} or {last}")
    return mode


def patch(members: Members) -> str:
    """The new network mode.

    Raises:
        InputError: `unknown_field`, `invalid_field`, `no_fields`.
    """
    for name in members:
        if name not in VmPatchBody.model_fields:
            raise InputError("unknown_field", f"unknown field: {shown(name)}")
    given = {name: value for name, value in members.items() if value is not None}
    body, _ = checked(VmPatchBody, given)
    if body.network_mode is None:
        raise InputError("no_fields", "no valid fields to update")
    return _network("network_mode", body.network_mode)


def command(members: Members, bounds: Bounds) -> RunRequest:
    """The request of a command in a VM."""
    _refuse_files(members)
    return _command(*checked(VmCommandBody, members), bounds)


def _refuse_files(members: Members) -> None:
    """No member ever names a file of the server."""
    if "file" in members:
        raise InputError(
            "field_not_supported",
            "file is not supported",
            hint="Upload the file with PUT /api/vm/{id}/files/{path}, and run a command on it.",
        )


def _command(body: VmCommandBody, unknown: tuple[str, ...], bounds: Bounds) -> RunRequest:
    wanted = command_of(body.command, None)
    if wanted is None or not wanted.strip():
        raise missing_field("command")
    return RunRequest(
        command=wanted,
        timeout_seconds=timeout_of(body, bounds),
        env=env_of(body),
        stdin=text_of("stdin", body.stdin or ""),
        cancel_on_disconnect=body.cancel_on_disconnect is True,
        warnings=warnings(unknown),
    )


# --- the second family --------------------------------------------------------------------------


def create_named(members: Members, bounds: Bounds) -> tuple[NewVm, tuple[str, ...]]:
    """The request of POST /api/vm/create."""
    _refuse_files(members)
    body, unknown = checked(VmCreateBody, members)
    return _new(body, bounds, persist=body.persist is True), warnings(unknown)


def _new(body: VmCreateBody | VmTempBody, bounds: Bounds, *, persist: bool = False) -> NewVm:
    memory = one_of(body, "memory", "mem")
    name = "memory" if body.memory is not None else "mem"
    return NewVm(
        language=canonical(_DEFAULT.language if body.language is None else body.language),
        cpu_count=cpus_of(body.cpu, bounds, "cpu") or _DEFAULT.cpu_count,
        memory_mib=memory_of(memory, bounds, name) or _DEFAULT.memory_mib,
        network_mode=_network("network", body.network),
        persist=persist,
        image=body.image or "",
    )


def execute(members: Members, bounds: Bounds) -> tuple[str, RunRequest]:
    """The request of POST /api/vm/execute: the VM, and what to run in it."""
    _refuse_files(members)
    body, unknown = checked(VmExecuteBody, members)
    return body.vm_id, _command(body, unknown, bounds)


def temp(members: Members, bounds: Bounds) -> tuple[NewVm, RunRequest]:
    """The request of POST /api/vm/temp."""
    _refuse_files(members)
    body, unknown = checked(VmTempBody, members)
    return _new(body, bounds), _command(body, unknown, bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Which VM to stop or clean; None: all."""

    vm_id: str | None
    keep_persist: bool = False


def stop(members: Members, every: bool) -> Ended:
    """The request of POST /api/vm/stop."""
    _refuse_files(members)
    body, _ = checked(VmStopBody, members)
    return Ended(vm_id=_named(body, every))


def clean(members: Members, every: bool) -> Ended:
    """The request of POST /api/vm/clean."""
    _refuse_files(members)
    body, _ = checked(VmCleanBody, members)
    return Ended(vm_id=_named(body, every), keep_persist=body.keep_persist is True)


def _named(body: VmStopBody, every: bool) -> str | None:
    if every:
        return None
    if body.vm_id is None:
        raise missing_field("vm_id")
    return body.vm_id
