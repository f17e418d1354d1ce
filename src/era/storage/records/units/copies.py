"""Copies share the entries of the session they were made from, their base, until these change.

A copy notes whose entries it has and as of which revision; history keeps them (`files.prune`).  So
making one writes no entry, and what a copy changes is its own.  Two rules keep this flat.  A base has
no base: a copy of a copy shares what the first one shares and is given the few entries that are the
first one's own; when these are many, the first takes over all that it sees (`settle`), once, and
is a base from then on.  And the entries of a session that is gone stay only for its copies; the
last one of these takes over what it sees.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection

from era.storage.records import entry_statements as entries
from era.storage.records.rows import Held, Tree

OWN: Final = 256
"""Entries of its own that a copy hands on to copies of it.  Handing on so many takes 3 ms."""


def base_for(connection: Connection, source: Held) -> Tree:
    """The base of a copy of `source` (which is held): another tree's, or `source` itself now."""
    tree = source.tree
    if tree.base is not None:
        asked = {"of": tree.uid, "limit": OWN + 1}
        if connection.execute(entries.own_entries, asked).scalar_one() <= OWN:
            return tree
        settle(connection, tree)
    return Tree(tree.uid, tree.uid, source.record.files_revision)


def copy_own(connection: Connection, of: int, copy_uid: int) -> None:
    """Give a copy the entries that its source has itself, over the base of both."""
    connection.execute(entries.copy_entries, {"of": of, "copy_uid": copy_uid})


def settle(connection: Connection, tree: Tree) -> None:
    """Make what a copy (which is held) sees of its base its own.  Its history begins anew."""
    shared = {"of": tree.uid, "base": tree.base, "base_revision": tree.base_revision}
    connection.execute(entries.take_entries, shared)
    connection.execute(entries.forget_gone, {"of": tree.uid})
    connection.execute(entries.leave_base, {"of": tree.uid})


def drop_trees(connection: Connection, uids: Collection[int]) -> None:
    """Forget the entries of sessions that are gone, but for those that copies have."""
    asked = {"uids": json.dumps(sorted(uids))}
    needed = set(connection.execute(entries.bases_among, asked).scalars())
    if needed:
        connection.execute(entries.insert_orphans, [{"uid": uid} for uid in sorted(needed)])
    _drop(connection, set(uids) - needed)
    drop_orphans(connection)


def drop_orphans(connection: Connection) -> None:
    """Forget what the copies of sessions that are gone had, when these are gone too."""
    _drop(connection, set(connection.execute(entries.forget_orphans).scalars()))


def _drop(connection: Connection, uids: set[int]) -> None:
    if uids:
        connection.execute(entries.delete_entries, {"uids": json.dumps(sorted(uids))})
