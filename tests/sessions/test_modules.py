"""Modules of deno programs: fetched before the run from a registry on this machine, and kept."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from era.egress.broker import Broker
from era.egress.gateway import Gateway
from era.egress.policy import Address, EgressPolicy, HostRule
from era.errors import ConflictError
from era.languages.environment import DENO_CACHE
from era.models import Network, RunRequest, RunResult, SetupStatus
from era.relpath import RelPath
from era.runtimes import discover
from era.sandbox.base import Overlay
from era.sessions.settings import ModuleLimits, SessionLimits
from tests.fakes.registry import Registry, serving
from tests.sessions.conftest import BoxedRoom, boxed_room, contents, setup_of, until

pytestmark = pytest.mark.anyio

HOST = "registry.test"
GAMMA = "import g from 'npm:gamma@1'; console.log(g.version)"


@pytest.fixture(scope="module", autouse=True)
def _deno(tmp_path_factory: pytest.TempPathFactory) -> None:
    missing = discover(str(tmp_path_factory.mktemp("runtime"))).tools.missing
    if "deno" in missing:
        pytest.skip(missing["deno"])


async def resolve(host: str) -> tuple[Address, ...]:
    if host != HOST:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")
    return (ipaddress.ip_address("127.0.0.1"),)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as made:
        made.add_node("gamma", "1.0.0")
        made.add_node("gamma", "1.5.0")
        yield made


@dataclass
class World:
    """A room, and the registry that its boxes may reach."""

    room: BoxedRoom
    registry: Registry

    @property
    def modules(self) -> str:
        assert self.room.parts.modules_dir is not None
        return self.room.parts.modules_dir

    def kept(self) -> list[str]:
        """Names of what is kept for all."""
        return [path.parent.name for path in Path(self.modules).glob("*/size")]

    async def execute(self, code: str, **fields: Any) -> RunResult:
        request = RunRequest(code=code, language="deno", **fields)
        return await self.room.sessions.execute(request)

    async def out(self, code: str, **fields: Any) -> str:
        """What a one-shot run of `code` writes."""
        ended = await self.execute(code, **fields)
        assert (ended.stderr, ended.exit_code) == ("", 0)
        return ended.stdout

    async def at_no_cost(self, code: str, **fields: Any) -> str:
        """As `out`; there must be one box only, and no request to the registry."""
        asked, opened = len(self.registry.asked), len(self.room.driver.specs)
        output = await self.out(code, **fields)
        assert self.registry.asked[asked:] == []
        assert [spec.network for spec in self.room.driver.specs[opened:]] == [Network.OFFLINE]
        return output


@asynccontextmanager
async def world_of(
    directory: Path, registry: Registry, port: int | None = None, **limits: Any
) -> AsyncIterator[World]:
    """A room whose registry is at `port`."""
    policy = EgressPolicy(
        network=Network.REGISTRIES,
        allowed_hosts=(HostRule.parse(f"{HOST}:{port or registry.port}"),),
        allow_networks=(ipaddress.ip_network("127.0.0.1/32"),),
    )
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(closing(Broker(resolver=resolve)))
        room = await stack.enter_async_context(
            boxed_room(
                directory,
                SessionLimits(modules=ModuleLimits(**limits)),
                Gateway(broker, {Network.REGISTRIES: policy}),
                npm_registry=f"http://{HOST}:{port or registry.port}/npm/",
            )
        )
        yield World(room=room, registry=registry)


@pytest.fixture
async def world(anyio_backend: str, tmp_path: Path, registry: Registry) -> AsyncIterator[World]:
    async with world_of(tmp_path, registry, any_host=True) as made:
        yield made


@pytest.fixture
async def stuck(anyio_backend: str, tmp_path: Path, registry: Registry) -> AsyncIterator[World]:
    """A world whose registry takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with world_of(tmp_path, registry, port, timeout_seconds=1.5) as made:
            yield made


# --- fetched once ---------------------------------------------------------------------------------


