"""Boxes that stand ready: fresh each time, exact in their limits, and missed by nobody when they are gone."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import era.sandbox.namespaces.driver
import era.sandbox.namespaces.run
from era import layout
from era.errors import InternalError
from era.languages.environment import LAYER_PYTHON
from era.runtimes import Runtimes
from era.sandbox.base import Bind, BoxSpec, Overlay, Warm
from era.sandbox.namespaces import pool
from era.sandbox.namespaces.cgroups import detect
from era.sandbox.namespaces.cgroups.v1 import remove_group
from tests.contracts.driver import Watch, fill
from tests.languages.boxes import place
from tests.sandbox.census import Process, count, launcher_processes, process, until
from tests.sandbox.standing import (
    LIMITS,
    SPEC,
    Standing,
    python_program,
    run_code,
    standing_driver,
)

ROOT = os.geteuid() == 0
Ready = tuple[Standing, Runtimes]


@pytest.fixture
async def ready(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Ready]:
    async with standing_driver(str(tmp_path), count=2) as made:
        yield made


async def said(ready: Ready, code: str, spec: BoxSpec = SPEC, **more: object) -> str:
    """What a program in a box made ahead prints; it must succeed."""
    driver, runtimes = ready
    await driver.fill()
    ended = await run_code(driver, runtimes, code, spec, **more)
    assert (ended.exit_code, ended.stderr) == (0, b"")
    return ended.stdout.decode()


# --- it is used ----------------------------------------------------------------------------------

LOADS = """
import sys
loads = []
sys.addaudithook(lambda event, args: loads.append(args[0]) if event == "open" else None)
import asyncio, json, logging, unittest, urllib.request
print([name for name in loads if str(name).endswith((".pyc", ".py"))])
"""


@pytest.mark.anyio
async def test_what_is_known_ahead_is_not_loaded_again(ready: Ready) -> None:
    assert await said(ready, LOADS) == "[]\n"
    driver, runtimes = ready
    cold = await run_code(driver, runtimes, LOADS, replace(SPEC, interpreter=""))
    assert cold.stdout.count(b".pyc") > 50


@pytest.mark.anyio
async def test_an_interpreter_of_its_own_where_the_start_would_be_another(ready: Ready) -> None:
    """The standing one has read its modules; where a program has others, it is not used."""
    driver, runtimes = ready
    code = "import sys; print('sitecustomize' in sys.modules)"
    await driver.fill()
    async with driver.box(SPEC) as box:
        files = {".era_main.py": code, "lib/sitecustomize.py": "print('mine')"}
        place(box, {name: text.encode() for name, text in files.items()})
        program = python_program(runtimes, env={"PYTHONPATH": "/workspace/lib"})
        assert driver.is_warm(box, program)
        assert (await box.run(program)).stdout == b"mine\nTrue\n"


STACK = """
import threading
def size():
    import ctypes
    libc, attributes, found = ctypes.CDLL(None), ctypes.create_string_buffer(64), ctypes.c_size_t()
    libc.pthread_getattr_np(ctypes.c_ulong(threading.get_ident()), attributes)
    libc.pthread_attr_getstacksize(attributes, ctypes.byref(found))
    print(found.value)
thread = threading.Thread(target=size); thread.start(); thread.join()
"""


@pytest.mark.anyio
async def test_threads_have_the_stack_of_the_box_whatever_the_service_has(
    tmp_path: Path, anyio_backend: str
) -> None:
    """The C library reads the limit once, when a process starts."""
    limit = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (3 << 20, limit[1]))
    try:
        async with standing_driver(str(tmp_path)) as ready:
            assert int(await said(ready, STACK)) == 8 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, limit)


# --- nothing of one run reaches another ----------------------------------------------------------

FRESH = """
import os, random, secrets, tempfile, uuid
print(random.random(), random.getrandbits(64), hash(random.getstate()), sep="\\n")
print(secrets.token_hex(8), os.urandom(8).hex(), uuid.uuid1(), uuid.uuid4(), sep="\\n")
print(tempfile.mkdtemp(), tempfile.mktemp(), random.SystemRandom().random(), sep="\\n")
print(random.Random().random())
"""


@pytest.mark.anyio
async def test_what_must_be_random_is(ready: Ready) -> None:
    rows = [(await said(ready, FRESH)).split() for _ in range(6)]
    for values in zip(*rows, strict=True):
        assert len(set(values)) == len(rows)


SPOIL = """
import atexit, builtins, gc, json, logging, os, random, signal, sys, threading, time, warnings
random.seed(1)
json.loads = lambda text: "spoilt"
builtins.print = None
os.environ["SPOILT"] = "1"
os.environ["TZ"] = "Asia/Tokyo"; time.tzset()
os.umask(0o777)
os.chdir("/")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.alarm(1000)
sys.modules["re"] = None
sys.path.insert(0, "/spoilt")
sys.setrecursionlimit(50)
sys.setswitchinterval(1)
sys.stdout.reconfigure(encoding="latin-1")
logging.basicConfig(level=0)
warnings.simplefilter("error")
gc.disable()
threading.stack_size(1 << 20)
for place in ("/workspace/spoilt", "/tmp/spoilt", os.path.expanduser("~/spoilt"), "/dev/shm/spoilt"):
    open(place, "w").close()
