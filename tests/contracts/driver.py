"""What every driver promises (`era.sandbox.base`), as functions over a fixture `driver`.

A test module of a keeper defines the fixtures `driver` (started; closed afterwards) and `tools`
(`BoxTools`: programs inside the box) and imports everything from here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from dataclasses import dataclass

import pytest

from era import layout
from era.sandbox.base import Bind, Box, BoxSpec, Driver, Exit, Overlay, Program


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTools:
    """Programs that a box of the keeper has."""

    sh: str = "/bin/bash"
    python: str = "/usr/bin/python3"


PATH = "/usr/local/bin:/usr/bin:/bin"


def shell(tools: BoxTools, script: str, **more: object) -> Program:
    fields: dict[str, object] = {"env": {"PATH": PATH}, **more}
    return Program(argv=(tools.sh, "-c", script), **fields)  # type: ignore[arg-type]


def python(tools: BoxTools, code: str, **more: object) -> Program:
    fields: dict[str, object] = {"env": {"PATH": PATH}, **more}
    return Program(argv=(tools.python, "-I", "-S", "-c", code), **fields)  # type: ignore[arg-type]


async def one(driver: Driver, program: Program, spec: BoxSpec | None = None) -> Exit:
    async with driver.box(spec or BoxSpec()) as box:
        return await box.run(program)


async def output_of(box: Box, program: Program) -> str:
    """Run a program that must succeed; its standard output."""
    ended = await box.run(program)
    assert (ended.exit_code, ended.stderr) == (0, b"")
    return ended.stdout.decode()


class Watch:
    """A sink that remembers, and tells when some text has come out."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.seen = bytearray()
        self.came = asyncio.Event()

    def __call__(self, stream: str, chunk: bytes) -> None:
        if stream == "stdout":
            self.seen += chunk
            if self.text in self.seen:
                self.came.set()


# --- how a program ended -------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("code", [0, 1, 2, 77, 124, 137, 255])
async def test_the_exit_code_is_the_programs_own(
    driver: Driver, tools: BoxTools, code: int
) -> None:
    ended = await one(driver, shell(tools, f"exit {code}"))
    assert ended.exit_code == code
    assert ended.signal is None
    assert (ended.timed_out, ended.cancelled, ended.oom_killed) == (False, False, False)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "number"), [("SIGKILL", 9), ("SIGTERM", 15), ("SIGSEGV", 11), ("SIGABRT", 6)]
)
async def test_a_signal_is_128_and_its_number(
    driver: Driver, tools: BoxTools, name: str, number: int
) -> None:
    reset = f"signal.signal({number}, 0);" if name != "SIGKILL" else ""
    code = f"import os, signal; {reset} os.kill(os.getpid(), {number})"
    ended = await one(driver, python(tools, code))
    assert (ended.exit_code, ended.signal) == (128 + number, name)


@pytest.mark.anyio
async def test_a_program_that_is_not_there_fails_as_a_result(driver: Driver) -> None:
    ended = await one(driver, Program(argv=("/usr/bin/no-such-program",)))
    assert ended.exit_code in (126, 127)
    assert b"no-such-program" in ended.stderr


@pytest.mark.anyio
async def test_the_duration_is_measured(driver: Driver, tools: BoxTools) -> None:
    before = time.monotonic_ns()
    ended = await one(driver, shell(tools, "sleep 0.05"))
    assert 50_000_000 <= ended.duration_ns <= time.monotonic_ns() - before


# --- deadlines and cancel ------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_deadline_gives_124_and_keeps_partial_output(
    driver: Driver, tools: BoxTools
) -> None:
    ended = await one(driver, shell(tools, "echo before; sleep 600", timeout_seconds=0.5))
    assert (ended.exit_code, ended.timed_out, ended.stdout) == (124, True, b"before\n")


