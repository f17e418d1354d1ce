"""Processes and the processor, through the API: bombs, those that will not die, signals, hoards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.attacks.served import Served, said
from tests.sandbox import programs
from tests.sandbox.census import process, until

pytestmark = pytest.mark.xdist_group("attacks")

SHELL_BOMB = "bomb() { bomb | bomb & }; bomb; sleep 600"
PYTHON_BOMBS = {
    "fork": "os.fork()",
    "spawn": "os.posix_spawn('/usr/bin/sleep', ['sleep', '600'], {})",
    "thread": "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
}
BOMB = """
import os, threading, time
while True:
    try: {}
    except (OSError, RuntimeError): pass
"""


@pytest.mark.parametrize("kind", [*PYTHON_BOMBS, "shell"])
def test_a_bomb_ends_at_the_deadline(server: Served, kind: str) -> None:
    """1"""
    with server.session() as session:
        if kind == "shell":
            ended = server.attack(lambda: session.command(SHELL_BOMB, timeout=1))
        else:
            code = BOMB.format(PYTHON_BOMBS[kind])
            ended = server.attack(lambda: session.run(code, timeout=1))
    end = (ended["exit_code"], ended["timed_out"], ended["oom_killed"])
    # So many interpreters are about as much memory as a run may have.
    assert end == (124, True, False) or (kind == "fork" and end == (137, False, True))


@pytest.mark.parametrize("code", [programs.FORKS, programs.THREADS], ids=["forks", "threads"])
def test_processes_are_counted(server: Served, ample: Served, code: str) -> None:
    """1, 8"""
    assert 50 < int(said(server.run(code))) < 64
    assert int(said(ample.client.execute(code))) == 150


DETACHED = """
import os, signal, sys, time
if not os.fork():
    os.setsid()
    for number in range(1, 65):
        if number not in (9, 19, 32, 33): signal.signal(number, signal.SIG_IGN)
    if os.fork(): os._exit(0)
    tick = 0
    while True:
        tick += 1
        with open("ticks", "w") as file: file.write(str(tick))
        time.sleep(0.01)
while not os.path.exists("ticks"): time.sleep(0.01)
first = open("ticks").read()
while open("ticks").read() in ("", first): time.sleep(0.01)
print("it ticks", flush=True)
"""
"""A grandchild that detaches, ignores what can be ignored, and keeps the standard streams open."""
ENDS = {"by itself": "", "at the deadline": "time.sleep(600)", "killed": "os.kill(os.getpid(), 9)"}


@pytest.mark.parametrize("end", ENDS)
def test_who_detached_dies_with_the_run(server: Served, end: str) -> None:
    """2, 3: the answer comes though the streams are open, and no process is left."""
    with server.session() as session:
        ended = server.attack(lambda: session.run(DETACHED + ENDS[end], timeout=1))
        assert ended["stdout"] == "it ticks\n"
        assert ended["exit_code"] == {"by itself": 0, "at the deadline": 124, "killed": 137}[end]
        server.settled("files")


def test_outside_who_detached_goes_on(tmp_path: os.PathLike[str]) -> None:
    """The mirror: the same program on the host ends, and its grandchild does not."""
    code = DETACHED.replace("    tick = 0", "    print(os.getpid(), flush=True)\n    tick = 0")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.wait()
    survivor = process(pid)
    try:
        assert survivor is not None
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
        assert survivor.alive
        assert parent.stdout.readline() == b"it ticks\n"
        os.set_blocking(parent.stdout.fileno(), False)
        assert parent.stdout.read(1) is None  # the stream has not ended: someone holds it open
    finally:
        os.kill(pid, signal.SIGKILL)
        parent.stdout.close()


@pytest.mark.parametrize("code", [programs.STOPPED, programs.VFORK], ids=["stopped", "vfork"])
def test_what_cannot_be_told_to_end_is_killed(server: Served, code: str) -> None:
    """4"""
    ended = server.run(code, timeout=0.5)
    assert (ended["exit_code"], ended["timed_out"]) == (124, True)
    assert ended["stdout"] in ("stopped\n", "in\n")


def test_outside_it_is_not_moved_by_a_word() -> None:
    """The mirror: a stopped process does not die when told to, but when killed."""
    with subprocess.Popen(["/usr/bin/sleep", "600"]) as sleeper:
        os.kill(sleeper.pid, signal.SIGSTOP)
        os.waitpid(sleeper.pid, os.WUNTRACED)
        sleeper.terminate()
        time.sleep(0.1)
        assert sleeper.poll() is None
        sleeper.kill()
    assert sleeper.returncode == -9


BUSY = f"""
import os
print("busy", flush=True)
for _ in range({4 * (os.cpu_count() or 1)}):
    if not os.fork():
        while True: pass
