"""The sessions room as it is deployed: real boxes, records in SQLite, blobs on disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from era import jsontext
from era.errors import ConflictError, NotFoundError
from era.models import Network, RunRequest, SetupStatus
from era.sessions.settings import SessionLimits, SetupLimits
from tests.sessions.conftest import Room, boxed_room, contents, setup_of, until

pytestmark = pytest.mark.anyio

INCREMENT = """
import json
with open('.session_data.json') as f: data = json.load(f)
data['count'] = data.get('count', 0) + 1
with open('.session_data.json', 'w') as f: json.dump(data, f)
"""


@pytest.fixture
async def room(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Room]:
    limits = SessionLimits(setups=SetupLimits(network=Network.OFFLINE))
    async with boxed_room(tmp_path, limits) as made:
        yield made


def result(text: str | None) -> dict[str, Any]:
    value: dict[str, Any] = jsontext.loads(text or "null")
    return value


async def test_files_and_data_live_from_run_to_run(room: Room) -> None:
    await room.create()
    await room.put("up/a.txt", b"uploaded")
    code = (
        "import os; os.chmod('up/a.txt', 0o750); os.rename('up/a.txt', 'b.txt'); os.mkdir('empty');"
        "os.symlink('b.txt', 'l'); os.link('b.txt', 'h'); os.rmdir('up')"
    )
    first = await room.run(f"{code}\n{INCREMENT}")
    assert (first.stderr, first.exit_code, first.data) == ("", 0, '{"count":1}')
    assert first.files_modified == ("b.txt", "h", "l")
    assert first.files_deleted == ("up/a.txt",)
    seen = await room.command("ls -A; cat l; stat -c %a b.txt; ls empty")
    assert seen.stdout == ".session_data.json\nb.txt\nempty\nh\nl\nuploaded750\n"
    assert (seen.files_modified, seen.files_deleted) == ((), ())
    assert await room.content("l") == b"uploaded"


async def test_ten_parallel_increments_make_ten(room: Room) -> None:
    await room.create()
    await asyncio.gather(*(room.run(INCREMENT) for _ in range(10)))
    assert (await room.sessions.get("s")).record.data == '{"count":10}'


async def test_work_is_kept_after_a_timeout_with_a_detached_child(room: Room) -> None:
    await room.create()
    code = f"{INCREMENT}\nopen('f', 'w').write('x'); print('so far', flush=True)\n" + (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n os.setsid()\ntime.sleep(600)"
    )
    ended = await room.run(code, timeout_seconds=1.0)
    assert (ended.exit_code, ended.timed_out, ended.stdout) == (124, True, "so far\n")
    assert (ended.data, ended.files_modified) == ('{"count":1}', ("f",))


async def test_the_memory_limit_is_told_and_work_is_kept(room: Room) -> None:
    if "memory" in " ".join(room.parts.driver.unenforced):
        pytest.skip("this host cannot bound memory")
    await room.create(memory_mib=64)
    ended = await room.run(f"{INCREMENT}\nx = bytearray(500 << 20)\nprint(len(x))")
    assert (ended.exit_code, ended.oom_killed, ended.signal) == (137, True, "SIGKILL")
    assert ended.data == '{"count":1}'


async def test_delete_kills_the_run(room: Room) -> None:
    await room.create()
    out: list[str] = []
    request = RunRequest(code="import time; print('up', flush=True); time.sleep(600)")
    task = asyncio.create_task(room.sessions.run("s", request, lambda _, text: out.append(text)))
    await until(lambda: "".join(out) == "up\n")
    await room.sessions.delete("s")
    with pytest.raises(ConflictError) as caught:
        await task
    assert caught.value.extra["stdout"] == "up\n"
    with pytest.raises(NotFoundError):
        await room.sessions.get("s")


async def test_cancel_keeps_the_work(room: Room) -> None:
    await room.create()
    out: list[str] = []
    request = RunRequest(code=f"{INCREMENT}\nimport time; print('up', flush=True); time.sleep(600)")
    task = asyncio.create_task(room.sessions.run("s", request, lambda _, text: out.append(text)))
    await until(lambda: "".join(out) == "up\n")
    assert await room.sessions.cancel("s")
    ended = await task
    assert (ended.exit_code, ended.cancelled, ended.data) == (143, True, '{"count":1}')


async def test_what_a_setup_left_is_at_the_same_paths(room: Room) -> None:
    commands = (
        "echo w > w.txt; mkdir -p sub/deep; echo d > sub/deep/d; ln -s w.txt l; ln w.txt h",
        "mkdir -p /tmp/data; echo t > /tmp/data/sample.json; echo r > ~/.rc; chmod 600 ~/.rc",
        "mkdir -p /opt/era/layer/python/odd; echo 'V = 7' > /opt/era/layer/python/odd/mod.py",
        "mkdir ro; echo x > ro/x; chmod 555 ro; echo k > .env; echo p > 'name with'$'\\n''newline'",
    )
    await room.create(persistent=False, setup=setup_of(commands=commands))
    state = await room.settled()
    assert state.status is SetupStatus.COMPLETED, state.result
    check = (
        "cat w.txt sub/deep/d l h /tmp/data/sample.json ~/.rc ro/x; stat -c %a ro ~/.rc;"
        "ls -A | wc -l; python3 -c 'from odd.mod import V; print(V)'"
    )
    expected = "w\nd\nw\nw\nt\nr\nx\n555\n600\n8\n7\n"
    for _ in range(2):
        seen = await room.command(check)
        assert (seen.stderr, seen.stdout) == ("", expected)
    layers = room.parts.layers_dir
    before = contents(layers)
    spoil = (
        "set -e; echo spoilt > w.txt; echo spoilt > ~/.rc; rm -rf /tmp/data; chmod 755 ro; rm ro/x;"
        "cd /opt/era/layer; echo 'V = 8' > python/odd/mod.py; touch python/new workspace/new;"
        "python3 -c 'from odd.mod import V; print(V)'; rm -rf home; mv python elsewhere; ls"
    )
    spoilt = await room.command(spoil)
    assert (spoilt.stderr, spoilt.stdout) == ("", "8\nelsewhere\ntmp\nworkspace\n")
    assert contents(layers) == before
    assert (await room.command(check)).stdout == expected
    for name in os.listdir(layers):
        os.rename(f"{layers}/{name}", f"{layers}/lost.tmp-{name}")
    await room.restart()
    assert (await room.command(check)).stdout == expected
    await room.sessions.delete("s")
    await room.sessions._sweeper.sweep()
    assert [name for name in os.listdir(layers) if not name.startswith("boot-")] == []


async def test_a_persistent_session_never_takes_layer_files_as_its_own(room: Room) -> None:
    await room.create(setup=setup_of(commands=("mkdir d; echo layer > d/f; echo layer > g",)))
    await room.settled()
    ended = await room.command("echo changed > d/f; rm g; echo mine > d/own; mkdir -p e/f")
    assert (ended.files_modified, ended.files_deleted) == (("d/own",), ())
    seen = await room.command("cat d/f g d/own")
    assert seen.stdout == "layer\nlayer\nmine\n"


@pytest.mark.parametrize("name", ["home", "tmp", "workspace", "go", "go/cache"])
async def test_a_hostile_layer_shows_nothing_of_the_host(
    room: Room, tmp_path: Path, name: str
) -> None:
    """Its own names become links to a host directory, where the service looks for lowers."""
    if "go" in room.parts.tools.missing:
        pytest.skip("only boxes with Go's cache have a lower of the layer there")
    private = tmp_path / "private"
    (private / "cache").mkdir(parents=True)
    for place in (private / "marker", private / "cache" / "marker"):
        place.touch()
    layer = "/opt/era/layer"
    commands = (
        f"rm -rf {layer}/{name}; mkdir -p $(dirname {layer}/{name})",
        f"ln -s {private} {layer}/{name}",
    )
    await room.create(language="go", setup=setup_of(commands=commands))
    assert (await room.settled()).status is SetupStatus.COMPLETED
    ended = await room.command("ls -A /workspace /home/era /tmp /opt/era/cache/go")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert "marker" not in ended.stdout


async def test_a_setup_that_fills_its_disk_is_too_large(room: Room) -> None:
    await room.restart_setups(scratch_bytes=64 << 20)
    await room.create(setup=setup_of(commands=("head -c 100M /dev/zero > big",)))
    found = result((await room.settled()).result)
    assert (found["success"], found["error"], found["exit_code"]) == (False, "Setup too large", 1)


async def test_a_sparse_file_is_as_large_as_it_says(room: Room) -> None:
    await room.restart_setups(layer_bytes=8 << 20)
    await room.create(setup=setup_of(commands=("truncate -s 1T sparse",)))
    assert result((await room.settled()).result)["error"] == "Setup too large"


async def test_a_setup_ends_with_all_its_processes(room: Room) -> None:
    await room.restart_setups(timeout_seconds=1.0)
    await room.create(setup=setup_of(commands=("setsid sleep 600 & echo up; sleep 600",)))
    found = result((await room.settled()).result)
    assert (found["error"], found["stdout"]) == ("Setup timed out", "up\n")


async def test_an_execution_keeps_nothing(room: Room) -> None:
    request = RunRequest(code="open('f', 'w').write('x'); print('ok')", language="python")
    assert (await room.sessions.execute(request)).stdout == "ok\n"
    again = replace(request, code="import os; print(os.listdir('.'))")
    assert (await room.sessions.execute(again)).stdout == "['.era_main.py']\n"
    assert (await room.sessions.list()).total == 0
