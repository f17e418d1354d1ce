"""The server's start and its ends, the gentle one and the other, with work under way."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from api import Api, RefusedError
from tests.e2e.conftest import StartServer
from tests.e2e.harness import WatchedServer

pytestmark = pytest.mark.xdist_group("lifecycle")

STUBBORN = """
import os, signal, subprocess, time
subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM HUP; sleep 98765 & wait"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("half.txt", "w").write("done by half")
time.sleep(98765)
"""


def new_session(server: WatchedServer) -> Api:
    client = Api(server.url)
    client.call("POST", "/api/sessions", id="s", language="python", data={"count": 1})
    client.upload("s", "kept.txt", b"kept")
    return client


def start_run(client: Api, pool: ThreadPoolExecutor) -> Future[Any]:
    """A run that does not end by itself, once it is under way."""
    future = pool.submit(client.call, "POST", "/api/sessions/s/run", code=STUBBORN, timeout=900)
    while not client.call("GET", "/api/sessions/s")["running"]:
        assert not future.done(), future.result()
        time.sleep(0.02)
    while ["sleep", "98765"] not in command_lines():
        time.sleep(0.02)
    return future


def command_lines() -> list[list[str]]:
    return [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]


def state(client: Api) -> Any:
    return client.call("GET", "/api/sessions/s?files=1")


def test_a_kill_in_the_middle_of_a_run(start_server: StartServer) -> None:
    server = start_server()
    client = new_session(server)
    before = state(client)
    with ThreadPoolExecutor() as pool:
        run = start_run(client, pool)
        server.kill()
        assert run.exception() is not None
    assert server.left_behind(killed=True) == []
    server.start()
    assert state(client) == before
    assert client.run("s", "print(open('kept.txt').read())")["stdout"] == "kept\n"


def test_a_gentle_end_in_the_middle_of_a_run(start_server: StartServer) -> None:
    server = start_server(ERA_SHUTDOWN_GRACE="0.2")
    client = new_session(server)
    before = state(client)
    with ThreadPoolExecutor() as pool:
        run = start_run(client, pool)
        assert server.stop() == 0
        refusal = run.exception()
    assert isinstance(refusal, RefusedError)
    assert (refusal.status, refusal.body["code"]) == (503, "shutting_down")
    assert server.left_behind() == []
    server.start()
    assert state(client) == before


def second_server(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "era", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_second_server_is_refused(start_server: StartServer, tmp_path: object) -> None:
    server = start_server()
    same_state = second_server("--port", "0", "--state-dir", str(server.state_dir))
    assert same_state.returncode == 1
    assert len(same_state.stderr.strip().splitlines()) == 2, same_state.stderr
    same_port = second_server("--port", str(server.port), "--state-dir", str(tmp_path))
    assert same_port.returncode == 1
    assert f"port {server.port}" in same_port.stderr
    assert server.healthy()


def test_what_a_server_has_would_be_found(start_server: StartServer) -> None:
    server = start_server()
    server.remember()
    kinds = {trace.split()[0] for trace in server.traces(killed=False)}
    assert "process" in kinds
