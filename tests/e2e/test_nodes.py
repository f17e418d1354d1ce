"""Two servers on one PostgreSQL and one S3 server: any takes any request, one at a time runs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from api import Api, RefusedError
from tests.e2e.harness import WatchedServer
from tests.e2e.pairs import LEASE_SECONDS, Pair, pair, until
from tests.servers.objects import Objects
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.xdist_group("nodes")

COUNT = """
import json
data = json.load(open(".session_data.json"))
data["count"] += 1
json.dump(data, open(".session_data.json", "w"))
"""
SLOW = f"""
import time
print("begun", flush=True)
time.sleep(WAIT)
open("late.txt", "w").write("late")
{COUNT}
"""


@pytest.fixture(scope="module")
def nodes(postgres_server: Postgres, object_server: Objects) -> Iterator[Pair]:
    with pair(postgres_server, object_server) as running:
        yield running


@pytest.fixture
def fresh(postgres_server: Postgres, object_server: Objects) -> Iterator[Pair]:
    """A pair of which one may be killed."""
    with pair(postgres_server, object_server) as running:
        yield running


def new_session(client: Api, name: str, **members: object) -> None:
    client.call("POST", "/api/sessions", id=name, language="python", data={"count": 0}, **members)


def session(client: Api, name: str) -> dict[str, object]:
    found: dict[str, object] = client.call("GET", f"/api/sessions/{name}")
    return found


def run(client: Api, name: str, code: str, **members: object) -> dict[str, object]:
    result: dict[str, object] = client.call(
        "POST", f"/api/sessions/{name}/run", code=code, **members
    )
    return result


def server_that_ends(environment: dict[str, str], *arguments: str) -> str:
    """What a server says that does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "era", "serve", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    return ended.stderr


def refusal(error: BaseException | None) -> tuple[int, str]:
    assert isinstance(error, RefusedError), error
    return error.status, error.body["code"]


# --- any of them --------------------------------------------------------------------------------


def test_any_server_takes_any_request(nodes: Pair) -> None:
    one, two = nodes.clients
    new_session(one, "any")
    two.upload("any", "in.txt", b"uploaded")
    result = one.run("any", "print(open('in.txt').read()); open('out.txt', 'w').write('1')")
    assert result["stdout"] == "uploaded\n"
    # The first has the session: the second passes the request on to it.
    assert two.run("any", "print(open('out.txt').read())")["stdout"] == "1\n"
    assert two.download("any", "out.txt") == b"1"
    two.call("PUT", "/api/sessions/any/code", code="print('stored')")
    assert run(one, "any", "")["stdout"] == "stored\n"
    copy = two.call("POST", "/api/sessions/any/duplicate", id="any-copy")
    assert copy["file_count"] == 2
    assert one.run("any-copy", "print(open('out.txt').read())")["stdout"] == "1\n"
    assert two.call("DELETE", "/api/sessions/any")["deleted"] == "any"
    with pytest.raises(RefusedError) as caught:
        run(one, "any", "print(1)")
    assert refusal(caught.value) == (404, "session_not_found")
    new_session(two, "any")
    assert two.run("any", COUNT)["data"] == {"count": 1}


def test_any_server_takes_any_request_about_a_vm(nodes: Pair) -> None:
    one, two = nodes.clients
    vm = one.call("POST", "/api/vm", language="python")["id"]
    step = "n=$(cat ~/n 2>/dev/null || echo 0); echo $((n + 1)) > ~/n; cat ~/n"

    def run(number: int) -> str:
        client = nodes.clients[number % 2]
        if number % 3:
            said = client.call("POST", f"/api/vm/{vm}/run", command=step)
        else:
            said = client.call("POST", "/api/vm/execute", vm_id=vm, command=step)["data"]
        return str(said["stdout"])

    with ThreadPoolExecutor(12) as pool:
        assert sorted(map(int, pool.map(run, range(12)))) == list(range(1, 13))
    two.send("PUT", f"/api/vm/{vm}/files/in.txt", b"uploaded")
    assert one.call("POST", f"/api/vm/{vm}/run", command="cat in.txt")["stdout"] == "uploaded"
    other = two.call("POST", "/api/vm", language="node")["id"]
    with pytest.raises(RefusedError) as caught:
        two.call("POST", "/api/vm/execute", vm_id="node-1", command="true")
    assert refusal(caught.value) == (404, "vm_not_found")
    assert one.call("POST", "/api/vm/clean", vm_id=other)["data"]["vm_id"] == other
    assert two.call("DELETE", f"/api/vm/{vm}")["status"] == "deleted"


