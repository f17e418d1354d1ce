"""The OpenAPI document, made from the operations themselves."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from era.api import meanings, precise
from era.api.answers import ENVELOPED, JSON
from era.api.answers_schema import EnvelopedError, Error
from era.api.options import Bounds
from era.api.routing import ANY, Operation
from era.errors import CODES

_REFERENCE: Final = "#/components/schemas/{model}"
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE")
_BODILESS: Final = ("GET", "HEAD", "TRACE")
_EVENTS: Final = "text/event-stream"
_ANY: Final = "x-any-method"
CODES_OF: Final = "x-codes"
"""The codes that errors of a status may have."""
_ANYTHING: Final[Json] = {"content": {"*/*": {"schema": {}}}}
_OF_JSON_BODIES: Final = ("invalid_json", "invalid_body", "body_too_large", "server_busy")
_COMMON: Final = ("unauthorized", "shutting_down", "internal")
_PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}")

Json = dict[str, Any]


def document(
    operations: Iterable[Operation],
    *,
    version: str,
    authenticated: bool,
    bounds: Bounds = Bounds(),  # noqa: B008 - frozen
) -> Json:
    """The whole document."""
    all_operations = tuple(operations)
    references, schemas = _schemas(all_operations)
    paths: dict[str, Json] = {}
    names: Counter[str] = Counter()
    for operation in all_operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        for method in _METHODS if operation.method == ANY else (operation.method,):
            described = _operation(operation, method, references)
            # The same handler may serve several; a name is nevertheless one operation's.
            name = described["operationId"]
            names[name] += 1
            if names[name] > 1:
                described["operationId"] = f"{name}_{names[name]}"
            paths.setdefault(path, {})[method.lower()] = described
    out: Json = {
        "openapi": "3.1.0",
        "info": {"title": "ERA", "version": version},
        "paths": paths,
        "components": {
            "schemas": meanings.described(precise.refined(schemas, bounds)),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    if authenticated:
        out["security"] = [{"key": []}]
    return out


def listed(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Every operation of a document, with method and path; one that takes any method comes once."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not operation.get(_ANY):
                yield method.upper(), path, operation
            elif method.upper() == _METHODS[0]:
                yield ANY, path, operation


References = dict[Any, Json]


def _schemas(operations: tuple[Operation, ...]) -> tuple[References, Json]:
    """Every model used: how it is referred to, and its schema."""
    bodies = [o.body for o in operations if isinstance(o.body, type)]
    answers = [o.answer for o in operations if isinstance(o.answer, type)]
    answers += [model for o in operations for _, model in o.others.values() if model is not None]
    wanted: dict[type[BaseModel], JsonSchemaMode] = dict.fromkeys(bodies, "validation")
    wanted |= dict.fromkeys([*answers, Error, EnvelopedError], "serialization")
    references, definitions = models_json_schema(list(wanted.items()), ref_template=_REFERENCE)
    return {model: ref for (model, _), ref in references.items()}, definitions["$defs"]


def _operation(operation: Operation, method: str, references: References) -> Json:
    out: Json = {
        "summary": operation.summary,
        "operationId": _name(operation, method),
        "parameters": _parameters(operation),
        "responses": _responses(operation, references),
    }
    if operation.method == ANY:
        out[_ANY] = True
    if operation.open:
        out["security"] = [{}, {"key": []}] if operation.method == ANY else []
    if operation.body is True and method not in _BODILESS:
        out["requestBody"] = _content("*/*", {"type": "string", "format": "binary"})
    elif isinstance(operation.body, type):
        members = operation.body.model_fields.values()
        required = {"required": True} if any(m.is_required() for m in members) else {}
        out["requestBody"] = required | _content(JSON, references[operation.body])
    return out


def _name(operation: Operation, method: str) -> str:
    name = operation.handler.__name__
    return f"{name}_{method.lower()}" if operation.method == ANY else name


def _content(media_type: str, schema: Json) -> Json:
    return {"content": {media_type: {"schema": schema}}}


def _raw(media_type: str) -> Json:
    """An answer that is not JSON."""
    if media_type == _EVENTS:
        return {"description": "Events: `stdout` and `stderr`, at the end `done` or `error`."}
    return {"type": "string", "format": "binary"}


def _parameters(operation: Operation) -> list[Json]:
    in_path = [
        {
            "name": name,
            "in": "path",
            "description": meanings.IN_PATH[name],
            "required": True,
            "schema": precise.IN_PATH.get(name, {"type": "string"}),
        }
        for name in _PARAMETER.findall(operation.path)
    ]
    in_query = [
        {
            "name": name,
            "in": "query",
            "description": text,
            "required": name in precise.REQUIRED_IN_QUERY,
            "schema": precise.IN_QUERY.get(name, {"type": "string"}),
        }
        for name, text in operation.query.items()
    ]
    return in_path + in_query


def _responses(operation: Operation, references: References) -> Json:
    if isinstance(operation.answer, str):
        success = _content(operation.answer, _raw(operation.answer))
    else:
        success = _content(JSON, references[operation.answer])
    out: Json = {str(operation.status): {"description": operation.summary, **success}}
    out |= _refusals(operation, references)
    for other, (what, model) in sorted(operation.others.items()):
        content = {} if model is None else _content(JSON, references[model])
        out[str(other)] = {"description": what, **content}
    if operation.method == ANY:
        out["default"] = {"description": "What was answered there.", **_ANYTHING}
    return out


def _refusals(operation: Operation, references: References) -> Json:
    """What each error of an operation answers, by its status.  What is asked for any method answers
    for others too, who may say anything with any status."""
    codes: dict[int, list[str]] = {}
    of_body = _OF_JSON_BODIES if _is_ours(operation) else ()
    for name in (*of_body, *operation.errors, *_COMMON):
        codes.setdefault(CODES[name].status, []).append(name)
    schema = references[EnvelopedError if operation.path in ENVELOPED else Error]
    if operation.method == ANY:
        schema = {"anyOf": [schema, {"description": "What was answered there."}]}
    out: Json = {}
    for status, names in sorted(codes.items()):
        known = list(dict.fromkeys(names))
        content = _content(JSON, schema)["content"]
        if operation.method == ANY:
            content |= _ANYTHING["content"]
        described = {"description": ", ".join(known), CODES_OF: known, "content": content}
        out[str(status)] = described
    return out


def _is_ours(operation: Operation) -> bool:
    """Whether the body is JSON that the service itself understands."""
    return isinstance(operation.body, type) and 400 not in operation.others
