"""Setups as they are done: real installers in a box, a real registry on this machine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from era import layout
from era.egress.broker import Broker
from era.egress.gateway import Gateway
from era.egress.policy import Address, EgressPolicy
from era.languages import environment
from era.languages.asked import parse_setup
from era.languages.mirrors import Mirrors
from era.languages.packages import (
    LAYER_GO_CACHE,
    NODE_LOCK,
    Step,
    steps,
    wants_scripts,
)
from era.languages.table import launch, resolve_launch
from era.models import Network
from era.sandbox.base import Bind, Box, BoxSpec, Exit, Overlay, Program
from tests.fakes.registry import Registry, serving
from tests.languages.boxes import LIMITS, Bench, bench, place

pytestmark = pytest.mark.anyio

HOST = "registry.test"


async def resolve(host: str) -> tuple[Address, ...]:
    if host != HOST:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")
    return (ipaddress.ip_address("127.0.0.1"),)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with serving() as made:
        made.add_python("alpha", "1.0", script="alphatool")
        made.add_python("alpha", "2.0", script="alphatool")
        made.add_python("beta", "0.1")
        made.add_python("sigma", "1.0")
        made.add_source("sigma", "2.0", "open('/opt/era/layer/ran', 'w').close()")
        made.add_node("gamma", "1.0.0", bin={"gammatool": "cli.js"})
        made.add_node("gamma", "1.5.0", bin={"gammatool": "cli.js"})
        made.add_node("delta", "3.0.0", scripts={"postinstall": "node built.js"})
        made.add_go("go.test/one", "v1.2.0", {"one.go": 'package one\n\nconst V = "v1.2.0"\n'})
        made.add_go(
            "go.test/two",
            "v1.0.0",
            {
                "two.go": 'package two\n\nimport "go.test/one"\n\nconst V = one.V\n',
                "sub/s.go": "package sub\n\nconst X = 3\n",
                "broken/b.go": 'package broken\n\nvar x int = "no"\n',
            },
            "\nrequire go.test/one v1.2.0\n",
        )
        yield made


@pytest.fixture(scope="module")
async def online(
    anyio_backend: str, go_cache: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    """A bench whose boxes may reach this machine's loopback by the registry's name."""
    policies = {
        network: EgressPolicy(
            network=network, allow_networks=(ipaddress.ip_network("127.0.0.1/32"),)
        )
        for network in Network
    }
    broker = Broker(resolver=resolve)
    directory = str(tmp_path_factory.mktemp("online"))
    try:
        async with bench(directory, os.environ["PATH"], Gateway(broker, policies)) as made:
            yield replace(made, go_cache=go_cache)
    finally:
        broker.close()


@dataclass(frozen=True, slots=True)
class Setup:
    """What a setup did: the steps with their ends, and the directory of the layer."""

    ended: tuple[tuple[Step, Exit], ...]
    layer: str

    def check(self) -> str:
        for step, ended in self.ended:
            said = ended.stdout.decode() + ended.stderr.decode()
            assert ended.exit_code == 0, f"{step.kind}: {said}"
        return self.layer


async def install(
    online: Bench, registry: Registry, layer: Path, *, direct: bool = False, **asked: Any
) -> Setup:
    """Do the steps of a setup; the layer is a directory of the host shown to the box."""
    spec, _ = parse_setup(asked)
    at = f"http://{HOST}:{registry.port}"
    mirrors = Mirrors(
        pip_index_url=f"{at}/pip/simple",
        npm_registry=f"{at}/npm/",
        goproxy=f"{at}/go",
        go={"GOSUMDB": "off"},
    )
    box_spec = BoxSpec(
        limits=LIMITS,
        network=Network.INTERNET,
        binds=(Bind(source=str(layer), target=layout.LAYER, writable=True),),
        overlays=(Overlay(target=environment.GO_CACHE, lowers=(online.go_cache or "",)),),
    )
    ended = []
    async with online.driver.box(box_spec) as box:
        give(box, layer)
        for step in steps(spec, online.runtimes.tools, mirrors, direct=direct):
            for path, content in step.files.items():
                file = layer / path
                for parent in reversed(file.relative_to(layer).parents):
                    if not (layer / parent).exists():
                        (layer / parent).mkdir()
                        give(box, layer / parent)
                file.write_bytes(content)
                give(box, file)
            env, _ = environment.build(step.env, spec.envs, {}, has_layer=True)
            program = Program(argv=step.argv, env=env, cwd=step.cwd, timeout_seconds=240)
            ended.append((step, await box.run(program)))
            if ended[-1][1].exit_code:
                break
    return Setup(tuple(ended), str(layer))


def give(box: Box, path: Path) -> None:
    if box.owner is not None:
        os.chown(path, box.owner, box.owner)


async def out(bench: Bench, language: str, code: str, layer: str) -> str:
    ended = await bench.run(language, code, layer=layer)
    assert (ended.exit_code, ended.stderr) == (0, b"")
    return ended.stdout.decode()


async def test_pip(online: Bench, registry: Registry, layer: Path) -> None:
    done = await install(online, registry, layer, pip=["alpha==1.0", "beta"])
    where = done.check()
    code = "import alpha, beta, subprocess; print(alpha.VERSION, beta.VERSION, flush=True)\n"
    code += "subprocess.run(['alphatool'])"
    assert await out(online, "python", code, where) == "1.0 0.1\n1.0\n"
    assert b"alpha==1.0" in done.ended[0][1].stderr + done.ended[0][1].stdout


async def test_pip_requirements(online: Bench, registry: Registry, layer: Path) -> None:
    requirements = "alpha >= 1 , < 2  # old\n\\\nbeta ; python_version > '3'\n"
    done = await install(online, registry, layer, pip={"requirements": requirements})
    code = "import alpha, beta; print(alpha.VERSION)"
    assert await out(online, "python", code, done.check()) == "1.0\n"


@pytest.mark.parametrize("direct", [False, True])
async def test_only_the_indirect_way_builds_packages(
    direct: bool, online: Bench, registry: Registry, layer: Path
) -> None:
    """The direct one neither runs anything of the newest version nor takes an older one instead."""
    done = await install(online, registry, layer, direct=direct, pip=["sigma"])
    assert (layer / "ran").exists() is not direct
    if direct:
        assert done.ended[0][1].exit_code != 0
        assert not list(layer.glob("python/sigma*"))
    else:
        code = "import sigma; print(sigma.VERSION)"
        assert await out(online, "python", code, done.check()) == "2.0\n"


@pytest.mark.parametrize("direct", [False, True])
async def test_only_the_indirect_way_runs_scripts_of_packages(
    direct: bool, online: Bench, registry: Registry, layer: Path
) -> None:
    done = await install(online, registry, layer, direct=direct, npm=["delta", "gamma"])
    where = done.check()
    assert (layer / "node/node_modules/delta/built.txt").exists() is not direct
    assert wants_scripts((layer / NODE_LOCK).read_bytes())
    assert await out(online, "node", "console.log(require('gamma').version)", where) == "1.5.0\n"


async def test_packages_without_scripts_want_none(
    online: Bench, registry: Registry, layer: Path
) -> None:
    (await install(online, registry, layer, direct=True, npm=["gamma"])).check()
    assert not wants_scripts((layer / NODE_LOCK).read_bytes())


async def test_two_layers_have_their_own_versions(
    online: Bench, registry: Registry, tmp_path: Path
) -> None:
    for version in ("1.0", "2.0"):
        layer = tmp_path / version
        layer.mkdir()
        done = await install(online, registry, layer, pip=[f"alpha=={version}"])
        code = "import alpha; print(alpha.VERSION)"
        assert await out(online, "python", code, done.check()) == f"{version}\n"


async def test_npm(online: Bench, registry: Registry, layer: Path) -> None:
    done = await install(online, registry, layer, npm=["gamma@^1.0.0", "delta"])
    where = done.check()
    code = "console.log(require('gamma').version); "
    code += "console.log(require('fs').readFileSync(require.resolve('delta/built.txt'), 'utf8'));"
    code += "console.log(require('child_process').execSync('gammatool', {encoding: 'utf8'}).trim())"
    assert await out(online, "node", code, where) == "1.5.0\nby a script\n1.5.0\n"
    code = "import { version } from 'gamma'; const v: string = version; console.log(v)"
    assert await out(online, "typescript", code, where) == "1.5.0\n"
    code = "import gamma from 'npm:gamma'; console.log(gamma.version)"
    assert await out(online, "deno", code, where) == "1.5.0\n"
    assert (done.ended[0][1].stdout + done.ended[0][1].stderr).count(b"\n") > 3


async def test_npm_package_json(online: Bench, registry: Registry, layer: Path) -> None:
    manifest = {"type": "module", "dependencies": {"gamma": "1.0.0"}}
    done = await install(online, registry, layer, npm={"packageJson": manifest})
    code = "import { version } from 'gamma'; console.log(version, typeof require)"
    assert await out(online, "node", code, done.check()) == "1.0.0 undefined\n"


GO_USES = """package main

