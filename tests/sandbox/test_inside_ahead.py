"""What a program of a box made ahead finds of the time before it: nothing."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from era.languages import environment
from era.languages.table import ahead_commands, launch
from era.runtimes import discover
from era.sandbox.base import Box, BoxSpec, Limits, Program, Readiness, Warm
from era.sandbox.namespaces.cgroups.detect import detect
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.namespaces.place import Place
from era.sandbox.namespaces.pool import ANY
from tests.contracts.driver import fill, output_of, place
from tests.sandbox.boxes import namespaces_driver, native_helper, warm_up
from tests.sandbox.test_inside import COMMAND, ENV, SPEC, STANDING, no_capabilities

SCAN = """
import re, sys
# The text itself must not be in this memory: it comes reversed and is searched letter by letter.
pattern = re.compile(b"".join(b"[%c]" % letter for letter in reversed(sys.argv[1].encode())))
found = 0
for line in open("/proc/self/maps"):
    span, rights, *_ = line.split()
    if not rights.startswith("rw"):
        continue
    start, end = (int(text, 16) for text in span.split("-"))
    with open("/proc/self/mem", "rb", 0) as memory:
        memory.seek(start)
        while start < end:
            data = memory.read(min(1 << 20, end - start))
            found += len(pattern.findall(data))
            start += len(data) or end
