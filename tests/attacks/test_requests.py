"""Unfriendly requests to a started server: bounds, bodies, heads, paths, ids, keys, and what is logged."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from tests.attacks.served import KEY, SECRET, SMALL, Client, Served
from tests.sandbox.census import until

pytestmark = pytest.mark.xdist_group("attacks")

HELLO: Mapping[str, Any] = {"code": "print('well')", "language": "python"}


def refused(server: Served, body: bytes, path: str = "/api/execute", **headers: str) -> str:
    """The code of the refusal of a request with that body."""
    answer = server.client.ask("POST", path, body, **headers)
    assert 400 <= answer.status < 500, answer
    return str(answer.json["code"])


LIMITS = {
    "timeout": ["-1", "-0.001", "1e400", "-1e400", "NaN", "Infinity", '"1"', "true", "[1]", "{}", "3601",
                "1e308", "9" * 400],
    "timeout_ms": ["-1", "1e400", "NaN", '"1"', "false", "3600001", "9" * 400],
    "memory_mib": ["0", "-1", "63", "8193", "1.5", "1e400", "NaN", "true", '"128"', "9" * 30, "[]"],
    "cpu_count": ["0", "-1", "5", "0.5", "NaN", "1e400", "true", '"1"', "9" * 30],
    "args": ['"x"', "[1]", '["a\\u0000b"]', "{}", json.dumps(["x"] * 1025), json.dumps(["x" * (129 << 10)])],
    "stdin": ["1", "[]", "true"],
    "allowInternetAccess": ["1", '"true"', "[]"],
    "files": ["[]", '{"a":1}', '{"../a":""}', '{"/a":""}', '{"a\\u0000":""}', '{"a":{"content":1}}',
              '{"a":{"content":"*","encoding":"base64"}}', '{".session_data.json":""}', '{".era/x":""}'],
    "env": ["[]", '{"A":1}', '{"":"x"}', '{"1A":"x"}', '{"A B":"x"}', '{"A=B":"x"}', '{"A\\n":"x"}',
            '{"A":"b\\u0000c"}', '{"Ä":"x"}', json.dumps({"A": "x" * 128_001}),
            json.dumps({f"A{n}": "" for n in range(257)})],
    "language": ["1", '""', '"python;id"', '"../python"', '"python\\u0000"', "[]"],
    "code": ["1", '""', "[]", "{}", json.dumps("#" * ((1 << 20) + 1))],
}  # fmt: skip
"""Member -> values, as JSON, that no request may have."""
ALLOWED = {
    "timeout": ["0.5", "3600", "0", "1e1"],
    "timeout_ms": ["500", "3600000"],
    "memory_mib": ["64", "8192"],
    "cpu_count": ["1", "4"],
    "args": ["[]", '["a b"]'],
    "stdin": ['""', '"x\\u0000y"'],
    "allowInternetAccess": ["false"],
    "files": ["{}", '{"a":""}', '{"a":{"content":"AA==","encoding":"base64"}}'],
    "env": ["{}", '{"A_1":"x"}', json.dumps({f"A{n}": "" for n in range(256)})],
    "language": ['"PY"', '" python "'],
    "code": ['"#"', json.dumps("#" * (1 << 20))],
}
"""The mirror."""


def _body(member: str, value: str) -> bytes:
    rest = {name: text for name, text in HELLO.items() if name != member}
    return f"{{{json.dumps(member)}:{value},{json.dumps(rest)[1:]}".encode()


@pytest.mark.parametrize("member", LIMITS)
def test_limits_and_values_that_are_none(server: Served, member: str) -> None:
    """32, 33, 63"""
    for value in LIMITS[member]:
        assert refused(server, _body(member, value)), (member, value[:60])
    for value in ALLOWED[member]:
        answer = server.client.ask("POST", "/api/execute", _body(member, value))
        assert (answer.status, answer.json["exit_code"]) == (200, 0), (member, value[:60], answer)


def test_bodies_that_are_bombs(server: Served) -> None:
    """33: too large, too deep, compressed, in parts, or naming a member twice."""
    large = json.dumps({**HELLO, "code": "#" * (10 << 20)}).encode()
    assert refused(server, large) == "code_too_large"
    assert (
        refused(server, json.dumps({**HELLO, "x": "y" * (17 << 20)}).encode()) == "body_too_large"
    )
    env = json.dumps({**HELLO, "env": {f"V{n}": "x" for n in range(100_000)}}).encode()
    assert refused(server, env) == "invalid_field"
    for deep in (b'{"a":' * 200_000, b"[" * 500_000, b'{"code":"#","data":' + b"[" * 100_000):
        assert refused(server, deep) == "invalid_json"
    squeezed = gzip.compress(json.dumps({**HELLO, "x": "y" * (64 << 20)}).encode())
    assert refused(server, squeezed, Content_Encoding="gzip") == "invalid_json"
    parts = b'--x\r\nContent-Disposition: form-data; name="code"\r\n\r\n' * 10_000 + b"--x--\r\n"
    assert refused(server, parts, Content_Type="multipart/form-data; boundary=x") == "invalid_json"
    for bad in (b"\xff", b'"text"', b"[]", b'{"code":"\xed\xa0\x80"}', b"{'code':1}", b"NaN"):
        assert refused(server, bad) in ("invalid_json", "invalid_body")
    twice = b'{"code":"print(1)","language":"python","code":"print(2)"}'
    answer = server.client.ask("POST", "/api/execute", twice)
    if answer.status == 200:  # one of the two, and nothing in between
        assert answer.json["stdout"] in ("1\n", "2\n")


def raw(server: Served, data: bytes) -> bytes:
    """What the server says to these bytes, until it closes the connection or has no more to say."""
    with socket.create_connection(("127.0.0.1", server.server.port), timeout=5) as connection:
        connection.sendall(data)
        received = b""
        with suppress(TimeoutError):
            while piece := connection.recv(1 << 16):
                received += piece
                connection.settimeout(0.5)
        return received


def head(*lines: str, target: str = "/api/execute", method: str = "POST") -> bytes:
    """The head of a request with the key."""
    always = (f"{method} {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}")
    return "\r\n".join((*always, *lines, "", "")).encode()


INNER = (
    b"DELETE /api/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
    + KEY.encode()
    + b"\r\n\r\n"
)
INNER = head("Connection: close", target="/api/sessions", method="DELETE")
SMUGGLED = {
    "both lengths": head("Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + INNER,
    "two lengths": head("Content-Length: 2", f"Content-Length: {len(INNER)}") + b"{}" + INNER,
    "odd coding": head("Transfer-Encoding: xchunked", "Content-Length: 2") + b"{}" + INNER,
    "spaced name": head("Content-Length : 2", f"Content-Length: {len(INNER)}") + b"{}" + INNER,
    "negative chunk": head("Transfer-Encoding: chunked") + b"-1\r\n\r\n" + INNER,
    "huge chunk": head("Transfer-Encoding: chunked") + b"fffffffffffffffff\r\n" + INNER,
    "bare line feed": head("X: y").replace(b"\r\n", b"\n") + INNER,
    "signed length": head("Content-Length: +2") + b"{}" + INNER,
    "folded": head("X: y\r\n Content-Length: 2", f"Content-Length: {len(INNER)}") + INNER,
}


@pytest.mark.parametrize("kind", SMUGGLED)
def test_a_request_inside_another_is_not_served(server: Served, kind: str) -> None:
    """33: whatever is made of the outer one, the inner deletes nothing unless it stands for itself."""
    with server.session() as session:
        answered = raw(server, SMUGGLED[kind])
        assert b" 200 " not in answered.split(b"\r\n")[0]
        assert b'"deleted_count"' not in answered
        assert server.client.call("GET", session.path).status == 200


def test_a_request_after_another_is_served(server: Served) -> None:
    """The mirror: with honest lengths both are answered."""
    with server.session() as session:
        answered = raw(server, head("Content-Length: 2") + b"{}" + INNER)
        assert answered.count(b"HTTP/1.1 ") == 2
        assert b'"deleted_count":1' in answered
        assert server.client.call("GET", session.path).status == 404


# --- paths and ids --------------------------------------------------------------------------------

ESCAPES = (
    *("../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e%2fx", "a/../../x"),
    *("/etc/passwd", "%2fetc%2fpasswd", "a//b", "./a", "a/.", "a/..", "%00", "a%00b", "a%2f%2e%2e%2fx"),
    *(".session_data.json", ".era/x", "a%2f..%2f.era", "%2Eera%2Fx", "x" * 256, "a/" * 520 + "a"),
)  # fmt: skip
NAMES = (
    "%252e%252e%252fx",
    "..%5c..%5cx",
    "%e2%80%a5/x",
    "%ef%bc%8e%ef%bc%8e/x",
    "...",
    "a%2fb",
    "..x",
)
"""Paths that only look like an escape, and are names."""


def test_paths_out_of_a_session_are_none(server: Served) -> None:
    """34: for every method; and what only looks so is a name like another."""
    with server.session() as session:
        for path in ESCAPES:
            for method in ("GET", "PUT", "DELETE"):
                target = f"{session.path}/files/{path}"
                answer = server.client.ask(method, target, b"x" if method == "PUT" else None)
                assert answer.status in (400, 404), (method, path, answer)
                assert b"root:" not in answer.content
        assert session.files() == {}
        for path in NAMES:
            target = f"{session.path}/files/{path}"
            assert server.client.ask("PUT", target, b"mine").status == 200, path
            assert server.client.ask("GET", target).content == b"mine"
        assert len(session.files()) == len(NAMES)


IDS = (
    *(
        "nobody",
        "..",
        "%2e%2e",
        "%2e%2e%2f",
        "s%2f..%2fs",
        "*",
        "%25",
        "a" * 129,
        "%00",
        "%0a",
        "ü",
        "s%20",
    ),
    *("sess_0_000000000", "-", "S1"),
)
ROUTES = (
    *(("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/duplicate"), ("POST", "/run")),
    *(
        ("POST", "/stream"),
        ("POST", "/cancel"),
        ("GET", "/code"),
        ("PUT", "/code"),
        ("DELETE", "/code"),
    ),
    *(("GET", "/files"), ("GET", "/files/a"), ("PUT", "/files/a"), ("DELETE", "/files/a")),
    *(("GET", "/setup"), ("POST", "/setup"), ("GET", "/host?port=80")),
)
BODIES = {
    "/run": b'{"code":"print(1)"}',
    "/stream": b'{"code":"print(1)"}',
    "/code": b'{"code":"print(1)"}',
    "": b'{"metadata":{}}',
    "/files/a": b"x",
}


def _ask(client: Client, method: str, session: str, route: str) -> Any:
    body = None if method in ("GET", "DELETE") else BODIES.get(route, b"{}")
    return client.ask(method, f"/api/sessions/{session}{route}", body)


def test_ids_of_no_session_lead_nowhere(server: Served) -> None:
    """77: on every route; with the session's own id each of them does something."""
    with server.session() as session:
        for given in IDS:
            for method, route in ROUTES:
                answer = _ask(server.client, method, given.replace("ü", "%c3%bc"), route)
                assert answer.status in (400, 404, 405), (method, route, given, answer)
        assert _ask(server.client, "PUT", session.id, "/files/a").status == 200
        assert _ask(server.client, "GET", session.id, "/files/a").content == b"x"
        statuses = [_ask(server.client, *pair).status for pair in _existing(session.id)]
        assert set(statuses) == {200}


