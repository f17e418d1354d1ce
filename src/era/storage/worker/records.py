"""`Records` whose truth is at a Worker; the local database is a copy that a container may lose.

A unit of work runs in a transaction of the local database, as always.  Before that commits, the rows it
changed go to the Worker in one compare-and-swap for each session it touched, after the bytes they
refer to.  Only then does the local transaction commit.  A swap that comes too late takes the unit back,
fetches what is there now, and runs the unit again.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

from era import wire
from era.errors import EraError, InternalError, NotFoundError
from era.ids import new_token
from era.models import FileEntry, SessionView
from era.storage.base import Committed, Quota, RunCommit
from era.storage.records import rows as record_rows
from era.storage.records import statements as sql
from era.storage.records.keeper import P, R, Unit
from era.storage.records.sqlite import SqliteRecords, _Job
from era.storage.records.units import copies, sessions
from era.storage.worker import rows
from era.storage.worker.blobs import Bytes, Place
from era.storage.worker.client import StateClient

_AGAIN: Final = 20
"""How often a unit is tried when others change the same session; each time one of them got through."""
_FETCHES: Final = 16
_WATCH: Final = """
CREATE TABLE era_remote (id TEXT PRIMARY KEY, uid INTEGER NOT NULL, rev INTEGER NOT NULL);
CREATE TABLE era_uploaded
    (uid INTEGER NOT NULL, blob TEXT NOT NULL, PRIMARY KEY (uid, blob)) WITHOUT ROWID;
CREATE INDEX era_uploaded_blob ON era_uploaded (blob);
CREATE TEMP TABLE touched (name TEXT NOT NULL, uid INTEGER NOT NULL, key TEXT NOT NULL, id TEXT)
"""
_TRIGGERS: Final = {
    "sessions": ("''", "{row}.id"),
    "vms": ("''", "NULL"),
    "codes": ("''", "NULL"),
    "setups": ("''", "NULL"),
    "entries": ("{row}.path", "NULL"),
}
"""For each table that is passed on: what names a row among those of its session, and the session's id."""


