"""The `process` tier as an operator has it: a server of an ordinary user, for one session."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from era.assemble import StartError, process
from era.config import load
from tests.servers.ordinary import ROOT, OrdinaryUser, ordinary_user

pytestmark = [pytest.mark.xdist_group("process-tier"), pytest.mark.timeout(600)]
SECRET = "key-that-no-program-may-read"
ALONE = {"ERA_ISOLATION": "process", "ERA_ALLOW_PROCESS_TIER": "1", "ERA_PLACEMENT": "session"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running one."""

    port: int
    pid: int

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {SECRET}"},
        )
        try:
            with urllib.request.urlopen(asked, timeout=300) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def run(self, code: str, session: str = "one") -> dict[str, Any]:
        """The result of a run of the session."""
        status, result = self.request("POST", f"/api/sessions/{session}/run", {"code": code})
        assert status == 200, result
        return dict(result)


def start(user: OrdinaryUser, log: str, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with open(log, "wb") as out:
        return subprocess.Popen(
            [*user.python, "-m", "era", "serve"],
            user=user.uid,
            group=user.uid,
            extra_groups=None if user.uid is None else [],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "PORT": "0",
                "AGENT_STATE_DIR": tempfile.mktemp(dir=user.home),
                "ERA_GO_AHEAD": "0",
                "ERA_API_KEY": SECRET,
                **user.environment,
                **more,
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


@contextmanager
def serving(user: OrdinaryUser, more: Mapping[str, str]) -> Iterator[Server]:
    os.chmod(user.home, 0o777)
    log = tempfile.mktemp(dir=user.home)
    process = start(user, log, {**ALONE, **more})
    try:
        yield Server(port=_port(process, log), pid=process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _port(process: subprocess.Popen[bytes], log: str) -> int:
    deadline = time.monotonic() + 120
    while True:
        with open(log, encoding="utf-8") as file:
            text = file.read()
        found = re.search(r'"port":(\d+).*"event":"listening"', text)
        if found:
            return int(found[1])
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.1)


@pytest.fixture(scope="module")
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as user:
        yield user


@pytest.fixture(scope="module")
def server(user: OrdinaryUser) -> Iterator[Server]:
    """With the session `one`, whose code has run."""
    with serving(user, {}) as server:
        body = {"id": "one", "language": "python", "allowInternetAccess": True}
        assert server.request("POST", "/api/sessions", body)[0] == 201
        assert server.run("print(1)")["stdout"] == "1\n"
        yield server


def test_the_tier_is_named_with_what_it_does_not_do(server: Server) -> None:
    _, health = server.request("GET", "/health")
    assert health["isolation"]["tier"] == "process"
    result = server.run("print(2)")
    assert (result["isolation"], result["stdout"]) == ("process", "2\n")
    assert len(health["isolation"]["unenforced"]) >= 4
    assert set(health["isolation"]["unenforced"]) <= set(result["warnings"])


def test_another_session_is_refused(server: Server) -> None:
    body = {"language": "python", "allowInternetAccess": True}
    for path in ("/api/sessions", "/api/execute"):
        status, told = server.request("POST", path, body | {"code": "print(1)"})
        assert (status, told["code"]) == (503, "isolation_unavailable")
        assert "another session" in told["message"]
        assert "placement `session`" in told["hint"]
    assert server.run("print(3)")["stdout"] == "3\n"


def test_memory_of_all_processes_together_is_bounded(server: Server) -> None:
    result = server.run("import os, time; os.fork(); held = b'x' * (800 << 20); time.sleep(60)")
    assert (result["exit_code"], result["oom_killed"]) == (137, True)
    assert server.run("held = b'x' * (100 << 20); print('fits')")["stdout"] == "fits\n"


READ = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "mem", "fd", "root"):
        path = f"/proc/{{pid}}/{{name}}"
        try:
            found = os.listdir(path) if name in ("fd", "root") else open(path, "rb").read(1 << 16)
        except OSError:
            continue
        if pid == "{server}":
            print("open:", path)
        if name == "environ" and b"may-read" in found:
            print("found in", path)
print("looked", os.path.exists("/proc/{server}"))
"""


def test_what_the_service_knows_is_closed_to_programs_of_its_user(server: Server) -> None:
    assert server.run(READ.format(server=server.pid))["stdout"] == "looked True\n"


LEAVE = """
import os, signal, time
supervisor = os.getppid()
if os.fork() == 0:
    os.setsid()
    open("pid", "w").write(str(os.getpid()))
    open("/dev/null")
    if {kill}:
        os.kill(supervisor, signal.SIGKILL)
    time.sleep(600)
while not os.path.exists("pid") or not open("pid").read():
    time.sleep(0.01)
print(open("pid").read(), flush=True)
if {kill}:
    time.sleep(600)
"""


@pytest.mark.parametrize("kill", [False, True])
def test_nothing_outlives_a_run_not_even_when_it_kills_its_supervisor(
    server: Server, kill: bool
) -> None:
    code = f"marker = 'stray-{kill}-{os.getpid()}'\n" + LEAVE.format(kill=kill)
    status, told = server.request("POST", "/api/sessions/one/run", {"code": code})
    assert (status, told.get("code")) == ((500, "execution_failed") if kill else (200, None))
    assert descendants(server.pid) == []
    assert server.run("print(4)")["stdout"] == "4\n"


def descendants(of: int) -> list[int]:
    """Children of the server that live: there are none between two runs."""
    text = subprocess.run(
        ["ps", "-o", "pid=,stat=", "--ppid", str(of)], capture_output=True, text=True, check=False
    ).stdout
    return [int(line.split()[0]) for line in text.splitlines() if "Z" not in line.split()[1]]


def test_offline_code_runs_where_the_operator_says_so(user: OrdinaryUser) -> None:
    body = {"language": "deno", "code": "const answer: number = 42; console.log(answer)"}
    with serving(user, {"ERA_ALLOW_UNENFORCED_NETWORK": "1"}) as server:
        status, result = server.request("POST", "/api/execute", body)
        assert (status, result["stdout"], result["stderr"]) == (200, "42\n", "")
        assert "the network is not restricted" in result["warnings"]


def test_offline_code_is_refused_otherwise(user: OrdinaryUser) -> None:
    with serving(user, {}) as server:
        body = {"language": "python", "code": "print(1)"}
        status, told = server.request("POST", "/api/execute", body)
        assert (status, told["code"]) == (503, "isolation_unavailable")
        assert "ERA_ALLOW_UNENFORCED_NETWORK=1" in told["hint"]


def test_it_is_never_used_without_being_asked_for(user: OrdinaryUser) -> None:
    log = tempfile.mktemp(dir=user.home)
    assert start(user, log, {**ALONE, "ERA_PLACEMENT": "hash:4"}).wait(timeout=120) == 1
    with open(log, encoding="utf-8") as file:
        assert "ERA_PLACEMENT=session" in file.read()


@pytest.mark.parametrize(
    ("more", "uid", "words"),
    [
        ({}, 1, ""),
        ({"ERA_PLACEMENT": "single"}, 1, "ERA_PLACEMENT=session"),
        ({"ERA_PLACEMENT": ""}, 1, "ERA_PLACEMENT=session"),
        ({"ERA_ALLOW_PROCESS_TIER": "0"}, 1, "ERA_ALLOW_PROCESS_TIER=1"),
        ({"ERA_RUNTIME_ROOT": "/"}, 1, "ERA_RUNTIME_ROOT"),
        ({}, 0, "as root"),
    ],
)
def test_what_an_operator_must_have_said(
    monkeypatch: pytest.MonkeyPatch, more: Mapping[str, str], uid: int, words: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    settings = load({**ALONE, **more})
    if not words:
        process.check(settings)
        return
    with pytest.raises(StartError, match=words):
        process.check(settings)
