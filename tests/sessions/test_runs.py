"""The run pipeline: what a run sees, what is kept of it, and in which order things happen."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from era import jsontext
from era.errors import (
    ConflictError,
    EraError,
    InputError,
    InternalError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from era.models import Network, RunRequest, SessionPatch
from era.relpath import RelPath
from era.sandbox.base import Program
from era.storage.base import Quota
from tests.fakes.driver import ProcessBox
from tests.sessions.conftest import World, until

pytestmark = pytest.mark.anyio

INCREMENT = """
import json
with open('.session_data.json') as f: data = json.load(f)
data['count'] = data.get('count', 0) + 1
with open('.session_data.json', 'w') as f: json.dump(data, f)
"""


def wait_for(path: str) -> str:
    return f"import os, time\nwhile not os.path.exists({path!r}): time.sleep(0.01)\n"


async def started(world: World, task: asyncio.Task[Any], session_id: str = "s") -> None:
    """Wait until the session's run is in progress."""

    async def running() -> bool:
        if task.done():
            task.result()
        return (await world.sessions.get(session_id)).running

    await until(running)


# --- results -------------------------------------------------------------------------------------


async def test_an_execution_answers_with_the_programs_own_outcome(world: World) -> None:
    request = RunRequest(
        code="import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
        language="python",
    )
    result = await world.sessions.execute(request)
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert (result.session_id, result.data, result.isolation) == (None, None, "process")
    assert result.vm_id.startswith("python-")
    assert result.run_id.startswith("run_")


async def test_an_execution_has_files_stdin_args_and_env_and_no_session(world: World) -> None:
    code = (
        "import os, sys; print(open('d/x.txt').read(), sys.stdin.read(), sys.argv[1:],"
        "os.environ['V'], os.path.exists('.session_data.json'),"
        "[n for n in os.environ if n.startswith('ERA_')])"
    )
    request = RunRequest(
        code=code,
        language="python",
        files={RelPath("d/x.txt"): b"file"},
        stdin="in",
        args=("a", "b c"),
        env={"V": "v"},
    )
    result = await world.sessions.execute(request)
    assert result.stdout == "file in ['a', 'b c'] v False []\n"


async def test_a_session_run_sees_its_variables_files_and_data(world: World) -> None:
    await world.create(data='{"n":12345678901234567890,"t":"é"}')
    await world.put("in.txt", b"uploaded")
    code = (
        "import os; print(open('in.txt').read()); print(open('.session_data.json').read());"
        "print({k: v for k, v in sorted(os.environ.items()) if k.startswith('ERA_')})"
    )
    result = await world.run(code, base_url="http://h:1")
    assert result.stdout == (
        'uploaded\n{\n  "n": 12345678901234567890,\n  "t": "é"\n}\n'
        "{'ERA_BASE_URL': 'http://h:1', 'ERA_LANGUAGE': 'python',"
        " 'ERA_PROXY_URL': 'http://h:1/proxy/s', 'ERA_SESSION': 'true', 'ERA_SESSION_ID': 's'}\n"
    )
    assert (result.session_id, result.data) == ("s", '{"n":12345678901234567890,"t":"é"}')
    assert (result.data_error, result.files_modified, result.files_deleted) == (None, (), ())


async def test_a_variable_of_the_service_cannot_be_replaced(world: World) -> None:
    await world.create()
    result = await world.run(
        "import os; print(os.environ['ERA_SESSION_ID'])",
        env={"ERA_SESSION_ID": "other"},
        warnings=("unknown field ignored: x",),
    )
    assert result.stdout == "s\n"
    assert len(result.warnings) == 2
    assert result.warnings[0] == "unknown field ignored: x"


async def test_stored_code_is_run_when_none_is_given(world: World) -> None:
    await world.create()
    with pytest.raises(InputError) as caught:
        await world.run(None)
    assert caught.value.code == "no_code"
    await world.sessions.put_code("s", "print('stored')")
    assert (await world.run(None)).stdout == "stored\n"
    assert (await world.run("print('given')")).stdout == "given\n"


async def test_a_command_runs_in_the_workspace(world: World) -> None:
    await world.create()
    await world.command("echo one > a; mkdir d; echo two > d/b")
    assert await world.paths() == ["a", "d/b"]
    assert (await world.command("cat d/b; exit 9")).exit_code == 9


