"""Many clients, and what one run could leave for the next: races, queues, chance, and interpreters."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.served import Served, Session, said
from tests.sandbox import test_warm
from tests.sandbox.census import Process, until

pytestmark = pytest.mark.xdist_group("attacks")

CREATED = 60


# --- which path -----------------------------------------------------------------------------------

WAIT = {
    "python": "import os, time\nprint(os.readlink('/proc/self/ns/pid'), flush=True)\ntime.sleep(600)",
    "node": "console.log(require('fs').readlinkSync('/proc/self/ns/pid')); setTimeout(() => 0, 600000)",
    "command": "readlink /proc/self/ns/pid; sleep 600",
}


@pytest.mark.parametrize("kind", WAIT)
def test_the_path_is_the_one_it_is_called(server: Served, path: str, kind: str) -> None:
    """All: on the warm path the program runs in a process that was there before it was asked for."""
    language = "node" if kind == "node" else "python"
    body = {"command" if kind == "command" else "code": WAIT[kind]}
    with server.session(language) as session:
        there = {one.pid for one in Process(server.server.pid, "").family()}
        stream = session.client.begin("POST", f"{session.path}/stream", json.dumps(body).encode())
        try:
            response = stream.getresponse()
            while b"pid:[" not in (line := response.readline()):
                pass
            box = re.findall(r"pid:\[\d+\]", line.decode())[0]
            family = (one.pid for one in Process(server.server.pid, "").family())
            runs = [pid for pid in family if _is_the_program(pid, box)]
            assert len(runs) == 1
            assert (runs[0] in there) is (path == "warm")
        finally:
            session.client.call("POST", f"{session.path}/cancel")
            stream.close()


def _is_the_program(pid: int, box: str) -> bool:
    """Whether it is the second process of the pid namespace `box`."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = status.partition("NSpid:")[2].split("\n")[0].split()
        return os.readlink(f"/proc/{pid}/ns/pid") == box and numbers[-1] == "2"
    except OSError:
        return False


# --- races ----------------------------------------------------------------------------------------


def test_double_deletes_cancels_and_creates(server: Served) -> None:
    """78: of many at once exactly one has its effect, and none breaks anything."""
    client = server.client
    body = {"id": "raced", "language": "python"}
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            made = list(
                pool.map(lambda _: client.call("POST", "/api/sessions", **body).status, range(8))
            )
            assert Counter(made) == {201: 1, 409: 7}
            sleep = "import time; time.sleep(600)"
            running = pool.submit(client.call, "POST", "/api/sessions/raced/run", code=sleep)
            until(lambda: bool(client.call("GET", "/api/sessions/raced").json["running"]), "a run")
            calls = [
                *(pool.submit(client.call, "POST", "/api/sessions/raced/cancel") for _ in range(3)),
                *(pool.submit(client.call, "DELETE", "/api/sessions/raced") for _ in range(3)),
            ]
            statuses = Counter(call.result().status for call in calls[3:])
            assert statuses == {200: 1, 404: 2}
            assert all(call.result().status in (200, 404) for call in calls[:3])
            assert running.result().status in (200, 409)
            assert client.call("GET", "/api/sessions/raced").status == 404


def test_sessions_made_and_deleted_leave_nothing(server: Served) -> None:
    """78: with runs cut off at every moment; ten thousand boxes are counted by `bench.leaks`."""
    client = server.client

    def cycle(number: int) -> int:
        path = f"/api/sessions/cycle-{number}"
        client.call(
            "POST", "/api/sessions", id=f"cycle-{number}", language="python", data={"n": number}
        )
        client.ask("PUT", f"{path}/files/f", b"x" * number)
        code = "open('g', 'w').write('y')\nimport time\ntime.sleep(0.002)"
        began = client.begin("POST", f"{path}/run", json.dumps({"code": code}).encode())
        if number % 3:
            began.getresponse().read()
        began.close()
        return client.call("DELETE", path).status

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(cycle, range(CREATED))) == {200}
    assert client.call("GET", "/api/sessions?prefix=cycle-").json["total_count"] == 0


INCREMENT = """
import json
with open(".session_data.json") as file: data = json.load(file)
data["count"] += 1
with open(".session_data.json", "w") as file: json.dump(data, file)
with open("log", "a") as file: file.write("x")
"""


def test_two_runs_of_a_session_never_meet(server: Served) -> None:
    """79: ten increments at once make ten; the mirror is a session each, where each makes one."""
    with server.session(data={"count": 0}) as session, ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: session.run(INCREMENT), range(10)))
        assert session.client.call("GET", session.path).json["data"] == {"count": 10}
        assert session.file("GET", "log").content == b"x" * 10
    with server.session(data={"count": 0}) as alone:
        alone.run(INCREMENT)
        assert alone.client.call("GET", alone.path).json["data"] == {"count": 1}