async def test_modules_are_fetched_before_the_run_and_kept(world: World) -> None:
    assert await world.out(GAMMA) == "1.5.0\n"
    assert [spec.network for spec in world.room.driver.specs] == [
        Network.REGISTRIES,
        Network.OFFLINE,
    ]
    assert "/npm/gamma" in world.registry.asked
    assert await world.at_no_cost(GAMMA) == "1.5.0\n"
    other = "console.log('other');\nimport g from \"npm:gamma@1\";console.log(g.version);\n"
    assert await world.at_no_cost(other) == "other\n1.5.0\n"
    await world.room.restart()
    assert await world.at_no_cost(GAMMA) == "1.5.0\n"


async def test_sessions_share_what_is_kept(world: World) -> None:
    for session_id in ("one", "two"):
        await world.room.create(session_id, language="deno")
    await world.room.put("lib/g.ts", b"export { version } from 'npm:gamma@1.0.0'", "one")
    code = "import { version } from './lib/g.ts'; console.log(version)"
    assert (await world.room.run(code, "one")).stdout == "1.0.0\n"
    asked = len(world.registry.asked)
    code = "import { version } from 'npm:gamma@1.0.0'; console.log(version)"
    ended = await world.room.run(code, "two")
    assert (ended.stdout, ended.files_modified) == ("1.0.0\n", ())
    assert world.registry.asked[asked:] == []


async def test_a_program_that_imports_nothing_from_elsewhere_costs_nothing(world: World) -> None:
    code = (
        "import { join } from 'node:path'; import x from './x.ts';"
        "const url = 'https://registry.test/npm:gamma'; console.log(join('a', x));"
    )
    files = {RelPath("x.ts"): b"export default 'b'"}
    assert await world.at_no_cost(code, files=files) == "a/b\n"
    assert world.kept() == []
    assert world.room.driver.specs[-1].overlays == (Overlay(target=DENO_CACHE),)


async def test_a_version_once_chosen_is_chosen_again(world: World) -> None:
    """`a` alone would take the newest `c`; with `b`, both take the one that `b` demands."""
    registry = world.registry
    registry.add_node("c", "1.0.0")
    registry.add_node("c", "1.5.0")
    registry.add_node("a", "1.0.0", dependencies={"c": "^1"})
    registry.add_node("b", "1.0.0", dependencies={"c": "1.0.0"})
    programs = (
        "import a from 'npm:a'; import b from 'npm:b'; console.log(a.version, b.version)",
        "const b = await import('npm:b'); const a = await import('npm:a'); console.log(a.version)",
        "import a from 'npm:a'; /* import 'npm:b' */ console.log(a.version)",
    )
    for code in programs:
        assert (await world.out(code)).startswith("1.0.0")
    assert len(world.kept()) == 1


async def test_configuration_counts(world: World) -> None:
    files = {
        RelPath("deno.json"): b'{"imports": {"g": "npm:gamma@1.0.0", "lib/": "./lib/"}}',
        RelPath("lib/deep/h.ts"): b"export { version } from 'npm:gamma@1.5'",
    }
    code = "import g from 'g'; import { version } from 'lib/deep/h.ts'; console.log(%s)"
    code %= "g.version, version"
    assert await world.out(code, files=files) == "1.0.0 1.5.0\n"
    assert await world.at_no_cost(code + ";", files=files) == "1.0.0 1.5.0\n"
    package = {RelPath("package.json"): b'{"dependencies": {"gamma": "1.0.0"}}'}
    code = "import g from 'gamma'; console.log(g.version)"
    assert await world.out(code, files=package) == "1.0.0\n"
    assert await world.at_no_cost(code, files=package) == "1.0.0\n"


async def test_modules_by_url(world: World) -> None:
    at = f"http://{HOST}:{world.registry.port}/mods"
    world.registry.files["/mods/a.js"] = b"export { b as default } from './b.js'"
    world.registry.files["/mods/b.js"] = b"export const b: number = 7".replace(b": number", b"")
    code = f"import b from '{at}/a.js'; console.log(b)"
    assert await world.out(code) == "7\n"
    assert await world.at_no_cost(code) == "7\n"