sys.meta_path.clear()
"""
CLEAN = """
import builtins, gc, json, logging, os, random, signal, sys, threading, time, warnings, re
assert json.loads("1") == 1
assert callable(builtins.print)
assert "SPOILT" not in os.environ and time.tzname == ("UTC", "UTC")
assert os.umask(0) == 0o022 and os.getcwd() == "/workspace"
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and signal.alarm(0) == 0
assert "/spoilt" not in sys.path and sys.getrecursionlimit() == 1000
assert sys.getswitchinterval() < 0.1 and len(sys.meta_path) == 3
assert sys.stdout.encoding == "utf-8" and not logging.root.handlers
assert not any(filter[0] == "error" for filter in warnings.filters)
assert gc.isenabled() and threading.stack_size() == 0
random.seed(1)
first = random.random()
for place in ("/workspace", "/tmp", os.path.expanduser("~"), "/dev/shm"):
    assert "spoilt" not in os.listdir(place), place
print("clean")
"""


@pytest.mark.anyio
async def test_what_one_program_spoils_the_next_does_not_find(ready: Ready) -> None:
    driver, runtimes = ready
    for _ in range(3):
        await driver.fill()
        ended = await run_code(driver, runtimes, SPOIL)
        assert (ended.exit_code, ended.stderr) == (0, b"")
        assert await said(ready, CLEAN) == "clean\n"


GENERATION = """
import sys
print(hash("x"), id(sys), open("/proc/self/maps").read().split("-")[0])
"""


@pytest.mark.anyio
async def test_hash_seed_and_addresses_are_shared_for_so_many_runs_only(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FORKS", 3)
    driver, _ = ready
    seen = [(await said(ready, GENERATION)) for _ in range(12)]
    assert 3 <= len(set(seen)) < len(seen)
    hashes = [row.split()[0] for row in seen]
    # Generations come one after the other, none comes again.
    assert len(set(hashes)) == 1 + sum(a != b for a, b in pairwise(hashes))
    await one_stands(driver)


@pytest.mark.anyio
async def test_a_replaced_interpreter_ends_though_nobody_asks_for_its_boxes(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, _ = ready
    (replaced,) = standing(driver)
    monkeypatch.setattr(pool, "FORKS", 1)
    for _ in range(2):  # it has filled the pool, and fills up what these take
        assert await said(ready, "print(1)") == "1\n"
    async with asyncio.timeout(60):
        while replaced.alive:
            await asyncio.sleep(0.01)
    await one_stands(driver)


# --- what breaks, and who notices ----------------------------------------------------------------


def standing(driver: Standing) -> list[Process]:
    """The standing interpreters."""
    if driver.starting:
        return []
    _, inner = launcher_processes(driver)
    found = []
    for child in inner.children():
        with open(f"/proc/{child.pid}/cmdline", "rb") as file:
            if b".era_main.py" in file.read():
                found.append(child)
    return found


async def one_stands(driver: Standing) -> None:
    """Those that were replaced end: the pool goes on filling up meanwhile."""
    async with asyncio.timeout(60):
        while len(standing(driver)) != 1:
            await asyncio.sleep(0.01)


async def recovered(ready: Ready, not_by: Process) -> None:
    """The pool fills up from another standing process."""
    driver, _ = ready
    async with asyncio.timeout(60):
        while not_by.alive or driver.waiting < 2:
            await asyncio.sleep(0.01)
    assert not_by not in standing(driver)
    assert await said(ready, "print('on')") == "on\n"


@pytest.mark.anyio
async def test_the_standing_interpreter_dies_while_boxes_wait(ready: Ready) -> None:
    driver, runtimes = ready
    (it,) = standing(driver)
    boxes = it.family()
    assert len(boxes) >= 2
    os.kill(it.pid, signal.SIGKILL)
    until(lambda: not any(one.alive for one in boxes), "the end of the boxes that waited")
    for _ in range(3):  # the driver has not heard of it yet, hears of it, and has nothing ready
        assert (await run_code(driver, runtimes, "print(1)")).stdout == b"1\n"
    await recovered(ready, it)
    _, inner = launcher_processes(driver)
    assert not [one for one in inner.children() if not one.alive]  # no zombie


@pytest.mark.anyio
async def test_a_standing_interpreter_that_does_not_answer_is_replaced(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(era.sandbox.namespaces.driver, "_READY_SECONDS", 0.5)
    monkeypatch.setattr(era.sandbox.namespaces.run, "_DEATH_SECONDS", 0.5)
    driver, runtimes = ready
    (it,) = standing(driver)
    os.kill(it.pid, signal.SIGSTOP)
    for _ in range(4):
        with suppress(InternalError):  # it has the only word on how the boxes that waited ended
            ended = await run_code(driver, runtimes, "print(1)", timeout_seconds=1)
            assert (ended.stdout, ended.exit_code) == (b"1\n", 0)
    await recovered(ready, it)


@pytest.mark.skipif(not ROOT, reason="only root may bound a process's forks here")
@pytest.mark.anyio
async def test_a_standing_interpreter_that_cannot_fork_is_done_without(ready: Ready) -> None:
    driver, runtimes = ready
    (it,) = standing(driver)
    parents = detect.find_v1()
    assert parents is not None, "this test needs the cgroup v1 hierarchies of a root service"
    group = Path(parents["pids"], f"no-forks-{os.getpid()}")
    group.mkdir()
    try:
        (group / "pids.max").write_text("1")
        (group / "cgroup.procs").write_text(str(it.pid))
        for _ in range(4):
            assert (await run_code(driver, runtimes, "print(1)")).stdout == b"1\n"
        assert it.alive
        assert driver.waiting == 0
        (group / "pids.max").write_text("max")
        await recovered_by(ready, it)
    finally:
        (Path(parents["pids"]) / "cgroup.procs").write_text(str(it.pid))
        until(lambda: remove_group(str(group)), "the end of forks in the group")


async def recovered_by(ready: Ready, it: Process) -> None:
    """The pool fills up again from the same standing process."""
    driver, _ = ready
    await driver.fill(2)
    assert it in standing(driver)
    assert await said(ready, "print('on')") == "on\n"


@pytest.mark.anyio
async def test_the_standing_interpreter_dies_while_a_program_runs(ready: Ready) -> None:
    driver, runtimes = ready
    (it,) = standing(driver)
    watch = Watch(b"up\n")
    async with driver.box(SPEC) as box:
        place(box, {".era_main.py": b"import time\nprint('up')\ntime.sleep(600)\n"})
        run = asyncio.create_task(box.run(python_program(runtimes, timeout_seconds=0), watch))
        await watch.came.wait()
        os.kill(it.pid, signal.SIGKILL)
        with pytest.raises(InternalError) as caught:
            await run
        assert caught.value.code == "execution_failed"
    await recovered(ready, it)


@pytest.mark.anyio
@pytest.mark.parametrize("which", [0, 1], ids=["outer", "inner"])
async def test_the_launcher_dies_and_boxes_stand_ready_again(ready: Ready, which: int) -> None:
    driver, runtimes = ready
    (it,) = standing(driver)
    family = launcher_processes(driver)[0].family()
    os.kill(launcher_processes(driver)[which].pid, signal.SIGKILL)
    until(lambda: not any(one.alive for one in family), "the end of every process")
    await driver.lost()
    assert (await run_code(driver, runtimes, "print(1)")).stdout == b"1\n"
    await recovered(ready, it)


@pytest.mark.anyio
async def test_boxes_stand_ready_again_when_nobody_asks(ready: Ready) -> None:
    """A service at rest recovers by itself."""
    driver, _ = ready
    (it,) = standing(driver)
    os.kill(launcher_processes(driver)[1].pid, signal.SIGKILL)
    await driver.lost()
    await driver.fill(2)
    await recovered(ready, it)


@pytest.mark.anyio
async def test_a_process_killed_at_the_gate_costs_nothing(ready: Ready) -> None:
    """The program had not begun, so it runs, in a tree made on demand."""
    driver, runtimes = ready
    (it,) = standing(driver)
    async with driver.box(SPEC) as box:
        place(box, {".era_main.py": b"print('ran'); open('once', 'a').write('x')"})
        for program in it.children():
            os.kill(program.pid, signal.SIGKILL)
        ended = await box.run(python_program(runtimes))
        assert (ended.exit_code, ended.stdout) == (0, b"ran\n")
        with open(os.open("once", os.O_RDONLY, dir_fd=box.workspace_fd)) as file:
            assert file.read() == "x"


@pytest.mark.anyio
async def test_a_python_that_cannot_stand_ready_is_done_without(
    tmp_path: Path, anyio_backend: str
) -> None:
    class Unable(Standing):
        async def _start_interpreter(self, warm: Warm, name: str) -> None:
            await super()._start_interpreter(replace(warm, argv=("/usr/bin/false",)), name)

    async with standing_driver(str(tmp_path), kind=Unable, wait=False) as (driver, runtimes):
        await asyncio.sleep(0.5)
        assert (await run_code(driver, runtimes, "print(1)")).stdout == b"1\n"
        assert driver.waiting == 0


# --- many at once, given up, not used ------------------------------------------------------------


@pytest.mark.anyio
async def test_a_burst_is_served_from_the_pool_and_beside_it(ready: Ready) -> None:
    driver, runtimes = ready
    at_once = asyncio.Semaphore(24)

    async def one(number: int) -> None:
        async with at_once:
            ended = await run_code(driver, runtimes, f"print({number})")
            assert (ended.exit_code, ended.stdout) == (0, b"%d\n" % number)

    await asyncio.gather(*map(one, range(200)))
    await driver.fill(2)


@pytest.mark.anyio
async def test_runs_given_up_at_any_moment_leave_nothing(ready: Ready, tmp_path: Path) -> None:
    driver, runtimes = ready
    await run_code(driver, runtimes, "print(1)")
    await settled(driver)
    before = count(driver, str(tmp_path))
    for turns in range(40):
        tasks = [
            asyncio.create_task(run_code(driver, runtimes, "print(1)"))
            for _ in range(1 + turns % 3)
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await settled(driver)
    assert count(driver, str(tmp_path)) == before


async def settled(driver: Standing) -> None:
    """Wait until the pool is full and nothing else is left: launcher's children are stable."""
    await driver.fill(2)
    await driver.quiet()
    _, inner = launcher_processes(driver)
    async with asyncio.timeout(60):
        while len(inner.family()) != 1 + 2 * 2 or driver.opening:
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_a_box_that_is_not_used_leaves_nothing(ready: Ready, tmp_path: Path) -> None:
    driver, _ = ready
    await settled(driver)
    before = count(driver, str(tmp_path))
    for _ in range(5):
        async with driver.box(SPEC) as box:
            place(box, {"x": b"y"})
    await settled(driver)
    assert count(driver, str(tmp_path)) == before


