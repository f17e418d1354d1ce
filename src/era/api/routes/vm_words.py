"""The second family of paths of managed VMs: one word each, the VM in the body, answers in an envelope.

The same VMs and the same rules as in `vms`.  What happens where a VM is goes there by the first
family's way, with the path and the body that it would have had.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response
from starlette.types import Message

from era import jsontext, wire
from era.api import answers_schema as schema
from era.api import parse_vms, schemas
from era.api.answers import enveloped
from era.api.body import unless_gone
from era.api.forward import where_it_is, where_it_runs
from era.api.routes.vms import (
    CLEANED,
    CREATE_ERRORS,
    RUN_ERRORS,
    STOPPED,
    delete_vm,
    of_vm,
    stop_vm,
    with_warnings,
)
from era.api.routing import Call, Handler, Operation
from era.errors import EraError, NotFoundError, invalid_field, vm_not_found
from era.ids import is_vm_id

_STATES: Final = ("ready", "running", "stopped")


async def create_named_vm(call: Call) -> Response:
    """Create a VM."""
    new, warnings = await call.object(parse_vms.create_named, call.options.bounds)
    info = wire.vm_info(await call.sessions.vms.create(new))
    return enveloped(with_warnings(info, warnings), 201)


async def execute_in_vm(call: Call) -> Response | None:
    """Run a command in the VM that the body names, wherever it is."""
    members: dict[str, Any] = await call.object(dict)
    vm_id, _ = parse_vms.execute(members, call.options.bounds)
    return await _execute(_about(call, vm_id, call.scope["path"], jsontext.dumps(members)))


@of_vm
@where_it_runs
async def _execute(call: Call) -> Response | None:
    vm_id = call.vm_id
    _, request = await call.object(parse_vms.execute, call.options.bounds)
    result = await unless_gone(call.receive, call.sessions.vms.run(vm_id, request))
    return None if result is None else enveloped(wire.vm_run_object(result))


async def temporary_vm(call: Call) -> Response | None:
    """Run a command in a VM that is gone with the answer."""
    new, request = await call.object(parse_vms.temp, call.options.bounds)
    result = await unless_gone(call.receive, call.sessions.vms.temp(new, request))
    return None if result is None else enveloped(wire.vm_run_object(result))


async def list_named_vms(call: Call) -> Response:
    """VMs, oldest first; stopped ones only when they are asked for."""
    wanted = call.query("status")
    if wanted is not None and wanted not in _STATES:
        raise invalid_field("status", "ready, running or stopped")
    page = await call.sessions.vms.list()
    infos = map(wire.vm_info, page.items)
    if wanted is not None:
        state = "stopped" if wanted == "stopped" else "ready"
        return enveloped([info for info in infos if info["status"] == state])
    every = call.flag("all")
    return enveloped([info for info in infos if every or info["status"] == "ready"])


async def stop_named_vms(call: Call) -> Response:
    """Stop a VM, or all."""
    asked = await call.object(parse_vms.stop, call.flag("all"))
    if asked.vm_id is not None:
        return await _one(call, asked.vm_id, "stop")
    page = await call.sessions.vms.list()
    running = [vm["id"] for vm in map(wire.vm_object, page.items) if vm["status"] == "running"]
    return enveloped({"stopped": await _each(call, running, "stop")})


async def clean_named_vms(call: Call) -> Response:
    """Delete a VM, or all."""
    asked = await call.object(parse_vms.clean, call.flag("all"))
    way = "clean-and-keep" if asked.keep_persist else "clean"
    if asked.vm_id is not None:
        return await _one(call, asked.vm_id, way)
    page = await call.sessions.vms.list()
    there = [wire.vm_object(record)["id"] for record in page.items]
    return enveloped({"cleaned": await _each(call, there, way)})


async def _one(call: Call, vm_id: str, way: str) -> Response:
    error = await _done(call, vm_id, way)
    if error is not None:
        raise error
    return enveloped({"vm_id": vm_id, "message": STOPPED if way == "stop" else CLEANED})


async def _each(call: Call, vm_ids: list[str], way: str) -> int:
    """Do it to all of them; to how many it was done.  One that is gone meanwhile is no error."""
    done = 0
    for vm_id in vm_ids:
        error = await _done(call, vm_id, way)
        if error is not None and not isinstance(error, NotFoundError):
            raise error
        done += error is None
    return done


async def _done(call: Call, vm_id: str, way: str) -> EraError | None:
    """Ask the server that has the VM, by the first family's path; what it says if it refuses."""
    handler, method, end, query = _WAYS[way]
    try:
        sub = _about(call, vm_id, f"/api/vm/{vm_id}{end}", "", method=method, query=query)
        answer = await handler(sub)
        assert answer is not None
        status, said = await _said(answer, sub)
    except EraError as error:
        return error
    if status < 400:
        return None
    code, text = str(said.get("code")), said.get("error")
    return NotFoundError(code, text) if status == 404 else EraError(code, text)


