"""Commands that need no server."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from era import __version__
from tests.cli.program import environment, era


def test_help_names_the_commands() -> None:
    for arguments in (["--help"], ["-h"], ["help"], []):
        shown = era(*arguments)
        assert shown.returncode == 0
        for command in ("serve", "doctor", "execute", "version"):
            assert command in shown.stdout


def test_help_of_a_command() -> None:
    for arguments in (["serve", "--help"], ["help", "serve"], ["server", "-h"]):
        shown = era(*arguments)
        assert shown.returncode == 0
        assert "--state-dir" in shown.stdout


def test_help_loads_nothing_of_the_server() -> None:
    """What makes the help quick: no web framework, no database, no settings."""
    code = (
        "import sys; from era.cli.main import main; code = main(['--help']);"
        "heavy = {'fastapi', 'pydantic', 'sqlalchemy', 'uvicorn', 'asyncio', 'structlog'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert shown.stderr.strip() == "[]"


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_without_the_server_its_commands_say_what_is_missing(command: str) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('structlog', 'pydantic', 'fastapi')));"
        f"from era.cli.main import main; sys.exit(main(['{command}']))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "is not installed" in shown.stderr
    assert "era[server]" in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], 'Unknown command "bogus"'),
        (["serve", "--bogus"], "Unknown option: --bogus"),
        (["serve", "--port", "x"], "Invalid value for --port"),
        (["serve", "--isolation", "docker"], 'Invalid value "docker" for --isolation'),
        (["execute"], "--language"),
        (["--log-level", "loud", "version"], "--log-level"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], words: str) -> None:
    shown = era(*arguments)
    assert shown.returncode == 2
    assert words in shown.stderr
    assert "Traceback" not in shown.stderr
    assert shown.stdout == ""


def test_version() -> None:
    assert era("version").stdout.startswith(f"era {__version__} (Python 3.")
    about = json.loads(era("version", "--json").stdout)
    assert set(about) == {"version", "python", "platform"}
    assert json.loads(era("--json", "version").stdout) == about


def test_without_a_command_the_environment_decides(tmp_path: Any) -> None:
    """The server is what runs: here it says why it cannot."""
    variables = {"AGENT_MODE": "http", "ERA_MAX_TIMEOUT": "soon"}
    assert era(variables=variables).returncode == 1
    assert era(variables={**variables, "AGENT_MODE": "cli"}).returncode == 0


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers with what the test wants, and remembers what came."""

    status, answer = 200, b"{}"
    seen: list[tuple[str, dict[str, str], Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.answer)))
        if self.status == 302:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def scripted() -> Iterator[tuple[str, type[Scripted]]]:
    """A server that is not ours: its address, and what it shall do."""
    handler = type("Handler", (Scripted,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    thread.join()
    server.server_close()


RESULT = {"exit_code": 3, "stdout": "out é\n", "stderr": "err\n"}


def test_execute(scripted: tuple[str, type[Scripted]]) -> None:
    url, handler = scripted
    handler.answer = json.dumps(RESULT).encode()
    shown = era(
        *("execute", "--language", "python", "--timeout", "1.5", "--allow-internet"),
        *("--env", "A=1=2", "--env", "B="),
        stdin="print(1)\n",
        variables={"ERA_API_URL": f"{url}/", "ERA_API_KEY": "k1,k2"},
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (3, "out é\n", "err\n")
    path, headers, body = handler.seen[0]
    assert path == "/api/execute"
    assert headers["Authorization"] == "Bearer k1"
    assert body == {
        "language": "python",
        "code": "print(1)\n",
        "env": {"A": "1=2", "B": ""},
        "timeout": 1.5,
        "allowInternetAccess": True,
    }


def test_execute_prints_the_raw_answer(scripted: tuple[str, type[Scripted]]) -> None:
    url, handler = scripted
    handler.answer = json.dumps(RESULT).encode()
    shown = era("execute", "--language", "go", "--code", "x", "--url", url, "--json")
    assert (shown.returncode, json.loads(shown.stdout), shown.stderr) == (3, RESULT, "")


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (429, b'{"error":"server is busy","code":"server_busy","hint":"wait"}', "server is busy"),
        (400, b'{"error":"invalid JSON body","message":"line 1"}', "invalid JSON body: line 1"),
        (502, b"<html>", "the server answered 502"),
        (302, b"", "the server answered 302"),
        (200, b"<html>", "no JSON object"),
    ],
)
def test_a_refusal_exits_125(
    scripted: tuple[str, type[Scripted]], status: int, answer: bytes, words: str
) -> None:
    url, handler = scripted
    handler.status, handler.answer = status, answer
    shown = era("execute", "--language", "python", "--code", "x", "--url", url)
    assert shown.returncode == 125
    assert words in shown.stderr
    assert "Traceback" not in shown.stderr


def test_no_server_exits_125() -> None:
    shown = era("execute", "--language", "python", "--code", "x", "--url", "http://127.0.0.1:1")
    assert shown.returncode == 125
    assert "cannot reach http://127.0.0.1:1" in shown.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--code", "x", "--file", "y"], ["--file", "/proc/none"], ["--code", "x", "--env", "A"]],
)
def test_execute_used_wrongly(arguments: list[str]) -> None:
    shown = era("execute", "--language", "python", *arguments)
    assert (shown.returncode, shown.stdout) == (2, "")