@pytest.mark.anyio
@pytest.mark.parametrize(
    "on_disk", [False, pytest.param(True, marks=pytest.mark.skipif(not ROOT, reason="root"))]
)
async def test_many_runs_leave_nothing(tmp_path: Path, anyio_backend: str, on_disk: bool) -> None:
    async with standing_driver(str(tmp_path), count=2, on_disk=on_disk) as (driver, runtimes):
        for _ in range(8):  # spaces on disk are kept for the next boxes
            await run_code(driver, runtimes, "print(1)")
        await settled(driver)
        before = count(driver, str(tmp_path))
        for number in range(300):
            ended = await run_code(driver, runtimes, f"open('f', 'w').write('x'); print({number})")
            assert ended.stdout == b"%d\n" % number
        await settled(driver)
        after = count(driver, str(tmp_path))
        assert replace(after, loops=before.loops, mounts=before.mounts) == before
        assert after.loops - before.loops <= 3  # one space for each box that was open at once
        family = launcher_processes(driver)[0].family()
    until(lambda: not any(one.alive for one in family), "the end of every process")
    assert os.listdir(tmp_path / "images") == []
    assert process(family[0].pid) != family[0] or not family[0].alive


# --- the limits are the box's own ----------------------------------------------------------------


@pytest.mark.anyio
async def test_other_limits_than_the_usual_are_kept(ready: Ready) -> None:
    driver, runtimes = ready
    code = "import resource, threading; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    fewer = replace(SPEC, limits=replace(LIMITS, open_files=77))
    await driver.fill()
    async with driver.box(fewer) as box:
        place(box, {".era_main.py": code.encode()})
        assert not driver.is_warm(box, python_program(runtimes))
        assert (await box.run(python_program(runtimes))).stdout == b"(77, 77)\n"


