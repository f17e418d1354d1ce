"""Errors are those of the service, and a request is sent again only where that is safe."""

from __future__ import annotations

from typing import Any

import pytest

from era import (
    AnswerError,
    AsyncEra,
    BusyError,
    ConflictError,
    Era,
    EraError,
    Event,
    InputError,
    InternalError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnreachableError,
)
from era.client.errors import from_answer
from era.errors import CODES, Code
from tests.client.conftest import Script

RESULT = {"exit_code": 0, "stdout": "42\n", "later": 1}


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.name)
def test_each_code_becomes_the_error_it_was(code: Code) -> None:
    body = {"error": "words 12 bytes", "code": code.name, "hint": "help", "id": "x"}
    error = from_answer(code.status, body, retry_after_seconds=7)
    assert (error.code, error.status, error.text) == (code.name, code.status, "words 12 bytes")
    assert error.extra == {"hint": "help", "id": "x"}
    assert type(error).__module__ == "era.errors"
    if isinstance(error, TooLargeError):
        assert error.limit == 12
    elif code.status == 429:
        assert isinstance(error, BusyError)
        assert error.retry_after_seconds == 7


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InputError),
        (401, InputError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, TooLargeError),
        (429, BusyError),
        (500, InternalError),
        (503, UnavailableError),
        (507, UnavailableError),
    ],
)
def test_classes_go_by_the_status(status: int, kind: type[EraError]) -> None:
    name = next(code.name for code in CODES.values() if code.status == status)
    assert type(from_answer(status, {"error": "x", "code": name})) is kind


def test_members_of_an_answer_are_never_in_the_way() -> None:
    hostile = {"text": 1, "limit": 2, "status": 3, "retry_after_seconds": 4, "code": "x", "self": 5}
    for code in ("quota_exceeded", "server_busy", "invalid_field", "of_a_newer_server"):
        error = from_answer(413 if code == "quota_exceeded" else 429, hostile | {"code": code})
        assert error.code == code


def test_a_newer_code_is_an_error_too() -> None:
    error = from_answer(418, {"error": "short and stout", "code": "teapot"}, request_id="r1")
    assert isinstance(error, AnswerError)
    assert (error.code, error.status, error.text) == ("teapot", 418, "short and stout")
    assert "request r1" in error.__notes__


def test_nobody_listens() -> None:
    with (
        Era("http://127.0.0.1:1", retries=0) as era,
        pytest.raises(
            UnreachableError, match=r"cannot reach http://127.0.0.1:1: .*refused"
        ) as info,
    ):
        era.health()
    assert info.value.status == 0
    assert "era serve" in info.value.extra["hint"]


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://x", "http://127.0.0.1:port"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UnreachableError), Era(url, retries=0) as era:
        era.health()


def busy(script: Script, status: int = 429, code: str = "server_busy") -> None:
    script.answer(status, {"error": "busy", "code": code}, Retry_After="0")


def test_a_run_that_was_refused_untouched_is_sent_again(script: Script) -> None:
    busy(script)
    busy(script)
    script.answer(200, RESULT)
    with Era(script.url) as era:
        result = era.session("s").run("x")
    assert (result.stdout, result.raw["later"]) == ("42\n", 1)
    assert [asked[:3] for asked in script.asked] == [
        ("POST", "/api/sessions/s/run", b'{"code":"x"}')
    ] * 3


def test_not_for_ever(script: Script) -> None:
    for _ in range(3):
        busy(script)
    with Era(script.url, retries=2) as era, pytest.raises(BusyError):
        era.session("s").run("x")
    assert len(script.asked) == 3


@pytest.mark.parametrize("status", [0, 503])
def test_a_run_that_may_have_begun_is_not_sent_again(script: Script, status: int) -> None:
    busy(script, status, "shutting_down")
    with Era(script.url) as era, pytest.raises((UnavailableError, UnreachableError)):
        era.session("s").run("x")
    assert len(script.asked) == 1


@pytest.mark.parametrize("status", [0, 503])
def test_what_may_be_done_twice_is_sent_again(script: Script, status: int) -> None:
    busy(script, status, "shutting_down")
    script.answer(200, {"path": "a", "size": 1})
    with Era(script.url) as era:
        assert era.session("s").files.write("a", b"1").size == 1
    assert [asked[2] for asked in script.asked] == [b"1", b"1"]


def test_a_source_that_gives_its_pieces_once_is_not_sent_again(script: Script) -> None:
    busy(script, 503, "shutting_down")
    with Era(script.url) as era, pytest.raises(UnavailableError):
        era.session("s").files.write("a", iter([b"1"]))
    assert len(script.asked) == 1


async def test_the_asynchronous_one_does_the_same(script: Script, anyio_backend: str) -> None:
    busy(script)
    script.answer(200, RESULT)
    async with AsyncEra(script.url) as era:
        assert (await era.execute("x", language="go")).stdout == "42\n"
    assert len(script.asked) == 2


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (502, b"<html>", "the server answered 502"),
        (302, b"", "the server answered 302"),
        (200, b"<html>", "no JSON object"),
        (200, b"[]", "no JSON object"),
        (200, {"exit_code": "0"}, "not understood"),
        (200, {}, "not understood"),
    ],
)
def test_an_answer_of_something_else(script: Script, status: int, body: Any, words: str) -> None:
    headers = {"Location": script.url} if status == 302 else {}
    for _ in range(4):
        script.answer(status, body, **headers)
    with Era(script.url, api_key="sesame") as era, pytest.raises(AnswerError, match=words) as info:
        era.execute("x", language="python")
    assert info.value.status == status
    assert len(script.asked) == 1, "no redirect is followed and nothing is sent again"


def test_the_key_and_the_address_come_from_the_environment(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERA_API_URL", f"{script.url}/below/")
    monkeypatch.setenv("ERA_API_KEY", "first, second")
    script.answer(200, RESULT)
    script.answer(200, RESULT)
    with Era() as era:
        era.execute("x", language="python")
    with Era(api_key="") as era:
        era.execute("x", language="python")
    (_, path, _, headers), (_, _, _, without) = script.asked
    assert path == "/below/api/execute"
    assert headers["Authorization"] == "Bearer first"
    assert "Authorization" not in without


def test_a_stream_that_breaks_off(script: Script) -> None:
    script.answer(200, b'event: stdout\ndata: {"type":"stdout","content":"x"}\n\n')
    seen: list[Event] = []
    with Era(script.url) as era, pytest.raises(UnreachableError, match="broke off"):
        seen.extend(era.session("s").stream("x"))
    script.answer(200, b"x", Content_Length="10")
    with Era(script.url) as era, pytest.raises(UnreachableError):
        era.session("s").files.read("x")