def test_any_server_takes_any_call_of_an_agent(nodes: Pair) -> None:
    def call(number: int, tool: str, **arguments: object) -> str:
        params = {"name": tool, "arguments": arguments}
        said = nodes.clients[number % 2].call(
            "POST", "/mcp/v1", jsonrpc="2.0", id=number, method="tools/call", params=params
        )
        assert said["id"] == number
        assert not said["result"].get("isError"), said
        return str(said["result"]["content"][0]["text"])

    call(0, "era_create_session", language="python", session_id="agent")
    step = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n; cat n"
    with ThreadPoolExecutor(12) as pool:
        done = pool.map(lambda n: call(n, "era_shell", session_id="agent", command=step), range(12))
        counts = [int(text.split("Stdout:\n")[1].split()[0]) for text in done]
    assert sorted(counts) == list(range(1, 13))
    assert call(1, "era_read_file", session_id="agent", path="n") == "12\n"
    call(1, "era_delete_session", session_id="agent")


def test_a_vm_is_stopped_where_it_runs(nodes: Pair) -> None:
    one, two = nodes.clients
    made = [one.call("POST", "/api/vm", language="python")["id"] for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(
                one.call,
                "POST",
                f"/api/vm/{vm}/run",
                command="echo kept > f; sleep 98767",
                timeout=900,
            )
            for vm in made
        ]
        until(lambda: command_lines().count(["sleep", "98767"]) == 2)
        assert two.call("POST", "/api/vm/stop?all=true")["data"] == {"stopped": 2}
        for each in runs:
            assert each.result(60)["cancelled"]
    assert [vm["status"] for vm in two.call("GET", "/api/vms")["vms"]] == ["stopped"] * 2
    assert one.send("GET", f"/api/vm/{made[0]}/files/f") == b"kept\n"
    assert two.call("POST", "/api/vm/clean?all=1")["data"] == {"cleaned": 2}
    assert one.call("GET", "/api/vms")["count"] == 0


def command_lines() -> list[list[str] | None]:
    return [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]


def test_runs_through_both_are_one_after_the_other(nodes: Pair) -> None:
    new_session(nodes.clients[0], "turns")
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(nodes.clients[number % 2].run, "turns", COUNT) for number in range(16)]
        counts = sorted(call.result()["data"]["count"] for call in calls)
    assert counts == list(range(1, 17))
    assert session(nodes.clients[1], "turns")["data"] == {"count": 16}


def events_of(
    server_port: int, name: str, code: str
) -> Iterator[tuple[float, str, dict[str, object]]]:
    connection = http.client.HTTPConnection("127.0.0.1", server_port, timeout=60)
    connection.request("POST", f"/api/sessions/{name}/stream", json.dumps({"code": code}))
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers.get_all("Access-Control-Allow-Origin") == ["*"]
    assert len(answer.headers.get_all("X-Request-Id") or ()) == 1
    kind = ""
    for raw in answer:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield time.monotonic(), kind, json.loads(line.removeprefix("data: "))
    connection.close()


def test_a_stream_comes_through_the_other_server_as_it_is_written(nodes: Pair) -> None:
    new_session(nodes.clients[0], "stream")
    nodes.clients[0].run("stream", "pass")
    code = (
        "import os, time\nprint('first', flush=True)\n"
        "while not os.path.exists('/tmp/never') and time.sleep(1) is None: break\nprint('last')"
    )
    came = list(events_of(nodes.two.port, "stream", code))
    kinds = [kind for _, kind, _ in came]
    assert kinds[-1] == "done"
    assert "".join(str(data["content"]) for _, kind, data in came if kind == "stdout") == (
        "first\nlast\n"
    )
    first, last = came[0][0], came[-1][0]
    assert last - first > 0.5  # it did not come all at once, at the end


def test_what_goes_on_is_seen_and_ended_from_the_other_server(nodes: Pair) -> None:
    one, two = nodes.clients
    new_session(one, "seen")
    with ThreadPoolExecutor(4) as pool:
        going = pool.submit(run, one, "seen", "import time; time.sleep(300)", timeout=400)
        until(lambda: session(two, "seen")["running"])
        listed = two.call("GET", "/api/sessions?prefix=seen")["sessions"]
        assert listed[0]["running"]
        waiting = pool.submit(run, two, "seen", "print('next')")
        until(lambda: session(two, "seen")["queued_runs"] == 1)
        assert two.call("POST", "/api/sessions/seen/cancel")["cancelled"] is True
        assert going.result()["cancelled"] is True
        assert waiting.result()["stdout"] == "next\n"
        until(lambda: not session(two, "seen")["running"])
        ended = pool.submit(run, one, "seen", "import time; time.sleep(300)", timeout=400)
        until(lambda: session(two, "seen")["running"])
        two.call("DELETE", "/api/sessions/seen")
        assert refusal(ended.exception()) == (409, "session_deleted")