@pytest.mark.anyio
@pytest.mark.skipif(not ROOT, reason="CPU time is not bounded for an ordinary user")
async def test_other_cpus_are_given_to_a_box_that_waits(ready: Ready) -> None:
    driver, runtimes = ready
    code = "import time; a = time.process_time()\nwhile time.process_time() - a < 0.3: pass"
    await driver.fill()
    slow = replace(SPEC, limits=replace(LIMITS, cpus=0.2))
    async with driver.box(slow) as box:
        place(box, {".era_main.py": code.encode()})
        assert driver.is_warm(box, python_program(runtimes))
        ended = await box.run(python_program(runtimes))
    assert ended.exit_code == 0
    assert ended.duration_ns > 1_000_000_000


@pytest.mark.anyio
@pytest.mark.skipif(not ROOT, reason="memory is not bounded for an ordinary user")
async def test_memory_beyond_the_limit_ends_the_program(ready: Ready) -> None:
    driver, runtimes = ready
    await driver.fill()
    ended = await run_code(driver, runtimes, "x = bytearray(600 << 20)\nprint(len(x))")
    assert (ended.exit_code, ended.signal, ended.oom_killed) == (137, "SIGKILL", True)
    assert ended.stdout == b""


@pytest.mark.anyio
async def test_deadline_cancel_and_caps_are_exact(ready: Ready) -> None:
    driver, runtimes = ready
    sleep = "import time\nprint('up')\ntime.sleep(600)"
    await driver.fill()
    ended = await run_code(driver, runtimes, sleep, timeout_seconds=0.5)
    assert (ended.exit_code, ended.timed_out, ended.stdout) == (124, True, b"up\n")
    await driver.fill()
    ended = await run_code(driver, runtimes, "print('x' * 300_000, end='')", output_bytes=1000)
    assert (ended.stdout, ended.stdout_truncated) == (b"x" * 1000, True)
    await driver.fill()
    watch = Watch(b"up\n")
    async with driver.box(SPEC) as box:
        place(box, {".era_main.py": sleep.encode()})
        run = asyncio.create_task(box.run(python_program(runtimes, grace_seconds=30), watch))
        await watch.came.wait()
        box.cancel()
        ended = await run
    assert (ended.exit_code, ended.cancelled, ended.timed_out) == (143, True, False)


