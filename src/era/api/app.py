"""The HTTP application around a given service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from era.api import openapi
from era.api.answers import error_answer, json_answer
from era.api.door import Door, Origins
from era.api.options import Options
from era.api.proxy import proxy
from era.api.routes import agents, code, files, proxied, runs, service, sessions, vm_words, vms
from era.api.routing import ANY, Area, Call, Operation, Resource
from era.errors import NotFoundError

if TYPE_CHECKING:
    from era.sessions.service import Sessions

OPERATIONS: Final[tuple[Operation, ...]] = (
    *runs.OPERATIONS,
    *sessions.OPERATIONS,
    *code.OPERATIONS,
    *files.OPERATIONS,
    *service.OPERATIONS,
    *vms.COMMANDS,
    *vm_words.OPERATIONS,
    *vms.OPERATIONS,
    *agents.OPERATIONS,
    *proxied.OPERATIONS,
)
"""Everything the API can do; what runs most comes first, since paths are tried in order;
the words of `vm_words` come before what takes any word for the id of a VM."""

_DOCUMENT: Final = "/openapi.json"


def create_app(sessions: Sessions, options: Options, areas: tuple[Area, ...] = ()) -> FastAPI:
    """The application, with what it serves beside the API.  It starts and stops nothing: the service
    is the caller's to open and close."""
    app = FastAPI(
        title="ERA",
        version=options.version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    described = openapi.document(
        OPERATIONS,
        version=options.version,
        authenticated=bool(options.api_keys),
        bounds=options.bounds,
    )

    async def describe(_call: Call) -> Response:
        return json_answer(described)

    app.openapi = lambda: described  # type: ignore[method-assign]
    app.router.routes[:] = [
        *_routes(sessions, options, [*OPERATIONS, *(o for area in areas for o in area.operations)]),
        Route(_DOCUMENT, Resource(_DOCUMENT, sessions, options, {"GET": describe})),
    ]
    app.router.default = _not_found
    app.add_middleware(Door, options=options, areas=areas)
    app.state.cors = Origins(options.cors_origins).headers
    return app


def _routes(
    sessions: Sessions, options: Options, operations: Iterable[Operation]
) -> Iterable[Route]:
    """One route for each path, in the order of first mention but for the proxy, which is asked first
    for all that is below it."""
    by_path: dict[str, dict[str, Any]] = {proxied.EVERYTHING: {ANY: proxy}}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation.handler
    return [Route(path, Resource(path, sessions, options, on)) for path, on in by_path.items()]


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await error_answer(NotFoundError())(scope, receive, send)