def test_the_dashboard_of_any_server_reaches_what_another_has(nodes: Pair) -> None:
    one, two = nodes.clients
    new_session(one, "pages")
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(run, one, "pages", "import time; time.sleep(300)", timeout=400)
        until(lambda: session(two, "pages")["running"])
        two.send("POST", "/ui/sessions/pages/cancel", b"token=")
        assert going.result()["cancelled"] is True
    page = two.send("POST", "/ui/sessions/pages/run", b"token=&code=print(6*7)")
    assert b">42\n</pre>" in page


SOCKETS = r"""
import base64, hashlib, socket, threading

def serve(client):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = client.recv(4096)
        if not piece:
            return
        head += piece
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if lines.get(b"upgrade") != b"websocket":
        body = head.split(b" ")[1]
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        client.close()
        return
    key = head.lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
    given = head[head.lower().index(key):][:len(key)]
    accept = base64.b64encode(hashlib.sha1(given + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    client.sendall(answer + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while data := client.recv(4096):
        client.sendall(data.upper())
    client.close()

server = socket.create_server(("127.0.0.1", 8000))
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def asked_of_the_box(client: Api, name: str) -> bytes | None:
    """What the server in the session's run says; None while there is none."""
    with suppress(RefusedError):
        return client.send("GET", f"/proxy/{name}/8000/in?x=1")
    return None


