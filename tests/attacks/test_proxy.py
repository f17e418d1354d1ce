"""What comes into boxes over HTTP, and what their servers say: who may ask, where it leads, how much."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.attacks.served import KEY, Answer, Served, Session
from tests.sandbox.census import until

pytestmark = pytest.mark.xdist_group("attacks")

PORT = 8000
SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", {port}))

def head(client):
    seen = b""
    while b"\\r\\n\\r\\n" not in seen:
        piece = client.recv(65536)
        if not piece:
            raise SystemExit
        seen += piece
    return seen

def answer(client, body, *headers):
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    client.sendall(b"\\r\\n".join(lines) + b"\\r\\n\\r\\n" + body)

def serve(client):
    seen = head(client)
    if seen.startswith(b"GET /ready "):
        answer(client, b"ready")
    else:
{serve}
    client.close()

while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
ECHO = "answer(client, seen)"


def proxied(session: Session, path: str, port: int = PORT, **headers: str) -> Answer:
    return session.client.ask("GET", f"/proxy/{session.id}/{port}{path}", None, **headers)


@contextmanager
def serving(session: Session, serve: str = ECHO, port: int = PORT) -> Iterator[None]:
    """A run of the session in which a server does `serve` with what it has `seen` of a `client`."""
    lines = "".join(f"        {line}\n" for line in serve.strip().split("\n"))
    code = SERVER.format(serve=lines, port=port)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(session.run, code, timeout=600)
        try:
            until(lambda: proxied(session, "/ready", port).content == b"ready", "the server")
            yield
        finally:
            session.client.call("POST", f"{session.path}/cancel")
        assert run.result()["cancelled"]


def raw(server: Served, data: bytes) -> bytes:
    """All that the server says to some bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.server.port), timeout=60) as sock:
        sock.sendall(data)
        found = b""
        while piece := sock.recv(65536):
            found += piece
    return found


def test_the_key_opens_and_stays_outside(server: Served) -> None:
    with server.session() as session, serving(session):
        stranger = server.other(key=None)
        target = f"/proxy/{session.id}/{PORT}/"
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Cookie": f"Authorization=Bearer {KEY}"},
        ):
            refused = stranger.ask("GET", target, None, **headers)
            assert (refused.status, refused.json["code"]) == (403, "public_access_disabled")
        assert stranger.ask("GET", f"{target}?key={KEY}").status == 403
        seen = proxied(session, "/")
        assert seen.status == 200
        assert KEY.encode() not in seen.content
        for value in (f"bearer  {KEY}", f"BEARER {KEY} "):  # however it is written
            assert KEY.encode() not in stranger.ask("GET", target, Authorization=value).content
        session.client.call("PATCH", session.path, allowPublicAccess=True)
        assert stranger.ask("GET", target).status == 200
        assert KEY.encode() not in proxied(session, "/").content


def test_a_session_opens_no_other(server: Served) -> None:
    with (
        server.session(allowPublicAccess=True) as mine,
        server.session() as theirs,
        serving(mine),
        serving(theirs),
    ):
        stranger = server.other(key=None)
        assert stranger.ask("GET", f"/proxy/{mine.id}/{PORT}/").status == 200
        for target in (
            f"/proxy/{theirs.id}/{PORT}/",
            f"/proxy/{mine.id}/../{theirs.id}/{PORT}/",
            f"/proxy/{mine.id}%2f..%2f{theirs.id}/{PORT}/",
            f"/proxy/{mine.id}/{PORT}%2f..%2f..%2f{theirs.id}/{PORT}/",
        ):
            assert stranger.ask("GET", target).status in (400, 403, 404), target
        inside = stranger.ask("GET", f"/proxy/{mine.id}/{PORT}/../../{theirs.id}/{PORT}/x")
        assert inside.content.startswith(b"GET /../../")  # a path of my own server


