"""The tables.  Text that is ordered or compared by range (ids, paths) sorts by its UTF-8 bytes.

    sessions 1 ── n entries       the manifest, with history
             n ┈┈ 1 sessions      copies, and whose entries they share (`orphans`: of one that is gone)
             1 ── 0..1 codes      stored code
             1 ── 0..1 leases     which node serves it
             1 ── 0..1 vms        what makes it a managed VM and no session
             1 ── 0..1 setups ┈┈  layers (by key; a layer outlives the setup that made it)

Times are unix milliseconds, except `mtime_ns`.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BYTEWISE: Final = Text().with_variant(Text(collation="C"), "postgresql")
"""Text in byte order.  SQLite's default order is that already."""
KEY: Final = BigInteger().with_variant(Integer(), "sqlite")
"""An automatic key; SQLite grants those only to a column declared INTEGER."""


def _session_uid(**more: Any) -> Column[int]:
    return Column("uid", KEY, ForeignKey("sessions.uid", ondelete="CASCADE"), **more)


sessions: Final = Table(
    "sessions",
    metadata,
    # Never given twice (AUTOINCREMENT), so a uid names one life of an id; ascending: oldest first.
    Column("uid", KEY, primary_key=True),
    Column("id", BYTEWISE, nullable=False, unique=True),
    Column("language", Text, nullable=False),
    Column("persistent", Boolean, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("last_run_at_ms", BigInteger),
    Column("data_revision", BigInteger, nullable=False),
    Column("allow_internet", Boolean, nullable=False),
    Column("allow_public", Boolean, nullable=False),
    Column("default_timeout_seconds", Double),
    Column("cpu_count", Integer),
    Column("memory_mib", Integer),
    Column("source_id", Text),
    # Sums over the current entries, kept up to date by every change: reading them costs nothing.
    Column("file_count", BigInteger, nullable=False),
    Column("dir_count", BigInteger, nullable=False),
    Column("total_size_bytes", BigInteger, nullable=False),
    Column("files_revision", BigInteger, nullable=False),
    # Differences from a revision below this one can no longer be told.
    Column("history_from", BigInteger, nullable=False),
    # Long texts last, so that the rest of the row is read without them.
    Column("metadata", Text, nullable=False),
    Column("data", Text, nullable=False),
    # A copy: whose entries, as of which revision, it has where it has none itself.
    Column("base_uid", BigInteger),
    Column("base_revision", BigInteger),
    sqlite_autoincrement=True,
)

Index(
    "ix_sessions_base",
    sessions.c.base_uid,
    sessions.c.base_revision,
    sqlite_where=text("base_uid IS NOT NULL"),
    postgresql_where=text("base_uid IS NOT NULL"),
)

orphans: Final = Table(
    "orphans",
    metadata,
    # Sessions that are gone, whose entries copies still have.
    Column("uid", KEY, primary_key=True, autoincrement=False),
)

counts: Final = Table(
    "counts",
    metadata,
    # How many sessions there are, so that nobody has to walk them: the sum over a few rows, of
    # which each session has one, so that creations side by side seldom wait for each other.
    # The row after the last stripe is of managed VMs.
    Column("stripe", Integer, primary_key=True, autoincrement=False),
    Column("sessions", BigInteger, nullable=False),
)

STRIPES: Final = 16
"""The rows 0 to 15 are of sessions, row 16 of VMs."""

vms: Final = Table(
    "vms",
    metadata,
    _session_uid(primary_key=True, autoincrement=False),
    Column("network_mode", Text, nullable=False),
    Column("persist", Boolean, nullable=False),
    Column("image", Text, nullable=False),
    Column("stopped", Boolean, nullable=False),
)

entries: Final = Table(
    "entries",
    metadata,
    Column("key", KEY, primary_key=True),
    # No foreign key: entries outlive their session while copies of it have them.
    Column("uid", KEY, nullable=False),
    Column("path", BYTEWISE, nullable=False),
    # The revisions [since, until) have this entry; `until` null: the current one has it.
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger),
    Column("kind", String(4), nullable=False),
    Column("blob", String(64)),
    Column("size", BigInteger, nullable=False),
    Column("mode", SmallInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    # As the kernel has it: bytes, not always UTF-8.
    Column("target", LargeBinary),
    Column("content_type", Text),
    Column("uploaded_at_ms", BigInteger, nullable=False),
    CheckConstraint("until > since", name="interval"),
)

current: Final = Index(
    "uq_entries_current",
    entries.c.uid,
    entries.c.path,
    unique=True,
    sqlite_where=text("until IS NULL"),
    postgresql_where=text("until IS NULL"),
)
"""The current tree in path order; at most one current entry a path."""

# What a copy has of its base, though the base has it no more.
Index(
    "ix_entries_uid_path_until",
    entries.c.uid,
    entries.c.path,
    entries.c.until,
    sqlite_where=text("until IS NOT NULL"),
    postgresql_where=text("until IS NOT NULL"),
)

# What came after a revision; also the way to all entries of a session.  `until` is not in it:
# SQLite's planner would then prefer it to the unique one.
Index("ix_entries_uid_since", entries.c.uid, entries.c.since)
# What left after a revision, and what can be forgotten.
Index(
    "ix_entries_uid_until",
    entries.c.uid,
    entries.c.until,
    sqlite_where=text("until IS NOT NULL"),
    postgresql_where=text("until IS NOT NULL"),
)

Index(
    "ix_entries_blob",
    entries.c.blob,
    sqlite_where=text("blob IS NOT NULL"),
    postgresql_where=text("blob IS NOT NULL"),
)

codes: Final = Table(
    "codes",
    metadata,
    _session_uid(primary_key=True, autoincrement=False),
    # UTF-8, lone surrogates and NUL included, which not every database takes as text.
    Column("code", LargeBinary, nullable=False),
    Column("description", LargeBinary, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
)

setups: Final = Table(
    "setups",
    metadata,
    _session_uid(primary_key=True, autoincrement=False),
    Column("request", Text, nullable=False),
    Column("status", String(9), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("queued_at_ms", BigInteger, nullable=False),
    Column("layer", Text),
    # A JSON array of the members of SetupProgress.
    Column("progress", Text),
    # The full specification with its sealed secrets: gone as soon as the setup is over.
    Column("spec", Text),
    Column("result", Text),
    # Which node does it, until when (null: for ever), and how often it was claimed, ever.
    Column("owner", BYTEWISE),
    Column("until_ms", BigInteger),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
)

Index(
    "ix_setups_pending",
    setups.c.queued_at_ms,
    setups.c.uid,
    sqlite_where=text("status = 'pending'"),
    postgresql_where=text("status = 'pending'"),
)
Index("ix_setups_layer", setups.c.layer)
Index(
    "ix_setups_running",
    setups.c.until_ms,
    sqlite_where=text("status = 'running'"),
    postgresql_where=text("status = 'running'"),
)

layers: Final = Table(
    "layers",
    metadata,
    Column("key", BYTEWISE, primary_key=True),
    Column("blob", String(64), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("result", Text, nullable=False),
)

leases: Final = Table(
    "leases",
    metadata,
    _session_uid(primary_key=True, autoincrement=False),
    Column("owner", BYTEWISE, nullable=False),
    Column("address", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("running", Boolean, nullable=False),
    Column("queued", BigInteger, nullable=False),
)

Index("ix_leases_owner", leases.c.owner)
# Those that somebody has, or had and did not give back: few, where leases are as many as sessions.
Index(
    "ix_leases_held",
    leases.c.until_ms,
    sqlite_where=text("until_ms > 0"),
    postgresql_where=text("until_ms > 0"),
)

# --- where blobs are in an object store; empty when they are in a directory ------------------------

objects: Final = Table(
    "objects",
    metadata,
    Column("name", BYTEWISE, primary_key=True),
    Column("announced_at_ms", BigInteger, nullable=False),
    # How many blobs were put into it, and are in it still.
    Column("filled", BigInteger, nullable=False),
    Column("live", BigInteger, nullable=False),
    Column("abandoned", Boolean, nullable=False),
)

Index(
    "ix_objects_dead",
    objects.c.announced_at_ms,
    sqlite_where=text("live = 0"),
    postgresql_where=text("live = 0"),
)

SPARSE: Final = "live > 0 AND live * 2 <= filled"
Index(
    "ix_objects_sparse",
    objects.c.name,
    sqlite_where=text(SPARSE),
    postgresql_where=text(SPARSE),
)

blobs: Final = Table(
    "blobs",
    metadata,
    # In byte order, as a sweep walks them.
    Column("blob", BYTEWISE, primary_key=True),
    Column("object", BYTEWISE, nullable=False, index=True),
    Column("offset", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("stored_at_ms", BigInteger, nullable=False),
)

facts: Final = Table(
    "facts",
    metadata,
    # What is true of this database: who it belongs together with.
    Column("name", BYTEWISE, primary_key=True),
    Column("value", Text, nullable=False),
)
