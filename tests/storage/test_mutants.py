"""The machines that compare with a model notice what they are there for.

Each case is the service with one thing broken, as a mistake in it would be; the machine must fail.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import Connection, and_, delete

from era.models import Changes, SessionRecord
from era.storage.base import Quota, RunCommit
from era.storage.records import entry_statements
from era.storage.records.rows import Held, Tree
from era.storage.records.statements import param
from era.storage.records.tables import entries
from era.storage.records.units import changes, commits, copies, files
from era.workspace import data as data_file
from era.workspace import trees
from tests.sessions.test_state_machine import AnyOrder
from tests.storage.test_records_model import SameOutcome

pytestmark = pytest.mark.timeout(600)

Break = Callable[[pytest.MonkeyPatch], None]


def fails(machine: type[RuleBasedStateMachine], examples: int) -> bool:
    """Whether the machine finds anything in so many examples."""
    machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    try:
        machine.TestCase().runTest()
    except Exception:  # noqa: BLE001 - whatever a broken service leads to
        return True
    return False


# --- broken stores ------------------------------------------------------------------------------


def removals_take_what_came_meanwhile(patch: pytest.MonkeyPatch) -> None:
    whole = commits.commit_run

    def commit_run(connection: Connection, commit: RunCommit, quota: Quota) -> Any:
        return whole(connection, replace(commit, snapshot_revision=10**9), quota)

    patch.setattr(commits, "commit_run", commit_run)


def quotas_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(changes.Totals, "excess", lambda *_: None)


def copies_see_what_their_source_does_later(patch: pytest.MonkeyPatch) -> None:
    def base_for(_: Connection, source: Held) -> Tree:
        return Tree(source.tree.uid, source.tree.uid, 10**9)

    patch.setattr(copies, "base_for", base_for)


def copies_cannot_remove(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(changes, "_of_base", lambda *_: set())


def copies_lose_their_files_with_the_source(patch: pytest.MonkeyPatch) -> None:
    def drop_trees(connection: Connection, uids: Collection[int]) -> None:
        copies._drop(connection, set(uids))

    patch.setattr(copies, "drop_trees", drop_trees)


def history_that_copies_need_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    ended = and_(
        entries.c.uid == param("of"),
        entries.c.until <= param("revision"),
    )
    forget = delete(entries).where(ended).returning(entries.c.until)
    patch.setattr(entry_statements, "forget_entries", forget)


def test_quotas_that_are_not_kept_are_found(
    empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Machine(SameOutcome):
        template = empty_database

    quotas_are_not_kept(monkeypatch)
    assert fails(Machine, 300)


# --- a broken service ---------------------------------------------------------------------------


def trees_stay_as_they_are(patch: pytest.MonkeyPatch) -> None:
    ensure = trees.Trees.ensure

    async def stale(self: trees.Trees, record: SessionRecord) -> trees.Tree:
        at = self.revision(record.uid)
        return await ensure(self, record if at is None else replace(record, files_revision=at))

    patch.setattr(trees.Trees, "ensure", stale)


def data_is_written_back_unchanged(patch: pytest.MonkeyPatch) -> None:
    read = data_file.read

    def written_back(dir_fd: int, injected: bytes, limit: int) -> data_file.DataOutcome:
        found = read(dir_fd, injected, limit)
        same = found.data is None and found.error is None
        return data_file.parse(injected, limit) if same else found

    patch.setattr(data_file, "read", written_back)


def deletions_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    whole = commits.commit_run

    def commit_run(connection: Connection, commit: RunCommit, quota: Quota) -> Any:
        written = Changes(written=commit.changes.written)
        return whole(connection, replace(commit, changes=written), quota)

    patch.setattr(commits, "commit_run", commit_run)


def sweeps_take_what_is_used(patch: pytest.MonkeyPatch) -> None:
    def unreferenced(_: Connection, blobs: Sequence[str]) -> tuple[str, ...]:
        return tuple(blobs)

    patch.setattr(files, "unreferenced", unreferenced)


BROKEN: Final = (
    removals_take_what_came_meanwhile,
    copies_see_what_their_source_does_later,
    copies_cannot_remove,
    copies_lose_their_files_with_the_source,
    history_that_copies_need_is_forgotten,
    trees_stay_as_they_are,
    data_is_written_back_unchanged,
    deletions_are_not_kept,
    sweeps_take_what_is_used,
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.__name__)
def test_what_is_broken_is_found(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine(AnyOrder):
        pass

    broken(monkeypatch)
    assert fails(Machine, 100)
