"""One example for each operation of the API, for the page that goes with the Docker image."""

from __future__ import annotations

import json
from typing import Any, Final

from era.api import openapi
from era.api.routing import ANY

Schema = dict[str, Any]

URL: Final = "http://127.0.0.1:8787"
IN_PATH: Final = {"session_id": "demo", "path": "notes.txt", "port": "3000", "vm_id": "python-demo"}
"""What stands for the parameters of a path; any other is its own name."""
IN_QUERY: Final = {"/api/sessions/{session_id}/host": "?port=3000"}
"""Queries that an operation cannot do without."""
MEMBERS: Final[dict[str, Any]] = {
    "language": "python",
    "code": "print(6 * 7)",
    "command": "echo hello",
    "metadata": {"owner": "ann"},
    "setup": {"pip": ["requests"]},
}
"""Values for members of bodies: those that are required, and those of `SHOWN`."""
SHOWN: Final = {
    ("POST", "/api/sessions"): ("id", "language"),
    ("POST", "/api/sessions/{session_id}/run"): ("code",),
    ("POST", "/api/sessions/{session_id}/stream"): ("code",),
    ("POST", "/api/sessions/{session_id}/duplicate"): ("id",),
    ("POST", "/api/sessions/{session_id}/setup"): ("setup",),
    ("PATCH", "/api/sessions/{session_id}"): ("metadata",),
}
"""Members that an example shows though they are not required."""
IDS: Final = {"/api/sessions/{session_id}/duplicate": "demo-copy"}


def text(document: Schema) -> str:
    """Every operation under its heading, with a command that calls it."""
    schemas = document["components"]["schemas"]
    parts = [
        _call(method, path, operation, schemas)
        for method, path, operation in openapi.listed(document)
    ]
    return "\n\n".join(parts)


def _call(method: str, path: str, operation: Schema, schemas: Schema) -> str:
    status, answer = next(iter(operation["responses"].items()))
    (media_type,) = answer["content"]
    lines = [
        f"## `{method} {path.replace('{session_id}', '{id}')}`",
        f"{operation['summary']}. Answers {status}, `{media_type}`.",
        f"```shell\n{_command(method, path, operation, schemas)}\n```",
    ]
    return "\n\n".join(lines)


def _command(method: str, path: str, operation: Schema, schemas: Schema) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    how = ""
    if method == ANY:
        method = "GET"
    elif "*/*" in content:
        how = " --data-binary @notes.txt"
    elif content:
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        how = f" -d '{json.dumps(_body(method, path, schemas[name]))}'"
    verb = "" if method == ("POST" if how else "GET") else f" -X {method}"
    return f"curl -s{verb} '{URL}{_filled(path)}{IN_QUERY.get(path, '')}'{how}"


def _filled(path: str) -> str:
    for name, value in IN_PATH.items():
        path = path.replace(f"{{{name}}}", value)
    return path.replace("{", "").replace("}", "")


def _body(method: str, path: str, schema: Schema) -> Schema:
    wanted = (*schema.get("required", ()), *SHOWN.get((method, path), ()))
    values = MEMBERS | {"id": IDS.get(path, "demo")}
    return {name: values.get(name, _sample(schema["properties"][name])) for name in wanted}


def _sample(schema: Schema) -> Any:
    """A value of the right type for a member nobody thought of."""
    kinds: dict[str, Any] = {"string": "text", "integer": 1, "number": 1, "boolean": True}
    kinds |= {"array": [], "object": {}}
    return kinds.get(str(schema.get("type")), "text")