@pytest.mark.anyio
async def test_a_clean_exit_within_the_grace_is_still_124(driver: Driver, tools: BoxTools) -> None:
    code = (
        "import signal,sys,time\n"
        "def end(*a): print('cleaned', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    ended = await one(driver, python(tools, code, timeout_seconds=1.0, grace_seconds=30.0))
    assert (ended.exit_code, ended.timed_out) == (124, True)
    assert ended.stdout == b"ready\ncleaned\n"


@pytest.mark.anyio
async def test_ignoring_sigterm_does_not_help(driver: Driver, tools: BoxTools) -> None:
    program = shell(
        tools,
        "trap '' TERM; echo up; while :; do sleep 600; done",
        timeout_seconds=0.5,
        grace_seconds=0.3,
    )
    ended = await one(driver, program)
    assert (ended.exit_code, ended.timed_out, ended.stdout) == (124, True, b"up\n")


@pytest.mark.anyio
async def test_a_stopped_program_ends_at_the_deadline(driver: Driver, tools: BoxTools) -> None:
    program = shell(tools, "kill -STOP $$", timeout_seconds=0.3, grace_seconds=0.3)
    assert (await one(driver, program)).exit_code == 124


@pytest.mark.anyio
async def test_no_deadline_when_the_timeout_is_zero(driver: Driver, tools: BoxTools) -> None:
    assert (await one(driver, shell(tools, "sleep 0.2", timeout_seconds=0))).exit_code == 0


@pytest.mark.anyio
async def test_cancel_gives_143(driver: Driver, tools: BoxTools) -> None:
    watch = Watch(b"up\n")
    async with driver.box(BoxSpec()) as box:
        task = asyncio.create_task(
            box.run(shell(tools, "echo up; exec sleep 600", grace_seconds=30.0), watch)
        )
        await watch.came.wait()
        box.cancel()
        ended = await task
    assert (ended.exit_code, ended.cancelled, ended.timed_out) == (143, True, False)
    assert ended.stdout == b"up\n"


@pytest.mark.anyio
async def test_cancel_of_a_program_that_ignores_it_gives_137(
    driver: Driver, tools: BoxTools
) -> None:
    watch = Watch(b"up\n")
    script = "trap '' TERM; echo up; while :; do sleep 600; done"
    async with driver.box(BoxSpec()) as box:
        task = asyncio.create_task(box.run(shell(tools, script, grace_seconds=0.3), watch))
        await watch.came.wait()
        box.cancel()
        ended = await task
    assert (ended.exit_code, ended.cancelled) == (137, True)


@pytest.mark.anyio
async def test_cancel_without_a_program_has_no_effect(driver: Driver, tools: BoxTools) -> None:
    async with driver.box(BoxSpec()) as box:
        box.cancel()
        ended = await box.run(shell(tools, "echo on"))
        box.cancel()
        again = await box.run(shell(tools, "echo again"))
    assert (ended.exit_code, ended.stdout, ended.cancelled) == (0, b"on\n", False)
    assert (again.exit_code, again.stdout, again.cancelled) == (0, b"again\n", False)


TICKER = """
import os, signal, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
with open("tick", "w") as file:
    while True:
        file.write("x"); file.flush(); time.sleep(0.01)
"""
"""A descendant that detached, has a session of its own and ignores what it can."""


async def ticks_on(box: Box, tools: BoxTools) -> bool:
    """Whether the ticker of an earlier run still writes."""
    code = (
        "import os,time; a=os.stat('tick').st_size; time.sleep(0.3);"
        "print(os.stat('tick').st_size > a)"
    )
    return await output_of(box, python(tools, code)) == "True\n"


def with_ticker(tools: BoxTools, then: str) -> str:
    return f"""{tools.python} -I -S -c '{TICKER}'; until [ -s tick ]; do sleep 0.01; done; {then}"""


@pytest.mark.anyio
@pytest.mark.parametrize("then", ["exit 0", "exit 3", "sleep 600", "kill -KILL $$"])
async def test_nothing_of_a_run_outlives_it(driver: Driver, tools: BoxTools, then: str) -> None:
    async with driver.box(BoxSpec()) as box:
        program = shell(tools, with_ticker(tools, then), timeout_seconds=2.0, grace_seconds=0.2)
        await box.run(program)
        assert not await ticks_on(box, tools)


@pytest.mark.anyio
async def test_a_child_that_holds_the_pipes_delays_nothing(driver: Driver, tools: BoxTools) -> None:
    script = "sleep 600 & setsid sleep 600 & echo done"
    ended = await one(driver, shell(tools, script, timeout_seconds=0))
    assert (ended.exit_code, ended.stdout) == (0, b"done\n")


@pytest.mark.anyio
async def test_cancelling_the_task_kills_everything(driver: Driver, tools: BoxTools) -> None:
    """Every process of the box holds the pipe; it ends when the last of them is dead."""
    read, write = os.pipe()
    script = with_ticker(tools, "echo up; sleep 600")
    try:
        async with driver.box(BoxSpec()) as box:
            program = shell(tools, script, timeout_seconds=0, stdout_fd=write)
            task = asyncio.create_task(box.run(program))
            assert await asyncio.to_thread(os.read, read, 16) == b"up\n"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            os.close(write)
            assert await asyncio.to_thread(os.read, read, 16) == b""
    finally:
        os.close(read)


@pytest.mark.anyio
async def test_boxes_run_side_by_side(driver: Driver, tools: BoxTools) -> None:
    async def say(number: int) -> bytes:
        return (await one(driver, shell(tools, f"echo {number} > n; sleep 0.1; cat n"))).stdout

    assert await asyncio.gather(*map(say, range(4))) == [b"%d\n" % n for n in range(4)]


# --- streams -------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_streams_are_kept_apart_and_whole(driver: Driver, tools: BoxTools) -> None:
    ended = await one(driver, shell(tools, "printf 'a\\0b'; printf 'e\\377' >&2"))
    assert (ended.stdout, ended.stderr) == (b"a\0b", b"e\xff")
    assert (ended.stdout_truncated, ended.stderr_truncated) == (False, False)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_output_beyond_the_cap_is_dropped_and_flagged(
    driver: Driver, tools: BoxTools, stream: str
) -> None:
    code = f"import sys; [sys.{stream}.write('x' * 65536) for _ in range(64)]; sys.exit(5)"
    ended = await one(driver, python(tools, code, output_bytes=100_000))
    cut = {"stdout": ended.stdout_truncated, "stderr": ended.stderr_truncated}
    kept = {"stdout": ended.stdout, "stderr": ended.stderr}
    assert ended.exit_code == 5
    assert kept[stream] == b"x" * 100_000
    assert [name for name, flag in cut.items() if flag] == [stream]


@pytest.mark.anyio
async def test_the_tail_of_the_output_can_be_kept_instead(driver: Driver, tools: BoxTools) -> None:
    watch = Watch(b"last")
    code = "print('first' + 'x' * 300_000 + 'last', end='')"
    async with driver.box(BoxSpec()) as box:
        ended = await box.run(python(tools, code, output_bytes=1000, tail=True), watch)
    assert (ended.stdout, ended.stdout_truncated) == (b"x" * 996 + b"last", True)
    assert bytes(watch.seen) == b"first" + b"x" * 300_000 + b"last"


@pytest.mark.anyio
async def test_cancel_counts_from_the_moment_a_run_was_asked_for(
    driver: Driver, tools: BoxTools
) -> None:
    async with driver.box(BoxSpec()) as box:
        task = asyncio.create_task(box.run(shell(tools, "sleep 600", timeout_seconds=60)))
        await asyncio.sleep(0)
        box.cancel()
        ended = await task
    assert (ended.cancelled, ended.timed_out) == (True, False)


@pytest.mark.anyio
async def test_output_that_just_fits_is_not_flagged(driver: Driver, tools: BoxTools) -> None:
    ended = await one(driver, python(tools, "print('x' * 99, end='')", output_bytes=99))
    assert (len(ended.stdout), ended.stdout_truncated) == (99, False)


@pytest.mark.anyio
async def test_the_sink_gets_what_is_kept_as_it_comes(driver: Driver, tools: BoxTools) -> None:
    watch = Watch(b"first\n")
    async with driver.box(BoxSpec()) as box:
        task = asyncio.create_task(
            box.run(shell(tools, "echo first; sleep 600", timeout_seconds=0), watch)
        )
        await watch.came.wait()
        assert not task.done()
        box.cancel()
        assert (await task).stdout == bytes(watch.seen)


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 1, 5_000_000])
async def test_stdin_is_given_whole_then_ends(driver: Driver, tools: BoxTools, size: int) -> None:
    ended = await one(driver, shell(tools, "wc -c", stdin=b"i" * size))
    assert int(ended.stdout) == size


