"""Setups and modules of every kind from the real registries, used offline by the runs after them."""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from api import Api
from tests.e2e.conftest import StartServer
from tests.e2e.harness import WatchedServer
from tests.sessions.conftest import contents

pytestmark = [pytest.mark.xdist_group("setups"), pytest.mark.timeout(600)]

AHEAD_OR_ON_DEMAND = pytest.mark.parametrize(
    "memory_mib", [None, 1500], ids=["made ahead", "made on demand"]
)
"""A box of other than the usual memory is never one that was made ahead."""
NPM = ["ms@2.1.3", "chalk@5", "lodash@4.17.21"]
USES = "console.log(ms('2h'), typeof chalk.red, _.chunk([1, 2, 3], 2).length)"
USED = "7200000 function 2\n"
COMMANDS = [
    "node -p \"require('ms')('1h')\" > hours.txt; mkdir d && echo deep >> d/e.txt",
    "mkdir -p /tmp/data && printf '{}' > /tmp/data/sample.json",
    "echo set > ~/.rc && (cd d; cat e.txt | tr a-z A-Z > loud.txt)",
]
MADE = "cat hours.txt d/e.txt d/loud.txt /tmp/data/sample.json ~/.rc"
GO = """package main

import (
	"fmt"
	"session/greet"

	"github.com/google/uuid"
)

func main() {
	id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	fmt.Println(greet.Hello, id.Version())
}
"""


@pytest.fixture(scope="module")
def client(server: WatchedServer) -> Api:
    return Api(server.url)


def set_up(client: Api, session: str, language: str, **setup: Any) -> Any:
    """A session whose setup has completed; the result of the setup."""
    client.call("POST", "/api/sessions", id=session, language=language, setup=setup)
    state = client.wait_for_setup(session)
    assert state["setup_status"] == "completed", state
    return state["setup_result"]


def command(client: Api, session: str, text: str, **members: Any) -> str:
    """What a shell command in the session writes; it must end well."""
    result = client.call("POST", f"/api/sessions/{session}/run", command=text, **members)
    assert (result["exit_code"], result["stderr"]) == (0, ""), result
    output: str = result["stdout"]
    return output


def wait_for_bytecode(server: WatchedServer) -> None:
    """Wait until nothing more comes to the layers: compiled modules of each with Python in it."""
    layers = server.state_dir / "layers"

    def missing() -> bool:
        names = os.listdir(layers)
        with_python = [name for name in names if (layers / name / "python").is_dir()]
        return any(".tmp-" in name for name in names) or any(
            not name.endswith(".bytecode") and f"{name}.bytecode" not in names
            for name in with_python
        )

    while missing():  # ended by the limit of the test
        time.sleep(0.05)


def test_npm_for_node(client: Api) -> None:
    result = set_up(client, "node", "node", npm=NPM, commands=COMMANDS)
    assert result["npm_packages"] == NPM
    assert result["commands_run"] == COMMANDS
    by_import = "import ms from 'ms'; import chalk from 'chalk'; import _ from 'lodash';"
    by_require = (
        "const ms = require('ms'), { default: chalk } = require('chalk'), _ = require('lodash');"
    )
    for imports in (by_import, by_require):
        assert client.run("node", imports + USES)["stdout"] == USED
    assert command(client, "node", MADE) == "3600000\ndeep\nDEEP\n{}set\n"
    assert client.call("GET", "/api/sessions/node?files=1")["file_count"] == 0


def test_npm_for_typescript(client: Api) -> None:
    set_up(client, "typescript", "typescript", npm=NPM)
    client.upload("typescript", "lib.ts", b"export { default as ms } from 'ms'")
    code = "import { ms } from './lib'; import chalk from 'chalk'; import _ from 'lodash';"
    code += "const two: string = '2h'; "
    assert client.run("typescript", code + USES.replace("'2h'", "two"))["stdout"] == USED


def test_npm_for_deno(client: Api) -> None:
    set_up(client, "deno", "deno", npm=NPM)
    for prefix in ("npm:", ""):
        code = (
            f"import ms from '{prefix}ms'; import chalk from '{prefix}chalk';"
            f"import _ from '{prefix}lodash'; "
        )
        assert client.run("deno", code + USES)["stdout"] == USED


def test_go_modules(client: Api) -> None:
    result = set_up(client, "go", "go", go=["github.com/google/uuid@v1.6.0"])
    assert result["go_modules"] == ["github.com/google/uuid@v1.6.0"]
    client.upload("go", "greet/greet.go", b'package greet\n\nconst Hello = "hello"\n')
    assert client.run("go", GO)["stdout"] == "hello VERSION_1\n"


EMBED = """package main

import _ "embed"

//go:embed {}
var x string

func main() {{ print(x) }}
"""
HOSTILE_GO = (
    'package main\n\n// #include "/etc/shadow"\nimport "C"\n\nfunc main() {}\n',
    'package main\n\n// #cgo LDFLAGS: -fplugin=/workspace/x.so\nimport "C"\n\nfunc main() {}\n',
    "package main\n\nfunc f()\n\nfunc main() { f() }\n",
    EMBED.format("/etc/passwd"),
    EMBED.format("../etc/passwd"),
    EMBED.format("link"),
)
TOOL = b'#!/bin/sh\necho "uid $(id -u)" >&2; exit 1\n'