print(found)
"""
"""How often a text is in the memory of the program that looks for it."""


async def _scan(driver: NamespacesDriver, interpreter: str, secret: str, env: str = "") -> int:
    if interpreter:
        await warm_up(driver)
    async with driver.box(BoxSpec(limits=SPEC.limits, interpreter=interpreter)) as box:
        place(box, "probe.py", SCAN.encode())
        more = {"NOTE": env} if env else {}
        program = Program(argv=(*COMMAND, secret[::-1]), env={**ENV, **more})
        return int(await output_of(box, program))


@pytest.mark.anyio
async def test_no_secret_of_the_server_is_in_memory(
    tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = f"secret-{os.urandom(8).hex()}"
    monkeypatch.setenv("ERA_TEST_SECRET", secret)
    async with namespaces_driver(
        str(tmp_path), on_disk=False, warm=(STANDING,), limits=SPEC.limits
    ) as driver:
        for interpreter in ("", "python"):
            assert await _scan(driver, interpreter, secret) == 0
        assert await _scan(driver, "python", secret, env=secret) > 0
        # What one program had, another from the same standing interpreter has not.
        assert await _scan(driver, "python", secret) == 0


NODE = """
const fs = require('fs'), child = require('child_process');
const fds = (path) => fs.readdirSync(path).map((name) => {
  try { return [name, fs.readlinkSync(`${path}/${name}`)]; } catch { return [name, 'gone']; }
});
const beyond = 'for fd in {3..63}; do readlink /proc/self/fd/$fd; done';
console.log(JSON.stringify({
  own: fds('/proc/self/fd'),
  here: fs.readdirSync('.'),
  child: child.spawnSync('/bin/bash', ['-c', beyond], { encoding: 'utf8' }).stdout,
  env: process.env,
  status: fs.readFileSync('/proc/self/status', 'utf8'),
  pids: fs.readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name)),
  one: ['environ', 'fd', 'mem'].filter((name) => {
    try { fs.statSync(`/proc/1/${name}`); return true; } catch { return false; }
  }),
}));
"""


@asynccontextmanager
async def node_that_waits(
    tmp_path: Path, language: str, code: str, workspace: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Box, Program]]:
    """A box in which an interpreter of node waits, as the service makes it, and the program of
    `code` for it."""
    for name in ("base", "scratch", "runtimes"):
        (tmp_path / name).mkdir()
    runtimes = discover(str(tmp_path / "runtimes"))
    argv, ahead = ahead_commands(runtimes.tools)[language]
    base = environment.base(has_layer=False)
    warm = Warm(name=language, readiness=Readiness.AHEAD, argv=argv, ahead=ahead, env=base, count=1)
    place_of = Place(
        base_dir=str(tmp_path / "base"),
        scratch_dir=str(tmp_path / "scratch"),
        images=None,
        helper_python=runtimes.helper_python,
        native=native_helper(),
    )
    limits = Limits(memory_bytes=512 << 20)
    driver = NamespacesDriver(place_of, runtimes.image, detect(), warm=(warm,), limits=limits)
    start = launch(language, code, (), tools=runtimes.tools, taken=lambda _: False, has_layer=False)
    variables, _ = environment.build(start.env, {"MINE": "1"}, {}, has_layer=False)
    await driver.start()
    try:
        await warm_up(driver, language)
        spec = BoxSpec(limits=limits, interpreter=language, workspace=workspace)
        async with driver.box(spec) as box:
            assert getattr(box, "prepared") is not None  # noqa: B009
            for name, text in start.files.items():
                place(box, name, text)
            yield box, Program(argv=start.argv, env=variables)
    finally:
        await driver.close()


@pytest.mark.anyio
async def test_an_interpreter_that_waited_in_its_box_kept_nothing(
    tmp_path: Path, anyio_backend: str
) -> None:
    """Node, started before its program is known, as the service does it."""
    (tmp_path / "lower").mkdir()
    lower = fill(str(tmp_path / "lower"), {"a": "text"})
    async with node_that_waits(tmp_path, "node", NODE, (lower,)) as (box, program):
        told = json.loads(await output_of(box, program))
    assert not [to for _, to in told["own"] if to.startswith("socket:") or "era-" in to]
    assert told["child"] == ""
    assert "a" in told["here"]  # it is in the workspace of its program, not in the one it waited in
    assert told["env"] == program.env
    assert told["one"] == []
    assert len(told["pids"]) == 1
    assert no_capabilities({"status": dict(_rows(told["status"]))})
    assert dict(_rows(told["status"]))["Seccomp"] == "2"


WORKERS = """
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (process.argv[2] === 'fork') process.send('from a fork');
else if (isMainThread) {
  const { openSync, readFileSync } = require('fs');
  const mine = ['GATE', 'START'].map((text) => { // the gate's descriptors, now the program's
    require('fs').writeFileSync(`/tmp/${text}`, text);
    return openSync(`/tmp/${text}`, 'r+');
  });
  const worker = new Worker(__filename);
  worker.on('message', (heard) => console.log(JSON.stringify({
    heard, kept: mine.map((fd) => readFileSync(fd, 'utf8')), options: process.execArgv,
  })));
} else {
  const fork = require('child_process').fork(__filename, ['fork']);
  fork.on('message', (said) => parentPort.postMessage({ said, options: process.execArgv }));
}
"""


@pytest.mark.anyio
@pytest.mark.parametrize("language", ["node", "typescript"])
async def test_workers_of_a_node_that_waited_know_of_no_gate(
    language: str, tmp_path: Path, anyio_backend: str
) -> None:
    async with node_that_waits(tmp_path, language, WORKERS) as (box, program):
        told = json.loads(await output_of(box, program))
    assert told["heard"]["said"] == "from a fork"
    assert told["kept"] == ["GATE", "START"]
    assert told["heard"]["options"] == told["options"]
    assert not [option for option in told["options"] if "gate" in option]


def _rows(status: str) -> Iterator[tuple[str, str]]:
    for line in status.splitlines():
        name, _, value = line.partition(":\t")
        yield name, value


REFUSALS = Path(__file__).with_name("refusals.py")


@pytest.mark.anyio
async def test_everything_forbidden_is_refused_there_too(
    tmp_path: Path, anyio_backend: str
) -> None:
    async with namespaces_driver(
        str(tmp_path), on_disk=False, warm=(STANDING,), limits=SPEC.limits
    ) as driver:
        await warm_up(driver)
        async with driver.box(BoxSpec(limits=SPEC.limits, interpreter="python")) as box:
            assert getattr(box, "prepared") is not None  # noqa: B009
            place(box, "probe.py", REFUSALS.read_bytes())
            place(box, "refusals.py", b"")  # one act is on a file of this name
            program = Program(argv=COMMAND, env=ENV, timeout_seconds=60)
            outcomes = json.loads(await output_of(box, program))
    assert len(outcomes) > 150
    assert [name for name, it in outcomes.items() if not str(it).startswith("E")] == []


@pytest.mark.anyio
@pytest.mark.parametrize("interpreter", ["", "python"])
async def test_the_sessions_files_come_into_a_box_that_waits(
    tmp_path: Path, anyio_backend: str, interpreter: str
) -> None:
    (tmp_path / "lower").mkdir()
    lower = fill(str(tmp_path / "lower"), {"a": "text", "probe.py": READ_AND_WRITE})
    ready = Warm(name=ANY, readiness=Readiness.BOX, count=1)
    async with namespaces_driver(
        str(tmp_path), on_disk=False, warm=(STANDING, ready), limits=SPEC.limits
    ) as driver:
        await warm_up(driver, interpreter or ANY)
        spec = BoxSpec(limits=SPEC.limits, interpreter=interpreter, workspace=(lower,))
        async with driver.box(spec) as box:
            assert getattr(box, "prepared") is not None  # noqa: B009
            assert await output_of(box, Program(argv=COMMAND, env=ENV)) == "text\n"
            assert os.listdir(box.workspace_fd) == ["out"]


READ_AND_WRITE = """
print(open("a").read())
open("out", "w").close()
"""