import (
	"fmt"

	"go.test/one"
	"go.test/two/sub"
)

func main() { fmt.Println(one.V, sub.X) }
"""


async def test_go(online: Bench, registry: Registry, layer: Path) -> None:
    done = await install(online, registry, layer, go=["go.test/two@v1.0.0", "go.test/one"])
    where = done.check()
    assert await out(online, "go", GO_USES, where) == "v1.2.0 3\n"
    assert os.listdir(layer / LAYER_GO_CACHE)
    # The module of the session's own, which names no requirement, finds them too.
    files = {"go.mod": "module mine\n\ngo 1.22\n"}
    ended = await online.run("go", GO_USES, layer=where, files=files)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, b"v1.2.0 3\n", b"")


async def test_go_mod(online: Bench, registry: Registry, layer: Path) -> None:
    go_mod = "module given\n\ngo 1.22\n\nrequire go.test/two v1.0.0\n"
    done = await install(online, registry, layer, go={"goMod": go_mod})
    assert await out(online, "go", GO_USES, done.check()) == "v1.2.0 3\n"


async def test_go_modules_are_compiled_ahead(
    online: Bench, registry: Registry, layer: Path
) -> None:
    where = (await install(online, registry, layer, go=["go.test/one"])).check()
    command = (
        'cp /opt/era/layer/go/go.* . && printf \'package main\\nimport _ "go.test/one"\\n'
        "func main() {}\\n' >a.go && go build -x -o /tmp/a a.go 2>&1 | grep /compile | grep -o -e ' -p [^ ]*'"
    )
    for keep, compiled in ((True, "main"), (False, "go.test/one main")):
        if not keep:
            shutil.rmtree(layer / LAYER_GO_CACHE)
        ended = await online.shell(command, language="go", layer=where)
        assert ended.stdout.decode().replace("-p ", "").split() == compiled.split()


async def test_commands_find_what_was_installed(
    online: Bench, registry: Registry, layer: Path
) -> None:
    commands = [
        'test "$MINE" = yes && alphatool > out.txt && gammatool >> out.txt',
        "node -p \"require('gamma').version\" >> out.txt; cd /",
        "python -c 'import alpha; print(alpha.VERSION)' >> out.txt; pwd >> out.txt",
        "pip install beta && python -c 'import beta' && npm view gamma version >> out.txt",
        "cat out.txt",
    ]
    done = await install(
        online,
        registry,
        layer,
        pip=["alpha"],
        npm=["gamma"],
        commands=commands,
        envs={"MINE": "yes"},
    )
    done.check()
    assert done.ended[-1][1].stdout.decode().split() == [
        *("2.0", "1.5.0", "1.5.0", "2.0", "/workspace", "1.5.0")
    ]


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"pip": ["alpha==9"]}, "pip"),
        ({"pip": ["nowhere"]}, "pip"),
        ({"npm": ["nowhere"]}, "npm"),
        ({"npm": ["gamma@9"]}, "npm"),
        ({"go": ["go.test/nowhere"]}, "go"),
        ({"commands": ["true", "exit 3", "true"]}, "commands"),
    ],
    ids=lambda value: str(value),
)
async def test_a_failure_is_a_failure(
    asked: dict[str, Any], kind: str, online: Bench, registry: Registry, layer: Path
) -> None:
    done = await install(online, registry, layer, **asked)
    step, ended = done.ended[-1]
    assert ended.exit_code != 0
    assert step.kind == kind
    if kind == "commands":
        assert (len(done.ended), ended.exit_code) == (2, 3)
    else:
        assert ended.stderr or ended.stdout


async def test_deno_modules_are_fetched_ahead_and_run_offline(
    online: Bench, registry: Registry, tmp_path: Path
) -> None:
    tools = replace(online.runtimes.tools, npm_registry=f"http://{HOST}:{registry.port}/npm/")
    code = "import g from 'npm:gamma@1.0.0'; import h from './h.ts'; console.log(g.version, h)\n"
    files = {"h.ts": b"import { version } from 'npm:gamma@1'; export default version"}
    with_files: dict[str, Any] = {
        "tools": tools,
        "taken": files.__contains__,
        "has_layer": False,
    }
    modules = tmp_path / "deno"
    modules.mkdir()
    ahead = resolve_launch(code, **with_files)
    spec = BoxSpec(
        network=Network.INTERNET,
        binds=(Bind(source=str(modules), target=environment.DENO_CACHE, writable=True),),
    )
    async with online.driver.box(spec) as box:
        give(box, modules)
        place(box, {**files, **ahead.files})
        fetched = await box.run(Program(argv=ahead.argv, env=ahead.env))
    assert (fetched.exit_code, fetched.stdout) == (0, b"")

    started = launch("deno", code, (), **with_files)
    overlay = Overlay(target=environment.DENO_CACHE, lowers=(str(modules),))
    async with online.driver.box(BoxSpec(overlays=(overlay,))) as box:
        place(box, {**files, **started.files})
        ended = await box.run(Program(argv=started.argv, env=started.env))
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, b"1.0.0 1.0.0\n", b"")


async def test_deno_tells_what_it_could_not_fetch(online: Bench, registry: Registry) -> None:
    tools = replace(online.runtimes.tools, npm_registry=f"http://{HOST}:{registry.port}/npm/")
    code = "console.log('ran'); import 'npm:nowhere'"
    ahead = resolve_launch(code, tools=tools, taken=lambda name: False, has_layer=False)
    spec = BoxSpec(network=Network.INTERNET, overlays=(Overlay(target=environment.DENO_CACHE),))
    async with online.driver.box(spec) as box:
        place(box, ahead.files)
        ended = await box.run(Program(argv=ahead.argv, env=ahead.env))
    assert ended.exit_code == 1
    assert b"nowhere" in ended.stderr
    assert b"ran" not in ended.stdout
