"""Every use-case of sessions: what the front doors call.

A door translates a request into one call here and the answer back; the order of things is ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from era import jsontext
from era.errors import (
    ConflictError,
    EraError,
    NotFoundError,
)
from era.ids import copy_id, new_session_id
from era.languages.asked import parse_setup
from era.languages.table import check_available
from era.models import (
    FileEntry,
    NewCopy,
    NewSession,
    Page,
    RunRequest,
    RunResult,
    SessionPatch,
    SessionRecord,
    SessionView,
    SetupSpec,
    SetupState,
    StoredCode,
)
from era.relpath import user_path
from era.sandbox.base import Connection
from era.sessions import inward
from era.sessions.active import Phase, Registry, TextSink
from era.sessions.builds import Builds
from era.sessions.endings import Endings
from era.sessions.files import Files, OpenFile
from era.sessions.layers import Layers
from era.sessions.modules import Modules
from era.sessions.nodes import Nodes, OneNode, SharedNodes
from era.sessions.packages import PackageLayers
from era.sessions.parts import Parts
from era.sessions.preparing import Preparing
from era.sessions.runs import Runs, shutting_down
from era.sessions.settings import SessionLimits
from era.sessions.setups import Setups
from era.sessions.snapshots import Snapshots
from era.sessions.specs import sealed_spec, without_envs
from era.sessions.sweep import Sweeper
from era.sessions.vms import Vms
from era.storage.leases import Holder


class Sessions:
    """The sessions of this server."""

    def __init__(self, parts: Parts, limits: SessionLimits) -> None:
        self._parts = parts
        self._records = parts.records
        self._limits = limits
        layers = Layers(parts)
        packages = PackageLayers(parts, layers, limits.setups.layer_max_age_seconds)
        self._layers = layers
        self._packages = packages
        self._setups = Setups(parts, limits, layers, packages)
        self._modules = _modules(parts, limits)
        self._builds = Builds(parts.programs_dir, parts.driver, limits.programs)
        snapshots = Snapshots(parts, limits, layers)
        registry = Registry()
        self._endings = Endings(parts.records, registry)
        self._nodes: Nodes = OneNode()
        if parts.cluster is not None:
            self._nodes = SharedNodes(
                parts.cluster, lost=self._endings.lose, activity=registry.activity
            )
        preparing = Preparing(self._modules, self._builds, limits.runs.output_bytes)
        self._runs = Runs(parts, limits, snapshots, self._setups, preparing, registry, self._nodes)
        self._sweeper = Sweeper(
            parts,
            layers,
            packages,
            self._builds,
            every_seconds=limits.sweep_seconds,
            grace_seconds=limits.blob_grace_seconds,
        )
        self._files = Files(parts, limits.file_bytes)
        self.vms = Vms(
            parts, limits, self._runs, self._files, self._forget, self._refuse_when_closing
        )
        self._closing = False

    # -- the service --

    async def start(self) -> None:
        """Remove what a killed server left, and take up the setups it had begun."""
        await self._nodes.start()
        await self._builds.start()
        await self._sweeper.drop_gone()
        await self._layers.start()
        if self._modules is not None:
            await self._modules.start()
        await self._setups.start()
        self._sweeper.start()

    async def close(self, grace_seconds: float) -> None:
        """Refuse what comes, give runs `grace_seconds` to finish, then end them without a commit."""
        self._closing = True
        await self._endings.stop(grace_seconds)
        await self._parts.trees.close()
        await self._setups.close()
        await self._nodes.close()
        await self._sweeper.close()
        await self._builds.close()
        await self._layers.close()
        await self._packages.close()
        if self._modules is not None:
            await self._modules.close()

    def hurry(self) -> None:
        """The grace that `close` gives is over."""
        self._endings.hurry()

    def make_ready(self) -> None:
        """Make in the background what setups can do without, but are quicker with."""
        self._packages.make_ready()

    @property
    def closing(self) -> bool:
        """Whether new requests are refused."""
        return self._closing

    @property
    def busy(self) -> int:
        """Runs and setups under way, and what goes on behind them."""
        return (
            len(self._runs.registry.all())
            + self._setups.busy
            + self._layers.busy
            + self._packages.busy
        )

    @property
    def tier(self) -> str:
        """The isolation tier in use."""
        return self._parts.driver.tier

    @property
    def unenforced(self) -> tuple[str, ...]:
        """What this host cannot enforce, in words."""
        return self._parts.driver.unenforced

    @property
    def versions(self) -> Mapping[str, str]:
        """Version of each language's runtime."""
        return self._parts.tools.versions

    @property
    def limits(self) -> SessionLimits:
        """The bounds and defaults that hold here."""
        return self._limits

    async def check(self) -> Mapping[str, str]:
        """The checks that failed, by name; empty when the service is healthy."""
        failed = {}
        if self._parts.admission.refused is not None:
            failed["isolation"] = ". ".join(self._parts.admission.refused)
        try:
            await self._records.check()
        except EraError as error:
            failed["storage"] = error.text
        return failed

    # -- other servers --

    @property
    def takeover_seconds(self) -> float | None:
        """How long a server that has died keeps its sessions; None: there is only this one."""
        return self._nodes.ttl_seconds

    def place(self, session_id: str) -> AbstractAsyncContextManager[str | None]:
        """Gives the address of the server that has the session; or None, and this one has it while
        the context lasts.  Raises NotFoundError."""
        return self._nodes.place(session_id)

    async def holder(self, session_id: str) -> str | None:
        """The address of the other server that has the session now, if any does.

        Raises:
            NotFoundError: `session_not_found`.
        """
        found = await self._nodes.elsewhere(session_id)
        return next((holder.address for holder in found.values()), None)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise shutting_down()

    # -- sessions --

    async def create(self, new: NewSession) -> SessionView:
        """Create a session; its setup, if any, begins in the background.

        Raises:
            InputError: `unsupported_language`.
            ConflictError: `session_exists`.
            UnavailableError: `isolation_unavailable`, this server is another session's alone.
        """
        self._refuse_when_closing()
        self._parts.admission.refuse_another()
        check_available(new.language, self._parts.tools)
        if new.allow_internet is None:
            new = replace(new, allow_internet=self._limits.default_internet_access)
        now_ms = self._parts.clock()
        spec = None
        if new.setup is not None and not new.setup.empty:
            spec = sealed_spec(new.setup, self._parts.seal)
        session_id = new.id or new_session_id(now_ms)
        record = await self._records.create(session_id, new, now_ms, spec)
        self._setups.wake()
        return self._view(record)

    async def get(self, session_id: str, with_files: bool = False) -> SessionView:
        """A session's committed state.  Raises NotFoundError."""
        record = await self._records.get(session_id)
        view = self._view(record, await self._nodes.elsewhere(session_id))
        if with_files:
            view = replace(view, files=(await self._records.files(session_id)).items)
        return view

    async def list(
        self, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> Page[SessionView]:
        """Sessions, oldest first."""
        page = await self._records.list(prefix=prefix, limit=limit, cursor=cursor)
        elsewhere = await self._nodes.elsewhere()
        return Page(
            items=tuple(self._view(record, elsewhere) for record in page.items),
            total=page.total,
            next_cursor=page.next_cursor,
        )

    async def patch(self, session_id: str, patch: SessionPatch) -> SessionView:
        """Change settings, metadata or data.  Raises NotFoundError."""
        record = await self._records.patch(session_id, patch, self._parts.clock())
        return self._view(record, await self._nodes.elsewhere(session_id))

    async def delete(self, session_id: str) -> int:
        """Remove a session with all that belongs to it; when, in unix milliseconds."""
        now_ms = self._parts.clock()
        await self._forget(await self._records.delete(session_id))
        return now_ms

    async def delete_all(self, prefix: str = "") -> tuple[tuple[str, ...], int]:
        """Remove every session whose id begins with `prefix`; their ids, and when."""
        now_ms = self._parts.clock()
        records = await self._records.delete_all(prefix)
        await self._forget(*records)
        return tuple(record.id for record in records), now_ms

    async def _forget(self, *records: SessionRecord) -> None:
        """End everything that goes on in sessions that are gone; nothing of it can commit."""
        await self._endings.delete([record.uid for record in records])
        for record in records:
            if record.setup is not None:
                await self._setups.cancel(record.uid)
            await self._parts.trees.drop(record.uid)
            self._builds.drop(record.uid)

    async def duplicate(self, session_id: str, copy: NewCopy) -> SessionView:
        """Copy a session from one committed state.

        Raises:
            NotFoundError: `session_not_found` for the source.
            ConflictError: `session_exists`.
        """
        self._refuse_when_closing()
        now_ms = self._parts.clock()
        wanted, attempt_ms = copy.id, now_ms
        while True:
            try:
                record = await self._records.duplicate(
                    session_id,
                    wanted or copy_id(session_id, attempt_ms),
                    now_ms,
                    data=copy.data,
                    include_files=copy.include_files,
                )
                break
            except ConflictError:
                # Two copies in one millisecond: the second takes the next one.
                if wanted is not None:
                    raise
                attempt_ms += 1
        self._setups.wake()
        return self._view(record)

    def _view(
        self, record: SessionRecord, elsewhere: Mapping[int, Holder] | None = None
    ) -> SessionView:
        """`elsewhere` says what other servers do in sessions."""
        there = (elsewhere or {}).get(record.uid)
        here = self._runs.registry.activity(record.uid)
        return SessionView(
            record=record,
            running=here.running or (there is not None and there.running),
            queued_runs=here.queued + (there.queued if there is not None else 0),
        )

    # -- runs --

    async def execute(self, request: RunRequest, sink: TextSink | None = None) -> RunResult:
        """Run code once; nothing is kept.  Cancelled with its caller."""
        self._refuse_when_closing()
        return await self._runs.execute(request, sink)

    async def run(
        self,
        session_id: str,
        request: RunRequest,
        sink: TextSink | None = None,
        accepted: Callable[[], None] | None = None,
    ) -> RunResult:
        """Run code in a session.

        It goes on when the caller is cancelled (or is cancelled, with `cancel_on_disconnect`); one
        that still waits is dropped.  `accepted` is called once, when the run has been queued: what
        can be refused at once has not been.
        """
        self._refuse_when_closing()
        return await self._runs.run(session_id, request, sink, accepted)

    async def cancel(self, session_id: str) -> str | None:
        """End the run in progress; its id, None when nothing runs.  Raises NotFoundError."""
        record = await self._records.get(session_id)
        run = self._runs.registry.current(record.uid)
        if run is None or run.phase is Phase.ENDED:
            return None
        run.cancel()
        return run.run_id

    # -- what comes in over HTTP --

    async def reach(self, session_id: str, port: int) -> Connection | None:
        """A connection to a server of the run in progress, which may take a moment to begin to
        listen; None when there is none.  Raises NotFoundError."""
        record = await self._records.get(session_id)
        return await inward.reach(self._runs.registry, record, port, inward.PATIENCE_SECONDS)

    async def serves(self, session_id: str) -> bool:
        """Whether a run is in progress here, so that it could have servers.  Raises NotFoundError."""
        record = await self._records.get(session_id)
        return inward.in_progress(self._runs.registry, record) is not None

    # -- files --

    async def files(
        self,
        session_id: str,
        prefix: str = "",
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[FileEntry]:
        """Files of a session by path.  Raises NotFoundError."""
        return await self._files.page(session_id, prefix, limit, cursor)

    async def open_file(self, session_id: str, path: str) -> OpenFile:
        """A file, to be read.  A link is followed inside the workspace.

        Raises:
            InputError: `invalid_path`, `reserved_path`.
            NotFoundError: `session_not_found`, `file_not_found` (also for a directory).
        """
        return await self._files.open(session_id, user_path(path))

    async def put_file(
        self,
        session_id: str,
        path: str,
        chunks: AsyncIterator[bytes],
        content_type: str | None = None,
    ) -> FileEntry:
        """Store a file; nothing of it is seen before all of it is there.

        Raises:
            InputError: `invalid_path`, `reserved_path`.
            TooLargeError: `file_too_large`, `quota_exceeded`.
            NotFoundError: `session_not_found`.
        """
        self._refuse_when_closing()
        return await self._files.put(
            session_id, user_path(path), chunks, content_type, self._limits.quota
        )

    async def delete_file(self, session_id: str, path: str, recursive: bool = False) -> None:
        """Remove a file, or with `recursive` a directory.

        Raises:
            InputError: `invalid_path`, `reserved_path`.
            NotFoundError: `session_not_found`, `file_not_found`.
        """
        await self._files.delete(session_id, user_path(path), recursive)

    # -- stored code --

    async def put_code(
        self, session_id: str, code: str, description: str | None = None
    ) -> StoredCode:
        """Store default code; without `description` the old one stays.  Raises NotFoundError."""
        return await self._records.put_code(session_id, code, description, self._parts.clock())

    async def code(self, session_id: str) -> StoredCode:
        """The stored code.  Raises NotFoundError, also `code_not_found`."""
        return await self._records.code(session_id)

    async def delete_code(self, session_id: str) -> None:
        """Remove the stored code.  Raises NotFoundError, also `code_not_found`."""
        await self._records.delete_code(session_id, self._parts.clock())

    # -- setup --

    async def setup(self, session_id: str) -> SetupState:
        """Where the setup stands.

        Raises:
            NotFoundError: `session_not_found`; `not_found` when the session has no setup.
        """
        record = await self._records.get(session_id)
        if record.setup is None:
            raise NotFoundError(
                "not_found", hint="the session has no setup; POST one here to install packages"
            )
        return record.setup

    async def retry_setup(self, session_id: str, spec: SetupSpec | None = None) -> SessionView:
        """Run `spec` as the session's setup, or the stored one again (without its variables).

        Raises:
            NotFoundError: `session_not_found`; `not_found` when there is none to run again.
            ConflictError: `setup_pending`.
        """
        self._refuse_when_closing()
        if spec is None:
            request = (await self.setup(session_id)).request
            spec = without_envs(parse_setup(jsontext.loads(request))[0], request)
        sealed = sealed_spec(spec, self._parts.seal)
        record = await self._records.restart_setup(
            session_id, spec.request, sealed, self._parts.clock()
        )
        self._setups.wake()
        return self._view(record)


def _modules(parts: Parts, limits: SessionLimits) -> Modules | None:
    if parts.modules_dir is None:
        return None
    return Modules(parts.modules_dir, parts.driver, parts.tools, limits.modules)