async def test_limits_and_network_come_from_the_session(world: World) -> None:
    await world.create(allow_internet=True, cpu_count=2, memory_mib=256)
    await world.run("pass")
    spec = world.driver.specs[-1]
    assert (spec.network, spec.limits.cpus, spec.limits.memory_bytes) == (
        Network.INTERNET,
        2,
        256 << 20,
    )
    await world.sessions.patch("s", SessionPatch(allow_internet=False))
    await world.run("pass")
    assert world.driver.specs[-1].network is Network.OFFLINE


@pytest.mark.parametrize(
    ("request_seconds", "session_seconds", "expected"),
    [(None, None, 30.0), (None, 7.5, 7.5), (2.5, 7.5, 2.5), (2.5, None, 2.5)],
)
async def test_the_timeout_is_the_requests_the_sessions_or_the_servers(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    request_seconds: float | None,
    session_seconds: float | None,
    expected: float,
) -> None:
    seen: list[Program] = []
    original = ProcessBox.run

    async def watching(box: ProcessBox, program: Program, sink: Any = None) -> Any:
        seen.append(program)
        return await original(box, program, sink)

    monkeypatch.setattr(ProcessBox, "run", watching)
    await world.create(default_timeout_seconds=session_seconds)
    await world.run("pass", timeout_seconds=request_seconds)
    assert [program.timeout_seconds for program in seen] == [expected]


async def test_a_timeout_beyond_the_maximum_is_refused(world: World) -> None:
    await world.create()
    with pytest.raises(InputError) as caught:
        await world.run("pass", timeout_seconds=3601)
    assert caught.value.code == "timeout_too_large"
    assert caught.value.text == "timeout exceeds the maximum of 3600 seconds"


async def test_a_language_without_a_runtime_is_refused(world: World) -> None:
    with pytest.raises(InputError) as caught:
        await world.create(language="go")
    assert caught.value.code == "unsupported_language"
    with pytest.raises(InputError):
        await world.sessions.execute(RunRequest(code="x", language="go"))


# --- output --------------------------------------------------------------------------------------


async def test_output_is_text_and_the_sink_gets_all_of_it(world: World) -> None:
    await world.create()
    pieces: list[tuple[str, str]] = []
    code = (
        "import os, time\n"
        "for part in (b'\\xc3', b'\\xa9x', b'\\xff', b'\\xe2\\x82', b'\\xac', b'\\xf0\\x9f'):\n"
        "    os.write(1, part); time.sleep(0.02)\n"
    )
    result = await world.sessions.run(
        "s", RunRequest(code=code), lambda stream, text: pieces.append((stream, text))
    )
    assert result.stdout == "éx\ufffd€\ufffd"
    assert "".join(text for _, text in pieces) == result.stdout
    assert not any("\ufffd" in text for _, text in pieces[:1])


@pytest.mark.parametrize("limit", [5, 6, 7, 8])
async def test_the_cap_never_splits_a_character(world: World, limit: int) -> None:
    await world.restart(runs=replace(world.limits.runs, output_bytes=limit))
    await world.create()
    result = await world.run("print('abc' + '€€€€')")
    assert result.stdout == "abc" + "€" * ((limit - 3) // 3)
    assert (result.stdout_truncated, result.stderr_truncated) == (True, False)


# --- files ---------------------------------------------------------------------------------------


async def test_changes_are_kept_and_deletions_stay_deleted(world: World) -> None:
    await world.create()
    await world.put("gone.txt", b"1")
    await world.put("changed.txt", b"2")
    result = await world.run(
        "import os; os.unlink('gone.txt'); open('changed.txt', 'a').write('+');"
        "os.makedirs('d/e'); open('d/new.txt', 'w').write('n')"
    )
    assert result.files_modified == ("changed.txt", "d/new.txt")
    assert result.files_deleted == ("gone.txt",)
    assert await world.content("changed.txt") == b"2+"
    again = await world.run("import os; print(sorted(os.listdir('.')), os.listdir('d'))")
    assert again.stdout == (
        "['.era_main.py', '.session_data.json', 'changed.txt', 'd'] ['e', 'new.txt']\n"
        if "'e', 'new.txt'" in again.stdout
        else "['.era_main.py', '.session_data.json', 'changed.txt', 'd'] ['new.txt', 'e']\n"
    )
    assert (again.files_modified, again.files_deleted) == ((), ())
    view = await world.sessions.get("s", with_files=True)
    assert [str(entry.path) for entry in view.files or ()] == ["changed.txt", "d/new.txt"]
    assert view.record.file_count == 2
    assert view.record.last_run_at_ms is not None


async def test_a_session_that_is_not_persistent_keeps_uploads_and_data_only(world: World) -> None:
    await world.create(persistent=False)
    await world.put("up.txt", b"up")
    result = await world.run(
        "open('x', 'w').write('x'); open('up.txt', 'a').write('+')" + INCREMENT
    )
    assert (result.files_modified, result.data) == ((), '{"count":1}')
    assert await world.paths() == ["up.txt"]
    assert (await world.run("print(open('up.txt').read())")).stdout == "up\n"


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), 9)", 137),
        ("time.sleep(600)", 124),
    ],
)
async def test_work_is_kept_however_the_program_ended(world: World, then: str, code: int) -> None:
    await world.create()
    program = f"{INCREMENT}\nimport os, sys, time\nopen('f', 'w').write('x')\n{then}"
    result = await world.run(program, timeout_seconds=1.0)
    assert result.exit_code == code
    assert (result.data, result.files_modified) == ('{"count":1}', ("f",))
    assert await world.content("f") == b"x"


