"""Any order of requests, with runs under way meanwhile, has the outcome of a simple model.

Programs wait for a file before they change anything, so "during a run" is exact: the machine opens
the gate when it likes.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from era.errors import EraError
from era.languages.table import LANGUAGES, Tools
from era.models import NewCopy, NewSession, RunRequest, RunResult, SessionPatch
from era.sessions.parts import Parts
from era.sessions.seal import Seal
from era.sessions.service import Sessions
from era.sessions.settings import SessionLimits
from era.storage.blobs.local import LocalBlobs
from era.storage.records.sqlite import SqliteRecords
from era.workspace.trees import Trees
from tests.fakes.driver import ProcessDriver
from tests.sessions.conftest import Clock, chunks, until

NAMES = st.sampled_from(["a", "b"])
PATHS = st.sampled_from(["p", "q", "d/r"])
SETS = st.sets(PATHS, max_size=2)


@dataclass(frozen=True)
class Model:
    """What a session holds."""

    files: dict[str, bytes] = field(default_factory=dict)
    data: str = "{}"
    metadata: str = "{}"
    life: int = 0


@dataclass
class Going:
    """A run under way: what it saw, and what it will do."""

    task: asyncio.Task[RunResult]
    gate: Path
    began: Model
    touched: set[str]
    """Paths that others have written since: a removal is about what was there at the beginning."""
    writes: dict[str, bytes]
    removes: set[str]
    data: str | None

    @property
    def saw(self) -> str:
        """What the program found when it began."""
        files = self.began.files
        return (
            "".join(f"{path}={files[path].decode()};" for path in sorted(files)) + self.began.data
        )


class AnyOrder(RuleBasedStateMachine):
    """Sessions on a database, a directory, and programs that are real processes."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(mkdtemp(dir="/dev/shm"))
        self.models: dict[str, Model] = {}
        self.runs: dict[str, Going] = {}
        self.number = 0

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        self.do(self._open())

    async def _open(self) -> None:
        clock = self.clock = Clock()
        for name in ("layers", "boxes", "programs"):
            (self.folder / name).mkdir()
        self.records = SqliteRecords(str(self.folder / "era.db"))
        self.blobs = LocalBlobs(str(self.folder / "blobs"), clock=lambda: clock() / 1000)
        self.driver = ProcessDriver(str(self.folder / "boxes"))
        trees = Trees(root=str(self.folder / "trees"), records=self.records, blobs=self.blobs)
        parts = Parts(
            records=self.records,
            blobs=self.blobs,
            driver=self.driver,
            trees=trees,
            tools=Tools(versions={}, missing=dict.fromkeys(set(LANGUAGES) - {"python"}, "no")),
            seal=Seal("a secret for tests"),
            layers_dir=str(self.folder / "layers"),
            programs_dir=str(self.folder / "programs"),
            clock=clock,
        )
        self.sessions = Sessions(parts, SessionLimits())
        await self.sessions.start()
        await self.sessions.create(NewSession(id="a", language="python"))
        self.models["a"] = Model()

    def teardown(self) -> None:
        if hasattr(self, "sessions"):
            self.do(self._close())
        self.runner.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _close(self) -> None:
        for going in self.runs.values():
            going.task.cancel()
        await self.sessions.close(0)
        await self.driver.close()
        await self.blobs.close()
        await self.records.close()

    def next(self) -> int:
        self.number += 1
        return self.number

    def outcome(self, work: Coroutine[Any, Any, Any]) -> str:
        """`ok`, or the code of the refusal."""
        try:
            self.do(work)
        except EraError as error:
            return error.code
        return "ok"

    # -- what clients do --

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        found = self.outcome(self.sessions.create(NewSession(id=name, language="python")))
        assert found == ("session_exists" if name in self.models else "ok")
        if found == "ok":
            self.models[name] = Model(life=self.next())

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        found = self.outcome(self.sessions.delete(name))
        assert found == ("ok" if name in self.models else "session_not_found")
        self.models.pop(name, None)
        if name in self.runs:
            # It was ended, and told so, before the delete was answered.
            going = self.runs.pop(name)
            assert self.outcome(attended(going.task)) == "session_deleted"

    @rule(source=NAMES, copy=NAMES)
    def duplicate(self, source: str, copy: str) -> None:
        found = self.outcome(self.sessions.duplicate(source, NewCopy(id=copy)))
        if source not in self.models:
            assert found == "session_not_found"
        elif copy in self.models:
            assert found == "session_exists"
        else:
            assert found == "ok"
            self.models[copy] = replace(self.models[source], life=self.next())

    @rule(name=NAMES, what=st.sampled_from(["data", "metadata"]))
    def patch(self, name: str, what: str) -> None:
        value = f'{{"n":{self.next()}}}'
        if what == "data":
            found = self.outcome(self.sessions.patch(name, SessionPatch(data=value)))
            self.changed(name, found, lambda model: replace(model, data=value))
        else:
            found = self.outcome(self.sessions.patch(name, SessionPatch(metadata=value)))
            self.changed(name, found, lambda model: replace(model, metadata=value))

    @rule(name=NAMES, path=PATHS)
    def upload(self, name: str, path: str) -> None:
        content = b"upload %d" % self.next()
        found = self.outcome(self.sessions.put_file(name, path, chunks(content)))
        self.changed(name, found, lambda model: with_file(model, path, content))
        if name in self.runs:
            self.runs[name].touched.add(path)

    @rule(name=NAMES, path=PATHS)
    def remove(self, name: str, path: str) -> None:
        found = self.outcome(self.sessions.delete_file(name, path))
        if name in self.models and path not in self.models[name].files:
            assert found == "file_not_found"
            return
        self.changed(name, found, lambda model: without(model, path))

    def changed(self, name: str, found: str, change: Callable[[Model], Model]) -> None:
        if name not in self.models:
            assert found == "session_not_found"
            return
        assert found == "ok"
        self.models[name] = change(self.models[name])

    # -- runs --

    @precondition(lambda self: any(name not in self.runs for name in self.models))
    @rule(writes=SETS, removes=SETS, with_data=st.booleans(), pick=st.integers(0, 1))
    def begin(self, writes: set[str], removes: set[str], with_data: bool, pick: int) -> None:
        idle = sorted(self.models.keys() - self.runs.keys())
        name = idle[pick % len(idle)]
        number = self.next()
        gate = self.folder / f"gate-{number}"
        contents = {path: b"run %d %s" % (number, path.encode()) for path in sorted(writes)}
        data = f'{{"run":{number}}}' if with_data else None
        steps = [f"rm -f {path}" for path in sorted(removes - writes)]
        steps += ["mkdir -p d"]
        steps += [f"printf '{text.decode()}' > {path}" for path, text in contents.items()]
        steps += [f"printf '{data}' > .session_data.json"] if data else []
        look = "for f in d/r p q; do [ ! -e $f ] || printf '%s=%s;' $f \"$(cat $f)\"; done"
        look += "; tr -d ' \\n' < .session_data.json"
        command = "; ".join(
            [look, f"touch {gate}.in; until [ -e {gate} ]; do sleep 0.005; done", *steps]
        )

        async def start() -> asyncio.Task[RunResult]:
            request = RunRequest(command=command, timeout_seconds=60)
            task = asyncio.ensure_future(self.sessions.run(name, request))
            await until(lambda: Path(f"{gate}.in").exists() or task.done())
            return task

        self.runs[name] = Going(
            task=self.do(start()),
            gate=gate,
            began=self.models[name],
            touched=set(),
            writes=contents,
            removes=removes - writes,
            data=data,
        )

    @precondition(lambda self: self.runs)
    @rule(pick=st.integers(0, 1))
    def end(self, pick: int) -> None:
        name = sorted(self.runs)[pick % len(self.runs)]
        going = self.runs.pop(name)
        going.gate.touch()
        result: RunResult = self.do(attended(going.task))
        assert result.exit_code == 0, result.stderr
        assert result.stdout == going.saw
        model = self.models[name]
        files = dict(model.files)
        for path in going.removes & going.began.files.keys():
            if path not in going.touched:
                files.pop(path, None)
        files |= going.writes
        self.models[name] = replace(
            model, files=files, data=model.data if going.data is None else going.data
        )
        assert result.data == self.models[name].data

    @precondition(lambda self: any(name not in self.runs for name in self.models))
    @rule(
        writes=SETS,
        removes=SETS,
        with_data=st.booleans(),
        meanwhile=st.lists(
            st.tuples(
                st.sampled_from(["upload", "remove", "data", "metadata", "duplicate"]), PATHS
            ),
            max_size=4,
        ),
    )
    def run(
        self,
        writes: set[str],
        removes: set[str],
        with_data: bool,
        meanwhile: list[tuple[str, str]],
    ) -> None:
        """A whole run, with others at work in its middle."""
        name = sorted(self.models.keys() - self.runs.keys())[0]
        self.begin(writes, removes, with_data, 0)
        for what, path in meanwhile:
            if what == "upload":
                self.upload(name, path)
            elif what == "remove":
                self.remove(name, path)
            elif what == "duplicate":
                self.duplicate(name, "b" if name == "a" else "a")
            else:
                self.patch(name, what)
            self.what_is_read_is_what_was_committed()
        self.end(sorted(self.runs).index(name))

    @rule()
    def sweep(self) -> None:
        """What nothing needs any more goes; whoever reads or runs does not notice."""
        self.clock.ahead_ms += 2 * 3600 * 1000
        self.do(self.sessions._sweeper.sweep())

    # -- what everybody sees --

    @invariant()
    def what_is_read_is_what_was_committed(self) -> None:
        if hasattr(self, "sessions"):
            self.do(self._compare())

    async def _compare(self) -> None:
        page = await self.sessions.list()
        assert {view.record.id for view in page.items} == self.models.keys()
        for name, model in self.models.items():
            view = await self.sessions.get(name, with_files=True)
            assert (view.record.data, view.record.metadata) == (model.data, model.metadata)
            assert view.running == (name in self.runs)
            assert {str(entry.path) for entry in view.files or ()} == model.files.keys()
            assert view.record.file_count == len(model.files)
            assert view.record.total_size_bytes == sum(map(len, model.files.values()))
            for path, content in model.files.items():
                opened = await self.sessions.open_file(name, path)
                assert b"".join([chunk async for chunk in opened.read()]) == content


def with_file(model: Model, path: str, content: bytes) -> Model:
    return replace(model, files={**model.files, path: content})


def without(model: Model, path: str) -> Model:
    return replace(model, files={p: text for p, text in model.files.items() if p != path})


async def attended(task: asyncio.Task[RunResult]) -> RunResult:
    return await task


@pytest.mark.timeout(600)
def test_any_order_of_requests_has_the_outcome_of_the_model() -> None:
    AnyOrder.TestCase.settings = settings(
        max_examples=40,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    AnyOrder.TestCase().runTest()
