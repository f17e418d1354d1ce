"""Any sequence of calls has the same outcome on SQLite as on the model in memory."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from era.errors import EraError
from era.models import (
    UNSET,
    Changes,
    FileEntry,
    FileKind,
    NewSession,
    Page,
    SessionPatch,
    SetupProgress,
    SetupSpec,
    SetupStatus,
)
from era.relpath import RelPath
from era.storage.base import LayerRecord, Quota, Records, RunCommit
from era.storage.records.sqlite import SqliteRecords
from era.storage.records.units import copies
from tests.contracts.records import blob
from tests.fakes.records import MemoryRecords

IDS = st.sampled_from(["a", "ab", "b"])
PATHS = st.sampled_from(["d", "d/e", "d/e/f", "d/g", "d-", "d0", "h", "h/i", "\ue000", "😀"])
CONTENTS = st.sampled_from(["", "1", "22", "4444"])
TIMES = st.sampled_from([1, 2, -3, 2**70])
MODES = st.sampled_from([0o644, 0o755, 0o4755])
DATA = st.sampled_from(["{}", "[1]", '"x"'])
NOW = st.integers(1, 5)
LIMITS = st.one_of(st.none(), st.integers(1, 3))
PREFIXES = st.sampled_from(["", "d", "d/", "a", "ab", "😀", "\ud800", "x"])
QUOTAS = st.builds(
    lambda total, count: Quota(total_bytes=total, count=count),
    st.sampled_from([0, 0, 5, 20]),
    st.sampled_from([0, 0, 2, 6]),
)
FILES = st.builds(
    lambda path, content, mode, mtime, kind: FileEntry(
        path=RelPath(path),
        blob=blob(content),
        size=len(content),
        mode=mode,
        mtime_ns=mtime,
        content_type=kind,
    ),
    PATHS,
    CONTENTS,
    MODES,
    TIMES,
    st.sampled_from([None, "text/x"]),
)
LINKS = st.builds(
    lambda path, target: FileEntry(path=RelPath(path), kind=FileKind.LINK, target=target),
    PATHS,
    st.sampled_from(["d", "h", "e", "../d/g", "d/e/f", "/workspace/d-", "../../x", "d0/"]),
)
FOLDERS = st.builds(
    lambda path, mode: FileEntry(path=RelPath(path), kind=FileKind.DIR, mode=mode), PATHS, MODES
)
CHANGES = st.builds(
    lambda written, removed: Changes(
        written=tuple(written), removed=tuple(RelPath(path) for path in removed)
    ),
    st.lists(st.one_of(FILES, LINKS, FOLDERS), max_size=5),
    st.lists(PATHS, max_size=3),
)
PATCHES = st.builds(
    SessionPatch,
    default_timeout_seconds=st.sampled_from([UNSET, None, 1.5]),
    allow_public=st.sampled_from([UNSET, True, False]),
    metadata=st.sampled_from([UNSET, "{}", '{"m":1}']),
    data=st.sampled_from([UNSET, "{}", "[2]"]),
)
SETUPS = st.sampled_from([None, SetupSpec(), SetupSpec(pip=("six",), request='{"pip":["six"]}')])
LAYERS = st.sampled_from(["k1", "k2"])


class SameOutcome(RuleBasedStateMachine):
    """Every rule is one call, made on both."""

    template: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(mkdtemp(dir=self.template.parent))

    @initialize()
    def open(self) -> None:
        path = shutil.copy(self.template, self.folder / "era.db")
        self.real: Records = SqliteRecords(str(path))
        self.model: Records = MemoryRecords()
        self.uids = [1]
        self.copied = False
        """From then on the database may keep more history than the model: what copies share."""

    def teardown(self) -> None:
        if hasattr(self, "real"):
            self.runner.run(self.real.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def both(self, call: Callable[[Records], Awaitable[Any]]) -> Any:
        real, model = self.each(call)
        assert comparable(real) == comparable(model)
        return real

    def each(self, call: Callable[[Records], Awaitable[Any]]) -> tuple[Any, Any]:
        real, model = (self.runner.run(outcome(call, keeper)) for keeper in self.keepers)
        return real, model

    @property
    def keepers(self) -> tuple[Records, Records]:
        return self.real, self.model

    # -- sessions --

    @rule(name=IDS, persistent=st.booleans(), data=DATA, setup=SETUPS, now=NOW)
    def create(
        self, name: str, persistent: bool, data: str, setup: SetupSpec | None, now: int
    ) -> None:
        new = NewSession(
            id=None,
            language="go",
            persistent=persistent,
            data=data,
            setup=setup,
            allow_internet=False,
        )
        made = self.both(lambda keeper: keeper.create(name, new, now, '"spec"'))
        if not isinstance(made, tuple):
            self.uids.append(made.uid)

    @rule(name=IDS, patch=PATCHES, now=NOW)
    def patch(self, name: str, patch: SessionPatch, now: int) -> None:
        self.both(lambda keeper: keeper.patch(name, patch, now))

    @rule(name=IDS)
    def delete(self, name: str) -> None:
        self.both(lambda keeper: keeper.delete(name))

    @rule(prefix=PREFIXES)
    def delete_all(self, prefix: str) -> None:
        self.both(lambda keeper: keeper.delete_all(prefix or "b"))

    @rule(
        source=IDS,
        copy=IDS,
        now=NOW,
        data=st.one_of(st.none(), DATA),
        files=st.sampled_from([None, True, False]),
    )
    def duplicate(
        self, source: str, copy: str, now: int, data: str | None, files: bool | None
    ) -> None:
        made = self.both(
            lambda keeper: keeper.duplicate(source, copy, now, data=data, include_files=files)
        )
        if not isinstance(made, tuple):
            self.uids.append(made.uid)
            self.copied = self.copied or made.files_revision > 0

    @rule(prefix=PREFIXES, limit=LIMITS)
    def walk_sessions(self, prefix: str, limit: int | None) -> None:
        walks = [
            self.runner.run(
                walk(
                    lambda cursor, k=keeper: k.list(  # type: ignore[misc]
                        prefix=prefix, limit=limit, cursor=cursor
                    )
                )
            )
            for keeper in self.keepers
        ]
        assert walks[0] == walks[1]

    # -- files --

    @rule(name=IDS, prefix=PREFIXES, limit=LIMITS)
    def walk_files(self, name: str, prefix: str, limit: int | None) -> None:
        walks = [
            self.runner.run(
                outcome(
                    lambda k: walk(
                        lambda cursor: k.files(name, prefix=prefix, limit=limit, cursor=cursor)
                    ),
                    keeper,
                )
            )
            for keeper in self.keepers
        ]
        assert walks[0] == walks[1]

    @rule(name=IDS, entry=FILES, quota=QUOTAS, now=NOW)
    def put_file(self, name: str, entry: FileEntry, quota: Quota, now: int) -> None:
        self.both(lambda keeper: keeper.put_file(name, entry, quota, now))

    @rule(name=IDS, path=PATHS, recursive=st.booleans(), now=NOW)
    def delete_file(self, name: str, path: str, recursive: bool, now: int) -> None:
        self.both(
            lambda keeper: keeper.delete_file(name, RelPath(path), recursive=recursive, now_ms=now)
        )

    @rule(name=IDS, path=PATHS)
    def file(self, name: str, path: str) -> None:
        self.both(lambda keeper: keeper.file(name, RelPath(path)))

    @rule(
        pick=st.integers(0, 50),
        snapshot=st.integers(0, 12),
        now=NOW,
        data=st.one_of(st.none(), DATA),
        changes=CHANGES,
        quota=QUOTAS,
    )
    def commit(
        self,
        pick: int,
        snapshot: int,
        now: int,
        data: str | None,
        changes: Changes,
        quota: Quota,
    ) -> None:
        run = RunCommit(
            uid=self.uids[-1 - pick % len(self.uids)],
            snapshot_revision=snapshot,
            finished_at_ms=now,
            data=data,
            changes=changes,
        )
        self.both(lambda keeper: keeper.commit_run(run, quota))

    @rule(pick=st.integers(0, 50), since=st.integers(0, 12))
    def diff(self, pick: int, since: int) -> None:
        uid = self.uids[-1 - pick % len(self.uids)]
        found = self.each(lambda keeper: keeper.manifest_diff(uid, since))
        assert found[0] == found[1] or (self.copied and None in found)

    @rule(upto=st.integers(0, 12))
    def prune(self, upto: int) -> None:
        found = self.each(lambda keeper: keeper.prune_history(lambda uid: upto - uid % 2))
        assert found[0] == found[1] or self.copied

    # -- code, setups, layers --

    @rule(name=IDS, code=CONTENTS, description=st.one_of(st.none(), CONTENTS), now=NOW)
    def put_code(self, name: str, code: str, description: str | None, now: int) -> None:
        self.both(lambda keeper: keeper.put_code(name, code, description, now))

    @rule(name=IDS, now=NOW)
    def delete_code(self, name: str, now: int) -> None:
        self.both(lambda keeper: keeper.delete_code(name, now))

    @rule()
    def claim(self) -> None:
        job = self.both(lambda keeper: keeper.claim_setup())
        if job is not None:
            self.uids.append(job.uid)

    @rule(most=st.integers(1, 3))
    def reset(self, most: int) -> None:
        self.both(lambda keeper: keeper.reset_running_setups(most, '"gave up"'))

    @rule(pick=st.integers(0, 50), index=st.integers(1, 3))
    def progress(self, pick: int, index: int) -> None:
        uid = self.uids[-1 - pick % len(self.uids)]
        step = SetupProgress(step="pip", step_index=index, steps_total=3, started_at_ms=1)
        self.both(lambda keeper: keeper.setup_progress(uid, step))

    @rule(
        pick=st.integers(0, 50),
        status=st.sampled_from([SetupStatus.COMPLETED, SetupStatus.FAILED]),
        layer=st.one_of(st.none(), LAYERS),
    )
    def finish(self, pick: int, status: SetupStatus, layer: str | None) -> None:
        uid = self.uids[-1 - pick % len(self.uids)]
        self.both(lambda keeper: keeper.finish_setup(uid, status, '"done"', layer))

    @rule(name=IDS, now=NOW)
    def restart(self, name: str, now: int) -> None:
        self.both(lambda keeper: keeper.restart_setup(name, '"again"', '"spec2"', now))

    @rule(key=LAYERS, content=CONTENTS)
    def put_layer(self, key: str, content: str) -> None:
        new = LayerRecord(key=key, blob=blob(content), size=1, created_at_ms=1, result="{}")
        self.both(lambda keeper: keeper.put_layer(new))

    @rule(key=LAYERS)
    def delete_layer(self, key: str) -> None:
        self.both(lambda keeper: keeper.delete_layer(key))

    @invariant()
    def alike(self) -> None:
        if not hasattr(self, "real"):
            return
        self.both(lambda keeper: keeper.list())
        for used in (False, True):
            self.both(lambda keeper, used=used: keeper.layer_keys(used=used))  # type: ignore[misc]
        blobs = [blob(content) for content in ("", "1", "22", "4444")]
        real, model = self.each(lambda keeper: keeper.unreferenced(blobs))
        assert set(real) == set(model) or (self.copied and set(real) < set(model))
        for session in self.runner.run(self.model.list()).items:
            self.both(lambda keeper, uid=session.uid: keeper.manifest_diff(uid, 0))  # type: ignore[misc]
            self.both(lambda keeper, name=session.id: keeper.code(name))  # type: ignore[misc]


async def outcome(call: Callable[[Records], Awaitable[Any]], keeper: Records) -> Any:
    """The result, or the refusal as a tuple."""
    try:
        return await call(keeper)
    except EraError as error:
        return type(error).__name__, error.code, error.text, error.extra


def comparable(result: Any) -> Any:
    """A keeper's cursors are its own."""
    return replace(result, next_cursor=None) if isinstance(result, Page) else result


async def walk(page_from: Callable[[str | None], Awaitable[Page[Any]]]) -> list[Any]:
    pages: list[Any] = []
    cursor: str | None = None
    while True:
        page = await page_from(cursor)
        pages.append(comparable(page))
        cursor = page.next_cursor
        if cursor is None:
            return pages


@pytest.fixture
def template(empty_database: Path) -> Path:
    return empty_database


@pytest.mark.parametrize("own", [copies.OWN, 1])
def test_any_sequence_of_calls_has_the_same_outcome(
    template: Path, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a small bound, copies of copies often take over what they share.
    monkeypatch.setattr(copies, "OWN", own)

    class Machine(SameOutcome):
        pass

    Machine.template = template
    Machine.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    Machine.TestCase().runTest()