async def test_what_is_not_kept_is_named(world: World) -> None:
    await world.create()
    result = await world.run("import os; open('.env', 'w').write('k'); os.mkfifo('p')")
    assert {(s.path, s.reason) for s in result.files_skipped} == {
        (".env", "secret_name"),
        ("p", "special_file"),
    }
    assert await world.paths() == []


async def test_the_entry_file_replaces_no_file_of_the_session(world: World) -> None:
    await world.create()
    await world.put(".era_main.py", b"mine")
    result = await world.run("print(open('.era_main.py').read())")
    assert (result.stdout, result.files_modified) == ("mine\n", ())
    assert await world.content(".era_main.py") == b"mine"


async def test_over_quota_no_file_is_kept_but_data_is(world: World) -> None:
    await world.restart(quota=Quota(total_bytes=100, count=10))
    await world.create()
    result = await world.run(f"open('big', 'w').write('x' * 101)\n{INCREMENT}")
    assert (result.exit_code, result.files_error) == (0, "quota_exceeded")
    assert any("the files of a session may be at most" in words for words in result.warnings)
    assert (result.files_modified, result.data) == ((), '{"count":1}')
    assert await world.paths() == []


async def test_a_full_blob_store_costs_the_files_and_not_the_data(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: object) -> None:
        raise UnavailableError("storage_full")

    await world.create()
    monkeypatch.setattr(world.blobs, "put_fds", full)
    result = await world.run(f"open('f', 'w').write('x')\n{INCREMENT}")
    assert (result.files_error, result.files_modified) == ("storage_full", ())
    assert (await world.sessions.get("s")).record.data == '{"count":1}'


async def test_a_full_record_store_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise UnavailableError("storage_full")

    await world.create()
    monkeypatch.setattr(world.records, "commit_run", full)
    with pytest.raises(UnavailableError) as caught:
        await world.run(INCREMENT)
    assert caught.value.status == 507


async def test_a_broken_box_is_an_error_of_the_service_and_commits_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a path of the host: /srv/x")

    await world.create()
    monkeypatch.setattr(ProcessBox, "run", broken)
    with pytest.raises(InternalError) as caught:
        await world.run("pass")
    assert caught.value.body() == {"error": "Failed to execute code", "code": "execution_failed"}
    assert (await world.sessions.get("s")).record.last_run_at_ms is None
    monkeypatch.undo()
    assert (await world.run("print(1)")).exit_code == 0


# --- data ----------------------------------------------------------------------------------------


async def test_ten_parallel_increments_make_ten(world: World) -> None:
    await world.create()
    results = await asyncio.gather(*(world.run(INCREMENT) for _ in range(10)))
    counts = sorted(jsontext.loads(result.data or "")["count"] for result in results)
    assert counts == list(range(1, 11))
    assert (await world.sessions.get("s")).record.data == '{"count":10}'