def test_no_port_is_one_outside_of_the_box(server: Served) -> None:
    """Ports of the host and of other boxes are not there; the same port inside is (the mirror)."""
    with socket.create_server(("127.0.0.1", 0)) as bait, server.session() as session:
        outside = bait.getsockname()[1]
        with server.session() as other, serving(other, port=9000), serving(session):
            for port in (outside, server.server.port, 9000, 22, 53, 3128, 3129):
                answer = proxied(session, "/", port)
                assert (answer.status, answer.json["code"]) == (502, "no_server"), port
        for port in ("0", "65536", "127.0.0.1:80", "8000@127.0.0.1", "-1", "0x1f40", "%38000"):
            answer = session.client.ask("GET", f"/proxy/{session.id}/{port}/")
            assert answer.status == 400, port
        bait.settimeout(0)
        with pytest.raises(BlockingIOError):
            bait.accept()
        with serving(session, port=outside):
            assert proxied(session, "/", outside).status == 200


def test_no_word_of_a_request_leads_elsewhere(server: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait, server.session() as session:
        away = f"127.0.0.1:{bait.getsockname()[1]}"
        session.client.call("PATCH", session.path, allowPublicAccess=True)
        moved = (
            f'answer(client, b"", b"Location: http://{away}/" if b"/moved" in seen else b"X: 1")'
        )
        with serving(session, moved):
            for lines in (
                f"GET http://{away}/proxy/{session.id}/{PORT}/ HTTP/1.1\r\nHost: x\r\n",
                f"GET /proxy/{session.id}/{PORT}/ HTTP/1.1\r\nHost: {away}\r\n",
                f"GET /proxy/{session.id}/{PORT}/http://{away}/ HTTP/1.1\r\nHost: x\r\n",
                f"GET /proxy/{session.id}/{PORT}//{away}/ HTTP/1.1\r\nHost: x\r\n"
                f"X-Forwarded-Host: {away}\r\nForwarded: host={away}\r\n",
            ):
                said = raw(server, f"{lines}Connection: close\r\n\r\n".encode())
                assert b"\r\nx: 1\r\n" in said.lower(), said
            assert raw(server, f"CONNECT {away} HTTP/1.1\r\nHost: x\r\n\r\n".encode())[9:12] in (
                b"400",
                b"404",
                b"405",
            )
            told = proxied(session, "/moved")  # the client may follow; the server does not
            assert told.headers["location"] == f"http://{away}/"
        bait.settimeout(0)
        with pytest.raises(BlockingIOError):
            bait.accept()


def test_requests_are_framed_once(server: Served) -> None:
    """Two framings of one body are refused, and what follows a body is another request."""
    with server.session(allowPublicAccess=True) as session, serving(session):
        target = f"/proxy/{session.id}/{PORT}/"
        hidden = b"0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
        for framing in (
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Content-Length: 4\r\nContent-Length: 5",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: xchunked",
        ):
            head = f"POST {target} HTTP/1.1\r\nHost: x\r\n{framing}\r\nConnection: close\r\n\r\n"
            said = raw(server, head.encode() + hidden)
            assert said.startswith(b"HTTP/1.1 400 "), framing
            assert b"GET /hidden" not in said
        body = b"x\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n"
        answer = session.client.ask("POST", target, body)  # the mirror: a body is a body
        assert answer.content.startswith(b"POST / HTTP/1.1\r\n")


def test_nothing_is_said_for_the_whole_origin(server: Served) -> None:
    said = [
        "Set-Cookie: a=1; Path=/; Domain=localhost",
        "Service-Worker-Allowed: /",
        'Clear-Site-Data: "*"',
        "Strict-Transport-Security: max-age=1",
        "X-Request-Id: forged",
        "X-Own: kept",
    ]
    lines = ", ".join(f"b{line!r}" for line in said)
    with server.session() as session, serving(session, f'answer(client, b"", {lines})'):
        found = {name.lower(): value for name, value in proxied(session, "/").headers.items()}
    assert found["set-cookie"] == f"a=1; Path=/proxy/{session.id}/{PORT}/"
    assert found["x-own"] == "kept"
    assert found["x-request-id"] != "forged"
    assert not {"service-worker-allowed", "clear-site-data", "strict-transport-security"} & set(
        found
    )


def memory_of(server: Served) -> int:
    """Bytes of the server's own process."""
    pages = int(Path(f"/proc/{server.server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_flood_is_held_back(server: Served) -> None:
    """A server in a box that sends without end to a client that does not read: it has to wait."""
    flood = """
client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
sent = 0
while True:
    client.sendall(b"x" * 65536)
    sent += 65536
    open("sent", "w").write(str(sent))
"""
    with server.session() as session, serving(session, flood):
        before = memory_of(server)
        readers = [session.client.begin("GET", f"/proxy/{session.id}/{PORT}/") for _ in range(4)]
        try:
            for reader in readers:
                assert reader.getresponse().read(10) == b"x" * 10
            server.attack(lambda: threading.Event().wait(1))
            assert memory_of(server) - before < 64 << 20
        finally:
            for reader in readers:
                reader.close()
    whole = """
client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % (80 << 20))
for _ in range(80):
    client.sendall(b"x" * (1 << 20))
"""
    with server.session() as session, serving(session, whole):
        assert len(proxied(session, "/").content) == 80 << 20  # the mirror: who reads gets it


def test_a_body_is_held_back(server: Served) -> None:
    """A server in a box that does not read: what its client sends waits outside."""
    with server.session() as session, serving(session, "threading.Event().wait()"):
        before = memory_of(server)
        head = f"PUT /proxy/{session.id}/{PORT}/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        with socket.create_connection(("127.0.0.1", server.server.port), timeout=2) as sock:
            sock.sendall(f"{head}Content-Length: {1 << 40}\r\n\r\n".encode())
            sent = 0
            with suppress(TimeoutError):
                while sent < 256 << 20:
                    sent += sock.send(b"x" * 65536)
            assert sent < 256 << 20
        assert memory_of(server) - before < 64 << 20
        server.hello()


def test_headers_without_end_are_not_read(server: Served) -> None:
    endless = """
client.sendall(b"HTTP/1.1 200 OK\\r\\n")
while True:
    client.sendall(b"X: " + b"x" * 65536 + b"\\r\\n")
"""
    with server.session() as session, serving(session, endless):
        before = memory_of(server)
        answer = proxied(session, "/")
        assert (answer.status, answer.json["code"]) == (502, "no_server")
        assert memory_of(server) - before < 64 << 20


def test_a_socket_that_stays_ends_with_its_run(server: Served) -> None:
    """A WebSocket is the server's until either end leaves; then nothing of it is left."""
    switch = """
client.sendall(b"HTTP/1.1 101 X\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
while piece := client.recv(65536):
    client.sendall(piece)
"""
    head = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    with server.session() as session:
        with serving(session, switch):
            request = f"GET /proxy/{session.id}/{PORT}/ HTTP/1.1\r\n{head}\r\n"
            assert b"403" in raw(server, request.encode()).split(b"\r\n")[0]
            sock = socket.create_connection(("127.0.0.1", server.server.port), timeout=60)
            key = f"Authorization: Bearer {KEY}\r\n"
            sock.sendall(f"GET /proxy/{session.id}/{PORT}/ HTTP/1.1\r\n{head}{key}\r\n".encode())
            with sock.makefile("rb") as words:
                assert words.readline().startswith(b"HTTP/1.1 101 ")
                while words.readline() != b"\r\n":
                    pass
                sock.sendall(b"\x00hello")
                assert words.read(6) == b"\x00hello"
        with sock:
            assert sock.recv(1) == b""


def test_what_stored_code_says_is_no_word_of_the_server(server: Served) -> None:
    described = {
        "status": 200,
        "contentType": "text/plain\r\nX-Forged: 1",
        "headers": {
            "X-Request-Id": "forged",
            "X-Era-Run-Id": "forged",
            "Transfer-Encoding": "chunked",
            "Content-Length": "1",
            "Set-Cookie": "a=1; Path=/",
            "X-Split": "a\r\nX-Forged: 1",
        },
        "body": "ok",
    }
    with server.session() as session:
        code = f"import json; print(json.dumps({described!r}))"
        session.client.call("PUT", f"{session.path}/code", code=code)
        answer = proxied(session, "/")
        assert (answer.status, answer.content) == (200, b"ok")
        found = {name.lower(): value for name, value in answer.headers.items()}
        assert "forged" not in json.dumps(found).lower()
        assert found["set-cookie"] == f"a=1; Path=/proxy/{session.id}/{PORT}/"
        assert found["content-length"] == "2"
        told = "import os; print(sorted(os.environ.items()))"
        session.client.call("PUT", f"{session.path}/code", code=told)
        assert KEY.encode() not in proxied(session, "/").content