@pytest.mark.anyio
async def test_a_program_may_ignore_its_stdin(driver: Driver, tools: BoxTools) -> None:
    ended = await one(driver, shell(tools, "echo fine", stdin=b"i" * 5_000_000))
    assert (ended.exit_code, ended.stdout) == (0, b"fine\n")


@pytest.mark.anyio
async def test_open_files_can_be_the_streams(driver: Driver, tools: BoxTools) -> None:
    source, target = os.memfd_create("in"), os.memfd_create("out")
    try:
        os.pwrite(source, b"given", 0)
        program = shell(tools, "cat; echo seen >&2", stdin_fd=source, stdout_fd=target)
        ended = await one(driver, program)
        assert os.pread(target, 100, 0) == b"given"
    finally:
        os.close(source)
        os.close(target)
    assert (ended.stdout, ended.stderr) == (b"", b"seen\n")


# --- what the program sees -----------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_environment_is_exactly_what_was_given(driver: Driver, tools: BoxTools) -> None:
    env = {"PATH": PATH, "ODD": "a b\n'\"$x", "EMPTY": ""}
    code = "print(open('/proc/self/environ').read(), end='')"
    ended = await one(driver, python(tools, code, env=env))
    assert set(ended.stdout.decode().split("\0")) - {""} == {f"{k}={v}" for k, v in env.items()}