async def test_update_data_is_merged_before_the_run_and_kept_with_it(world: World) -> None:
    await world.create(data='{"a":1,"b":{"x":1}}')
    result = await world.run(
        "print(open('.session_data.json').read())", update_data='{"b":{"y":2},"c":3}'
    )
    assert jsontext.loads(result.stdout) == {"a": 1, "b": {"y": 2}, "c": 3}
    assert result.data == '{"a":1,"b":{"y":2},"c":3}'
    result = await world.run(INCREMENT, update_data='{"a":null}')
    assert jsontext.loads(result.data or "") == {"a": None, "b": {"y": 2}, "c": 3, "count": 1}


async def test_update_data_is_kept_when_the_program_spoils_the_file(world: World) -> None:
    await world.create(data='{"a":1}')
    result = await world.run("open('.session_data.json', 'w').write('{')", update_data='{"b":2}')
    assert (result.data, result.data_error) == ('{"a":1,"b":2}', "invalid_json")


async def test_update_data_needs_an_object_within_the_limit(world: World) -> None:
    await world.create(data="[1]")
    with pytest.raises(InputError) as caught:
        await world.run("pass", update_data='{"a":1}')
    assert caught.value.code == "invalid_field"
    await world.create("t", data='{"a":"%s"}' % ("x" * 100_000))
    with pytest.raises(TooLargeError) as large:
        await world.run("pass", "t", update_data='{"b":"%s"}' % ("x" * 100_000))
    assert (large.value.code, len(world.driver.specs)) == ("data_too_large", 0)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("open(F, 'w').write('{bad')", "invalid_json"),
        ("open(F, 'w').write('null')", "null"),
        ("open(F, 'w').write('[\"' + 'x' * 131072 + '\"]')", "too_large"),
        ("os.unlink(F)", "missing"),
        ("os.unlink(F); os.mkdir(F)", "unreadable"),
        ("os.unlink(F); os.symlink('/etc/hostname', F)", "unreadable"),
    ],
)
async def test_bad_data_keeps_the_old_and_fails_no_run(world: World, code: str, error: str) -> None:
    await world.create(data='{"old":1}')
    result = await world.run(f"import os; F = '.session_data.json'; {code}; print('ok')")
    assert (result.exit_code, result.stdout) == (0, "ok\n")
    assert (result.data_error, result.data) == (error, '{"old":1}')
    assert result.files_modified == ()


# --- beside a run --------------------------------------------------------------------------------


async def test_what_others_change_during_a_run_survives_it(world: World, tmp_path: Any) -> None:
    await world.create(data='{"a":1}')
    await world.put("theirs.txt", b"old")
    gate = str(tmp_path / "gate")
    task = asyncio.create_task(world.run(f"{wait_for(gate)}open('mine.txt', 'w').write('m')"))
    await started(world, task)
    await world.sessions.patch("s", SessionPatch(data='{"a":2}', metadata='{"m":1}'))
    await world.put("theirs.txt", b"new")
    await world.put("late.txt", b"late")
    await world.sessions.put_code("s", "print('later')")
    view = await world.sessions.get("s")
    assert (view.running, view.record.data) == (True, '{"a":2}')
    open(gate, "w").close()
    result = await task
    assert (result.files_modified, result.data) == (("mine.txt",), '{"a":2}')
    assert await world.paths() == ["late.txt", "mine.txt", "theirs.txt"]
    assert await world.content("theirs.txt") == b"new"
    view = await world.sessions.get("s")
    assert (view.running, view.record.metadata) == (False, '{"m":1}')
    assert (await world.run(None)).stdout == "later\n"


async def test_the_commit_is_the_later_write(world: World, tmp_path: Any) -> None:
    await world.create(data='{"a":1}')
    gate = str(tmp_path / "gate")
    task = asyncio.create_task(
        world.run(f"{wait_for(gate)}open('f', 'w').write('run')\n{INCREMENT}")
    )
    await started(world, task)
    await world.sessions.patch("s", SessionPatch(data='{"b":1}'))
    await world.put("f", b"upload")
    open(gate, "w").close()
    assert (await task).data == '{"a":1,"count":1}'
    assert await world.content("f") == b"run"


async def test_settings_of_a_patch_apply_to_the_runs_that_start_afterwards(
    world: World, tmp_path: Any
) -> None:
    await world.create()
    gate = str(tmp_path / "gate")
    first = asyncio.create_task(world.run(wait_for(gate)))
    await started(world, first)
    second = asyncio.create_task(world.run("print(open('.session_data.json').read())"))
    await until(lambda: waiting(world, 1))
    await world.sessions.patch("s", SessionPatch(allow_internet=True, data='"later"'))
    open(gate, "w").close()
    await first
    assert (await second).stdout == '"later"\n'
    assert [spec.network for spec in world.driver.specs] == [Network.OFFLINE, Network.INTERNET]