class _ChangedError(Exception):
    """Somebody else changed the session; `session_id` has to be fetched anew."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id: Final = session_id


class WorkerRecords(SqliteRecords):
    """Keeps `era.storage.base.Records` at a Worker, with a copy in the file `path`.

    Whatever is in the file is thrown away first.  Blocks until the sessions that the Worker gives to
    this server are fetched.  `content` gives and takes the bytes that records refer to; None where
    they are somebody else's.

    Raises:
        InternalError: the file or the Worker cannot be used.
        UnavailableError: `storage_full`.
    """

    def __init__(self, path: str, client: StateClient, content: Bytes | None = None) -> None:
        for name in (path, f"{path}-wal", f"{path}-shm"):
            with suppress(FileNotFoundError):
                os.unlink(name)
        self._client: Final = client
        self._content: Final = content
        self._fetchers: Final = ThreadPoolExecutor(_FETCHES, thread_name_prefix="era-state")
        super().__init__(path)

    async def close(self) -> None:
        """See `Records.close`."""
        await super().close()
        await asyncio.to_thread(self._fetchers.shutdown)
        self._client.close()

    # -- what callers ask for --

    async def _read(self, unit: Unit[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await super()._read(unit, *args, **kwargs)
        except NotFoundError as error:
            if not await self._fetch_missing(error, args):
                raise
        return await super()._read(unit, *args, **kwargs)

    async def _write(self, unit: Unit[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def passing_on(connection: Connection) -> R:
            connection.execute(text("DELETE FROM temp.touched"))
            _renew_uids(connection)
            result = unit(connection, *args, **kwargs)
            _settle_copies(connection)
            self._pass_on(connection)
            return result

        looked = False
        for _ in range(_AGAIN):
            try:
                return await super()._write(passing_on)
            except _ChangedError as changed:
                await self._refetch(changed.session_id)
            except NotFoundError as error:
                if looked or not await self._fetch_missing(error, args):
                    raise
                looked = True
        raise InternalError(text="the session is changed by others all the time")

    async def commit_run(self, commit: RunCommit, quota: Quota) -> Committed:
        """See `Records.commit_run`.  The bytes go ahead, so that others need not wait for them."""
        await self._upload_ahead(commit.uid, commit.changes.written)
        return await super().commit_run(commit, quota)

    async def put_file(
        self, session_id: str, entry: FileEntry, quota: Quota, now_ms: int
    ) -> FileEntry:
        """See `Records.put_file`."""
        uid = (await self.get(session_id)).uid
        await self._upload_ahead(uid, (entry,))
        return await super().put_file(session_id, entry, quota, now_ms)

    async def where(self, blob: str) -> Place | None:
        """A session at the Worker that has this blob."""
        return await super()._read(_where, blob)

    async def _upload_ahead(self, uid: int, entries: Iterable[FileEntry]) -> None:
        blobs = {entry.blob for entry in entries if entry.blob}
        if self._content is None or not blobs:
            return
        missing = await super()._read(_not_uploaded, uid, tuple(blobs))
        if missing is None:  # the session is gone, which the unit says in its own words
            return
        place, wanted = missing
        loop = asyncio.get_running_loop()
        sent = [
            loop.run_in_executor(self._fetchers, self._content.send, self._client, place, blob)
            for blob in wanted
        ]
        there = await asyncio.gather(*sent)
        known = [blob for blob, is_there in zip(wanted, there, strict=True) if is_there]
        await super()._write(_note_uploaded, uid, tuple(known))

    # -- fetching --

    async def _fetch_missing(self, error: NotFoundError, args: Sequence[Any]) -> bool:
        """Whether the session that was not found is at the Worker, and is here now."""
        if error.code != "session_not_found" or not (args and isinstance(args[0], str)):
            return False
        return await self._refetch(args[0])

    async def _refetch(self, session_id: str) -> bool:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._fetchers, self._fetch, session_id)
        await super()._write(_replace, session_id, found)
        return found is not None

    def _fetch(self, session_id: str) -> _Fetched | None:
        """A session as the Worker has it, all of one revision."""
        while True:
            after, rev, gathered = "", 0, []
            while True:
                reply = self._client.call("GET", self._client.session(session_id, after=after))
                if reply.status == 404:
                    return None
                part = reply.json()
                if rev and part["rev"] != rev:
                    break  # it was changed between two parts: from the beginning
                rev = part["rev"]
                gathered += [(name, key, body) for name, key, body in part["rows"]]
                after = part["next"] or ""
                if not after:
                    return _Fetched(rev, int(part["uid"]), gathered)

    def _fetch_all(self, connection: Connection) -> None:
        """Every session that the Worker gives to this server: on the database's thread, at start."""
        after = ""
        while True:
            reply = self._client.call("GET", f"/sessions?after={after}")
            if reply.status != 200:
                raise InternalError(text="the state of sessions refuses this server's token")
            page = reply.json()
            ids = [item["id"] for item in page["sessions"]]
            for session_id, found in zip(ids, self._fetchers.map(self._fetch, ids), strict=True):
                _replace(connection, session_id, found)
            after = page["next"] or ""
            if not after:
                return

    # -- on the thread that owns the connection --

    def _group(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """Each unit in a transaction of its own: what is passed on cannot be taken back with another."""
        return [first], None

    def _open(self) -> tuple[Engine, Connection]:
        engine, connection = super()._open()
        try:
            with connection.begin():
                for statement in (*_WATCH.strip().split(";\n"), *_watching()):
                    connection.execute(text(statement))
                self._fetch_all(connection)
        except BaseException:
            connection.close()
            raise
        return engine, connection

    def _pass_on(self, connection: Connection) -> None:
        """Swap the records of all sessions that the transaction touched."""
        found = connection.execute(text("SELECT DISTINCT name, uid, key, id FROM temp.touched"))
        by_uid: dict[int, set[tuple[str, str]]] = {}
        ids: dict[int, str] = {}
        for name, uid, key, session_id in found.fetchall():
            by_uid.setdefault(uid, set()).add((name, key))
            if session_id is not None:
                ids[uid] = session_id
        gone: list[Place] = []
        for uid, touched in by_uid.items():
            row = connection.execute(sql.session_by_uid, {"of": uid}).first()
            if row is None and uid in ids:
                gone.append(Place(ids[uid], uid))
            elif row is not None:
                self._swap(connection, SessionView(record=record_rows.session(row)), touched)
        self._erase(connection, gone)

    def _erase(self, connection: Connection, gone: Sequence[Place]) -> None:
        """Delete sessions at the Worker, with everything they have there."""
        known = []
        for place in gone:
            asked = {"id": place.session_id, "uid": place.uid}
            rev = connection.execute(_REVISION, asked).scalar()
            if rev is not None:  # else it was made and removed in one transaction
                known.append((place, rev))
        outcomes = self._fetchers.map(self._erase_one, known)
        for (place, _), done in zip(known, outcomes, strict=True):
            if not done:
                raise _ChangedError(place.session_id)
            asked = {"id": place.session_id, "uid": place.uid}
            connection.execute(text("DELETE FROM era_remote WHERE id = :id AND uid = :uid"), asked)
            connection.execute(text("DELETE FROM era_uploaded WHERE uid = :uid"), asked)

    def _erase_one(self, known: tuple[Place, int]) -> bool:
        place, rev = known
        headers = {"If-Match": f'"{rev}"'}
        path = self._client.session(place.session_id)
        return self._client.call("DELETE", path, headers=headers).status != 412

    def _swap(
        self, connection: Connection, view: SessionView, touched: set[tuple[str, str]]
    ) -> None:
        record = view.record
        kept, dropped = rows.changed(connection, record.uid, touched)
        place = Place(record.id, record.uid)
        self._upload(connection, place, kept)
        rev = connection.execute(_REVISION, {"id": record.id, "uid": record.uid}).scalar() or 0
        summary = wire.encode(wire.session_object(view, now_ms=0, full=False)).decode()
        change = {
            "change": new_token(),
            "uid": str(record.uid),
            "summary": "" if record.vm is not None else summary,
            "set": kept,
            "drop": dropped,
        }
        reply = self._client.call(
            "PUT",
            self._client.session(record.id),
            json.dumps(change, separators=(",", ":")).encode(),
            headers={"If-Match": f'"{rev}"', "Content-Type": "application/json"},
        )
        if reply.status == 412:
            raise _ChangedError(record.id)
        _note_revision(connection, record.id, record.uid, reply.revision)
        self._drop(connection, place)

    def _upload(self, connection: Connection, place: Place, kept: Iterable[rows.Row]) -> None:
        """Have the bytes at the Worker that the rows refer to."""
        if self._content is None:
            return
        wanted = {rows.decoded(body).get("blob") for name, _, body in kept if "blob" in body} - {
            None
        }
        missing = _not_uploaded(connection, place.uid, tuple(map(str, wanted)))
        for blob in missing[1] if missing else ():
            source = _where(connection, blob)
            if not (
                self._content.send(self._client, place, blob)
                or (source and self._content.copy(self._client, source, place, blob))
            ):
                raise InternalError(text="the bytes of a file are missing")
            _note_uploaded(connection, place.uid, (blob,))

    def _drop(self, connection: Connection, place: Place) -> None:
        """Delete at the Worker what the session has no more.  What fails is tried with the next commit."""
        if self._content is None:
            return
        for (blob,) in connection.execute(_UNUSED, {"uid": place.uid}).fetchall():
            with suppress(EraError):
                self._content.forget(self._client, place, blob)
                gone = {"uid": place.uid, "blob": blob}
                connection.execute(_FORGET_BLOB, gone)


class _Fetched:
    """A session as the Worker has it."""

    __slots__ = ("found", "rev", "uid")

    def __init__(self, rev: int, uid: int, found: list[rows.Row]) -> None:
        self.rev: Final = rev
        self.uid: Final = uid
        self.found: Final = found


_REVISION: Final = text("SELECT rev FROM era_remote WHERE id = :id AND uid = :uid")
_FORGET_BLOB: Final = text("DELETE FROM era_uploaded WHERE uid = :uid AND blob = :blob")
_USED: Final = """
SELECT blob FROM entries WHERE uid = :uid AND until IS NULL AND blob IS NOT NULL
UNION SELECT layers.blob FROM setups JOIN layers ON layers.key = setups.layer WHERE setups.uid = :uid
"""
_UNUSED: Final = text(f"SELECT blob FROM era_uploaded WHERE uid = :uid AND blob NOT IN ({_USED})")  # noqa: S608
_USED_NOW: Final = text(f"INSERT OR IGNORE INTO era_uploaded SELECT :uid, blob FROM ({_USED})")  # noqa: S608


def _watching() -> Iterable[str]:
    """Triggers that note each row that a transaction changes."""
    for table, (key, session_id) in _TRIGGERS.items():
        for verb, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            values = f"'{table}', {row}.uid, {key}, {session_id}".format(row=row)
            act = f"INSERT INTO touched VALUES ({values})"  # noqa: S608 - words of this module
            yield (
                f"CREATE TEMP TRIGGER {table}_{verb} AFTER {verb} ON main.{table} BEGIN {act}; END"
            )


def _renew_uids(connection: Connection) -> None:
    """uids grow with time, so that no two servers give the same one, and older sessions come first."""
    least = (time.time_ns() // 1_000_000 << 16) | int.from_bytes(os.urandom(2))
    known = connection.execute(
        text("UPDATE sqlite_sequence SET seq = max(seq, :least) WHERE name = 'sessions'"),
        {"least": least},
    )
    if not known.rowcount:
        connection.execute(
            text("INSERT INTO sqlite_sequence (name, seq) VALUES ('sessions', :least)"),
            {"least": least},
        )


def _settle_copies(connection: Connection) -> None:
    """Give copies entries of their own: each session's record is whole by itself."""
    sharing = text("SELECT uid FROM sessions WHERE base_uid IS NOT NULL")
    for uid in connection.execute(sharing).scalars().all():
        copies.settle(connection, sessions.lock_uid(connection, uid).tree)


def _replace(connection: Connection, session_id: str, fetched: _Fetched | None) -> None:
    """Have a session as the Worker has it, or not at all."""
    old = {"id": session_id}
    gone = "SELECT uid FROM era_remote WHERE id = :id"
    connection.execute(text(f"DELETE FROM era_uploaded WHERE uid IN ({gone})"), old)  # noqa: S608
    connection.execute(text("DELETE FROM era_remote WHERE id = :id"), old)
    rows.remove(connection, session_id)
    if fetched is not None:
        rows.put_back(connection, fetched.found)
        connection.execute(_USED_NOW, {"uid": fetched.uid})
        _note_revision(connection, session_id, fetched.uid, fetched.rev)
    connection.execute(text("DELETE FROM temp.touched"))


def _note_revision(connection: Connection, session_id: str, uid: int, rev: int) -> None:
    connection.execute(
        text("INSERT OR REPLACE INTO era_remote (id, uid, rev) VALUES (:id, :uid, :rev)"),
        {"id": session_id, "uid": uid, "rev": rev},
    )


def _where(connection: Connection, blob: str) -> Place | None:
    found = connection.execute(
        text(
            "SELECT r.id, r.uid FROM era_uploaded u JOIN era_remote r ON r.uid = u.uid"
            " WHERE u.blob = :blob LIMIT 1"
        ),
        {"blob": blob},
    ).first()
    return None if found is None else Place(str(found[0]), int(found[1]))


def _not_uploaded(
    connection: Connection, uid: int, blobs: tuple[str, ...]
) -> tuple[Place, list[str]] | None:
    """The session of `uid`, and which of `blobs` it does not have at the Worker."""
    row = connection.execute(sql.session_by_uid, {"of": uid}).first()
    if row is None:
        return None
    known = connection.execute(
        text("SELECT blob FROM era_uploaded WHERE uid = :uid"), {"uid": uid}
    ).scalars()
    return Place(record_rows.session(row).id, uid), sorted(set(blobs) - set(known))


def _note_uploaded(connection: Connection, uid: int, blobs: tuple[str, ...]) -> None:
    for blob in blobs:
        connection.execute(
            text("INSERT OR IGNORE INTO era_uploaded VALUES (:uid, :blob)"),
            {"uid": uid, "blob": blob},
        )
