"""`era serve` and `era doctor` as processes: how they refuse, how they end, what they log."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import signal
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import era as era_package
from era.cli.main import main
from era.config import VARIABLES
from tests.cli.program import era, serving, wait_until


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """What a server that cannot start says: a cause, which is returned, and a remedy."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for name in (*VARIABLES, "ERA_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def refused(*arguments: str, **variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert main(["serve", *arguments]) == 1
        cause, remedy = capsys.readouterr().err.splitlines()
        assert cause.startswith("era: ")
        assert remedy.startswith("  ")
        return str(cause)

    yield refused
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


Refusal = Callable[..., str]


def test_a_port_that_is_taken(tmp_path: Path, refusal: Refusal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        state = ("--state-dir", str(tmp_path / "s"))
        for arguments in (("--port", str(port)), ("--addr", f"127.0.0.1:{port}")):
            cause = refusal(*arguments, *state)
            assert cause == f"era: cannot listen on 127.0.0.1 port {port}: address already in use"
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["--addr", "8080"], {}, "--addr 8080 names no port"),
        (["--addr", ":http"], {}, "PORT must be a port from 0 to 65535, not 'http'"),
        (["--port", "99999"], {}, "PORT must be a port from 0 to 65535"),
        (["--host", "no.such.host.invalid"], {}, "cannot listen on no.such.host.invalid"),
        ([], {"ERA_RUN_PIDS": "many"}, "ERA_RUN_PIDS must be a whole number of at least 1"),
        ([], {"ERA_CONFIG": "/proc/none.toml"}, "ERA_CONFIG: the file cannot be read"),
        ([], {"ERA_ALLOW_NETWORKS": "10.0.0.0/40"}, "ERA_ALLOW_NETWORKS must be a list"),
        ([], {"ERA_RUNTIME_ROOT": "/proc/none"}, "ERA_RUNTIME_ROOT is not a directory"),
        ([], {"ERA_DENO_IMPORT_HOSTS": "a b"}, "a registry or import host cannot be understood"),
        ([], {"ERA_PYTHON_PACKAGES": "no-such-thing"}, "ERA_PYTHON_PACKAGES names no-such-thing"),
        (["--isolation", "microvm"], {}, "the isolation tier microvm is not available"),
        (["--log-file", "/proc/none/log"], {}, "AGENT_LOG_FILE cannot be written"),
        (["--state-dir", "/proc/era"], {}, "the state directory /proc/era cannot be used"),
    ],
)
def test_why_it_cannot_start(
    arguments: list[str],
    variables: dict[str, str],
    words: str,
    tmp_path: Path,
    refusal: Refusal,
) -> None:
    variables = {"PORT": "0", "AGENT_STATE_DIR": str(tmp_path / "s"), **variables}
    assert words in refusal(*arguments, **variables)


def test_one_server_for_one_state_directory(tmp_path: Path, refusal: Refusal) -> None:
    state = ("--state-dir", str(tmp_path / "s"))
    with serving(*state) as server:
        cause = refusal("--port", "0", *state)
        assert cause == f"era: the state directory {tmp_path / 's'} is in use by another server"
        assert server.post("/api/sessions", {"id": "x", "language": "python"})["id"] == "x"
        doctor = era("doctor", "--json", *state, variables={"PORT": str(server.port)})
        assert doctor.returncode == 0, doctor.stdout
        assert json.loads(doctor.stdout)["running"] is True
        words = era("doctor", *state, variables={"PORT": str(server.port)}).stdout
        assert "A server is running here; another one needs" in words
    with serving(*state) as server, pytest.raises(urllib.error.HTTPError, match="409"):
        server.post("/api/sessions", {"id": "x", "language": "python"})


def test_the_state_directory_is_for_nobody_else(tmp_path: Path) -> None:
    with serving("--state-dir", str(tmp_path / "s")):
        assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_0_when_told(tmp_path: Path, number: signal.Signals) -> None:
    with serving("--state-dir", str(tmp_path / "s")) as server:
        assert server.end(number) == 0