async def waiting(world: World, count: int, session_id: str = "s") -> bool:
    return (await world.sessions.get(session_id)).queued_runs == count


# --- ends from outside ---------------------------------------------------------------------------


async def test_cancel_ends_the_run_and_keeps_its_work(world: World) -> None:
    await world.create()
    assert await world.sessions.cancel("s") is None
    begin = f"open('f', 'w').write('x')\n{INCREMENT}\n"
    code = f"{begin}import time\nprint('up\\n', end='')\ntime.sleep(600)"
    out: list[str] = []
    task = asyncio.create_task(
        world.sessions.run("s", RunRequest(code=code), lambda _, text: out.append(text))
    )
    await until(lambda: bool(out))
    run_id = await world.sessions.cancel("s")
    result = await task
    assert result.run_id == run_id
    assert (result.exit_code, result.cancelled, result.timed_out) == (143, True, False)
    assert (result.stdout, result.files_modified) == ("up\n", ("f",))
    assert result.data == '{"count":1}'
    with pytest.raises(NotFoundError):
        await world.sessions.cancel("other")


async def test_cancel_leaves_the_queue_alone(world: World) -> None:
    await world.create()
    first = asyncio.create_task(world.run("import time; time.sleep(600)"))
    await started(world, first)
    second = asyncio.create_task(world.run("print('second')"))
    await until(lambda: waiting(world, 1))
    await world.sessions.cancel("s")
    assert (await first).cancelled
    assert (await second).stdout == "second\n"


async def test_delete_kills_the_run_and_sends_the_queue_away(world: World) -> None:
    await world.create()
    out: list[str] = []
    code = "import time; print('so far\\n', end=''); open('f','w').write('x'); time.sleep(600)"
    running = asyncio.create_task(
        world.sessions.run("s", RunRequest(code=code), lambda _, text: out.append(text))
    )
    await until(lambda: bool(out))
    queued = asyncio.create_task(world.run("print('never')"))
    await until(lambda: waiting(world, 1))
    await world.sessions.delete("s")
    assert not world.driver.boxes
    with pytest.raises(NotFoundError):
        await world.sessions.get("s")
    view = await world.create(data='{"new":1}')
    with pytest.raises(ConflictError) as killed:
        await running
    assert killed.value.body() == {
        "error": "session was deleted during the run",
        "code": "session_deleted",
        "stdout": "so far\n",
        "stderr": "",
    }
    with pytest.raises(NotFoundError) as sent_away:
        await queued
    assert sent_away.value.code == "session_not_found"
    assert (view.record.data, view.record.file_count, view.running) == ('{"new":1}', 0, False)
    assert (await world.run("import os; print(os.listdir('.'))")).stdout.count("'") == 4


async def test_a_deletion_in_the_moment_of_the_commit_keeps_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.create()
    original = world.records.commit_run

    async def late(*arguments: Any) -> Any:
        await world.records.delete("s")
        return await original(*arguments)

    monkeypatch.setattr(world.records, "commit_run", late)
    with pytest.raises(ConflictError) as caught:
        await world.run("print('done')")
    assert (caught.value.code, caught.value.extra["stdout"]) == ("session_deleted", "done\n")


async def test_delete_all_takes_those_that_match(world: World) -> None:
    for name in ("a-1", "a-2", "b-1"):
        await world.create(name)
    task = asyncio.create_task(world.run("import time; time.sleep(600)", "a-2"))
    await started(world, task, "a-2")
    ids, _ = await world.sessions.delete_all("a-")
    assert sorted(ids) == ["a-1", "a-2"]
    with pytest.raises(ConflictError):
        await task
    assert [view.record.id for view in (await world.sessions.list()).items] == ["b-1"]