async def test_a_layers_own_modules_need_no_registry(world: World) -> None:
    package = "/opt/era/layer/node/node_modules/gamma"
    commands = (
        f"mkdir -p {package}; echo \"exports.version = 'of the layer'\" > {package}/index.js",
        f'echo \'{{"name": "gamma", "version": "1.2.3"}}\' > {package}/package.json',
    )
    world.room.limits = replace(
        world.room.limits, setups=replace(world.room.limits.setups, network=Network.OFFLINE)
    )
    await world.room.restart()
    await world.room.create(language="deno", setup=setup_of(commands=commands))
    state = await world.room.settled()
    assert state.status is SetupStatus.COMPLETED, state.result
    for _ in range(2):
        ended = await world.room.run(GAMMA)
        assert (ended.stderr, ended.stdout) == ("", "of the layer\n")
    assert world.registry.asked == []
    networks = [spec.network for spec in world.room.driver.specs]
    assert networks.count(Network.REGISTRIES) == 1


# --- what goes wrong ------------------------------------------------------------------------------


async def test_what_cannot_be_resolved_ends_the_run_before_it_starts(world: World) -> None:
    await world.room.create(language="deno", data='{"a":1}')
    out: list[tuple[str, str]] = []
    code = "Deno.writeTextFileSync('ran', ''); import 'npm:nowhere@1'"
    ended = await world.room.sessions.run(
        "s", RunRequest(code=code, update_data='{"b":2}'), lambda *piece: out.append(piece)
    )
    assert (ended.exit_code, ended.stdout, ended.timed_out) == (1, "", False)
    assert "nowhere" in ended.stderr
    assert out == [("stderr", ended.stderr)]
    assert (ended.duration_ns, ended.signal, ended.files_modified) == (0, None, ())
    assert (ended.data, ended.data_error) == ('{"a":1,"b":2}', None)
    assert (await world.room.sessions.get("s")).record.last_run_at_ms is not None
    world.registry.add_node("nowhere", "1.0.0")
    assert (await world.room.run(code)).exit_code == 0


async def test_resolving_has_a_time_of_its_own(stuck: World) -> None:
    ended = await stuck.execute(GAMMA, timeout_seconds=0.5)
    assert (ended.exit_code, ended.timed_out, ended.duration_ns) == (1, False, 0)
    assert "were not resolved within 1.5 seconds" in ended.stderr
    assert await stuck.out("console.log(1)") == "1\n"


async def test_a_host_that_is_no_registry_is_refused(stuck: World) -> None:
    ended = await stuck.execute("import 'https://example.org/a.ts'; console.log('ran')")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "example.org" in ended.stderr


async def fetching(world: World) -> None:
    """Wait until a box that fetches is there."""
    await until(lambda: any(s.network is Network.REGISTRIES for s in world.room.driver.specs))


async def test_cancel_while_modules_are_fetched(stuck: World) -> None:
    await stuck.room.create(language="deno")
    task = asyncio.create_task(stuck.room.run(GAMMA))
    await fetching(stuck)
    assert await stuck.room.sessions.cancel("s")
    ended = await task
    assert (ended.exit_code, ended.cancelled, ended.stdout) == (143, True, "")
    assert (await stuck.room.run("console.log(1)")).stdout == "1\n"


async def test_delete_while_modules_are_fetched(stuck: World) -> None:
    await stuck.room.create(language="deno")
    task = asyncio.create_task(stuck.room.run(GAMMA))
    await fetching(stuck)
    await stuck.room.sessions.delete("s")
    with pytest.raises(ConflictError):
        await task
    await stuck.room.restart()
    assert [name for name in contents(stuck.modules) if "boot-" not in name] == []


async def test_a_module_that_could_not_be_had_is_asked_for_again(world: World) -> None:
    code = "const m = await import('npm:later').catch(() => 0); console.log(m?.default?.version)"
    assert await world.out(code) == "undefined\n"
    assert world.kept() == []
    world.registry.add_node("later", "1.0.0")
    assert await world.out(code) == "1.0.0\n"
    assert len(world.kept()) == 1