while True: pass
"""


def test_busy_loops_hold_up_neither_others_nor_the_end_of_the_same_session(server: Served) -> None:
    """5"""
    with server.session() as session, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, BUSY, timeout=600)
        until(lambda: bool(server.client.call("GET", session.path).json["running"]), "the run")
        for _ in range(3):
            server.hello()
        assert session.client.call("POST", f"{session.path}/cancel").json["cancelled"]
        ended = running.result()
    assert (ended["cancelled"], ended["timed_out"]) == (True, False)
    assert ended["exit_code"] in (137, 143)
    used_ns = ended["usage"]["cpu_ms"] * 1_000_000
    assert used_ns < 1.5 * ended["execution_time_ms"] * 1_000_000  # one CPU's worth


def test_signals_stay_in_the_box(server: Served) -> None:
    """6: everyone and process 1; the mirrors are in the programs, which kill what is their own."""
    assert said(server.run(programs.KILL_EVERYONE)) == "9\n"
    died, of = said(server.run(programs.SIGNALS)).split()
    assert died == of


def test_orphans_are_reaped(server: Served) -> None:
    """7: more of them, one after the other, than may be there at once."""
    assert said(server.run(programs.ORPHANS)) == "done\n"


def test_ten_thousand_zombies(ample: Served) -> None:
    """7"""
    code = programs.MANY_ZOMBIES.replace("MANY", "10_000")
    with ample.session() as session:
        ended = ample.attack(lambda: session.command(f"exec python3 -I -S -c '{code}'"))
    assert (ended["exit_code"], ended["signal"]) == (137, "SIGKILL")
    assert ended["stdout"] == "10000\n"


ALARM = "import signal; print(signal.getitimer(signal.ITIMER_REAL)[0] > 0, signal.alarm(0) > 0)"


def test_no_alarm_is_inherited(server: Served) -> None:
    """10"""
    assert said(server.run(ALARM)) == "False False\n"


def test_outside_an_alarm_is_inherited() -> None:
    """The mirror: it survives exec."""
    code = f"import os, signal, sys; signal.alarm(600); os.execv(sys.executable, ['p', '-c', {ALARM!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"True True\n"


HOARD = """
import ctypes, errno, fcntl, os, select, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
keep, null = [], os.open("/dev/null", os.O_RDONLY)
def all_of(make, most=200):
    made = 0
    try:
        while made < most:
            keep.append(make())
            made += 1
    except OSError: pass
    return made
def checked(result):
    if result < 0: raise OSError(ctypes.get_errno(), "")
    return result
def fly():
    pair = socket.socketpair()
    socket.send_fds(pair[0], [b"x"], [null] * 10)
    return pair
def wide():
    pipe = os.pipe()
    fcntl.fcntl(pipe[0], 1031, 1 << 20)
    return pipe
KINDS = {
    "inotify": lambda: checked(libc.inotify_init()),
    "flying": fly,
    "pipes": wide,
    "epoll": lambda: select.epoll(),
    "timers": lambda: checked(libc.timerfd_create(1, 0)),
    "memfd": lambda: os.memfd_create("x"),
    "shm": lambda: checked(libc.shmget(0, 4096, 0o1600)),
    "sem": lambda: checked(libc.semget(0, 100, 0o1600)),
    "msg": lambda: checked(libc.msgget(0, 0o1600)),
    "posix timers": lambda: checked(libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p()))),
}
"""
TAKE_ALL = HOARD + "for k in KINDS: print(k, all_of(KINDS[k]), flush=True)\ntime.sleep(600)\n"
TAKE_ONE = HOARD + "print(*(k for k in KINDS if not all_of(KINDS[k], 1)))\n"


def test_what_one_box_hoards_another_has(server: Served) -> None:
    """9: descriptors of every kind, and what the kernel keeps by user and by namespace."""
    with server.session() as session, ThreadPoolExecutor(1) as pool:
        hoarding = pool.submit(session.run, TAKE_ALL, timeout=600)
        until(lambda: bool(server.client.call("GET", session.path).json["running"]), "the run")
        for _ in range(3):
            assert said(server.other().execute(TAKE_ONE)) == "\n"
        session.client.call("POST", f"{session.path}/cancel")
        taken = dict(line.rsplit(" ", 1) for line in hoarding.result()["stdout"].splitlines())
    assert len(taken) == 10, taken
    assert min(map(int, taken.values())) >= 1


REFUSED_BY_COUNT = """
import errno, os
def most(make):
    made = 0
    try:
        while made < 5000: make(); made += 1
    except OSError as error: return made, errno.errorcode[error.errno]
    return made, ""
print(*most(lambda: os.open("/dev/null", os.O_RDONLY)))
"""


def test_descriptors_run_out_for_the_program_alone(server: Served) -> None:
    """9"""
    made, why = said(server.run(REFUSED_BY_COUNT)).split()
    assert (int(made) < 1024, why) == (True, "EMFILE")
    assert said(server.run(REFUSED_BY_COUNT.replace("5000", "500"))) == "500 \n"


AFFINITY = """
import os
cpu = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cpu})
os.nice(5)
print(len(os.sched_getaffinity(0)), os.nice(0))
"""


def test_priorities_are_the_programs_own_business_downwards(server: Served) -> None:
    """8: what lowers only itself is allowed; the other acts are among the refusals."""
    assert said(server.run(AFFINITY)) == f"1 {os.nice(0) + 5}\n"