async def test_a_run_goes_on_when_its_caller_has_left(world: World, tmp_path: Any) -> None:
    await world.create()
    gate = str(tmp_path / "gate")
    task = asyncio.create_task(world.run(f"{wait_for(gate)}{INCREMENT}"))
    await started(world, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    open(gate, "w").close()

    async def committed() -> bool:
        return (await world.sessions.get("s")).record.data == '{"count":1}'

    await until(committed)


async def test_a_run_may_be_cancelled_with_its_caller(world: World) -> None:
    await world.create()
    code = f"{INCREMENT}\nimport time; print('up', flush=True); time.sleep(600)"
    out: list[str] = []
    request = RunRequest(code=code, cancel_on_disconnect=True)
    task = asyncio.create_task(world.sessions.run("s", request, lambda _, text: out.append(text)))
    await until(lambda: bool(out))
    task.cancel()

    async def over() -> bool:
        view = await world.sessions.get("s")
        return not view.running and view.record.data == '{"count":1}'

    await until(over)


async def test_a_queued_run_is_dropped_with_its_caller(world: World, tmp_path: Any) -> None:
    await world.create()
    gate = str(tmp_path / "gate")
    first = asyncio.create_task(world.run(wait_for(gate)))
    await started(world, first)
    second = asyncio.create_task(world.run(INCREMENT))
    await until(lambda: waiting(world, 1))
    second.cancel()
    await until(lambda: waiting(world, 0))
    open(gate, "w").close()
    await first
    assert (await world.run("pass")).data == "{}"


async def test_an_execution_ends_with_its_caller(world: World) -> None:
    out: list[str] = []
    request = RunRequest(
        code="import time; print('up', flush=True); time.sleep(600)", language="python"
    )
    task = asyncio.create_task(world.sessions.execute(request, lambda _, text: out.append(text)))
    await until(lambda: bool(out))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not world.driver.boxes)


async def test_closing_lets_runs_finish_and_refuses_new_ones(world: World, tmp_path: Any) -> None:
    await world.create()
    gate = str(tmp_path / "gate")
    running = asyncio.create_task(world.run(f"{wait_for(gate)}{INCREMENT}"))
    await started(world, running)
    queued = asyncio.create_task(world.run("print('never')"))
    await until(lambda: waiting(world, 1))
    closing = asyncio.create_task(world.sessions.close(60))
    with pytest.raises(UnavailableError) as refused:
        await queued
    assert (refused.value.code, refused.value.status) == ("shutting_down", 503)
    with pytest.raises(UnavailableError):
        await world.run("pass")
    with pytest.raises(UnavailableError):
        await world.create("other")
    open(gate, "w").close()
    assert (await running).data == '{"count":1}'
    await closing


async def test_a_grace_can_be_cut_short(world: World) -> None:
    """The run ends at once, the one behind it has not begun, and both are told so."""
    await world.create()
    out: list[str] = []
    code = "import time; print('up', flush=True); time.sleep(600)"
    first = asyncio.create_task(
        world.sessions.run("s", RunRequest(code=code), lambda _, text: out.append(text))
    )
    await until(lambda: bool(out))
    second = asyncio.create_task(world.run("pass"))
    await until(lambda: world.sessions.busy == 2)
    closing = asyncio.create_task(world.sessions.close(3600))
    with pytest.raises(UnavailableError) as caught:
        await second
    assert caught.value.extra == {"message": "the run had not begun"}
    assert not first.done()
    world.sessions.hurry()
    await closing
    with pytest.raises(UnavailableError) as caught:
        await first
    assert caught.value.extra["stdout"] == "up\n"


async def test_after_the_grace_runs_end_without_a_commit(world: World) -> None:
    await world.create()
    code = f"{INCREMENT}\nimport time; print('up', flush=True); time.sleep(600)"
    out: list[str] = []
    task = asyncio.create_task(
        world.sessions.run("s", RunRequest(code=code), lambda _, text: out.append(text))
    )
    await until(lambda: bool(out))
    await world.sessions.close(0)
    with pytest.raises(UnavailableError) as caught:
        await task
    assert caught.value.code == "shutting_down"
    assert caught.value.retry_after_seconds
    assert caught.value.extra["run_id"].startswith("run_")
    assert caught.value.extra["stdout"] == "up\n"
    assert "ended before" in caught.value.extra["message"]
    assert not world.driver.boxes
    assert (await world.records.get("s")).data == "{}"