def _existing(session: str) -> list[tuple[str, str, str]]:
    plain = [("GET", ""), ("PATCH", ""), ("POST", "/run"), ("PUT", "/code"), ("GET", "/code")]
    return [(method, session, route) for method, route in (*plain, ("GET", "/files"))]


KEYS = (
    *("", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY),
    *(f"Bearer {KEY},{KEY}", f"Bearer {KEY.upper()}", f"Bearer {SECRET}"),
)


def test_without_the_key_nothing_is_told(server: Served) -> None:
    """77: every route, whether the session exists or not, by wrong keys and by other headers."""
    with server.session() as session:
        stranger = server.other(key=None)
        for method, route in ROUTES:
            answers = [_ask(stranger, method, given, route) for given in (session.id, "nobody")]
            assert [answer.status for answer in answers] == [401, 401]
            assert answers[0].content == answers[1].content
        for given in KEYS:
            assert stranger.ask("GET", session.path, Authorization=given).status == 401
        routed = {
            "X_Session_Id": session.id,
            "X_Original_URL": session.path,
            "Cookie": f"key={KEY}",
        }
        assert stranger.ask("GET", "/api/sessions", None, **routed).status == 401
        answer = stranger.ask("GET", session.path, Authorization=f"bearer {KEY}")
        assert answer.status == 200


