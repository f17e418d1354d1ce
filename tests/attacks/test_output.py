"""Output, through the API: floods, forgeries, readers that stall or leave, and ends told as they were."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.served import KEY, Served, Session, said
from tests.sandbox.census import until

pytestmark = pytest.mark.xdist_group("attacks")

CAP = 1 << 20


def peak_kib(server: Served, reset: bool = False) -> int:
    """The most memory the server's process has had since its peak was last forgotten."""
    if reset:
        Path(f"/proc/{server.server.pid}/clear_refs").write_text("5")
    status = Path(f"/proc/{server.server.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


FLOODS = {
    "both streams": ("yes & exec yes flood >&2", 1.0),
    "one line of a gigabyte": (
        "exec python3 -c 'import os\nfor _ in range(1024): os.write(1, b\"x\" * (1 << 20))'",
        100,
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_stops_at_the_cap(server: Served, kind: str) -> None:
    """23, 24, 25"""
    script, timeout = FLOODS[kind]
    before = peak_kib(server, reset=True)
    with server.session() as session:
        ended = server.attack(lambda: session.command(script, timeout=timeout))
    assert peak_kib(server) - before < 64 << 10
    assert len(ended["stdout"]) == CAP
    assert ended["stdout_truncated"]
    if kind == "both streams":
        assert (ended["exit_code"], len(ended["stderr"])) == (124, CAP)
        assert ended["stderr_truncated"]
    else:
        assert (ended["exit_code"], ended["stderr"]) == (0, "")


def test_output_up_to_the_cap_is_whole(server: Served) -> None:
    """The mirror of the cap."""
    ended = server.run(f"import os\nfor fd in (1, 2): os.write(fd, b'x' * {CAP})")
    assert ended["stdout"] == ended["stderr"] == "x" * CAP
    assert ended["stdout_truncated"] is ended["stderr_truncated"] is False


INTERLEAVED = """
import os
for number in range(2000):
    os.write(1 + number % 2, b"%d\\n" % number)
"""


def test_streams_are_kept_apart_and_in_order(server: Served) -> None:
    """26"""
    ended = server.run(INTERLEAVED)
    assert ended["stdout"].split() == [str(n) for n in range(0, 2000, 2)]
    assert ended["stderr"].split() == [str(n) for n in range(1, 2000, 2)]


ODD_BYTES = r"""
import os
os.write(1, b"nul\0 bad\xff\xfe cut\xe2\x82 surrogate\xed\xa0\x80 ansi\x1b[2J")
os.write(1, b"over\xc0\xaf bom\xef\xbb\xbf \xf4\x90\x80\x80")
os.write(2, "text ü€😀\u2028\x85\n".encode())
"""


def test_odd_bytes_become_text(server: Served) -> None:
    """27: what is text passes unchanged, every other byte becomes one sign that says so."""
    ended = server.run(ODD_BYTES)
    bad = "\ufffd"
    assert ended["stdout"].startswith(f"nul\0 bad{bad}{bad} cut")
    assert "ansi\x1b[2J" in ended["stdout"]
    assert not re.search("[\ud800-\udfff]", ended["stdout"])
    assert ended["stderr"] == "text ü€😀\u2028\x85\n"


# --- forgeries ------------------------------------------------------------------------------------

FORGED = (
    '\n\nevent: done\ndata: {"type":"done","content":"","exit_code":0}\n\n'
    'event: error\r\ndata: {"code":"internal"}\r\n\r\n: ping\n\n{"exit_code":0}\n'
)


def events(text: str) -> list[tuple[str, Any]]:
    """Server-sent events as a browser reads them."""
    found = []
    for block in text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        if "data" in fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def streamed(session: Session, code: str, **members: Any) -> str:
    """The body of a whole stream."""
    answer = session.client.call("POST", f"{session.path}/stream", code=code, **members)
    assert answer.status == 200, answer
    return answer.content.decode()


def test_output_cannot_pass_for_the_services_own_words(server: Served) -> None:
    """28: in a stream and in a result."""
    code = f"import os, time\nfor part in {FORGED!r}.split('d'):\n    os.write(1, (part + 'd').encode())\nos._exit(3)"  # noqa: E501
    with server.session() as session:
        told = events(streamed(session, code))
    *output, (last, result) = told
    assert {name for name, _ in output} == {"stdout"}
    assert "".join(data["content"] for _, data in output) == FORGED + "d"
    assert (last, result["exit_code"]) == ("done", 3)
    assert server.run(code)["exit_code"] == 3


def test_the_forgery_would_be_believed() -> None:
    """The mirror: written into the stream as it is, it reads as an event."""
    assert [name for name, _ in events("data: {}" + FORGED)] == ["message", "done", "error"]


FORGED_WIRE = """
import json, os, socket, struct
words = [b"go", json.dumps({"event": "ended", "status": 0, "at_ns": 1}).encode(),
         json.dumps({"event": "started", "at_ns": 1}).encode(), b"TERM"]
for fd in range(3, 1024):
    for word in words:
        try: os.write(fd, word)
        except OSError: pass
for name in os.listdir("/proc/1/fd") if os.access("/proc/1/fd", os.R_OK) else []:
    print("process 1 shows", name)
print(sorted(open("/proc/net/unix").read().split("\\n")[1:]))
os._exit(5)
"""


def test_there_is_nothing_to_say_to_the_launcher(server: Served) -> None:
    """28, 60, 85: no descriptor leads to a process of the service, and no socket has a name."""
    ended = server.run(FORGED_WIRE)
    assert (ended["exit_code"], ended["stdout"]) == (5, "['']\n")


def test_a_named_socket_would_be_seen() -> None:
    """The mirror: on the host the list has this process's own."""
    with socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0era-attack-{os.getpid()}")
        seen = subprocess.run(["/usr/bin/cat", "/proc/net/unix"], capture_output=True, check=True)
        assert f"era-attack-{os.getpid()}".encode() in seen.stdout


# --- readers --------------------------------------------------------------------------------------

FLOOD = "import os\nfor _ in range(4096): os.write(1, b'x' * 65536)\nopen('finished', 'w').close()"


def _alone(server: Served, path: str, **members: Any) -> socket.socket:
    """A request on a connection that takes in as little as it can."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.server.port))
    body = json.dumps(members).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    )
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_a_reader_that_stalls(server: Served) -> None:
    """29: it holds up nobody, costs bounded memory, and gets everything when it goes on."""
    before = peak_kib(server, reset=True)
    with (
        server.session() as session,
        _alone(server, f"{session.path}/stream", code=FLOOD) as stalled,
    ):
        for _ in range(3):
            server.hello()
        until(lambda: "finished" in session.files(), "the end of the run")
        assert peak_kib(server) - before < 64 << 10
        received = b"".join(_pieces(stalled))
    assert received.count(b"x") >= CAP
    assert b"event: done" in received


def _pieces(connection: socket.socket) -> Iterator[bytes]:
    """What comes, until the last event."""
    tail = b""
    while b"event: done" not in tail:
        piece = connection.recv(1 << 16)
        assert piece, "the stream was cut"
        tail = (tail + piece)[-4096:]
        yield piece


SLOW = "import time\nprint('up', flush=True)\ntime.sleep({})\nopen('finished', 'w').close()"


@pytest.mark.parametrize("cancel", [False, True])
def test_a_client_that_leaves_a_run(server: Served, cancel: bool) -> None:
    """30: its run goes on and is kept, or is cancelled, as it asked; each is the other's mirror."""
    with server.session() as session:
        code = SLOW.format(600 if cancel else 0.5)
        body = {"code": code, "cancel_on_disconnect": cancel}
        with _alone(server, f"{session.path}/stream", **body) as leaving:
            while b"up" not in leaving.recv(4096):
                pass
        until(lambda: not server.client.call("GET", session.path).json["running"], "the end")
        assert ("finished" in session.files()) is not cancel


def test_a_client_that_leaves_an_execution(server: Served) -> None:
    """30: it is cancelled; nobody could have its result."""
    with _alone(server, "/api/execute", code=SLOW.format(600), language="python"):
        until(lambda: bool(server.grown()), "the run")
    server.settled()


# --- ends -----------------------------------------------------------------------------------------

ENDS = {
    "import os; os.kill(os.getpid(), 9)": (137, "SIGKILL"),
    "import os; os.abort()": (134, "SIGABRT"),
    "import ctypes; ctypes.string_at(0)": (139, "SIGSEGV"),
    "import os, signal; signal.signal(15, 0); os.kill(os.getpid(), 15)": (143, "SIGTERM"),
    "import os, signal; signal.signal(13, 0); os.kill(os.getpid(), 13)": (141, "SIGPIPE"),
    "import os; os.kill(os.getpid(), 34)": (162, "SIGRTMIN"),
    "raise SystemExit(256)": (0, None),  # what the kernel keeps of it is 0
    "raise SystemExit(-1)": (255, None),
    "import os; os.execv('/nowhere', ['x'])": (1, None),
    "import os\nif os.fork(): os._exit(7)\nos._exit(0)": (7, None),
    "import os, threading, time\nthreading.Timer(0.05, os._exit, (9,)).start()\ntime.sleep(60)": (9, None),
    "": (0, None),
}  # fmt: skip


def test_an_end_is_told_as_it_was(server: Served) -> None:
    """31: no end but success is 0; the last is the mirror."""
    for code, expected in ENDS.items():
        ended = server.client.execute(code or "pass")
        assert (ended["exit_code"], ended["signal"]) == expected, (code, ended)
        assert [ended["timed_out"], ended["oom_killed"]] == [False, False], code
    late = server.client.execute("import time\ntry: time.sleep(60)\nfinally: pass", timeout=0.2)
    assert (late["exit_code"], late["timed_out"]) == (124, True)
    clean = "import signal, sys, time\nsignal.signal(15, lambda *a: sys.exit(0))\ntime.sleep(60)"
    assert server.client.execute(clean, timeout=0.2)["exit_code"] == 124


CORE = """
import ctypes, os, resource
try: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
except (OSError, ValueError): pass
os.chdir("/workspace")
ctypes.string_at(0)
"""


def test_no_core_file_is_left(server: Served) -> None:
    """56: the kernel's word for "not even a handler" is a limit of one byte, which nobody may raise."""
    with server.session() as session:
        assert session.run(CORE)["signal"] == "SIGSEGV"
        assert session.files() == {}
    look = "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"
    assert said(server.client.execute(look)) == "1 1\n"
    limits = resource_outside()
    assert limits != (1, 1)  # outside it is another, so this one was set


def resource_outside() -> tuple[int, int]:
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    soft, hard = map(int, done.stdout.split())
    return soft, hard


def test_time_that_is_up_is_told_within_a_bound(server: Served) -> None:
    """2, 31: the deadline, a second of grace, and the answer."""
    stubborn = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)"
    ended = server.other().execute(stubborn, timeout=0.2)
    assert (ended["exit_code"], ended["signal"], ended["timed_out"]) == (124, "SIGKILL", True)
