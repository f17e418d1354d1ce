"""Whoever is killed, on either path: nothing outlives it, what was committed stays, and service goes on."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.served import PATHS, SMALL, Answer, Served, Session, said
from tests.e2e.conftest import watched
from tests.sandbox.census import Process, until

pytestmark = pytest.mark.xdist_group("attacks")

STUBBORN = """
import os, signal, time
for number in (1, 2, 10, 15): signal.signal(number, signal.SIG_IGN)
if not os.fork(): os.setsid()
open("half", "w").write("done by half")
print("up", flush=True)
time.sleep(98765)
"""


def begin(served: Served, session: Session, pool: ThreadPoolExecutor) -> Future[Answer]:
    """A run that does not end by itself, once it is under way."""
    before = sleepers(served)
    path = f"{session.path}/run"
    running = pool.submit(session.client.call, "POST", path, code=STUBBORN, timeout=900)
    until(lambda: len(sleepers(served)) >= len(before) + 2 or running.done(), "a run")
    assert not running.done(), running.result()
    return running


def sleepers(served: Served) -> list[int]:
    """Processes below the server that ignore SIGUSR1, which nothing of the service does: a box that
    is being made ignores for a moment what the launcher ignores."""
    return [one.pid for one in Process(served.server.pid, "").family() if _ignores(one.pid)]


def _ignores(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    ignored = int(status.partition("SigIgn:\t")[2].split()[0], 16)
    depth = len(status.partition("NSpid:")[2].split("\n")[0].split())
    return depth == 3 and bool(ignored & 1 << signal.SIGUSR1 - 1)


def outer(served: Served) -> Process:
    """The process that the server started."""
    return served.launcher()[0]


def launcher(served: Served) -> Process:
    """The launcher proper."""
    return served.launcher()[1]


VICTIMS: dict[str, Callable[[Served], Process]] = {"outer": outer, "launcher": launcher}


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_launcher_is_killed_in_the_middle_of_a_run(server: Served, victim: str) -> None:
    """80: the run fails as the service's fault, keeps nothing, and the next one works."""
    with server.session() as session, ThreadPoolExecutor(1) as pool:
        session.file("PUT", "kept", b"kept")
        running = begin(server, session, pool)
        before = Process(server.server.pid, "").family()
        os.kill(VICTIMS[victim](server).pid, signal.SIGKILL)
        answer = running.result()
        assert (answer.status, answer.json["code"]) == (500, "execution_failed")
        assert str(server.server.state_dir) not in answer.content.decode()
        until(lambda: not any(one.alive for one in before), "the end of every process")
        assert said(session.run("print(open('kept').read())")) == "kept\n"
        assert session.files().keys() == {"kept"}


def standing(server: Served) -> list[Process]:
    """Standing interpreters: below the launcher, in its pid namespace, running a program's command."""
    found = []
    for child in launcher(server).children():
        command = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        if b".era_main.py" in command:
            found.append(child)
    return found


def test_the_standing_interpreter_is_killed_in_the_middle_of_a_run(started: Any) -> None:
    """80: with runs of its own and boxes waiting; on the cold path there is none."""
    served = started("warm", SMALL | {"ERA_READY_BOXES": PATHS["warm"]})
    with served.unharmed(), served.session() as session, ThreadPoolExecutor(1) as pool:
        running = begin(served, session, pool)
        (victim,) = standing(served)
        forks = victim.family()
        assert len(forks) >= 2  # program and child, if no other box waits at this moment
        os.kill(victim.pid, signal.SIGKILL)
        answer = running.result()
        assert (answer.status, answer.json["code"]) == (500, "execution_failed")
        until(lambda: not any(one.alive for one in forks), "the end of its forks")
        for _ in range(3):
            served.hello()
        assert session.files() == {}
        until(lambda: len(standing(served)) == 1, "another standing interpreter")
        assert standing(served) != [victim]
    cold = started("cold", SMALL | {"ERA_READY_BOXES": PATHS["cold"]})
    assert standing(cold) == []


@pytest.fixture
def mortal(path: str) -> Iterator[Served]:
    """A server of one's own, to be killed."""
    with watched(SMALL | {"ERA_READY_BOXES": PATHS[path]}) as server:
        yield Served(server)


GROW = """
import os
number = len(os.listdir("."))
with open(f"part{number}", "wb") as file: file.write(os.urandom(100_000 + number))
"""


def checksums(session: Session) -> dict[str, str]:
    """Of every file of the session."""
    return {
        name: hashlib.sha256(session.file("GET", name).content).hexdigest()
        for name in session.files()
    }


def test_the_server_is_killed_again_and_again(mortal: Served) -> None:
    """80: three times in the middle of a run: no process, mount or device is left, no file is lost."""
    made = mortal.client.call("POST", "/api/sessions", id="s", language="python", data={"n": 1})
    assert made.status == 201
    session = Session(mortal.client, "s")
    for _ in range(3):
        assert session.run(GROW)["exit_code"] == 0
        before = checksums(session)
        state = session.client.call("GET", session.path).json
        with ThreadPoolExecutor(1) as pool:
            running = begin(mortal, session, pool)
            assert len(Process(mortal.server.pid, "").family()) >= 5
            mortal.server.kill()
            assert isinstance(running.exception(), OSError)
        assert mortal.server.left_behind(killed=True) == []
        mortal.server.start()
        assert session.client.call("GET", session.path).json == state
        assert checksums(session) == before
        assert "half" not in before
    assert len(checksums(session)) == 3
