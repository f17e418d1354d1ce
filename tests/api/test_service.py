"""What the server says about itself, and what every path has in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from era import __version__
from era.api import answers_schema as schema
from era.api.app import OPERATIONS
from era.api.openapi import listed
from era.api.routing import ANY
from era.errors import CODES
from era.sessions.service import Sessions

pytestmark = pytest.mark.anyio


async def test_the_index(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/")
    assert answer.text == f'{{"service":"ERA Agent","version":"{__version__}","health":"/health"}}'
    schema.Index.model_validate_json(answer.content)


async def test_health(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    schema.Health.model_validate(health)
    assert (health["status"], health["success"], health["status_code"]) == ("healthy", True, 200)
    assert health["isolation"] == {"tier": "process", "unenforced": []}
    assert health["languages"] == {"python": "3.x"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", health["time"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", health["timestamp"])
    assert health["data"] == {"status": "healthy", "service": "ERA Agent", "version": __version__}


async def test_health_says_what_failed(
    api: httpx2.AsyncClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> dict[str, str]:
        return {"storage": "the store cannot be written"}

    monkeypatch.setattr(sessions, "check", broken)
    answer = await api.get("/health")
    health = answer.json()
    schema.Health.model_validate(health)
    assert answer.status_code == health["status_code"] == 503
    assert (health["status"], health["success"]) == ("unhealthy", False)
    assert health["checks"] == {"storage": "the store cannot be written"}


@pytest.mark.parametrize(
    "path",
    [
        "/x",
        "/api",
        "/api/sessions/s/nothing",
        "/api/sessions//run",
        "/api/execute/x",
        "/docs",
    ],
)
async def test_unknown_paths(api: httpx2.AsyncClient, path: str) -> None:
    answer = await api.get(path)
    assert answer.status_code == 404
    assert (answer.json()["error"], answer.json()["code"]) == ("not found", "not_found")
    assert answer.headers["content-type"] == "application/json"


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@pytest.mark.parametrize("path", sorted({o.path for o in OPERATIONS if o.method != ANY}))
async def test_methods_a_path_has_not(api: httpx2.AsyncClient, path: str) -> None:
    """Every other method is a JSON 405 that names the right ones."""
    there = {operation.method for operation in OPERATIONS if operation.path == path}
    target = path.replace("{session_id}", "s").replace("{path:path}", "f")
    allowed = {*there, "OPTIONS", *(["HEAD"] if "GET" in there else [])}
    for method in {*METHODS, "TRACE", "BREW"} - there:
        answer = await api.request(method, target)
        assert answer.status_code == 405, method
        assert answer.json()["error"] == "method not allowed"
        assert answer.json()["code"] == "method_not_allowed"
        assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "path", ["/", "/health", "/api/sessions", "/api/sessions/s", "/api/sessions/s/files"]
)
async def test_head_is_get_without_a_body(api: httpx2.AsyncClient, path: str) -> None:
    await api.post("/api/sessions", json={"id": "s", "language": "python"})
    get, head = await api.get(path), await api.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/api/sessions/", "/api/sessions/s/", "/api/sessions/s/files/"])
async def test_a_slash_too_many_is_tolerated(api: httpx2.AsyncClient, path: str) -> None:
    await api.post("/api/sessions/", json={"id": "s", "language": "python"})
    assert (await api.get(path)).status_code == 200


async def test_escapes_in_the_fixed_part_of_a_path(api: httpx2.AsyncClient) -> None:
    assert (await api.get("/%61pi/sess%69ons")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("GET", "/health", 200), ("GET", "/api/sessions", 401), ("GET", "/x", 401)],
)
async def test_keys_guard_the_application(
    connect: Callable[..., Any], method: str, path: str, status: int
) -> None:
    locked = await connect(api_keys=("k",))
    assert (await locked.request(method, path)).status_code == status
    key = {"Authorization": "Bearer k"}
    assert (await locked.request(method, path, headers=key)).status_code in (200, 404)


async def test_every_error_code_an_operation_names_exists() -> None:
    for operation in OPERATIONS:
        assert set(operation.errors) <= set(CODES), operation.path


def undescribed(schema: object, place: str = "") -> Iterator[str]:
    """Members of a schema, at any depth, of which it does not say what they mean."""
    if isinstance(schema, list):
        for each in schema:
            yield from undescribed(each, place)
    if not isinstance(schema, dict):
        return
    for name, inner in schema.get("properties", {}).items():
        if not inner.get("description"):
            yield f"{place}.{name}"
    for key, value in schema.items():
        yield from undescribed(value, f"{place}/{key}")


async def test_every_member_is_described(api: httpx2.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    assert list(undescribed(document)) == []
    operations = [operation for _, _, operation in listed(document)]
    parameters = [each for operation in operations for each in operation["parameters"]]
    assert parameters
    assert all(each["description"] for each in parameters)


def test_a_member_without_a_description_is_found() -> None:
    inner = {"properties": {"a": {"description": "A."}, "b": {"type": "string"}}}
    assert list(undescribed({"x": [{"properties": {"in": {**inner, "description": "I."}}}]})) == [
        "/x/properties/in.b"
    ]


async def test_the_openapi_document(api: httpx2.AsyncClient, connect: Callable[..., Any]) -> None:
    document = (await api.get("/openapi.json")).json()
    assert "security" not in document
    described = {(method, path) for method, path, _operation in listed(document)}
    assert described == {(o.method, o.path.replace(":path", "")) for o in OPERATIONS}
    text = str(document)
    for name in re.findall(r"#/components/schemas/([\w-]+)", text):
        assert name in document["components"]["schemas"]
    create = document["components"]["schemas"]["CreateBody"]
    assert create["required"] == ["language"]
    locked = await connect(api_keys=("k",))
    secured = await locked.get("/openapi.json", headers={"Authorization": "Bearer k"})
    assert secured.json()["security"] == [{"key": []}]
