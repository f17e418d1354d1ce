"""Manifests as plain dictionaries, one a revision: the model behind `MemoryRecords`."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace

from era.models import FileEntry, FileKind, JsonText, SessionRecord, SetupState, StoredCode
from era.relpath import RelPath
from era.storage.base import Quota

Tree = dict[str, tuple[FileEntry, int]]
"""Path to the entry there and the revision it appeared in."""

INT64 = 2**63 - 1


@dataclass
class Kept:
    """Everything about one session."""

    record: SessionRecord
    trees: dict[int, Tree] = field(default_factory=lambda: {0: {}})
    floor: int = 0
    code: StoredCode | None = None
    spec: JsonText | None = None
    queued: int = 0

    @property
    def head(self) -> Tree:
        return self.trees[self.record.files_revision]

    def advance(self, tree: Tree) -> None:
        """Make `tree` the next revision; entries marked -1 are new in it."""
        revision = self.record.files_revision + 1
        tree = {path: (e, revision if since < 0 else since) for path, (e, since) in tree.items()}
        self.trees[revision] = tree
        self.record = replace(
            self.record,
            files_revision=revision,
            file_count=count(tree, dirs=False),
            total_size_bytes=size(tree),
        )


def count(tree: Tree, *, dirs: bool) -> int:
    return sum((entry.kind is FileKind.DIR) == dirs for entry, _ in tree.values())


def size(tree: Tree) -> int:
    return sum(entry.size for entry, _ in tree.values() if entry.kind is FileKind.FILE)


def below(tree: Tree, path: str) -> list[str]:
    return [other for other in tree if other.startswith(path + "/")]


def over(before: Tree, after: Tree, quota: Quota) -> str | None:
    for name, measure, bound in (
        ("bytes", size, quota.total_bytes),
        ("files", lambda tree: count(tree, dirs=False), quota.count),
        ("directories", lambda tree: count(tree, dirs=True), quota.count),
    ):
        if bound and measure(after) > bound and measure(after) > measure(before):
            return name
    return None


def clean(entry: FileEntry, now_ms: int) -> FileEntry:
    return replace(
        entry,
        size=entry.size if entry.kind is FileKind.FILE else 0,
        mode=entry.mode & 0o777,
        mtime_ns=max(-INT64, min(INT64, entry.mtime_ns)),
        uploaded_at_ms=now_ms,
    )


def link_size(tree: Tree, path: str, root: str = "/workspace") -> int:
    """Follow the link at `path` until it is a file, or 40 steps were taken."""
    rest = ""
    for _ in range(40):
        target = tree[path][0].target or ""
        whole = posixpath.normpath(posixpath.join(root, posixpath.dirname(path), target, rest))
        top = root.rstrip("/") + "/"
        if not whole.startswith(top) or whole == top:
            return 0
        wanted = whole.removeprefix(top)
        names = wanted.split("/")
        steps = [wanted, *("/".join(names[:n]) for n in range(1, len(names)))]
        stop = next((step for step in steps if step in tree and not is_dir(tree, step)), None)
        if stop is None:
            return 0
        if tree[stop][0].kind is FileKind.FILE:
            return tree[stop][0].size if stop == wanted else 0
        path, rest = stop, wanted[len(stop) + 1 :]
    return 0


def is_dir(tree: Tree, path: str) -> bool:
    return tree[path][0].kind is FileKind.DIR


def directories(tree: Tree) -> set[str]:
    """Stored and implied."""
    stored = {path for path in tree if is_dir(tree, path)}
    return stored | {parent for path in tree for parent in str.__new__(RelPath, path).parents}


def set_setup(kept: Kept, **changes: object) -> SetupState:
    assert kept.record.setup is not None
    state: SetupState = replace(kept.record.setup, **changes)  # type: ignore[arg-type]
    kept.record = replace(kept.record, setup=state)
    return state


def shown(tree: Tree, path: str, root: str = "/workspace") -> FileEntry:
    entry = tree[path][0]
    if entry.kind is not FileKind.LINK:
        return entry
    return replace(entry, size=link_size(tree, path, root))


def put(before: Tree, after: Tree, entry: FileEntry, quiet: set[str]) -> None:
    """Write an entry of a commit into `after`; `quiet` collects what no reader calls a change."""
    path = entry.path
    in_the_way = [parent for parent in path.parents if parent in after]
    if entry.kind is not FileKind.DIR:
        in_the_way += [str.__new__(RelPath, other) for other in below(after, path)]
    for other in in_the_way:
        if other.startswith(path + "/") or not is_dir(after, other):
            del after[other]
    old = before[path][0] if path in before else None
    keys = ("kind", "blob", "mode", "target")
    if old is not None and all(getattr(old, key) == getattr(entry, key) for key in keys):
        after[path] = before[path]
        if old.mtime_ns != entry.mtime_ns:
            after[path] = (replace(old, mtime_ns=entry.mtime_ns), -1)
            quiet.add(path)
        return
    if old is not None and old.blob is not None and old.blob == entry.blob:
        entry = replace(entry, content_type=entry.content_type or old.content_type)
    after[path] = (entry, -1)


def forget(kept: Kept, keep: int) -> int:
    """Drop the entries that ended at or before revision `keep`; how many."""
    forgotten = 0
    for revision in sorted(kept.trees):
        if kept.floor < revision <= keep:
            now = kept.trees[revision]
            ended = [p for p, old in kept.trees[revision - 1].items() if now.get(p) != old]
            if ended:
                forgotten += len(ended)
                kept.floor = revision
    return forgotten