async def test_a_program_that_has_ended_is_kept_whoever_comes_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its end and its commit a run cannot be killed any more, nor cancelled."""
    committing, go_on = asyncio.Event(), asyncio.Event()
    original = world.records.commit_run

    async def slow(*arguments: Any) -> Any:
        committing.set()
        await go_on.wait()
        return await original(*arguments)

    monkeypatch.setattr(world.records, "commit_run", slow)
    await world.create()
    task = asyncio.create_task(world.run(INCREMENT))
    await committing.wait()
    assert await world.sessions.cancel("s") is None
    closing = asyncio.create_task(world.sessions.close(0))
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    ended = await task
    assert (ended.exit_code, ended.cancelled, ended.data) == (0, False, '{"count":1}')
    await closing


# --- queues --------------------------------------------------------------------------------------


async def test_the_bound_holds_for_runs_that_come_at_once(world: World, tmp_path: Any) -> None:
    await world.restart(queues=replace(world.limits.queues, waiting_per_session=2))
    await world.create()
    gate = str(tmp_path / "gate")
    tasks = [asyncio.create_task(world.run(wait_for(gate))) for _ in range(7)]
    await until(lambda: sum(task.done() for task in tasks) == 4)
    open(gate, "w").close()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [error for error in ended if isinstance(error, EraError)]
    assert [error.code for error in refused] == ["session_queue_full"] * 4
    assert sum(not isinstance(one, BaseException) for one in ended) == 3


async def test_the_queue_of_a_session_is_bounded_on_arrival(world: World, tmp_path: Any) -> None:
    await world.restart(queues=replace(world.limits.queues, waiting_per_session=2))
    await world.create()
    gate = str(tmp_path / "gate")
    tasks = [asyncio.create_task(world.run(wait_for(gate))) for _ in range(3)]
    await until(lambda: waiting(world, 2))
    with pytest.raises(EraError) as caught:
        await world.run("pass")
    assert (caught.value.code, caught.value.status) == ("session_queue_full", 429)
    assert caught.value.retry_after_seconds
    open(gate, "w").close()
    results = await asyncio.gather(*tasks)
    assert max(result.queued_ms for result in results) > 0


async def test_the_whole_server_is_bounded_too(world: World, tmp_path: Any) -> None:
    await world.restart(queues=replace(world.limits.queues, concurrent_runs=1, waiting_runs=1))
    gate = str(tmp_path / "gate")
    for name in "abc":
        await world.create(name)
    first = asyncio.create_task(world.run(wait_for(gate), "a"))
    await started(world, first, "a")
    second = asyncio.create_task(world.run("print(2)", "b"))
    await until(lambda: waiting(world, 1, "b"))
    for attempt in (
        world.run("pass", "c"),
        world.sessions.execute(RunRequest(code="pass", language="python")),
    ):
        with pytest.raises(EraError) as caught:
            await attempt
        assert (caught.value.code, caught.value.status) == ("server_busy", 429)
    assert len(world.driver.boxes) == 1
    open(gate, "w").close()
    await first
    assert (await second).stdout == "2\n"


async def test_runs_keep_their_order(world: World) -> None:
    await world.create(data="[]")
    code = (
        "import json, sys; d = json.load(open('.session_data.json')); d.append(sys.argv[1]);"
        "json.dump(d, open('.session_data.json', 'w'))"
    )
    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(world.run(code, args=(str(number),))))
        await until(lambda number=number: waiting_or_more(world, number))  # type: ignore[misc]
    await asyncio.gather(*tasks)
    assert (await world.sessions.get("s")).record.data == '["0","1","2","3","4"]'


async def waiting_or_more(world: World, number: int) -> bool:
    """Whether run `number` has come: it waits, is in progress, or is over."""
    view = await world.sessions.get("s")
    done = len(jsontext.loads(view.record.data))
    return done + view.queued_runs + int(view.running) > number


async def test_accepted_is_called_once_nothing_can_be_refused_at_once(world: World) -> None:
    await world.create()
    called: list[str] = []
    with pytest.raises(InputError):
        await world.sessions.run("s", RunRequest(), accepted=lambda: called.append("early"))
    await world.sessions.run(
        "s", RunRequest(code="pass"), accepted=lambda: called.append("accepted")
    )
    assert called == ["accepted"]


async def test_a_thousand_changes_are_all_kept_and_the_first_ones_named(world: World) -> None:
    await world.create()
    result = await world.run("[open(f'f{n:04}', 'w').close() for n in range(1001)]")
    assert len(result.files_modified) == 1000
    assert (await world.sessions.get("s")).record.file_count == 1001