@pytest.mark.anyio
async def test_a_cancel_before_the_program_begins_counts(ready: Ready) -> None:
    driver, runtimes = ready
    await driver.fill()
    async with driver.box(SPEC) as box:
        place(box, {".era_main.py": b"import time; time.sleep(600)"})
        run = asyncio.create_task(box.run(python_program(runtimes, timeout_seconds=60)))
        await asyncio.sleep(0)
        box.cancel()
        assert (await run).cancelled


@pytest.mark.anyio
@pytest.mark.skipif(not ROOT, reason="use is not measured for an ordinary user")
async def test_use_is_the_programs_alone(ready: Ready) -> None:
    """What made the box and started the interpreter is not counted."""
    driver, runtimes = ready
    await driver.fill()
    little = await run_code(driver, runtimes, "print(1)")
    await driver.fill()
    burn = "import time\nwhile time.process_time() < 0.5: pass\nx = bytearray(100 << 20)"
    much = await run_code(driver, runtimes, burn)
    assert little.usage.cpu_ms is not None
    assert little.usage.cpu_ms < 100
    assert much.usage.cpu_ms is not None
    assert much.usage.cpu_ms >= 450
    assert (much.usage.peak_memory_bytes or 0) > 100 << 20
    assert (little.usage.peak_memory_bytes or 0) < 40 << 20


