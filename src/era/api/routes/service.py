"""What the server says about itself: `GET /` and `GET /health`."""

from __future__ import annotations

import time
from typing import Any, Final

from starlette.responses import Response

from era.api import answers_schema as schema
from era.api.answers import json_answer
from era.api.routing import Call, Operation
from era.durations import rfc3339_seconds, timestamp
from era.languages.table import LANGUAGES

SERVICE: Final = "ERA Agent"
_STARTED: Final = time.monotonic()


async def index(call: Call) -> Response:
    """Name, version, and where the health is."""
    return json_answer({"service": SERVICE, "version": call.options.version, "health": "/health"})


async def health(call: Call) -> Response:
    """Whether runs can be served: 200, or 503 with the checks that failed."""
    answer = await state(call)
    return json_answer(answer, answer["status_code"])


async def state(call: Call) -> dict[str, Any]:
    """What the server says of its health; `status_code` is 200 or 503."""
    failed = await call.sessions.check()
    status, word = (503, "unhealthy") if failed else (200, "healthy")
    about = {"status": word, "service": SERVICE, "version": call.options.version}
    answer = {
        **about,
        "time": rfc3339_seconds(call.now_ms),
        "timestamp": timestamp(call.now_ms),
        "uptime_seconds": int(time.monotonic() - _STARTED),
        "isolation": {
            "tier": call.sessions.tier,
            "unenforced": list(call.sessions.unenforced),
        },
        "in_progress": call.sessions.busy,
        "languages": {n: v for n, v in call.sessions.versions.items() if n in LANGUAGES},
        "success": not failed,
        "data": about,
        "status_code": status,
    }
    if failed:
        answer |= {
            "error": "service is unhealthy",
            "code": "isolation_unavailable" if "isolation" in failed else "internal",
            "checks": dict(failed),
        }
    return answer


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/",
        handler=index,
        summary="Name and version",
        answer=schema.Index,
        open=True,
    ),
    Operation(
        method="GET",
        path="/health",
        handler=health,
        summary="Whether the server can serve runs",
        answer=schema.Health,
        errors=("isolation_unavailable",),
        open=True,
    ),
)
