"""What a run starts from: everything it needs, read once, after its turn has come."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

from era import jsontext, layout
from era.errors import InputError, NotFoundError, TooLargeError
from era.ids import vm_id_of
from era.languages.environment import DENO_CACHE, GO_CACHE, build, is_plain
from era.languages.table import Launch, check_available, command_launch, launch
from era.models import JsonText, Network, RunRequest, SessionRecord, SetupStatus
from era.relpath import DATA_FILE, RelPath
from era.sandbox.base import BoxSpec, Limits, Overlay, Program
from era.sessions import builds, goinputs, inward
from era.sessions.graphs import Place, Wanted, wanted
from era.sessions.layers import (
    NOTHING,
    Attachment,
    LayerLostError,
    Layers,
    attachment,
)
from era.sessions.parts import GoCache, Parts
from era.sessions.settings import SessionLimits
from era.workspace import stage
from era.workspace.trees import Tree

_NO_LAYER: Final = "the setup of this session failed; its packages are not available"
_OLD_LAYER: Final = "the last setup of this session failed; what an earlier one installed is in use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One run, ready to go.

    `files` are placed at the workspace root; those in `own_names` are the service's.  `injected`
    is the text of the data file, empty without one.  `merged` is the data that the request has
    changed before the run.  `record` and what follows it are for runs of a session.
    """

    language: str
    program: Program
    spec: BoxSpec
    files: Mapping[str, bytes]
    own_names: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    record: SessionRecord | None = None
    revision: int = 0
    injected: bytes = b""
    merged: JsonText | None = None
    tree: Tree | None = None
    layer: Attachment = field(default=NOTHING)
    wanted: Wanted | None = None
    build: builds.Wanted | None = None

    @property
    def placed(self) -> dict[str, bytes]:
        """What the session does not hold: entry file, data file, files of the request."""
        return {**self.files, **_data_file(self.injected)}


def _data_file(injected: bytes) -> dict[str, bytes]:
    return {str(DATA_FILE): injected} if injected else {}


def merged_data(data: JsonText, update: JsonText | None, limit_bytes: int) -> JsonText | None:
    """`data` with the members of `update` in place of its own; None without an update.

    Raises:
        InputError: `invalid_field`, when `data` is no object.
        TooLargeError: `data_too_large`.
    """
    if update is None:
        return None
    value = jsontext.loads(data)
    if not isinstance(value, dict):
        raise InputError(
            "invalid_field",
            "update_data must be left out when the session's data is not an object",
        )
    merged = jsontext.dumps(value | jsontext.loads(update))
    if len(merged.encode()) > limit_bytes:
        raise TooLargeError("data_too_large", limit_bytes)
    return merged


