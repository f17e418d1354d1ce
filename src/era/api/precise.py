"""What the OpenAPI document says of values beyond their type: the bounds and forms that requests are
held to, member by member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from era.api.options import Bounds
from era.languages.asked import MAX_COMMANDS, MAX_PACKAGES
from era.languages.table import ALIASES

Json = dict[str, Any]

ID: Final = "^[A-Za-z0-9_-]{1,128}$"
_VARIABLE: Final = "^[A-Za-z_][A-Za-z0-9_]*$"
_NO_NUL: Final = "^[^\\u0000]*$"
_NETWORKS: Final = ["none", "bridge", "host", "allow_all", "full"]
_PORT: Final = {"type": "integer", "minimum": 1, "maximum": 65535}
_OF_OTHERS: Final = ("RpcBody",)
"""Bodies whose members are not named by us."""
_NEVER_EMPTY: Final = (("ExecuteBody", "code"), ("CodeBody", "code"))

IN_PATH: Final[Mapping[str, Json]] = {
    "session_id": {"type": "string", "pattern": ID},
    "port": _PORT,
    "path": {"type": "string", "minLength": 1},
}
IN_QUERY: Final[Mapping[str, Json]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    "port": _PORT,
    "status": {"type": "string", "enum": ["ready", "running", "stopped", ""]},
}
REQUIRED_IN_QUERY: Final = frozenset({"port"})


def in_bodies(bounds: Bounds) -> dict[str, Json]:
    """What holds for members of bodies, by their names; null stays allowed where it is."""
    seconds: Json = {"minimum": 0, "maximum": bounds.max_timeout_seconds}
    cpus: Json = {"minimum": 1, "maximum": bounds.max_cpus}
    memory: Json = {"minimum": 64, "maximum": bounds.max_memory_mib}
    variables: Json = {
        "propertyNames": {"pattern": _VARIABLE},
        "additionalProperties": {"type": "string", "pattern": _NO_NUL},
        "maxProperties": 256,
    }
    return {
        "language": {"enum": [*ALIASES]},
        "id": {"pattern": ID},
        "session_id": {"pattern": ID},
        "new_id": {"pattern": ID},
        "timeout": seconds,
        "timeout_ms": seconds | {"maximum": bounds.max_timeout_seconds * 1000},
        "default_timeout": {"exclusiveMinimum": 0, "maximum": bounds.max_timeout_seconds},
        "env": variables,
        "envs": variables,
        "args": {"maxItems": 1024, "items": {"type": "string", "pattern": _NO_NUL}},
        "cpu_count": cpus,
        "cpu": cpus,
        "memory_mib": memory,
        "memory": memory,
        "mem": memory,
        "network_mode": {"enum": _NETWORKS},
        "network": {"enum": _NETWORKS},
        "image": {"maxLength": 0},
    }


def _text(about: str) -> Json:
    return {"type": ["string", "null"], "description": about}


def _packages(about: str, form: str, inner: Json) -> Json:
    """The packages of one kind: an array, or what such packages are named in otherwise."""
    listed: Json = {"type": "array", "items": {"type": "string"}, "maxItems": MAX_PACKAGES}
    otherwise: Json = {"type": "object", "properties": {form: inner}}
    return {"description": about, "anyOf": [listed, otherwise, {"type": "null"}]}


def _variables(about: str) -> Json:
    strings: Json = {"type": "string", "pattern": _NO_NUL}
    names = {"propertyNames": {"pattern": _VARIABLE}, "additionalProperties": strings}
    return {"type": ["object", "null"], "description": about, **names}


_SETUP: Final[Json] = {
    "properties": {
        "pip": _packages(
            "Requirement specifiers.", "requirements", _text("Text of a requirements file.")
        ),
        "npm": _packages(
            "Package specifiers.",
            "packageJson",
            {"type": ["string", "object", "null"], "description": "A package.json."},
        ),
        "go": _packages("`module@version`.", "goMod", _text("Text of a go.mod.")),
        "commands": {
            "type": ["array", "null"],
            "items": {"type": "string", "minLength": 1},
            "maxItems": MAX_COMMANDS,
            "description": "Shell commands, after the packages.",
        },
        "envs": _variables("Environment variables of all steps."),
        "env": _variables("The same as `envs`."),
    }
}
"""What an object that asks for a setup holds; the rules of the entries are more than a schema says."""


def refined(schemas: Json, bounds: Bounds) -> Json:
    """The schemas of a document, those of bodies with what holds for their members."""
    table = in_bodies(bounds)
    for name, schema in schemas.items():
        if name.endswith("Body") and name not in _OF_OTHERS:
            for member, about in schema.get("properties", {}).items():
                more = dict(table.get(member, {}))
                if (name, member) in _NEVER_EMPTY or (member == "command" and name[:2] == "Vm"):
                    more["minLength"] = 1
                _add(about, more)
        if "setup" in schema.get("properties", {}):
            _add(schema["properties"]["setup"], _SETUP)
    return schemas


def _add(schema: Json, more: Json) -> None:
    for one in schema.get("anyOf", (schema,)):
        if one.get("type") != "null":
            one.update(more)
