"""Bodies made to cost more than they weigh: counts of work and sizes, not times."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era import relpath
from era.api import body, excess, parse
from era.api.options import Bounds
from era.api.schemas import ExecuteBody
from era.errors import BusyError, EraError, InputError, TooLargeError
from era.relpath import RelPath
from tests.api.serving import connection, exchange, read_answer, request, serving

pytestmark = pytest.mark.anyio

EXECUTE = {"code": "x", "language": "python"}
SCOPE: dict[str, Any] = {"headers": []}


def refusal(members: dict[str, Any]) -> EraError:
    with pytest.raises(EraError) as caught:
        parse.execute({**EXECUTE, **members}, Bounds())
    return caught.value


def test_deep_paths_are_checked_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[str] = []
    problem = relpath.problem

    def counted(text: str) -> str | None:
        checks.append(text)
        return problem(text)

    monkeypatch.setattr(relpath, "problem", counted)
    files = {f"{n}/" + "a/" * 489 + "f": "" for n in range(100)}
    assert len(parse.execute({**EXECUTE, "files": files}, Bounds()).files) == 100
    assert len(checks) == 100
    path = RelPath("a/b/c")
    assert path.parents == ["a", "a/b"]
    assert all(type(parent) is RelPath for parent in path.parents)
    assert checks[100:] == ["a/b/c"]


@given(st.sets(st.lists(st.sampled_from(["a", "b", "a-", "a b", "é"]), min_size=1).map("/".join)))
def test_files_below_files(names: set[str]) -> None:
    conflict = any(other.startswith(f"{name}/") for name in names for other in names)
    files = dict.fromkeys(names, "")
    if conflict:
        assert refusal({"files": files}).code == "invalid_path"
    else:
        assert parse.execute({**EXECUTE, "files": files}, Bounds()).files.keys() == names


def test_many_ignored_fields_are_counted_and_long_names_cut() -> None:
    unknown = {f"{n:03}" + "x" * 1000: 1 for n in range(500)}
    warnings = parse.execute({**EXECUTE, **unknown}, Bounds()).warnings
    assert len(warnings) == excess.MAX_WARNINGS + 1
    assert warnings[-1] == "unknown fields ignored: 480 more"
    assert max(map(len, warnings)) < 120
    _, warnings = parse.create({"language": "python", "setup": unknown}, Bounds())
    assert warnings[-1] == "unknown fields ignored: 480 more"
    with pytest.raises(InputError) as caught:
        parse.patch(unknown, Bounds())
    assert len(caught.value.text) < 120


@pytest.mark.parametrize(
    "members",
    [
        {"args": ["a", *range(1000)]},
        {"files": {"a": "", **{str(n): n for n in range(1000)}}},
        {"files": {str(n): {"content": n} for n in range(1000)}},
        {"files": {str(n): {"content": "", "encoding": ["hex"]} for n in range(1000)}},
    ],
)
def test_of_many_faults_one_is_found(
    members: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    model = ExecuteBody

    def counted(given: Any) -> Any:
        found.append(sum(len(given.get(name, ())) for name in ("args", "files")))
        return validate(given)

    validate = model.model_validate
    monkeypatch.setattr(model, "model_validate", counted)
    assert refusal(members).code == "invalid_field"
    assert found == [1]


MANY: list[bytes] = [
    b"[" + b"1," * 100 + b"1]",
    b"[" * 101,
    b"]" * 101,
    b"{" + b'"a":1,' * 100 + b'"a":1}',
    b"[" + b'"\\"",' * 100 + b"1]",
    b'"",' * 300,
]


@pytest.mark.parametrize("raw", MANY)
def test_too_many_values(raw: bytes) -> None:
    with pytest.raises(TooLargeError) as caught:
        excess.check_values(raw, 100)
    assert caught.value.body()["error"] == "request body exceeds 100 values"
    excess.check_values(raw, 1000)


@given(st.text('",[]{}\\a'), st.integers(0, 9))
def test_what_strings_hold_is_no_value(text: str, count: int) -> None:
    raw = json.dumps([text * 9, *[0] * count]).encode()
    excess.check_values(raw, count + 1)
    if count:
        with pytest.raises(TooLargeError):
            excess.check_values(raw, count)


def receiving(*pieces: bytes) -> Callable[[], Any]:
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive


async def read(buffer: body.Buffer, *pieces: bytes, build: Callable[..., Any] = dict) -> Any:
    return await body.read_object(SCOPE, receiving(*pieces), 1 << 20, build, buffer)


async def test_bodies_of_some_size_are_understood_in_a_thread() -> None:
    buffer = body.Buffer()
    where: list[tuple[bool, int]] = []

    def build(members: dict[str, Any]) -> int:
        here = threading.current_thread() is threading.main_thread()
        where.append((here, buffer.taken))
        return len(members)

    big = b'{"a":"' + b"x" * body.SMALL_BYTES + b'"}'
    assert await read(buffer, b"{}", build=build) == 0
    assert await read(buffer, big[:100_000], big[100_000:], build=build) == 1
    assert where == [(True, 0), (False, len(big))]
    assert buffer.taken == 0


async def test_all_bodies_together_are_bounded() -> None:
    buffer = body.Buffer(200_000)
    half = b'{"a":"' + b"x" * 120_000
    first = asyncio.create_task(body.read_object(SCOPE, unended(half), 1 << 20, dict, buffer))
    await asyncio.sleep(0)
    while buffer.taken != len(half):
        await asyncio.sleep(0.01)
    with pytest.raises(BusyError):
        await read(buffer, half, b'"}')
    assert await read(buffer, b'{"small":1}') == {"small": 1}
    assert buffer.taken == len(half)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert buffer.taken == 0
    assert list(await read(buffer, half, b'"}')) == ["a"]


def unended(piece: bytes) -> Callable[[], Any]:
    left = [piece]

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(), "more_body": True}

    return receive


async def test_a_body_that_drips_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.2)

    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    with pytest.raises(body.StalledError):
        await body.read_object(SCOPE, drip, 1 << 20, dict, body.Buffer())


@pytest.fixture
async def port(make_app: Callable[..., Any]) -> AsyncIterator[int]:
    async with serving(make_app()) as port:
        yield port


@pytest.mark.parametrize(
    ("method", "target"), [("POST", "/api/execute"), ("PUT", "/api/sessions/s/files/f")]
)
async def test_a_body_that_stops_coming(
    port: int, method: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = json.dumps({"id": "s", "language": "python"}).encode()
    assert (await exchange(port, request("POST", "/api/sessions", session))).status == 201
    monkeypatch.setattr(body, "SILENCE_SECONDS", 0.2)
    async with connection(port) as (reader, writer):
        writer.write(
            f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        answer = await asyncio.wait_for(read_answer(reader), 30)
        assert (answer.status, answer.json()["code"]) == (400, "invalid_body")
        assert answer.headers["connection"] == "close"
        assert await asyncio.wait_for(reader.read(), 30) == b""


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"])
async def test_what_is_no_http_gets_an_error_like_any_other(port: int, raw: bytes) -> None:
    async with connection(port) as (reader, writer):
        writer.write(raw)
        answer = await asyncio.wait_for(read_answer(reader), 30)
        assert await asyncio.wait_for(reader.read(), 30) == b""
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert (answer.json()["code"], answer.headers["connection"]) == ("invalid_body", "close")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["x-request-id"]