_WAYS: Final[dict[str, tuple[Handler, str, str, bytes]]] = {
    "stop": (of_vm(where_it_is(stop_vm)), "POST", "/stop", b""),
    "clean": (of_vm(where_it_is(delete_vm)), "DELETE", "", b""),
    "clean-and-keep": (of_vm(where_it_is(delete_vm)), "DELETE", "", b"keep_persist=1"),
}
"""What is done to a VM: who does it; method, end of the path and query of the first family."""


async def _said(answer: Response, call: Call) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer that goes to nobody else."""
    status, pieces = 500, []

    async def take(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            pieces.append(message.get("body", b""))

    await answer(call.scope, call.receive, take)
    said = jsontext.loads(b"".join(pieces).decode())
    return status, said if isinstance(said, dict) else {}


def _about(
    call: Call, vm_id: str, path: str, body: str, *, method: str = "POST", query: bytes = b""
) -> Call:
    """A request about one VM in the place of one that has been read; raises NotFoundError."""
    if not is_vm_id(vm_id):
        raise vm_not_found()
    return call.again(
        body.encode(),
        method=method,
        path=path,
        raw_path=path.encode(),
        query_string=query,
        path_params={"vm_id": vm_id},
    )


async def no_shell(_call: Call) -> Response:
    """There is no interactive shell."""
    raise EraError("not_implemented")


_BODY_ERRORS: Final = (
    "invalid_json",
    "invalid_body",
    "missing_field",
    "invalid_field",
    "field_not_supported",
    "body_too_large",
    "vm_not_found",
)
_ALL: Final = {"all": "1: every VM."}

OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/api/vm/create",
        handler=create_named_vm,
        summary="Create a VM",
        body=schemas.VmCreateBody,
        answer=schema.VmCreated,
        status=201,
        errors=(*CREATE_ERRORS, "field_not_supported", "conflicting_fields"),
    ),
    Operation(
        method="POST",
        path="/api/vm/execute",
        handler=execute_in_vm,
        summary="Run a command in a VM",
        body=schemas.VmExecuteBody,
        answer=schema.VmExecuted,
        errors=RUN_ERRORS,
    ),
    Operation(
        method="POST",
        path="/api/vm/temp",
        handler=temporary_vm,
        summary="Run a command in a VM that is gone with the answer",
        body=schemas.VmTempBody,
        answer=schema.VmExecuted,
        errors=(
            *CREATE_ERRORS,
            "field_not_supported",
            "timeout_too_large",
            "conflicting_fields",
            "execution_failed",
            "isolation_unavailable",
        ),
    ),
    Operation(
        method="GET",
        path="/api/vm/list",
        handler=list_named_vms,
        summary="List VMs, oldest first",
        answer=schema.VmsListed,
        query={
            "status": "Only those: `ready`, `running` (the same) or `stopped`.",
            "all": "1: stopped ones too.",
        },
        errors=("invalid_field",),
    ),
    Operation(
        method="POST",
        path="/api/vm/stop",
        handler=stop_named_vms,
        summary="Stop a VM, or all",
        body=schemas.VmStopBody,
        answer=schema.VmsStopped,
        query=_ALL,
        errors=_BODY_ERRORS,
    ),
    Operation(
        method="POST",
        path="/api/vm/clean",
        handler=clean_named_vms,
        summary="Delete a VM, or all",
        body=schemas.VmCleanBody,
        answer=schema.VmsCleaned,
        query=_ALL,
        errors=(*_BODY_ERRORS, "storage_full"),
    ),
    *(
        Operation(
            method=method,
            path="/api/vm/shell",
            handler=no_shell,
            summary="Not there: run commands instead",
            answer=schema.EnvelopedError,
            status=501,
            errors=("not_implemented",),
        )
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    ),
)
