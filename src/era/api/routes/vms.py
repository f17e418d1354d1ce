"""Managed VMs: create, list, change, stop, delete; commands in them, and files of their workspace."""

from __future__ import annotations

from functools import partial, wraps
from typing import Any, Final

from starlette.responses import Response

from era import wire
from era.api import answers_schema as schema
from era.api import body, media, parse_vms, schemas
from era.api.answers import json_answer
from era.api.body import unless_gone
from era.api.forward import where_it_is, where_it_runs
from era.api.routes.files import answer_file
from era.api.routes.runs import streamed
from era.api.routes.sessions import PAGING
from era.api.routing import Call, Handler, Operation
from era.api.stream import EventStream
from era.errors import NotFoundError, vm_not_found

RUN_ERRORS: Final = (
    "invalid_json",
    "invalid_body",
    "missing_field",
    "invalid_field",
    "field_not_supported",
    "timeout_too_large",
    "conflicting_fields",
    "body_too_large",
    "vm_not_found",
    "vm_not_running",
    "session_deleted",
    "session_queue_full",
    "session_busy",
    "server_busy",
    "execution_failed",
    "isolation_unavailable",
)
CREATE_ERRORS: Final = (
    "invalid_json",
    "invalid_body",
    "missing_field",
    "invalid_field",
    "unsupported_language",
    "body_too_large",
    "server_busy",
)


def of_vm(handler: Handler) -> Handler:
    """`handler`, where no VM is what no session is to those who look for its server."""

    @wraps(handler)
    async def handle(call: Call) -> Response | None:
        try:
            return await handler(call)
        except NotFoundError as error:
            raise vm_not_found() if error.code == "session_not_found" else error from None

    return handle


def with_warnings(answer: dict[str, Any], warnings: tuple[str, ...]) -> dict[str, Any]:
    """An answer, with the names of ignored fields if there are any."""
    return {**answer, "warnings": list(warnings)} if warnings else answer


async def create_vm(call: Call) -> Response:
    """Create a VM."""
    new, warnings = await call.object(parse_vms.create, call.options.bounds)
    answer = wire.vm_object(await call.sessions.vms.create(new))
    location = {"Location": f"/api/vm/{answer['id']}"}
    return json_answer(with_warnings(answer, warnings), 201, location)


async def get_vm(call: Call) -> Response:
    """A VM."""
    return json_answer(wire.vm_object(await call.sessions.vms.get(call.vm_id)))


async def list_vms(call: Call) -> Response:
    """VMs, oldest first."""
    page = await call.sessions.vms.list(limit=call.limit(), cursor=call.query("cursor"))
    return json_answer(wire.page_object("vms", list(map(wire.vm_object, page.items)), page))


async def patch_vm(call: Call) -> Response:
    """Change what later runs reach."""
    vm_id = call.vm_id
    mode = await call.object(parse_vms.patch, nulls=True)
    return json_answer(wire.vm_object(await call.sessions.vms.change_network(vm_id, mode)))


async def delete_vm(call: Call) -> Response:
    """Delete a VM with all that is in it."""
    vm_id = call.vm_id
    await call.sessions.vms.delete(vm_id, keep_persist=call.flag("keep_persist"))
    return json_answer({"status": "deleted", "vm_id": vm_id, "message": CLEANED})


async def stop_vm(call: Call) -> Response:
    """Stop a VM: it runs nothing any more."""
    vm_id = call.vm_id
    await call.sessions.vms.stop(vm_id)
    return json_answer({"status": "stopped", "vm_id": vm_id, "message": STOPPED})


STOPPED: Final = "VM stopped successfully"
CLEANED: Final = "VM cleaned successfully"

# --- commands -----------------------------------------------------------------------------------


async def run_vm(call: Call) -> Response | None:
    """Run a command in a VM."""
    vm_id = call.vm_id
    request = await call.object(parse_vms.command, call.options.bounds)
    result = await unless_gone(call.receive, call.sessions.vms.run(vm_id, request))
    return None if result is None else json_answer(wire.vm_run_object(result))


async def stream_vm(call: Call) -> Response:
    """Run a command in a VM, its output as events while it comes."""
    vm_id = call.vm_id
    request = await call.object(parse_vms.command, call.options.bounds)
    return await streamed(call, partial(call.sessions.vms.run, vm_id, request), wire.vm_run_object)


# --- files --------------------------------------------------------------------------------------


async def list_vm_files(call: Call) -> Response:
    """The files of the workspace by path."""
    page = await call.sessions.vms.files(
        call.vm_id,
        prefix=call.query("prefix") or "",
        limit=call.limit(),
        cursor=call.query("cursor"),
    )
    listed = [{"path": str(e.path), "size": e.size, "is_dir": False} for e in page.items]
    return json_answer(wire.page_object("files", listed, page))