class Snapshots:
    """Takes snapshots, and refuses requests that can never be served."""

    def __init__(self, parts: Parts, limits: SessionLimits, layers: Layers) -> None:
        self._parts = parts
        self._tools = parts.tools
        self._limits = limits
        self._layers = layers

    # -- before the turn --

    def check(self, request: RunRequest, record: SessionRecord | None) -> None:
        """Refuse what is wrong whatever happens until the turn comes.

        Raises:
            InputError: `timeout_too_large`, `unsupported_language`, `no_code`, `invalid_field`.
            TooLargeError: `data_too_large`, `code_too_large`.
        """
        self.timeout(request, record)
        inward.check(request.http)
        if request.code is not None and len(request.code.encode()) > self._limits.code_bytes:
            raise TooLargeError("code_too_large", self._limits.code_bytes)
        if record is not None:
            if request.code is None and request.command is None and not record.has_code:
                raise _no_code()
            merged_data(record.data, request.update_data, self._limits.data_bytes)
        if request.command is None:
            check_available(record.language if record else request.language or "", self._tools)

    def timeout(self, request: RunRequest, record: SessionRecord | None) -> float:
        """Seconds the program may take: the request's, the session's, or the server's."""
        default = record.default_timeout_seconds if record else None
        limits = self._limits.runs
        seconds = request.timeout_seconds or default or limits.timeout_seconds
        if request.timeout_seconds and seconds > limits.max_timeout_seconds:
            longest = f"{limits.max_timeout_seconds:g}"
            raise InputError(
                "timeout_too_large", f"timeout exceeds the maximum of {longest} seconds"
            )
        return min(seconds, limits.max_timeout_seconds)

    # -- after it --

    async def of_execution(self, request: RunRequest) -> Snapshot:
        """A one-shot run."""
        place = Place(files=_by_path(request.files))
        wanted = await self._wanted(request.language, request.code, place)
        started = self._launch(request, request.language or "", request.code, place, wanted)
        env, warnings = build(started.env, request.env, {}, has_layer=False)
        spec = self._spec(
            request.allow_internet, request.cpu_count, request.memory_mib, started, NOTHING, ()
        )
        program = self._program(started, env, request, None)
        return Snapshot(
            language=request.language or "",
            program=program,
            spec=spec,
            files={**place.files, **started.files},
            warnings=(*request.warnings, *warnings),
            wanted=wanted,
            build=builds.to_build(started, program, request.env),
        )

    async def of_session(
        self, record: SessionRecord, request: RunRequest, held: ExitStack
    ) -> Snapshot:
        """A run of a session; `record` is its state now that the run's turn has come.

        What the run uses is kept in its place until `held` is closed.

        Raises:
            NotFoundError: `session_not_found`.
            InputError, TooLargeError: as `check`.
        """
        merged = merged_data(record.data, request.update_data, self._limits.data_bytes)
        code = await self._code(request, record.id)
        layer = await self._layer(record, held)
        tree = await self._parts.trees.ensure(record)
        lowers = (tree.path, *layer.workspace)
        place = Place(
            files={},
            lowers=lowers,
            layer=record.setup.layer if record.setup else None,
            state=f"{record.uid}-{tree.revision}",
        )
        wanted = await self._wanted(record.language, code, place)
        started = self._launch(request, record.language, code, place, wanted)
        service = service_variables(record, request.base_url) | inward.variables(request.http)
        body = await inward.body_bind(request.http, self._parts.programs_dir, held)
        env, warnings = build(started.env, request.env, service, has_layer=layer is not NOTHING)
        data = merged if merged is not None else record.data
        injected = stage.data_text(data)
        program = self._program(started, env, request, record)
        to_build = builds.to_build(started, program, request.env)
        if to_build is not None:
            where = goinputs.Where(
                lowers=lowers, placed=_data_file(injected), layer=layer.directory
            )
            to_build = await self._named(to_build, code or "", where, place, record, request)
        return Snapshot(
            language=record.language,
            program=program,
            spec=replace(
                self._spec(
                    record.allow_internet,
                    record.cpu_count,
                    record.memory_mib,
                    started,
                    layer,
                    lowers,
                ),
                binds=body,
            ),
            files=started.files,
            own_names=frozenset(started.files),
            warnings=(*request.warnings, *warnings, *_setup_warnings(record)),
            record=record,
            revision=tree.revision,
            injected=injected,
            merged=merged,
            tree=tree,
            layer=layer,
            wanted=wanted,
            build=to_build,
        )

    async def of_vm(self, record: SessionRecord, request: RunRequest) -> Snapshot:
        """A command in a managed VM; as `of_session`."""
        tree = await self._parts.trees.ensure(record)
        lowers = {target: vm_lower(tree, target) for target in layout.VM_PLACES}
        started = command_launch(request.command or "", tools=self._tools, language=record.language)
        service = {"ERA_VM_ID": vm_id_of(record.id), "ERA_LANGUAGE": record.language}
        env, warnings = build(started.env, request.env, service, has_layer=False)
        spec = self._spec(
            record.allow_internet,
            record.cpu_count,
            record.memory_mib,
            started,
            NOTHING,
            lowers.pop(layout.WORKSPACE),
        )
        kept = (Overlay(target=target, lowers=below) for target, below in lowers.items() if below)
        return Snapshot(
            language=record.language,
            program=self._program(started, env, request, record),
            spec=replace(spec, overlays=(*spec.overlays, *kept)),
            files={},
            warnings=(*request.warnings, *warnings),
            record=record,
            revision=tree.revision,
            tree=tree,
        )

    async def _named(
        self,
        to_build: builds.Wanted,
        code: str,
        where: goinputs.Where,
        place: Place,
        record: SessionRecord,
        request: RunRequest,
    ) -> builds.Wanted:
        """With the name of everything that decides what is built, so that it is kept."""
        tools, program = self._tools, to_build.program
        layer = place.layer if where.layer is not None else None
        settings: list[object] = [tools.versions.get("go", ""), tools.platform, layer]
        settings += [list(program.argv), sorted(program.env.items())]
        plain = is_plain(request.env)
        digest = await asyncio.to_thread(
            goinputs.digest, code, where, settings, place.state, plain=plain
        )
        return replace(to_build, key=builds.key_of(record.uid, digest))

    async def _code(self, request: RunRequest, session_id: str) -> str | None:
        if request.code is not None or request.command is not None:
            return request.code
        try:
            return (await self._parts.records.code(session_id)).code
        except NotFoundError as error:
            raise _no_code() if error.code == "code_not_found" else error from None

    async def _layer(self, record: SessionRecord, held: ExitStack) -> Attachment:
        if record.setup is None or record.setup.layer is None:
            return NOTHING
        held.enter_context(self._layers.pinned(record.setup.layer))
        try:
            return attachment(await self._layers.directory(record.setup.layer))
        except LayerLostError:
            if record.setup.status is not SetupStatus.FAILED:
                raise
            return NOTHING  # nor could it be made anew

    def _launch(
        self,
        request: RunRequest,
        language: str,
        code: str | None,
        place: Place,
        wanted: Wanted | None,
    ) -> Launch:
        tools = self._tools
        has_layer = place.layer is not None
        if code is None:
            return command_launch(
                request.command or "", tools=tools, language=language, has_layer=has_layer
            )
        return launch(
            language,
            code,
            request.args,
            tools=tools,
            taken=place.taken,
            has_layer=has_layer,
            has_modules=wanted is not None,
        )

    async def _wanted(self, language: str | None, code: str | None, place: Place) -> Wanted | None:
        """What has to be fetched first; only deno's programs name it themselves."""
        if language != "deno" or code is None or self._parts.modules_dir is None:
            return None
        any_host = self._limits.modules.any_host
        # A large text takes its time, and so may reading the files that it imports.
        return await asyncio.to_thread(
            wanted, code, place, tools=self._tools, any_import_host=any_host
        )

    def _program(
        self,
        started: Launch,
        env: Mapping[str, str],
        request: RunRequest,
        record: SessionRecord | None,
    ) -> Program:
        limits = self._limits.runs
        return Program(
            argv=started.argv,
            env=env,
            cwd=layout.WORKSPACE,
            stdin=request.stdin.encode("utf-8", "surrogatepass"),
            timeout_seconds=self.timeout(request, record),
            grace_seconds=limits.grace_seconds,
            output_bytes=limits.output_bytes,
        )

    def _spec(
        self,
        internet: bool | None,
        cpus: int | None,
        memory_mib: int | None,
        started: Launch,
        layer: Attachment,
        lowers: tuple[str, ...],
    ) -> BoxSpec:
        limits = self._limits.runs
        if internet is None:
            internet = self._limits.default_internet_access
        overlays = layer.overlays
        if started.uses_go_cache:
            overlays += go_overlay(self._parts.go_cache, layer)
        if started.uses_deno_cache:
            # Without a place to write, deno tries for a tenth of a second to have one.
            overlays += (Overlay(target=DENO_CACHE),)
        return BoxSpec(
            limits=Limits(
                memory_bytes=(memory_mib or limits.memory_mib) << 20,
                cpus=cpus or limits.cpus,
                pids=limits.pids,
                disk_bytes=limits.disk_bytes,
            ),
            network=Network.INTERNET if internet else Network.OFFLINE,
            workspace=lowers,
            overlays=overlays,
            interpreter=started.interpreter,
        )