@pytest.mark.anyio
async def test_arguments_arrive_as_they_are(driver: Driver, tools: BoxTools) -> None:
    odd = ("", "a b", "$HOME", "new\nline", "é", "--")
    argv = (tools.python, "-I", "-S", "-c", "import sys; print(sys.argv[1:])", *odd)
    ended = await one(driver, Program(argv=argv, env={"PATH": PATH, "LC_ALL": "C.UTF-8"}))
    assert ended.stdout.decode() == f"{list(odd)}\n"


@pytest.mark.anyio
async def test_the_current_directory_is_the_workspace(driver: Driver, tools: BoxTools) -> None:
    async with driver.box(BoxSpec()) as box:
        await output_of(box, shell(tools, "echo 1 > here; mkdir sub"))
        below = shell(tools, "cat ../here", cwd=f"{layout.WORKSPACE}/sub")
        assert await output_of(box, below) == "1\n"


@pytest.mark.anyio
async def test_no_descriptor_but_the_streams(driver: Driver, tools: BoxTools) -> None:
    code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    assert (await one(driver, python(tools, code))).stdout == b"[0, 1, 2]\n"


# --- files ---------------------------------------------------------------------------------------


def listing(fd: int, at: str = "") -> dict[str, str]:
    """Everything below an open directory: path to `d`, `l`, `-` or `w` (a deletion)."""
    found: dict[str, str] = {}
    here = os.open(at or ".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    try:
        for name in os.listdir(here):
            path = f"{at}/{name}" if at else name
            info = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                found[path] = "w"
            else:
                found[path] = stat.filemode(info.st_mode)[0]
            if stat.S_ISDIR(info.st_mode):
                found |= listing(fd, path)
    finally:
        os.close(here)
    return found


def place(box: Box, name: str, content: bytes, mode: int = 0o644) -> None:
    """Put a file into the workspace from outside, as staging does."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=box.workspace_fd)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        if box.owner is not None:
            os.fchown(file.fileno(), box.owner, box.owner)


def fill(directory: str, files: dict[str, str]) -> str:
    """Write `files` below `directory`, readable and writable by everyone."""
    for name, text in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o666)
    for at, dirs, _ in os.walk(directory):
        for name in dirs:
            os.chmod(os.path.join(at, name), 0o777)
    os.chmod(directory, 0o777)
    return directory


@pytest.fixture
def lower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory to lay below /workspace."""
    files = {"a": "lower a", "b": "lower b", "d/x": "lower x", "d/y": "lower y", "e/z": "lower z"}
    return fill(str(tmp_path_factory.mktemp("lower")), files)


@pytest.mark.anyio
async def test_files_placed_before_a_run_are_in_the_workspace(
    driver: Driver, tools: BoxTools
) -> None:
    async with driver.box(BoxSpec()) as box:
        place(box, ".era_entry", b"text")
        assert await output_of(box, shell(tools, "cat .era_entry; echo more >> .era_entry")) == (
            "text"
        )
        assert await output_of(box, shell(tools, "cat .era_entry")) == "textmore\n"


@pytest.mark.anyio
async def test_changes_are_seen_in_the_upper_directory(
    driver: Driver, tools: BoxTools, lower: str
) -> None:
    script = "echo new > n; echo more >> a; rm b; rm d/x; rm -r e; mkdir -p f/g; ln -s n l"
    async with driver.box(BoxSpec(workspace=(lower,))) as box:
        assert listing(box.workspace_fd) == {}
        await output_of(box, shell(tools, script))
        assert listing(box.workspace_fd) == {
            "n": "-", "a": "-", "b": "w", "d": "d", "d/x": "w", "e": "w", "f": "d", "f/g": "d",
            "l": "l",
        }  # fmt: skip
    assert sorted(os.listdir(lower)) == ["a", "b", "d", "e"]
    with open(os.path.join(lower, "a"), encoding="utf-8") as file:
        assert file.read() == "lower a"


@pytest.mark.anyio
async def test_changes_in_home_and_tmp_are_seen_too(
    driver: Driver, tools: BoxTools, lower: str
) -> None:
    overlays = (Overlay(target=layout.HOME, lowers=(lower,)),)
    script = f"cd {layout.HOME}; echo new > n; rm b; rm -r e; echo t > {layout.TMP}/t"
    async with driver.box(BoxSpec(overlays=overlays)) as box:
        await output_of(box, shell(tools, script))
        found = {}
        for target in (layout.HOME, layout.TMP):
            fd = box.changes(target)
            assert fd is not None
            try:
                found[target] = listing(fd)
            finally:
                os.close(fd)
    assert found == {layout.HOME: {"n": "-", "b": "w", "e": "w"}, layout.TMP: {"t": "-"}}
    assert sorted(os.listdir(lower)) == ["a", "b", "d", "e"]


@pytest.mark.anyio
async def test_a_later_run_finds_what_an_earlier_one_changed(
    driver: Driver, tools: BoxTools, lower: str
) -> None:
    async with driver.box(BoxSpec(workspace=(lower,))) as box:
        await output_of(
            box, shell(tools, "rm -r a d; mkdir d; echo new > d/n; mkfifo p; ln -s b l")
        )
        seen = shell(tools, "ls -A . d; cat l; rm p; echo a > a")
        assert await output_of(box, seen) == ".:\nb\nd\ne\nl\np\n\nd:\nn\nlower b"
        place(box, "late", b"placed later")
        assert await output_of(box, shell(tools, "cat a late; ls d")) == "a\nplaced latern\n"
        assert listing(box.workspace_fd).keys() >= {"a", "late", "d", "d/n", "l"}


@pytest.mark.anyio
async def test_the_topmost_lower_wins(
    driver: Driver, tools: BoxTools, lower: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = fill(str(tmp_path_factory.mktemp("top")), {"a": "top a", "d/w": "top w"})
    async with driver.box(BoxSpec(workspace=(top, lower))) as box:
        seen = await output_of(box, shell(tools, "cat a b d/w d/x"))
    assert seen == "top alower btop wlower x"


@pytest.mark.anyio
async def test_scratch_stays_between_the_runs_of_a_box_and_not_longer(
    driver: Driver, tools: BoxTools
) -> None:
    write = f"echo w > w; echo h > {layout.HOME}/h; echo t > {layout.TMP}/t"
    read = f"cat w {layout.HOME}/h {layout.TMP}/t"
    async with driver.box(BoxSpec()) as box:
        await output_of(box, shell(tools, write))
        assert await output_of(box, shell(tools, read)) == "w\nh\nt\n"
    assert (await one(driver, shell(tools, read))).exit_code == 1


@pytest.mark.anyio
async def test_an_overlay_has_its_lowers_and_keeps_them(
    driver: Driver, tools: BoxTools, lower: str
) -> None:
    overlay = Overlay(target="/opt/era/extra", lowers=(lower,))
    async with driver.box(BoxSpec(overlays=(overlay,))) as box:
        script = "cd /opt/era/extra && cat a && rm a && echo n > n"
        assert await output_of(box, shell(tools, script)) == "lower a"
        assert await output_of(box, shell(tools, "ls /opt/era/extra")) == "b\nd\ne\nn\n"
    assert sorted(os.listdir(lower)) == ["a", "b", "d", "e"]


@pytest.mark.anyio
async def test_an_overlay_without_lowers_is_empty_scratch(driver: Driver, tools: BoxTools) -> None:
    spec = BoxSpec(overlays=(Overlay(target="/opt/era/layer"),))
    async with driver.box(spec) as box:
        await output_of(box, shell(tools, "ls -A /opt/era/layer; echo 1 > /opt/era/layer/one"))
        assert await output_of(box, shell(tools, "cat /opt/era/layer/one")) == "1\n"


@pytest.mark.anyio
async def test_a_bind_shows_a_directory(driver: Driver, tools: BoxTools, lower: str) -> None:
    spec = BoxSpec(binds=(Bind(source=lower, target="/opt/era/shown"),))
    assert (await one(driver, shell(tools, "cat /opt/era/shown/a"), spec)).stdout == b"lower a"


@pytest.mark.anyio
async def test_a_writable_bind_takes_what_is_written(
    driver: Driver, tools: BoxTools, lower: str
) -> None:
    spec = BoxSpec(binds=(Bind(source=lower, target="/opt/era/shown", writable=True),))
    await one(driver, shell(tools, "echo out > /opt/era/shown/out"), spec)
    with open(os.path.join(lower, "out"), encoding="utf-8") as file:
        assert file.read() == "out\n"


@pytest.mark.anyio
async def test_leaving_a_box_leaves_no_descriptor(driver: Driver, tools: BoxTools) -> None:
    async def held() -> int:
        """How many there are once that does not change any more: they go behind the answer."""
        seen = [0]
        while len(set(seen[-20:])) > 1 or len(seen) < 20:
            await asyncio.sleep(0.01)
            seen.append(len(os.listdir("/proc/self/fd")))
        return seen[-1]

    await one(driver, shell(tools, "true"))
    before = await held()
    for _ in range(3):
        await one(driver, shell(tools, "true"))
        assert await held() <= before


# --- connections into a box ----------------------------------------------------------------------

ECHO = """
import os, socket
server = socket.create_server(("127.0.0.1", {port}))
print(server.getsockname()[1], flush=True)
for _ in range({times}):
    client = server.accept()[0]
    while piece := client.recv(65536):
        client.sendall(piece[::-1])
    client.close()
"""


async def exchange(box: Box, port: int, data: bytes) -> bytes:
    """What a server in the box answers to `data`."""
    reader, writer = await asyncio.open_connection(sock=await box.connect(port))
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


@pytest.mark.anyio
async def test_a_server_in_a_box_is_reached(driver: Driver, tools: BoxTools) -> None:
    watch = Watch(b"\n")
    async with driver.box(BoxSpec()) as box:
        program = python(tools, ECHO.format(port=0, times=3), timeout_seconds=60.0)
        running = asyncio.ensure_future(box.run(program, watch))
        await asyncio.wait_for(watch.came.wait(), 60)
        port = int(watch.seen)
        assert await exchange(box, port, b"abc") == b"cba"
        assert await asyncio.gather(*(exchange(box, port, b"xy") for _ in range(2))) == [b"yx"] * 2
        assert (await running).exit_code == 0
        with pytest.raises(ConnectionRefusedError):
            await box.connect(port)


@pytest.mark.anyio
async def test_where_nobody_listens_there_is_no_connection(driver: Driver, tools: BoxTools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    watch = Watch(b"\n")
    async with driver.box(BoxSpec()) as box:
        with pytest.raises(ConnectionRefusedError):
            await box.connect(port)
        running = asyncio.ensure_future(box.run(shell(tools, "echo; sleep 60"), watch))
        await asyncio.wait_for(watch.came.wait(), 60)
        with pytest.raises(ConnectionRefusedError):
            await box.connect(port)
        box.cancel()
        await running