# --- what comes late -----------------------------------------------------------------------------

LOOK = """
import os, sys
for place in sys.argv[1:]:
    for at, dirs, names in os.walk(place):
        dirs.sort()
        for name in sorted([*dirs, *names]):
            path = os.path.join(at, name)
            info = os.lstat(path)
            print(path, oct(info.st_mode), info.st_uid, info.st_gid, info.st_size)
    print(place, os.access(place, os.W_OK), os.stat(place).st_uid, oct(os.stat(place).st_mode))
    try:
        open(os.path.join(place, "new"), "w").close()
        print("written")
    except OSError as error:
        print(error)
rows = [line.split(" - ")[0].split()[4:] for line in open("/proc/self/mountinfo")]
print(*sorted(" ".join(row) for row in rows if row[0] in sys.argv[1:]), sep="\\n")
import layered
print(layered.x, layered.__file__)
"""


def _spec_of_everything(directory: Path) -> BoxSpec:
    def lower(name: str, **files: str) -> str:
        (directory / name).mkdir(exist_ok=True)
        texts = {path.replace("__", "/"): text for path, text in files.items()}
        return fill(str(directory / name), texts)

    work = (lower("top", a="top"), lower("below", a="below", d__x="x"))
    layer = lower("layer", python__layered="", bin__tool="tool")
    os.rename(directory / "layer/python/layered", directory / "layer/python/layered.py")
    (directory / "layer/python/layered.py").write_text("x = 'layered'\n")
    return replace(
        SPEC,
        workspace=work,
        overlays=(
            Overlay(target=layout.HOME, lowers=(lower("home", h="home"),)),
            Overlay(target=layout.TMP, lowers=(lower("tmp", t="tmp"),)),
            Overlay(target="/opt/extra/deep", lowers=(lower("extra", e="extra"),)),
            Overlay(target="/opt/empty"),
        ),
        binds=(
            Bind(source=layer, target=layout.LAYER),
            Bind(source=lower("shown", s="shown"), target="/opt/shown", writable=True),
        ),
    )


@pytest.mark.anyio
async def test_what_comes_late_looks_as_if_it_had_always_been_there(
    ready: Ready, tmp_path: Path
) -> None:
    driver, runtimes = ready
    places = (
        *(layout.WORKSPACE, layout.HOME, layout.TMP, layout.LAYER),
        *("/opt/extra/deep", "/opt/empty", "/opt/shown"),
    )
    seen = []
    for interpreter in ("python", ""):
        home = tmp_path / (interpreter or "cold")
        home.mkdir()
        spec = replace(_spec_of_everything(home), interpreter=interpreter)
        await driver.fill()
        async with driver.box(spec) as box:
            place(box, {".era_main.py": LOOK.encode()})
            program = python_program(runtimes, places, {"PYTHONPATH": LAYER_PYTHON})
            assert driver.is_warm(box, program) == bool(interpreter)
            ended = await box.run(program)
        assert (ended.exit_code, ended.stderr) == (0, b"")
        seen.append(ended.stdout.decode())
        assert (home / "shown" / "new").exists()
    assert seen[0] == seen[1]
    assert "layered /opt/era/layer/python/layered.py" in seen[0]


@pytest.mark.anyio
async def test_a_second_program_in_a_box_that_stood_ready(ready: Ready) -> None:
    driver, runtimes = ready
    await driver.fill()
    async with driver.box(SPEC) as box:
        place(
            box,
            {".era_main.py": b"import os\nprint(sorted(os.listdir()))\nopen('made', 'w').close()"},
        )
        first = await box.run(python_program(runtimes))
        second = await box.run(python_program(runtimes))
    assert first.stdout == b"['.era_main.py']\n"
    assert second.stdout == b"['.era_main.py', 'made']\n"
