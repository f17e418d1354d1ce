"""The routes of the proxy: any method, any path below a port of a session."""

from __future__ import annotations

from typing import Final

from era.api.proxy import proxy
from era.api.routes.runs import SESSION_RUN_ERRORS
from era.api.routing import ANY, Operation

ERRORS: Final = (
    "invalid_proxy_path",
    "invalid_port",
    "public_access_disabled",
    "no_server",
    "relay_timeout",
    *SESSION_RUN_ERRORS,
)

OPERATIONS: Final = (
    Operation(
        method=ANY,
        path="/proxy/{session_id}/{port}/{path:path}",
        handler=proxy,
        summary="Ask a server in the session's run, else its stored code",
        answer="*/*",
        body=True,
        errors=ERRORS,
        open=True,
    ),
)

EVERYTHING: Final = "/proxy/{rest:path}"
"""What the operation is asked for: whether a path is one of its own, it says itself."""
