"""Go programs: compiled in a box of their own, kept for their session, never by anybody's program.

Whether a program was compiled is seen by the boxes that were asked for: one that compiles has no
program of ours in it, one that runs has it at `layout.PROGRAM`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from era import layout
from era.errors import ConflictError
from era.models import NewCopy, RunRequest, RunResult, Usage
from era.sandbox.base import BoxSpec, Exit, Program
from era.sessions import builds
from era.sessions.settings import ProgramLimits, RunLimits
from era.storage.base import Quota
from tests.sessions.conftest import contents, until
from tests.sessions.workshop import (
    HELLO,
    TOOL,
    USES_LIB,
    Workshop,
    both,
    compiler_was_needed,
    lib,
    program,
    shows_program,
)

pytestmark = pytest.mark.anyio

# --- once is enough -------------------------------------------------------------------------------


@both
async def test_an_unchanged_program_is_not_compiled_again(one: Workshop) -> None:
    assert await one.compiled(HELLO) == "hello\n"
    (before,) = (path.stat() for path in Path(one.programs).glob("*/program"))
    for _ in range(2):
        assert await one.reused(HELLO) == "hello\n"
    await one.room.restart()
    assert await one.reused(HELLO) == "hello\n"
    (after,) = (path.stat() for path in Path(one.programs).glob("*/program"))
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


async def test_stored_code_is_the_same_program(one: Workshop) -> None:
    await one.compiled(HELLO)
    await one.room.sessions.put_code("s", HELLO)
    before = len(one.room.driver.specs)
    assert (await one.room.run(None)).stdout == "hello\n"
    assert not compiler_was_needed(one.room.driver.specs[before:])


async def test_what_a_program_leaves_does_not_make_it_another(one: Workshop) -> None:
    body = (
        'data, _ := os.ReadFile("n"); os.WriteFile("n", append(data, 0x2b), 0o644);'
        'os.WriteFile(".session_data.json", []byte(fmt.Sprintf(`{"n":%d}`, len(data))), 0o644);'
        "fmt.Println(len(data), os.Args[1:], os.Getenv(`MINE`)); io.Copy(os.Stdout, os.Stdin)"
    )
    code = program(body, "fmt", "io", "os")
    assert await one.compiled(code) == "0 [] \n"
    await one.room.put("notes/other.txt", b"text")
    await one.room.put("unused/u.go", b"package unused\n")
    assert await one.reused(code, args=("a",), env={"MINE": "x"}, stdin="in") == "1 [a] x\nin"
    assert await one.reused(code, args=("b",), env={"GOGC": "50", "PATH": "/x"}) == "2 [b] \n"
    assert (await one.room.sessions.get("s")).record.data == '{"n":2}'


async def test_a_session_that_is_not_persistent_keeps_it_too(workshop: Workshop) -> None:
    await workshop.room.create(language="go", persistent=False)
    await workshop.compiled(HELLO)
    await workshop.reused(HELLO)


async def test_it_is_no_file_of_the_session(one: Workshop) -> None:
    await one.room.restart(quota=Quota(total_bytes=1000, count=1))
    result, _ = await one.run(HELLO)
    assert (result.files_modified, result.files_skipped, result.files_error) == ((), (), None)
    listing = program(
        'es, _ := os.ReadDir("."); for _, e := range es { fmt.Println(e.Name()) }', "fmt", "os"
    )
    for _ in range(2):
        result, _ = await one.run(listing)
        assert result.stdout.split() == [".era_main.go", ".session_data.json"]
    assert await one.room.paths() == []
    record = (await one.room.sessions.get("s")).record
    assert (record.file_count, record.total_size_bytes) == (0, 0)


@both
async def test_concurrent_runs_compile_once(one: Workshop) -> None:
    results = await asyncio.gather(*(one.room.run(HELLO) for _ in range(4)))
    assert {result.stdout for result in results} == {"hello\n"}
    assert len(one.room.driver.specs) == 5
    assert len(one.kept()) == 1


ENDS = program(
    'fmt.Println(os.Args[1:], os.Getenv("E")); io.Copy(os.Stdout, os.Stdin);'
    "switch os.Args[1] {"
    'case "panic": panic("oops")\n'
    'case "signal": syscall.Kill(os.Getpid(), syscall.SIGTERM); time.Sleep(time.Hour)\n'
    'case "sleep": time.Sleep(time.Hour)\n'
    'default: n, _ := strconv.Atoi(os.Args[1]); os.Stderr.WriteString("err\\n"); os.Exit(n) }',
    *("fmt", "io", "os", "strconv", "syscall", "time"),
)


@both
@pytest.mark.parametrize(
    ("args", "code", "signal"),
    [
        (("0", "a b", "--x", ""), 0, None),
        (("7", "$HOME", "'\""), 7, None),
        (("255",), 255, None),
        (("panic",), 2, None),
        (("signal",), 143, "SIGTERM"),
        (("sleep",), 124, "SIGTERM"),
    ],
)
async def test_a_program_ends_alike_compiled_and_reused(
    one: Workshop, args: tuple[str, ...], code: int, signal: str | None
) -> None:
    await one.run(ENDS, args=("0",))
    stdin, env = "line\nline", {"E": "ü = 1"}
    fields: dict[str, Any] = {"args": args, "stdin": stdin, "env": env}
    if args == ("sleep",):
        fields["timeout_seconds"] = 3.0
    found = []
    for ends in (ENDS, f"{ENDS}\n// another\n"):
        result, compiled = await one.run(ends, **fields)
        found.append((compiled, _outcome(result)))
    (reused, first), (compiled, second) = found
    assert (reused, compiled) == (False, True)
    assert first == second
    assert (first["exit_code"], first["signal"]) == (code, signal)
    assert first["stdout"] == f"[{' '.join(args)}] ü = 1\nline\nline"


def _outcome(result: RunResult) -> dict[str, object]:
    names = ("exit_code", "signal", "stdout", "stderr", "timed_out", "oom_killed", "cancelled")
    return {name: getattr(result, name) for name in names}


# --- whose it is ----------------------------------------------------------------------------------


@both
async def test_sessions_share_nothing(workshop: Workshop) -> None:
    for session_id in ("a", "b"):
        await workshop.room.create(session_id, language="go")
        await workshop.compiled(HELLO, session_id)
    await workshop.room.sessions.duplicate("a", NewCopy(id="copy"))
    await workshop.compiled(HELLO, "copy")
    files = [path.stat().st_ino for path in Path(workshop.programs).glob("*/program")]
    assert len(set(files)) == 3
    for session_id in ("a", "b", "copy"):
        await workshop.reused(HELLO, session_id)


async def test_deletion_removes_it(workshop: Workshop) -> None:
    room = workshop.room
    for session_id in ("a", "b", "c", "d"):
        await room.create(session_id, language="go")
        await workshop.compiled(HELLO, session_id)
    await room.sessions.delete("a")
    assert len(workshop.kept()) == 3
    await room.create("a", language="go")
    await workshop.compiled(HELLO, "a")
    await workshop.reused(HELLO, "b")
    await room.sessions.close(0)
    await room.records.delete("c")  # while no server was there to see it
    await room.start()
    assert len(workshop.kept()) == 3
    await room.sessions.delete_all()
    await room.restart()
    assert [name for name in os.listdir(workshop.programs) if not name.startswith("boot-")] == []


@both
async def test_an_execution_keeps_nothing(workshop: Workshop) -> None:
    request = RunRequest(code=HELLO, language="go")
    for _ in range(2):
        assert (await workshop.room.sessions.execute(request)).stdout == "hello\n"
    assert len(workshop.room.driver.specs) == 4
    await workshop.room.restart()
    assert [name for name in os.listdir(workshop.programs) if not name.startswith("boot-")] == []


async def test_what_is_lost_is_made_again(one: Workshop) -> None:
    await one.compiled(HELLO)
    for name in one.kept():
        shutil.rmtree(f"{one.programs}/{name}")
    await one.compiled(HELLO)
    await one.reused(HELLO)


async def test_what_was_used_longest_ago_is_removed_first(one: Workshop) -> None:
    def variant(number: int) -> str:
        return f"{HELLO}// {number}\n"

    await one.room.restart(programs=ProgramLimits(session_programs=2, cache_programs=3))
    for number in (1, 2):
        await one.compiled(variant(number))
    await one.reused(variant(1))
    await one.compiled(variant(3))
    await one.reused(variant(1))
    await one.compiled(variant(2))
    await one.room.create("other", language="go")
    for number in (4, 5):
        await one.compiled(variant(number), "other")
    assert len(one.kept()) == 3
    await one.compiled(variant(1))


@pytest.mark.parametrize("bound", ["session_bytes", "cache_bytes"])
async def test_bytes_are_bounded(one: Workshop, bound: str) -> None:
    await one.room.restart(programs=ProgramLimits(**{bound: 1}))
    assert await one.compiled(HELLO) == "hello\n"
    other = f"{HELLO}// other\n"
    assert await one.compiled(other) == "hello\n"
    assert len(one.kept()) == 1


async def test_a_program_that_is_too_large_does_not_run(one: Workshop) -> None:
    await one.room.restart(programs=ProgramLimits(program_bytes=1000))
    out: list[tuple[str, str]] = []
    request = RunRequest(code=HELLO)
    result = await one.room.sessions.run("s", request, lambda *piece: out.append(piece))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "too large" in result.stderr
    assert out == [("stderr", result.stderr)]
    assert one.kept() == []


# --- what goes wrong ------------------------------------------------------------------------------


async def tool(one: Workshop, text: str) -> None:
    """Put the program that `TOOL` names."""
    await one.room.put("tool.sh", text.encode())


@both
async def test_a_build_that_fails_is_kept_by_nobody(one: Workshop) -> None:
    out: list[tuple[str, str]] = []
    code = program("x := 1")
    for _ in range(2):
        request = RunRequest(code=code, update_data='{"b":2}')
        result = await one.room.sessions.run("s", request, lambda *piece: out.append(piece))
        assert (result.exit_code, result.stdout, result.signal) == (1, "", None)
        assert "era_main.go" in result.stderr
        assert "declared and not used: x" in result.stderr
        assert (result.data, result.data_error) == ('{"b":2}', None)
        assert result.duration_ns > 0
    assert "".join(text for _, text in out) == 2 * result.stderr
    assert {stream for stream, _ in out} == {"stderr"}
    assert one.kept() == []
    await one.room.put("lib/l.go", lib(1))
    assert await one.compiled(USES_LIB) == "1\n"
    await one.room.put("lib/l.go", b"package lib\n")
    result, compiled = await one.run(USES_LIB)
    assert (result.exit_code, compiled) == (1, True)
    await one.room.put("lib/l.go", lib(1))
    assert await one.reused(USES_LIB) == "1\n"


@both
async def test_the_time_of_a_build_counts(one: Workshop) -> None:
    await tool(one, "exec sleep 600")
    result = await _unrun(one, HELLO, env=TOOL, timeout_seconds=1.0)
    assert (result.exit_code, result.timed_out, result.signal) == (124, True, "SIGTERM")
    assert result.duration_ns >= 1_000_000_000
    assert one.kept() == []


@both
async def test_the_program_has_the_rest_of_the_time(one: Workshop) -> None:
    await tool(one, '[[ $1 != */link || $2 = -V* ]] || sleep 1; exec "$@"')
    result, compiled = await one.run(HELLO, env=TOOL)
    assert (result.stdout, compiled) == ("hello\n", True)
    assert result.duration_ns >= 1_000_000_000
    ended = Exit(exit_code=0, stdout=b"", stderr=b"", duration_ns=1_500_000_000)
    made = builds.Made(path="/x", ended=ended)
    asked = Program(argv=("/x",), timeout_seconds=2.0)
    assert builds.started(made, BoxSpec(), asked)[1].timeout_seconds == 0.5
    short = builds.started(made, BoxSpec(), replace(asked, timeout_seconds=1.0))[1]
    assert 0 < short.timeout_seconds < 0.01
    endless = builds.started(made, BoxSpec(), replace(asked, timeout_seconds=0))[1]
    assert endless.timeout_seconds == 0


@both
async def test_cancel_and_delete_while_it_is_built(one: Workshop) -> None:
    await tool(one, "exec sleep 600")
    seen = len(one.room.driver.specs)
    task = asyncio.create_task(one.room.run(HELLO, env=TOOL))
    await until(lambda: len(one.room.driver.specs) > seen)
    while not await one.room.sessions.cancel("s"):
        await asyncio.sleep(0.01)
    result = await task
    assert (result.cancelled, result.stdout) == (True, "")
    assert result.exit_code in (137, 143)
    seen = len(one.room.driver.specs)
    task = asyncio.create_task(one.room.run(HELLO, env=TOOL))
    await until(lambda: len(one.room.driver.specs) > seen)
    await one.room.sessions.delete("s")
    with pytest.raises(ConflictError):
        await task
    assert one.kept() == []
    await one.room.restart()
    assert [name for name in os.listdir(one.programs) if not name.startswith("boot-")] == []


@both
async def test_a_build_without_memory(workshop: Workshop) -> None:
    if "memory" in " ".join(workshop.room.parts.driver.unenforced):
        pytest.skip("this host cannot bound memory")
    await workshop.room.create(language="go", memory_mib=64)
    await tool(workshop, "exec tail /dev/zero")
    result = await _unrun(workshop, HELLO, env=TOOL)
    assert (result.exit_code, result.oom_killed, result.signal) == (137, True, "SIGKILL")
    assert workshop.kept() == []


@both
async def test_a_build_without_disk(one: Workshop) -> None:
    await one.room.restart(runs=RunLimits(disk_bytes=256 << 10))
    result = await _unrun(one, HELLO)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no space left on device" in result.stderr.lower()
    assert one.kept() == []


async def _unrun(one: Workshop, code: str, **fields: Any) -> RunResult:
    """The result of a program that is never started."""
    before = len(one.room.driver.specs)
    result = await one.room.run(code, **fields)
    assert not any(shows_program(spec) for spec in one.room.driver.specs[before:])
    return result


# --- nobody changes what is kept ------------------------------------------------------------------

SPOILS = program(
    "b, err := os.ReadFile(os.Args[1]); fmt.Println(len(b) > 0, err);"
    "for _, path := range []string{os.Args[1], os.Args[2]} {"
    " f, err := os.OpenFile(path, os.O_WRONLY, 0); fmt.Println(err != nil); f.Close();"
    " fmt.Println(os.Chmod(path, 0o777) != nil) };"
    "fmt.Println(os.Truncate(os.Args[1], 0) != nil);"
    'old := os.Args[1] + ".old"; fmt.Println(os.Rename(os.Args[1], old) != nil);'
    "os.Rename(old, os.Args[1]);"
    "fmt.Println(os.Remove(os.Args[1]) != nil)",
    *("fmt", "os"),
)


@both
async def test_a_program_cannot_change_what_is_kept(one: Workshop) -> None:
    await one.compiled(HELLO)
    await one.compiled(SPOILS, args=("/dev/null", "/dev/null"))
    before = contents(one.programs)
    outcome = await one.reused(SPOILS, args=(layout.PROGRAM, "/proc/self/exe"))
    assert outcome == "true <nil>\n" + 7 * "true\n"
    assert contents(one.programs) == before
    # The same acts on a file of its own work.
    await one.room.put("mine", b"x")
    assert await one.reused(SPOILS, args=("mine", "mine")) == "true <nil>\n" + 7 * "false\n"
    assert await one.reused(HELLO) == "hello\n"


@both
async def test_a_build_leaves_the_program_and_nothing_else(one: Workshop) -> None:
    """What a tool of the build writes elsewhere is gone with its box, and so are its processes."""
    await tool(
        one,
        "mkdir -p /workspace/mark /tmp/mark ~/mark; setsid sleep 600 >/dev/null 2>&1 &"
        ' echo x >/opt/era/program; exec "$@"',
    )
    code = program(
        'for _, p := range []string{"mark", "/tmp/mark", "/home/era/mark"}'
        " { _, err := os.Stat(p); fmt.Println(err != nil) }",
        *("fmt", "os"),
    )
    result, compiled = await one.run(code, env=TOOL)
    assert (result.stdout, result.exit_code, compiled) == (3 * "true\n", 0, True)
    assert result.files_modified == ()
    assert await one.reused(code, env=TOOL) == 3 * "true\n"
    # Without the tool it is another program, since the variable is another.
    assert await one.compiled(code) == 3 * "true\n"


def test_a_run_has_used_what_its_build_has() -> None:
    ended = Exit(exit_code=3, stdout=b"", stderr=b"", duration_ns=5)
    ended = replace(ended, usage=Usage(cpu_ms=20, peak_memory_bytes=100))
    build = replace(ended, exit_code=0, usage=Usage(cpu_ms=1, peak_memory_bytes=300))
    whole = builds.together(build, ended)
    assert (whole.exit_code, whole.duration_ns) == (3, 10)
    assert whole.usage == Usage(cpu_ms=21, peak_memory_bytes=300)
    assert builds.together(replace(build, usage=Usage()), ended).usage == Usage()
    assert builds.together(None, ended) is ended


def test_only_a_regular_file_is_taken(tmp_path: Path) -> None:
    there, target = tmp_path / "there", tmp_path / "target"
    there.mkdir()
    (there / "file").write_bytes(b"x" * 1000)
    (there / "link").symlink_to("file")
    (there / "dir").mkdir()
    os.mkfifo(there / "fifo")
    fd = os.open(there, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in ("link", "dir", "fifo", "absent", "../there/file", "dir/../file"):
            assert builds._take(fd, name, str(target), 1000) is None, name
            assert not target.exists()
        assert builds._take(fd, "file", str(target), 999) is None
        assert builds._take(fd, "file", str(target), 1000) == 1000
    finally:
        os.close(fd)
    assert target.read_bytes() == b"x" * 1000
    assert target.stat().st_mode & 0o7777 == 0o555
    assert target.stat().st_ino != (there / "file").stat().st_ino
