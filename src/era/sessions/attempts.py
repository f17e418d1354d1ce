"""One try at one setup.

Packages come first and make a layer of their own, shared with identical recipes.  Commands run anew
for each session, in a box over the packages' layer, and their layer includes it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from era import layout
from era.errors import session_not_found
from era.ids import new_token
from era.languages.environment import build
from era.languages.packages import Step, may_be_direct, recipe_key, steps
from era.models import SetupSpec
from era.sandbox.base import BoxSpec, Limits
from era.sessions import inventory
from era.sessions.install import Reporter, Work
from era.sessions.layers import NOTHING, Layers, attachment
from era.sessions.masking import Masker, of_variables
from era.sessions.output import Tail
from era.sessions.packages import PackageLayers
from era.sessions.parts import Parts, go_library
from era.sessions.settings import SetupLimits
from era.sessions.snapshots import go_overlay, service_variables
from era.sessions.specs import asked, opened_spec
from era.storage.base import LayerRecord, SetupJob

_COMMANDS = "commands"


class Attempt:
    """What a setup has to do, and what has been done of it."""

    def __init__(
        self,
        job: SetupJob,
        parts: Parts,
        layers: Layers,
        packages: PackageLayers,
        limits: SetupLimits,
    ) -> None:
        self.cached = False
        self._installed: inventory.Installed = {}
        self._job = job
        self._parts = parts
        self._layers = layers
        self._package_layers = packages
        self._limits = limits
        self._spec = SetupSpec()
        self._steps: tuple[Step, ...] = ()
        self._service: Mapping[str, str] = {}
        self._secrets: tuple[str, ...] = ()
        """The credentials of mirrors, and what the setup's own variables hold."""
        self._reporter = Reporter(records=parts.records, clock=parts.clock)
        self._before: list[Step] = []
        """Steps that had finished before those of `_reporter`."""
        self._deadline = (
            time.monotonic() + limits.timeout_seconds if limits.timeout_seconds else None
        )

    @property
    def done(self) -> list[tuple[str, str]]:
        """What has been done: kinds of steps, and each thing that was asked for."""
        finished = [*self._before, *self._reporter.finished]
        ended = Counter(step.kind for step in finished)
        wanted = Counter(step.kind for step in self._steps)
        done = [
            (kind, entry)
            for kind in wanted
            if kind != _COMMANDS and ended[kind] == wanted[kind]
            for entry in asked(self._spec, kind)
        ]
        return done + [(_COMMANDS, step.command or "") for step in finished if step.command]

    @property
    def installed(self) -> inventory.Installed:
        """What the package steps have left, by kind.  A package may have named itself by a variable."""
        masker = Masker(self._secrets)
        return {kind: list(map(masker.text, names)) for kind, names in self._installed.items()}

    @property
    def output(self) -> tuple[str, str]:
        """The last of what the steps wrote."""
        return self._reporter.tail.texts()

    async def perform(self, public_url: str, pins: ExitStack) -> str | None:
        """Do it; the key of the layer, kept by `pins`, or None when there was nothing to do.

        Raises:
            StepFailedError: a step failed.
            NotFoundError: the session is gone.
            UnavailableError: `isolation_unavailable`, the session's code may not run here.
        """
        record = await self._parts.records.get(self._job.session_id)
        if record.uid != self._job.uid:
            raise session_not_found()
        self._parts.admission.admit(record.uid, self._limits.network)
        self._service = service_variables(record, public_url)
        self._spec = opened_spec(self._job.spec, self._parts.seal)
        self._secrets = (*self._limits.mirrors.secrets, *of_variables(self._spec.envs))
        self._reporter.tail = Tail(self._secrets)
        self._steps = steps(self._spec, self._parts.tools, self._limits.mirrors)
        layer = await self._packages(pins)
        commands = [step for step in self._steps if step.kind == _COMMANDS]
        if commands:
            layer = await self._commands(commands, layer, pins)
        return layer.key if layer is not None else None

    async def _packages(self, pins: ExitStack) -> LayerRecord | None:
        chosen = [step for step in self._steps if step.kind != _COMMANDS]
        spec = replace(self._spec, commands=())
        digest = self._parts.seal.digest(spec.envs)
        recipe = recipe_key(spec, self._parts.tools, digest) if chosen else None
        if recipe is None:
            return None
        layer = await self._package_layers.find(recipe, pins)
        if layer is not None:
            self.cached = True
            self._reporter.finished += chosen
            self._installed = inventory.from_text(layer.result)
            return layer
        if any(step.kind == "go" for step in chosen):
            # Else this setup compiles it for itself alone.
            await go_library(self._parts.go_cache)
        self._reporter = self._package_layers.share(recipe, self._work(chosen, None))
        layer = await self._package_layers.wait(recipe, self._job.uid, len(self._steps))
        self._installed = inventory.from_text(layer.result)
        return layer

    async def _commands(
        self, commands: list[Step], base: LayerRecord | None, pins: ExitStack
    ) -> LayerRecord:
        key = f"{_COMMANDS}-{new_token()}"
        pins.enter_context(self._layers.pinned(key))
        below = None if base is None else await self._layers.directory(base.key)
        self._before = list(self._reporter.finished)
        self._reporter = Reporter(
            records=self._parts.records,
            clock=self._parts.clock,
            before=len(self._steps) - len(commands),
            audience={self._job.uid: len(self._steps)},
            tail=self._reporter.tail.copy(),
        )
        work = self._work(commands, below)
        return await self._package_layers.stored(key, work, self._reporter)

    def _work(self, chosen: list[Step], below: str | None) -> Work:
        """The box for some of the steps, over the layer in the directory `below`."""
        limits = self._limits
        base = NOTHING if below is None else attachment(below)
        overlays = tuple(one for one in base.overlays if one.target != layout.LAYER)
        lowers = next((one.lowers for one in base.overlays if one.target == layout.LAYER), ())
        if any(step.uses_go_cache for step in chosen):
            overlays += go_overlay(self._parts.go_cache, base)
        overlays += self._package_layers.overlays({step.kind for step in chosen})
        spec = BoxSpec(
            limits=Limits(
                memory_bytes=limits.memory_mib << 20,
                cpus=limits.cpus,
                pids=limits.pids,
                disk_bytes=limits.scratch_bytes,
            ),
            network=limits.network,
            workspace=base.workspace,
            overlays=overlays,
        )
        return Work(
            spec=spec,
            below=lowers,
            steps=chosen,
            direct=self._direct() if below is None else (),
            environment=self._environment,
            deadline=self._deadline,
            layer_bytes=limits.layer_bytes,
            secrets=self._secrets,
            withheld=bool(limits.mirrors.secrets),
        )

    def _direct(self) -> tuple[Step, ...]:
        """The package steps in the form that runs no code of packages, where that may do."""
        if not may_be_direct(self._spec):
            return ()
        found = steps(self._spec, self._parts.tools, self._limits.mirrors, direct=True)
        return self._package_layers.quick(step for step in found if step.kind != _COMMANDS)

    def _environment(self, step: Step) -> Mapping[str, str]:
        service = self._service if step.kind == _COMMANDS else {}
        return build(step.env, self._spec.envs, service, has_layer=True)[0]
