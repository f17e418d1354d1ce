"""A driver as the server has it, without the server around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass

from bench.programs import Job
from era.assemble import find_runtimes, open_driver
from era.assemble.parts import box_limits
from era.assemble.statedir import StateDir
from era.config import load
from era.runtimes import Runtimes
from era.sandbox.base import Box, Driver, Exit, Limits, Program
from era.sessions.builds import Builds, Made, started, together
from era.sessions.caches import GoCache
from era.sessions.settings import ProgramLimits
from era.workspace import stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A started driver, what its boxes run on, and the limits of an ordinary run."""

    driver: Driver
    runtimes: Runtimes
    limits: Limits
    go_cache: GoCache
    builds: Builds

    async def run(self, job: Job) -> Exit:
        """Run a job as the service does: box, files, program, and everything removed again."""

        async def perform(box: Box, program: Program) -> Exit:
            stage.place(box.workspace_fd, job.files, owner=box.owner)
            return await box.run(program)

        spec, program, made = job.spec, job.program, Made()
        with ExitStack() as held:
            if job.build is not None:
                made = await self.builds.ready(job.build, spec, perform, held)
                spec, program = started(made, spec, program)
            async with self.driver.box(spec) as box:
                ended = together(made.ended, await perform(box, program))
        if ended.exit_code:
            raise RuntimeError(f"exit code {ended.exit_code}: {ended.stderr.decode()[-2000:]}")
        return ended


@asynccontextmanager
async def engine(state_dir: str, *, ready_boxes: int | None = None) -> AsyncIterator[Engine]:
    """The driver that `era serve` would have with its state in `state_dir`."""
    values = {"AGENT_STATE_DIR": state_dir}
    if ready_boxes is not None:
        values["ERA_READY_BOXES"] = str(ready_boxes)
    settings = load(values)
    async with AsyncExitStack() as stack:
        state = StateDir.open(settings.state_dir)
        stack.callback(state.close)
        runtimes = await find_runtimes(settings, state)
        driver = await open_driver(settings, state, runtimes, 0, stack)
        builds = Builds(state.of("programs"), driver, ProgramLimits())
        stack.push_async_callback(builds.close)
        yield Engine(
            driver=driver,
            runtimes=runtimes,
            limits=box_limits(settings),
            go_cache=GoCache(driver, state.of("go"), runtimes.tools),
            builds=builds,
        )