def vm_lower(tree: Tree, target: str) -> tuple[str, ...]:
    """The directory of a VM's tree that is shown at `target`; none while nothing is in it."""
    path = f"{tree.path}{target}"
    return (path,) if os.path.isdir(path) else ()


def go_overlay(cache: GoCache | None, layer: Attachment) -> tuple[Overlay, ...]:
    """Go's build cache: what the layer has compiled, over the standard library; at worst empty."""
    shared = cache.lower() if cache is not None else None
    lowers = tuple(path for path in (layer.go_cache, shared) if path is not None)
    return (Overlay(target=GO_CACHE, lowers=lowers),)


def _by_path(files: Mapping[RelPath, bytes]) -> dict[str, bytes]:
    return {str(path): content for path, content in files.items()}


def _no_code() -> InputError:
    return InputError("no_code", hint="Use PUT /api/sessions/{id}/code to store default code")


def _setup_warnings(record: SessionRecord) -> tuple[str, ...]:
    if record.setup is None or record.setup.status is not SetupStatus.FAILED:
        return ()
    return (_NO_LAYER,) if record.setup.layer is None else (_OLD_LAYER,)


def service_variables(record: SessionRecord, base_url: str) -> dict[str, str]:
    """What code of a session learns about it."""
    return {
        "ERA_SESSION": "true",
        "ERA_SESSION_ID": record.id,
        "ERA_LANGUAGE": record.language,
        "ERA_BASE_URL": base_url,
        "ERA_PROXY_URL": f"{base_url}/proxy/{record.id}",
    }