# --- nobody changes what another gets -------------------------------------------------------------


async def test_no_code_of_the_program_runs_where_there_is_a_network(world: World) -> None:
    url = f"http://{HOST}:{world.registry.port}/ran"
    code = f"await fetch('{url}').catch(() => console.log('offline')); {GAMMA}"
    assert await world.out(code) == "offline\n1.5.0\n"
    assert "/ran" not in world.registry.asked


async def test_a_run_changes_its_own_copy_only(world: World) -> None:
    assert await world.out(GAMMA) == "1.5.0\n"
    before = contents(world.modules)
    spoil = (
        "const at = Deno.env.get('DENO_DIR') + '/npm/' + Deno.args[0];"
        "for (const f of Deno.readDirSync(at + '/gamma/1.5.0'))"
        " Deno.writeTextFileSync(`${at}/gamma/1.5.0/${f.name}`, 'throw 1');"
        "Deno.writeTextFileSync(Deno.env.get('DENO_DIR') + '/era.lock', '{}');"
        "console.log(Deno.readTextFileSync(at + '/gamma/1.5.0/main.js'));"
    )
    where = f"{HOST}_{world.registry.port}/npm"
    args = (where,)
    assert await world.at_no_cost(spoil + GAMMA, args=args) == "throw 1\n1.5.0\n"
    assert contents(world.modules) == before
    assert await world.at_no_cost(GAMMA) == "1.5.0\n"


async def test_nobody_chooses_versions_for_another(world: World) -> None:
    """One program has types of a package that demands an old `c`; the other takes the newest."""
    registry = world.registry
    registry.add_node("c", "1.0.0")
    registry.add_node("c", "1.5.0")
    registry.add_node("a", "1.0.0", dependencies={"c": "^1"})
    registry.add_node("demanding", "1.0.0", dependencies={"c": "1.0.0"})
    where = f"/npm/{HOST}_{registry.port}/npm/c"
    code = (
        "import 'npm:a'; for (const entry of Deno.readDirSync(Deno.env.get('DENO_DIR') +"
        f" '{where}')) if (entry.isDirectory) console.log(entry.name)"
    )
    await world.out(f"/// <reference types='npm:demanding' />\n{code}")
    assert await world.out(code) == "1.5.0\n"


async def test_another_registry_of_one_program_is_its_own(world: World) -> None:
    registry = world.registry
    for version, below in (("6.6.6", "/mirror"), ("1.0.0", "")):
        registry.add_node("@own/gamma", version)
        for path in [path for path in registry.files if path.startswith("/npm/@own")]:
            content = registry.files.pop(path)
            registry.files[below + path] = content.replace(b"/npm/", f"{below}/npm/".encode())
    for path in [path for path in registry.files if path.endswith("/@own/gamma")]:
        registry.files[path.replace("own/", "own%2f")] = registry.files[path]
    code = GAMMA.replace("gamma@1", "@own/gamma")
    at = f"http://{HOST}:{registry.port}/mirror/npm/"
    files = {RelPath(".npmrc"): f"@own:registry={at}".encode(), RelPath("package.json"): b"{}"}
    assert await world.out(code, files=files) == "6.6.6\n"
    assert await world.out(code) == "1.0.0\n"
    assert await world.at_no_cost(code, files=files) == "6.6.6\n"


async def test_what_was_used_longest_ago_is_removed_first(
    tmp_path: Path, registry: Registry
) -> None:
    def code(version: str) -> str:
        return f"import g from 'npm:gamma@{version}'; console.log(g.version)"

    async with world_of(tmp_path, registry, cache_graphs=2) as world:
        for version in ("1.0.0", "1.5.0", "1.0.0", "1"):
            await world.out(code(version))
        await world.room.restart()
        assert len(world.kept()) == 2
        for version in ("1.0.0", "1"):
            await world.at_no_cost(code(version))
        await world.out(code("1.5.0"))
        await world.at_no_cost(code("1"))
    async with world_of(tmp_path / "small", registry, cache_bytes=1) as world:
        assert await world.out(GAMMA) == "1.5.0\n"