def test_generated_ids_cannot_be_guessed(server: Served) -> None:
    """77: nine characters at random, no two alike; the time before them is no secret."""
    made = [
        server.client.call("POST", "/api/sessions", language="python").json["id"] for _ in range(20)
    ]
    for one in made:
        assert server.client.call("DELETE", f"/api/sessions/{one}").status == 200
    tails = [one.rpartition("_")[2] for one in made]
    assert len(set(tails)) == len(made)
    assert {len(tail) for tail in tails} == {9}
    assert len(set("".join(tails))) > 20  # of 36 characters
    assert not any(a[:4] == b[:4] for a, b in pairwise(tails))


# --- what is logged -------------------------------------------------------------------------------


def test_nobody_writes_lines_into_the_log(server: Served) -> None:
    """84: ids, paths, header values and program output; a sane id is the mirror."""
    with server.server.log.open("rb") as log:
        log.seek(0, 2)
        forged = '{"event":"forged","level":"error"}'
        for given in (f"x%0a{forged}", "x%0d%0a%1b[31m", "%22%7d%0a"):
            server.client.ask(
                "GET", f"/api/sessions/{given.replace(chr(34), '%22')}/files/{'y%0a' * 50}"
            )
        server.client.ask("GET", "/health", X_Request_Id='id","event":"forged')
        server.client.ask("GET", "/health", X_Request_Id="sane-id-of-mine", User_Agent=forged)
        server.client.execute(f"print({forged!r})", stdin=forged, env={"FORGED": forged})
        lines: list[str] = []

        def all_told() -> bool:  # a line is written when its answer has been sent
            lines.extend(log.read().decode().splitlines())
            return len(lines) >= 6

        until(all_told, "a line for each request")
    entries = [json.loads(line) for line in lines]
    assert not [entry for entry in entries if entry["event"] == "forged"]
    assert any("sane-id-of-mine" in line for line in lines)
    assert not [line for line in lines if "FORGED" in line or '"level":"error"' in line]
    assert KEY not in "".join(lines)


def test_errors_name_no_path_and_no_secret(server: Served) -> None:
    """64: whatever is asked, no answer has a path of the host, a trace, or a secret in it."""
    with server.session() as session:
        answers = [
            *(server.client.ask("POST", "/api/execute", _body(m, v)) for m in LIMITS for v in LIMITS[m]),
            *(server.client.ask(m, f"{session.path}/files/{p}") for p in ESCAPES for m in ("GET", "DELETE")),
            *(_ask(server.client, m, i.replace("ü", "u"), r) for i in IDS for m, r in ROUTES),
            server.client.call("GET", "/health"),
            server.client.call("GET", session.path),
        ]  # fmt: skip
    text = b"\n".join(answer.content for answer in answers).decode()
    assert len(answers) > 300
    places = (str(server.server.state_dir), "Traceback", "/src/era", "site-packages")
    for forbidden in (*places, KEY, SECRET, *{SMALL["ERA_SECRET_KEY"]}):
        assert forbidden not in text, forbidden
    assert "must be" in text  # the mirror: this is what they do say