def spoken(port: int, name: str) -> tuple[list[bytes], bytes]:
    """The head of the answer to a wish for a WebSocket, and what comes back over it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(
            f"GET /proxy/{name}/8000/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        stream = client.makefile("rb")
        head = list(iter(lambda: stream.readline().rstrip(b"\r\n"), b""))
        said = b""
        for word in (b"hello ", b"again"):
            client.sendall(word)
            said += stream.read(len(word))
        return head, said


def test_a_server_in_a_run_is_reached_through_the_other_server(nodes: Pair) -> None:
    one, two = nodes.clients
    new_session(one, "live", allowPublicAccess=True)
    assert asked_of_the_box(two, "live") is None
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(run, one, "live", SOCKETS, timeout=600)
        try:
            until(lambda: asked_of_the_box(one, "live"))
            for client, port in ((one, nodes.one.port), (two, nodes.two.port)):
                assert asked_of_the_box(client, "live") == b"/in?x=1"
                head, said = spoken(port, "live")
                assert head[0].startswith(b"HTTP/1.1 101 ")
                names = [line.partition(b":")[0].lower() for line in head[1:]]
                assert len(names) == len(set(names)), head
                accepted = [
                    line for line in head if line.endswith(b" s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
                ]
                assert len(accepted) == 1, head
                assert said == b"HELLO AGAIN"
        finally:
            two.call("POST", "/api/sessions/live/cancel")
        assert going.result(60)["cancelled"] is True


def test_deleting_all_ends_runs_on_every_server(nodes: Pair) -> None:
    one, two = nodes.clients
    new_session(one, "all-1")
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(run, one, "all-1", "import time; time.sleep(300)", timeout=400)
        until(lambda: session(one, "all-1")["running"])
        assert two.call("DELETE", "/api/sessions?prefix=all-")["deleted_count"] == 1
        assert refusal(going.exception()) == (409, "session_deleted")


def test_a_layer_made_by_one_server_is_there_on_the_other(nodes: Pair) -> None:
    one, two = nodes.clients
    commands = ["mkdir -p /workspace/kit", "echo 42 > /workspace/kit/answer"]
    new_session(one, "layered", setup={"commands": commands})
    until(lambda: session(two, "layered")["setup_status"] == "completed")
    for client in (one, two):
        copy = client.call("POST", "/api/sessions/layered/duplicate")["id"]
        assert client.run(copy, "print(open('kit/answer').read())")["stdout"] == "42\n\n"


def test_a_server_with_another_key_or_another_store_is_refused(
    nodes: Pair, object_server: Objects, tmp_path: Path
) -> None:
    for name, value, word in (
        ("ERA_SECRET_KEY", "another", "ERA_SECRET_KEY"),
        ("ERA_BLOBS_URL", object_server.new_url(), "ERA_BLOBS_URL"),
        ("ERA_BLOBS_URL", "", "ERA_BLOBS_URL"),
    ):
        changed = {**nodes.environment, name: value}
        said = server_that_ends(changed, "--port", "0", "--state-dir", str(tmp_path / "s"))
        assert word in said


# --- one of them ends ---------------------------------------------------------------------------


def start(pool: ThreadPoolExecutor, client: Api, code: str) -> Future[dict[str, object]]:
    going = pool.submit(run, client, "s", code, timeout=400)
    until(lambda: session(client, "s")["running"])
    return going


def test_a_killed_server_has_its_sessions_taken_over(fresh: Pair) -> None:
    one, two = fresh.clients
    new_session(one, "s")
    one.run("s", COUNT + "open('kept.txt', 'w').write('kept')")
    with ThreadPoolExecutor(2) as pool:
        lost = start(pool, one, SLOW.replace("WAIT", "300"))
        passed = pool.submit(run, two, "s", COUNT)
        until(lambda: session(one, "s")["queued_runs"])
        fresh.one.kill()
        assert lost.exception() is not None
        # What had been passed on may have run: it is not run again.
        assert refusal(passed.exception()) == (500, "execution_failed")
        assert session(two, "s")["data"] == {"count": 1}
        result = two.run("s", COUNT + "print(open('kept.txt').read())")
    assert (result["stdout"], result["data"]) == ("kept\n", {"count": 2})
    fresh.one.start()
    assert one.run("s", COUNT)["data"] == {"count": 3}


def test_a_server_that_comes_back_too_late_commits_nothing(fresh: Pair) -> None:
    one, two = fresh.clients
    new_session(one, "s")
    with ThreadPoolExecutor(2) as pool:
        late = start(pool, one, SLOW.replace("WAIT", "1"))
        os.kill(fresh.one.pid, signal.SIGSTOP)
        try:
            time.sleep(LEASE_SECONDS + 1.5)
            assert two.run("s", COUNT)["data"] == {"count": 1}
        finally:
            os.kill(fresh.one.pid, signal.SIGCONT)
        assert refusal(late.exception()) == (500, "execution_failed")
        state = two.call("GET", "/api/sessions/s?files=1")
        assert (state["data"], state["files"]) == ({"count": 1}, [])
        # It is one of them again.
        assert one.run("s", COUNT)["data"] == {"count": 2}


def test_a_server_that_stands_still_for_less_than_its_lease_loses_nothing(fresh: Pair) -> None:
    one, two = fresh.clients
    new_session(one, "s")
    with ThreadPoolExecutor(2) as pool:
        going = start(pool, one, SLOW.replace("WAIT", "0.5"))
        os.kill(fresh.one.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(fresh.one.pid, signal.SIGCONT)
        assert going.result()["data"] == {"count": 1}
    assert two.run("s", COUNT)["data"] == {"count": 2}


def test_a_setup_of_a_killed_server_is_done_by_the_other(fresh: Pair) -> None:
    one, two = fresh.clients
    # Whoever has it first is slow with it, and does not live to finish it.
    command = "sleep 8; echo done > /workspace/made"
    new_session(one, "s", setup={"commands": [command]})
    until(lambda: setup_servers(fresh))
    (doing,) = setup_servers(fresh)
    doing.kill()
    alive = two if doing is fresh.one else one
    result = alive.run("s", "print(open('made').read())")
    assert result["stdout"] == "done\n\n"
    assert session(alive, "s")["setup_status"] == "completed"


def setup_servers(nodes: Pair) -> list[WatchedServer]:
    """The servers in whose boxes the setup is."""
    return [server for server in (nodes.one, nodes.two) if "sleep 8" in commands_of(server.pid)]


def commands_of(pid: int) -> str:
    """What the processes of a server were started as."""
    lines = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            lines.append(" ".join(child.cmdline()))
    return "\n".join(lines)


# --- many at once -------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_a_thousand_increments_of_many_clients_give_a_thousand(
    postgres_server: Postgres, object_server: Objects
) -> None:
    with pair(postgres_server, object_server, ERA_SESSION_QUEUE="64") as nodes:
        new_session(nodes.clients[0], "thousand")
        with ThreadPoolExecutor(32) as pool:
            calls = [
                pool.submit(nodes.clients[number % 2].run, "thousand", COUNT)
                for number in range(1000)
            ]
            counts = sorted(call.result()["data"]["count"] for call in calls)
        assert counts == list(range(1, 1001))
        assert session(nodes.clients[1], "thousand")["data"] == {"count": 1000}