async def get_vm_file(call: Call) -> Response:
    """The bytes of a file; a path that ends where the list begins is the list."""
    if not call.scope["path_params"]["path"]:
        return await list_vm_files(call)
    path = await call.file_path()
    return answer_file(call, path, await call.sessions.vms.open_file(call.vm_id, path))


async def put_vm_file(call: Call) -> Response:
    """Store a file from the raw body."""
    path = await call.file_path()
    limit = call.options.bounds.file_bytes
    pieces = body.stream(call.scope, call.receive, limit, "file_too_large")
    content_type = media.chosen(call.header("content-type"))
    entry = await call.sessions.vms.put_file(call.vm_id, path, pieces, content_type)
    return json_answer({"path": str(entry.path), "size": entry.size})


async def delete_vm_file(call: Call) -> Response:
    """Delete a file, or with `?recursive=1` a directory."""
    path = await call.file_path()
    await call.sessions.vms.delete_file(call.vm_id, path, recursive=call.flag("recursive"))
    return json_answer({"deleted": str(path)})


_VM: Final = "/api/vm/{vm_id}"
_FILES: Final = f"{_VM}/files"
_FILE: Final = _FILES + "/{path:path}"
_PATH_ERRORS: Final = ("invalid_path", "reserved_path", "vm_not_found")

COMMANDS: Final = (
    Operation(
        method="POST",
        path=f"{_VM}/run",
        handler=of_vm(where_it_runs(run_vm)),
        summary="Run a command in a VM",
        body=schemas.VmCommandBody,
        answer=schema.VmRunResult,
        errors=RUN_ERRORS,
    ),
    Operation(
        method="POST",
        path=f"{_VM}/stream",
        handler=of_vm(where_it_runs(stream_vm)),
        summary="Run a command in a VM, with its output as server-sent events",
        body=schemas.VmCommandBody,
        answer=EventStream.media_type,
        errors=RUN_ERRORS,
    ),
)

OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/api/vms",
        handler=list_vms,
        summary="List VMs, oldest first",
        answer=schema.VmList,
        query=PAGING,
        errors=("invalid_field",),
    ),
    Operation(
        method="POST",
        path="/api/vm",
        handler=create_vm,
        summary="Create a VM",
        body=schemas.VmBody,
        answer=schema.Vm,
        status=201,
        errors=CREATE_ERRORS,
    ),
    Operation(
        method="GET",
        path=_VM,
        handler=get_vm,
        summary="A VM",
        answer=schema.Vm,
        errors=("vm_not_found",),
    ),
    Operation(
        method="PATCH",
        path=_VM,
        handler=patch_vm,
        summary="Change what a VM reaches",
        body=schemas.VmPatchBody,
        answer=schema.Vm,
        errors=(
            "invalid_json",
            "invalid_body",
            "invalid_field",
            "unknown_field",
            "no_fields",
            "vm_not_found",
            "body_too_large",
        ),
    ),
    Operation(
        method="DELETE",
        path=_VM,
        handler=of_vm(where_it_is(delete_vm)),
        summary="Delete a VM",
        answer=schema.VmDone,
        query={"keep_persist": "1: keep the workspace of a VM with `persist` for the operator."},
        errors=("vm_not_found", "storage_full"),
    ),
    Operation(
        method="POST",
        path=f"{_VM}/stop",
        handler=of_vm(where_it_is(stop_vm)),
        summary="Stop a VM",
        answer=schema.VmDone,
        errors=("vm_not_found",),
    ),
    Operation(
        method="GET",
        path=_FILES,
        handler=list_vm_files,
        summary="List the files of a VM's workspace",
        answer=schema.VmFileList,
        query={"prefix": "Only paths that begin so.", **PAGING},
        errors=("vm_not_found", "invalid_field"),
    ),
    Operation(
        method="GET",
        path=_FILE,
        handler=get_vm_file,
        summary="The bytes of a file of a VM",
        answer="*/*",
        query={"download": "1: to be saved under its name."},
        errors=(*_PATH_ERRORS, "file_not_found"),
    ),
    Operation(
        method="PUT",
        path=_FILE,
        handler=put_vm_file,
        summary="Store a file in a VM",
        body=True,
        answer=schema.StoredFile,
        errors=(*_PATH_ERRORS, "file_too_large", "quota_exceeded", "storage_full"),
    ),
    Operation(
        method="DELETE",
        path=_FILE,
        handler=delete_vm_file,
        summary="Delete a file of a VM, or a directory",
        answer=schema.Deleted,
        query={"recursive": "1: a directory with all below it."},
        errors=(*_PATH_ERRORS, "file_not_found"),
    ),
)