def test_runs_get_their_grace_and_new_requests_are_refused(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "s"))
    code = (
        "import time, os\n"
        "open('begun', 'w').close(); print('begun', flush=True)\n"
        "time.sleep(2)\n"
        "open('.session_data.json', 'w').write('[1]')\n"
    )
    variables = {"ERA_SHUTDOWN_GRACE": "60"}
    with (
        serving(*state, variables=variables) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        server.post("/api/sessions", {"id": "x", "language": "python"})
        running = pool.submit(server.post, "/api/sessions/x/run", {"code": code})
        wait_until(lambda: is_running(server, "x"))
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopping")
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.post("/api/execute", {"language": "python", "code": "1"})
        assert refused.value.code == 503
        assert json.load(refused.value)["code"] == "shutting_down"
        assert running.result()["data"] == [1]
        assert server.end() == 0


def test_runs_beyond_the_grace_end_without_a_commit(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "s"))
    code = "open('kept', 'w').close()\nimport time; time.sleep(600)"
    variables = {"ERA_SHUTDOWN_GRACE": "0.1"}
    with (
        serving(*state, variables=variables) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        server.post("/api/sessions", {"id": "x", "language": "python"})
        body = {"code": code, "timeout": 600}
        running = pool.submit(server.post, "/api/sessions/x/run", body)
        wait_until(lambda: is_running(server, "x"))
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(urllib.error.HTTPError) as ended:
            running.result()
        assert ended.value.code == 503
        assert json.load(ended.value)["code"] == "shutting_down"
        assert server.end() == 0
    with serving(*state) as server:
        assert get(server, "/api/sessions/x")["file_count"] == 0


def test_a_second_signal_ends_the_grace(tmp_path: Path) -> None:
    code = "import time; print('begun', flush=True); time.sleep(600)"
    with (
        serving(
            "--state-dir", str(tmp_path / "s"), variables={"ERA_SHUTDOWN_GRACE": "3600"}
        ) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        server.post("/api/sessions", {"id": "x", "language": "python"})
        body = {"code": code, "timeout": 600}
        running = pool.submit(server.post, "/api/sessions/x/run", body)
        wait_until(lambda: is_running(server, "x"))
        server.process.send_signal(signal.SIGINT)
        server.wait_for("stopping")
        server.process.send_signal(signal.SIGINT)
        server.wait_for("stopping at once")
        with pytest.raises(urllib.error.HTTPError) as ended:
            running.result()
        assert ended.value.code == 503
        assert "ended before" in json.load(ended.value)["message"]
        assert server.end() == 0


def get(server: Any, path: str) -> Any:
    with urllib.request.urlopen(server.url + path, timeout=60) as answer:
        return json.load(answer)


def is_running(server: Any, session_id: str) -> bool:
    return bool(get(server, f"/api/sessions/{session_id}")["running"])


def test_the_log_tells_nothing_that_is_secret(tmp_path: Path) -> None:
    """Keys, code, variables, input and output: in no line, at the most talkative level."""
    log = tmp_path / "era.log"
    state = ("--state-dir", str(tmp_path / "s"), "--log-level", "debug")
    with serving(*state, variables={"ERA_API_KEY": "key-secret"}) as server:
        body = {
            "language": "python",
            "code": "print('out-' + 'secret')  # code-secret",
            "env": {"A": "env-secret"},
            "stdin": "in-secret",
        }
        answer = server.post("/api/execute", body, Authorization="Bearer key-secret")
        assert answer["stdout"] == "out-secret\n"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.post("/api/execute", body, Authorization="Bearer wrong-secret")
        assert server.end() == 0
        text = json.dumps(server.lines)
    assert "secret" not in text
    requests = [line for line in server.lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 401]
    assert not log.exists()


LOOK_AROUND = """
import glob, os
print(dict(os.environ))
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try:
        print(open(path, 'rb').read())
    except OSError:
        pass
for top in ('/', '/workspace', '/opt', '/var/lib', '/home', '/tmp', '/root'):
    print(os.listdir(top) if os.access(top, os.R_OK) else None)
print(os.path.exists(STATE), os.path.exists(SOURCE))
"""


def test_code_and_answers_show_nothing_of_the_server(tmp_path: Path) -> None:
    """Neither the key nor a setting, its directories or its source, whatever the code looks at."""
    state = tmp_path / "state-of-server"
    source = str(Path(era_package.__file__).parent)
    code = f"STATE, SOURCE = {str(state)!r}, {source!r}\n{LOOK_AROUND}"
    variables = {"ERA_API_KEY": "key-secret", "ERA_SECRET_KEY": "seal-secret"}
    with serving("--state-dir", str(state), variables=variables) as server:
        key = {"Authorization": "Bearer key-secret"}
        server.post("/api/sessions", {"id": "other-session", "language": "python"}, **key)
        body = {"language": "python", "code": code}
        answer = server.post("/api/execute", body, **key)
        assert (answer["exit_code"], answer["stderr"]) == (0, "")
        shown = answer["stdout"]
    for secret in ("key-secret", "seal-secret", "other-session", "state-of-server"):
        assert secret not in shown
    assert shown.endswith("False False\n")


def test_the_log_goes_to_a_file(tmp_path: Path) -> None:
    log = tmp_path / "era.log"
    state = ("--state-dir", str(tmp_path / "s"))
    shown = era("serve", "--port", "0", *state, "--isolation", "gvisor", "--log-file", str(log))
    assert (shown.returncode, len(shown.stderr.splitlines())) == (1, 2)
    assert log.read_text() == ""


def test_a_server_open_to_others_without_a_key_is_warned_of(tmp_path: Path) -> None:
    with serving("--host", "0.0.0.0", "--state-dir", str(tmp_path / "s")) as server:
        warning = server.wait_for("anyone who reaches this address can run code: set ERA_API_KEY")
        assert warning["level"] == "warn"


def test_the_doctor(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "s"))
    healthy = era("doctor", "--json", *state, variables={"PORT": "0"})
    assert healthy.returncode == 0, healthy.stdout
    report = json.loads(healthy.stdout)
    assert report["ok"] is True
    assert report["tier"] == "namespaces"
    checks = {check["name"]: check for check in report["checks"]}
    assert {"box", "python", "node", "disk", "network", "state directory"} <= set(checks)
    assert report["running"] is False
    assert not (tmp_path / "s").exists(), "a look changes nothing"
    (tmp_path / "s").mkdir()
    text = era("doctor", *state, variables={"PORT": "0"})
    assert "The server can start; isolation tier: namespaces" in text.stdout
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize(("setting", "words"), [("none", "none"), ("packaging", "packaging ")])
def test_the_doctor_says_which_packages_boxes_have(
    tmp_path: Path, setting: str, words: str
) -> None:
    variables = {"PORT": "0", "ERA_PYTHON_PACKAGES": setting}
    shown = era("doctor", "--json", "--state-dir", str(tmp_path / "s"), variables=variables)
    checks = {check["name"]: check for check in json.loads(shown.stdout)["checks"]}
    assert checks["python packages"]["ok"]
    assert checks["python packages"]["detail"].startswith(words)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"ERA_RUN_PIDS": "x"}, "configuration"),
        ({"AGENT_STATE_DIR": "/proc/era"}, "state directory"),
        ({"ERA_HOST": "192.0.2.1"}, "address"),
        ({"ERA_ISOLATION": "gvisor"}, "box"),
    ],
)
def test_the_doctor_says_what_is_missing(
    variables: dict[str, str], name: str, tmp_path: Path
) -> None:
    variables = {"PORT": "0", "AGENT_STATE_DIR": str(tmp_path / "s"), **variables}
    shown = era("doctor", "--json", variables=variables)
    assert shown.returncode == 1
    report = json.loads(shown.stdout)
    assert report["ok"] is False
    failed = [check for check in report["checks"] if not check["ok"] and check["required"]]
    assert [check["name"] for check in failed] == [name]
    assert failed[0]["remedy"]
    lines = era("doctor", variables=variables)
    assert lines.returncode == 1
    assert "MISSING" in lines.stdout
    assert "The server cannot start here." in lines.stdout


def test_the_plan_of_a_box() -> None:
    shown = era("doctor", "--plan")
    assert shown.returncode == 0, shown.stderr
    text = json.dumps(json.loads(shown.stdout))
    assert '"/workspace"' in text
    assert '"hostname": "era"' in text