def test_one_session_full_of_runs_starves_no_other(server: Served) -> None:
    """81: what waits for its turn holds no place of the server; too many are told at once."""
    code = "import time; time.sleep(0.05)"
    with server.session() as greedy, server.session() as modest, ThreadPoolExecutor(40) as pool:
        asked = [
            pool.submit(greedy.client.call, "POST", f"{greedy.path}/run", code=code)
            for _ in range(40)
        ]
        until(lambda: greedy.client.call("GET", greedy.path).json["queued_runs"] > 8, "the queue")
        for _ in range(3):
            result = Session(server.other(), modest.id).run("print('served')")
            assert said(result) == "served\n"
        answers = Counter(one.result().status for one in asked)
        refused = [one.result() for one in asked if one.result().status == 429]
    assert answers[200] >= 17
    assert answers[200] + answers[429] == 40
    assert all(answer.json["code"] == "session_queue_full" for answer in refused)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


def test_a_flood_of_executions_leaves_room(server: Served) -> None:
    """81: a hundred and more at once wait or are refused; another client waits no longer than the bound."""

    def ask(number: int) -> int:
        return server.client.call(
            "POST", "/api/execute", code=f"print({number})", language="python"
        ).status

    with ThreadPoolExecutor(100) as pool:
        flood = [pool.submit(ask, number) for number in range(150)]
        for _ in range(3):
            server.hello()
        assert {one.result() for one in flood} <= {200, 429}


BEHIND = """
import os
if not os.fork():
    os.setsid()
    while True: open(f"x{os.urandom(4).hex()}", "wb").write(bytes(1 << 20))
"""


def test_nobody_gets_more_than_a_quota(server: Served) -> None:
    """82: by copies, by what still runs after the end, by many small steps; within it all is kept."""
    write = "import os\nopen(NAME, 'wb').write(os.urandom(12 << 20))"
    with server.session() as session:
        for name in ("a", "b"):
            assert session.run(f"NAME = {name!r}\n{write}")["files_modified"] == [name]
        over = session.run(f"NAME = 'c'\n{write}")
        assert (over["files_error"], over["files_modified"]) == ("quota_exceeded", [])
        assert session.file("PUT", "d", bytes(12 << 20)).status == 413
        assert session.run(BEHIND)["exit_code"] == 0
        copy = session.client.call("POST", f"{session.path}/duplicate", id="quota-copy")
        assert copy.json["total_size_bytes"] <= 32 << 20
        over = Session(session.client, "quota-copy").run(f"NAME = 'e'\n{write}")
        assert over["files_error"] == "quota_exceeded"
        assert session.client.call("DELETE", "/api/sessions/quota-copy").status == 200


# --- chance and memory of former runs -------------------------------------------------------------

CHANCE = {
    "python": test_warm.FRESH,
    "node": """
const c = require('crypto'), os = require('os');
console.log(Math.random(), Math.random()); console.log(c.randomBytes(8).toString('hex'));
console.log(c.randomUUID()); console.log(c.randomInt(2 ** 40));
""",
    "typescript": "console.log(Math.random()); console.log(crypto.randomUUID())",
}


@pytest.mark.parametrize("language", CHANCE)
def test_what_must_be_random_is(server: Served, language: str) -> None:
    """50: however many boxes come from one process.  A seed of one's own is the mirror."""
    rows = [said(server.client.execute(CHANCE[language], language)).split() for _ in range(5)]
    for values in zip(*rows, strict=True):
        assert len(set(values)) == len(rows), values
    seeded = "import random; random.seed(1); print(random.random())"
    assert len({said(server.client.execute(seeded)) for _ in range(2)}) == 1


def test_copies_of_a_session_share_no_name(server: Served) -> None:
    """50: ids of sessions, runs and VMs are each's own."""
    with server.session(data={"token": "t"}) as session:
        copies = [
            session.client.call("POST", f"{session.path}/duplicate").json["id"] for _ in range(3)
        ]
        several = [session, *(Session(session.client, one) for one in copies)]
        results = [one.run("import uuid; print(uuid.uuid4(), uuid.uuid1())") for one in several]
        for name in ("stdout", "vm_id", "run_id", "session_id"):
            assert len({result[name] for result in results}) == 4
        for one in copies:
            assert session.client.call("DELETE", f"/api/sessions/{one}").status == 200


def test_what_one_program_spoils_the_next_does_not_find(server: Served) -> None:
    """83: modules, environment, signals, files; the program that spoils sees it itself."""
    seen = "sys.stdout.write(json.loads('1') + sys.path[0])"
    for _ in range(3):
        spoilt = server.client.execute(test_warm.SPOIL + seen)
        assert (spoilt["exit_code"], spoilt["stdout"]) == (0, "spoilt/spoilt"), spoilt
        assert said(server.client.execute(test_warm.CLEAN)) == "clean\n"


LEFT_IN_MEMORY = """
x = [bytes("tenant-" + "of-before", "ascii") * 1000 for _ in range(100)]
open("/tmp/f", "wb").write(x[0])
"""
SEARCH = """
import os, re, sys
pattern = re.compile(b"".join(b"[%c]" % letter for letter in reversed(b"erofeb-fo-tnanet")))
found = 0
for line in open("/proc/self/maps"):
    span, rights, *_ = line.split()
    if not rights.startswith("rw"): continue
    start, end = (int(text, 16) for text in span.split("-"))
    with open("/proc/self/mem", "rb", 0) as memory:
        memory.seek(start)
        try: found += len(pattern.findall(memory.read(end - start)))
        except (OSError, OverflowError): pass
grown = [bytes(1 << 20) for _ in range(40)]
print(found)
"""