@AHEAD_OR_ON_DEMAND
def test_compiling_reads_and_runs_nothing_of_others(client: Api, memory_mib: int | None) -> None:
    """What the compiler is told to include or to run is refused, or happens in the box."""
    session = f"compile-{memory_mib}"
    limits = {"memory_mib": memory_mib} if memory_mib else {}
    client.call("POST", "/api/sessions", id=session, language="go", **limits)
    client.upload(session, "data.txt", b"data")
    client.upload(session, "tool", TOOL)
    command(client, session, "chmod 755 tool; ln -s /etc/passwd link")
    for code in HOSTILE_GO:
        result = client.call("POST", f"/api/sessions/{session}/run", code=code)
        assert (result["exit_code"], result["stdout"]) == (1, ""), result
        assert "root:" not in result["stderr"]
    harmless = EMBED.format("data.txt")
    hijack = {"code": harmless, "env": {"GOFLAGS": "-toolexec=/workspace/tool"}}
    hijacked = client.call("POST", f"/api/sessions/{session}/run", **hijack)
    assert hijacked["exit_code"] == 1
    assert "uid 1000" in hijacked["stderr"]  # it ran, in the box
    assert client.run(session, harmless)["stderr"] == "data"


@AHEAD_OR_ON_DEMAND
def test_a_run_changes_no_layer(client: Api, server: WatchedServer, memory_mib: int | None) -> None:
    session = f"layer-{memory_mib}"
    setup = {"pip": ["six==1.16.0"], "npm": ["ms@2.1.3"]}
    limits = {"memory_mib": memory_mib} if memory_mib else {}
    client.call("POST", "/api/sessions", id=session, language="python", setup=setup, **limits)
    assert client.wait_for_setup(session)["setup_status"] == "completed"
    code = "import six, subprocess; print(six.__version__, flush=True);"
    code += "subprocess.run(['node', '-p', 'require(\"ms\")(1000)'])"
    assert client.run(session, code)["stdout"] == "1.16.0\n1s\n"
    wait_for_bytecode(server)
    before = contents(str(server.state_dir / "layers"))
    assert any(path.endswith("six.py") for path in before)
    spoil = (
        "cd /opt/era/layer && python3 -m compileall -q python && ls -d python/__pycache__;"
        "echo '__version__ = 0' > python/six.py; echo 'module.exports = 1' > /node_modules/ms/index.js;"
        "npm pkg set name=spoilt --prefix node && uv pip list -q --target python | grep -c six;"
        "cd /workspace; python3 -c 'import six; print(six.__version__)'; node -p 'require(`ms`)'"
    )
    assert command(client, session, spoil) == "python/__pycache__\n1\n0\n1\n"
    assert contents(str(server.state_dir / "layers")) == before
    assert client.run(session, code)["stdout"] == "1.16.0\n1s\n"


def test_deno_modules_without_a_setup(start_server: StartServer) -> None:
    """They come from the registry once; what a run does to them is its own; a restart loses none."""
    server = start_server()
    client = Api(server.url)
    client.call("POST", "/api/sessions", id="d", language="deno")
    client.upload("d", "lib/colours.ts", b"export { default } from 'npm:chalk@5'")
    code = (
        "import ms from 'npm:ms@2.1.3'; import chalk from './lib/colours.ts';"
        "console.log(ms('2h'), typeof chalk.red)"
    )
    assert client.run("d", code)["stdout"] == "7200000 function\n"
    kept = contents(str(server.state_dir / "deno"))
    assert any(path.endswith("ms/2.1.3/index.js") for path in kept)
    spoil = "; Deno.removeSync(Deno.env.get('DENO_DIR'), { recursive: true })"
    client.call("POST", "/api/sessions/d/run", code=code + spoil)
    assert contents(str(server.state_dir / "deno")) == kept
    server.stop()
    server.start()
    client = Api(server.url)
    assert client.run("d", code + "; // again")["stdout"] == "7200000 function\n"
    assert contents(str(server.state_dir / "deno")) == kept
    unknown = client.call("POST", "/api/sessions/d/run", code="import 'npm:@era-none/none@1'")
    assert (unknown["exit_code"], unknown["stdout"], unknown["execution_time_ms"]) == (1, "", 0)
    assert "@era-none/none" in unknown["stderr"]


def test_further_import_hosts(start_server: StartServer, client: Api) -> None:
    """A registry serves JSON, which may be imported by its URL once the host may be."""
    body = {"language": "python", "code": "import os; os.system('npm config get registry')"}
    registry = client.call("POST", "/api/execute", **body)["stdout"].strip()
    code = f"import m from '{registry}ms/2.1.3' with {{ type: 'json' }}; console.log(m.version)"
    refused = client.call("POST", "/api/execute", language="deno", code=code)
    assert (refused["exit_code"], refused["stdout"]) == (1, "")
    allowing = Api(start_server(ERA_DENO_IMPORT_HOSTS=urlsplit(registry).netloc).url)
    allowed = allowing.call("POST", "/api/execute", language="deno", code=code)
    assert (allowed["stderr"], allowed["stdout"]) == ("", "2.1.3\n")
