"""Setups behind an operator's proxy, from mirrors over TLS that only the operator's authority vouches
for.  Both reach the installers of every kind, and nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api import Api
from tests.e2e.conftest import watched
from tests.fakes.operator import Proxy, authority, proxy
from tests.fakes.registry import Registry, serving

pytestmark = [pytest.mark.xdist_group("operators-ways"), pytest.mark.timeout(600)]

HOST = "registry.test"
"""Of the mirror: a name that the proxy knows, and this host does not."""
SECRET = "sesame-of-the-proxy"
PAIR = base64.b64encode(f"era:{SECRET}".encode()).decode()
LOOK = "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; env; cat /opt/era/layer/.era-cache/*"
FETCH = """
import ssl, urllib.error, urllib.request
try: print(urllib.request.urlopen("REGISTRY/npm/", timeout=20).status)
except urllib.error.HTTPError as error: print(error.code)
except urllib.error.URLError as error: print(type(error.reason).__name__)
"""
UNTRUSTED = "SSLCertVerificationError\n"


@dataclass(frozen=True)
class World:
    client: Api
    registry: Registry
    proxy: Proxy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    context, root = authority(HOST)
    certificates: Path = tmp_path_factory.mktemp("operator") / "root.pem"
    certificates.write_text(root)
    hosts = {HOST: "127.0.0.1"}
    with serving(HOST, context=context) as registry, proxy(f"Basic {PAIR}", hosts) as out:
        registry.add_python("alpha", "1.0")
        registry.add_source("built", "1.0", "")
        registry.add_node("gamma", "1.0.0")
        registry.add_go("go.test/one", "v1.2.0", {"one.go": 'package one\n\nconst V = "1.2"\n'})
        settings = {
            "ERA_PIP_INDEX_URL": f"{registry.url}/pip/simple",
            "ERA_NPM_REGISTRY": f"{registry.url}/npm/",
            "ERA_GOPROXY": f"{registry.url}/go",
            "NODE_EXTRA_CA_CERTS": str(certificates),
            "HTTPS_PROXY": f"http://era:{SECRET}@127.0.0.1:{out.port}",
            "NO_PROXY": "",
            "no_proxy": "",
        }
        with watched(settings) as server:
            yield World(Api(server.url), registry, out)


def test_every_installer_goes_through_the_proxy_and_trusts_the_mirror(world: World) -> None:
    client = world.client
    setup = {
        "pip": ["alpha", "built"],
        "npm": ["gamma"],
        "commands": [
            f"({LOOK}) > seen.txt 2>&1; npm view gamma version > version.txt",
            # Not as a package, for which all of Go's library would be compiled.
            "mkdir m && cd m && go mod init x && go get go.test/one@v1.2.0",
        ],
    }
    client.call("POST", "/api/sessions", id="all", language="python", setup=setup)
    state = client.wait_for_setup("all")
    assert state["setup_status"] == "completed", json.dumps(state)
    assert state["setup_result"]["installed"]["pip"] == ["alpha==1.0", "built==1.0"]
    assert set(world.proxy.asked) == {f"{HOST}:{world.registry.port}"}
    assert world.proxy.refused == 0
    seen = client.call("POST", "/api/sessions/all/run", command="cat seen.txt version.txt; env")
    assert seen["stdout"].splitlines().count("1.0.0") == 1
    assert "BEGIN CERTIFICATE" in seen["stdout"]  # commands are told of the authority,
    for text in (json.dumps(state), json.dumps(seen)):
        assert SECRET not in text  # and not of the proxy
        assert PAIR not in text


def test_a_deno_program_has_its_modules_the_same_way(world: World) -> None:
    code = "import g from 'npm:gamma@1.0.0'; console.log(g.version, Deno.env.get('DENO_CERT'))"
    before = len(world.proxy.asked)
    ended = world.client.call("POST", "/api/execute", language="deno", code=code)
    assert (ended["stderr"], ended["stdout"]) == ("", "1.0.0 undefined\n")
    assert len(world.proxy.asked) > before


def test_a_run_trusts_no_authority_of_the_operators(world: World) -> None:
    """The mirror: it does reach the registry, through the proxy, and is told who that is."""
    client = world.client
    client.call("POST", "/api/sessions", id="run", language="python", allowInternetAccess=True)
    fetch = FETCH.replace("REGISTRY", world.registry.url)
    before = len(world.proxy.asked)
    assert client.run("run", fetch)["stdout"] == UNTRUSTED
    assert len(world.proxy.asked) == before + 1
    trusting = fetch.replace("timeout=20", "timeout=20, context=ssl._create_unverified_context()")
    assert client.run("run", trusting)["stdout"] == "404\n"