def test_no_byte_of_a_former_program_is_in_memory(server: Served) -> None:
    """83: and where it is this program's own, it is found."""
    for _ in range(3):
        assert said(server.client.execute(LEFT_IN_MEMORY)) == ""
        assert said(server.client.execute(SEARCH)) == "0\n"
    assert int(said(server.client.execute(LEFT_IN_MEMORY + "\n" + SEARCH))) >= 1000


# --- interpreters that are abused -----------------------------------------------------------------

ABUSES = {
    "builtins": """
import builtins
builtins.print = lambda *a: 1 / 0
builtins.open = builtins.__import__ = None""",
    "streams": "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = None",
    "descriptors": "import os\nos.closerange(0, 4096)\nos._exit(0)",
    "modules": "import sys\nfor name in list(sys.modules): sys.modules[name] = None",
    "json": "import json\njson.loads = json.dumps = json.load = lambda *a, **k: {'exit_code': 0}",
    "atexit": "import atexit\natexit.register(lambda: print('last'))",
    "trace": "import sys\nsys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)",
    "exec": "import os\nos.execv('/usr/bin/true', ['true'])",
    "parents": """
import os
for pid in (1, os.getppid(), 0x7fff):
    try: os.kill(pid, 9)
    except OSError: pass""",
    "memory": """
import gc
for thing in gc.get_objects():
    try: thing.clear()
    except Exception: pass""",
    "main": "import sys\nsys.modules['__main__'] = None\nsys.path[:] = sys.meta_path[:] = []",
    "exit": "import os, sys\nsys.excepthook = None\nos._exit = sys.exit = lambda *a: None",
    "audit": "import sys\nsys.addaudithook(lambda *a: 1 / 0)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "entry file": """
import os
for name in os.listdir("."): os.unlink(name)
os.symlink("/etc/passwd", ".era_main.py")""",
    "finalizer": "class A:\n def __del__(self):\n  while True: pass\na = A()",
}


def test_an_interpreter_that_is_abused_harms_its_own_run_alone(server: Served) -> None:
    """85: each abuse, and then an ordinary program in the same session."""
    with server.session(data={"n": 1}) as session:
        for name, code in ABUSES.items():
            session.run(code, timeout=1)
            after: Any = session.run("print('well'); open('kept', 'w').write('x')")
            assert (said(after), after["data"]) == ("well\n", {"n": 1}), name
        assert session.file("GET", "kept").content == b"x"
        assert session.run("import builtins\nbuiltins.print = None\nprint('x')")["exit_code"] == 1


HIJACKS = {
    "LD_PRELOAD": "/workspace/evil.so",
    "LD_LIBRARY_PATH": "/workspace",
    "LD_AUDIT": "/workspace/evil.so",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "GCONV_PATH": "/workspace",
    "PYTHONSTARTUP": "/workspace/evil.py",
    "PYTHONPATH": "/workspace/lib",
    "PYTHONHOME": "/workspace",
    "PYTHONINSPECT": "1",
    "PYTHONBREAKPOINT": "os.system",
    "NODE_OPTIONS": "--require /workspace/evil.js",
    "BASH_ENV": "/workspace/evil.sh",
    "ENV": "/workspace/evil.sh",
    "PATH": "/workspace/bin",
    "IFS": "/",
    "TMPDIR": "/workspace",
    "HOME": "/workspace",
    "LC_ALL": "C",
    "ERA_SESSION_ID": "forged",
}
EVIL = {
    "evil.sh": "echo hijacked as $(id -u) >&2",
    "evil.py": "raise SystemExit(9)",
    "evil.js": "console.error('hijacked')",
    "bin/python3": "#!/bin/sh\necho hijacked\n",
    "bin/uv": "#!/bin/sh\ntouch /tmp/hijacked\n",
    "lib/sitecustomize.py": "import sys; sys.stderr.write('hijacked\\n')",
    "evil.so": "not a library",
}


def test_variables_reach_the_program_and_nobody_else(server: Served) -> None:
    """63: what they do, they do inside; there, as the mirror shows, they do work."""
    with server.session() as session:
        for path, text in EVIL.items():
            session.file("PUT", path, text.encode())
        for name, value in HIJACKS.items():
            result = session.command("/usr/bin/id -u; echo done", env={name: value})
            assert "done" in result["stdout"], (name, result)
            session.run("print('run')", env={name: value}, timeout=5)
        hijacked = session.command("true", env={"BASH_ENV": "/workspace/evil.sh"})
        assert hijacked["stderr"] == "hijacked as 1000\n"
        forged = session.command("echo $ERA_SESSION_ID", env={"ERA_SESSION_ID": "forged"})
        assert said(forged).strip() == session.id
        assert "ERA_SESSION_ID" in " ".join(forged["warnings"])
        assert session.run("print('run')", env=HIJACKS, timeout=5)["session_id"] == session.id
        assert session.files().keys() == EVIL.keys()
