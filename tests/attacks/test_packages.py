"""Packages, setups and their layers, through the API: code that runs while something is installed."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.attacks.conftest import Start
from tests.attacks.served import KEY, PATHS, SECRET, SMALL, Client, Served, Session, said
from tests.corpora import setup_entries as entries
from tests.fakes.registry import Registry, serving
from tests.sandbox.census import until

pytestmark = pytest.mark.xdist_group("attacks")

BUILDING = """
import json, os, socket
def look():
    rows = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
    found = dict(uid=os.getuid(), caps=rows["CapEff"], seccomp=rows["Seccomp"].strip())
    found["env"] = dict(os.environ)
    found["there"] = [p for p in os.environ["PLACES"].split(":") if os.path.exists(p)]
    try: open("/usr/bin/forged", "w"); found["write"] = "done"
    except OSError as error: found["write"] = error.strerror
    host, port = os.environ["SERVER"].split(":")
    try:
        with socket.create_connection((host, int(port)), 10) as sock:
            sock.sendall(b"GET /health HTTP/1.0\\r\\n\\r\\n"); found["server"] = sock.recv(100).decode()
    except OSError as error: found["server"] = type(error).__name__
    return found
with open(os.path.expanduser("~/report.json"), "w") as file: json.dump(look(), file)
"""
POSTINSTALL = """
const fs = require('fs'), rows = fs.readFileSync('/proc/self/status', 'utf8');
const row = (name) => rows.split(name + ':\\t')[1].split('\\n')[0];
let write; try { fs.writeFileSync('/usr/bin/forged', 'x'); write = 'done'; } catch (e) { write = e.code; }
fs.writeFileSync('report.json', JSON.stringify({
  uid: process.getuid(), caps: row('CapEff'), seccomp: row('Seccomp'), env: process.env, write }));
"""


@dataclass(frozen=True, slots=True)
class World:
    """A server whose packages come from a registry on this host."""

    served: Served
    registry: Registry

    def set_up(self, session: Session) -> Any:
        """The state of a session's setup, once it has finished."""

        def state() -> Any:
            return session.client.call("GET", f"{session.path}/setup").json

        until(lambda: state()["setup_status"] in ("completed", "failed"), "the end of the setup")
        return state()


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: asks the routing table for our address
        address = probe.getsockname()[0]
    with serving(address, address) as made:
        made.add_python("alpha", "1.0")
        made.add_source("evil", "1.0", BUILDING)
        made.add_node("delta", "3.0.0", POSTINSTALL, scripts={"postinstall": "node built.js"})
        yield made


@pytest.fixture
def world(path: str, started: Start, registry: Registry) -> Iterator[World]:
    environment = SMALL | {
        "ERA_READY_BOXES": PATHS[path],
        "ERA_ALLOW_NETWORKS": str(ipaddress.ip_network(registry.host)),
        "ERA_PIP_INDEX_URL": f"{registry.url}/pip/simple",
        "ERA_NPM_REGISTRY": f"{registry.url}/npm/",
        "ERA_GOPROXY": f"{registry.url}/go",
        "ERA_LAYER_MAX_BYTES": "16 MiB",
    }
    served = started(f"packages {path}", environment)
    yield World(served, registry)
    served.hello()


def check(report: Any) -> None:
    """What code that runs during a setup can be and see."""
    assert report["uid"] == 1000
    assert int(report["caps"], 16) == 0
    assert report["seccomp"] == "2"
    assert report["write"] in ("Read-only file system", "EROFS")
    text = json.dumps(report)
    assert KEY not in text
    assert SECRET not in text


def test_code_of_packages_runs_in_a_box(world: World) -> None:
    """45, 47: a build script and an install script; what they left shows that they did run."""
    places = [str(world.served.server.state_dir), "/root", "/etc/shadow", "/var/lib"]
    told = {
        "PLACES": ":".join(places),
        "SERVER": f"{world.registry.host}:{world.served.server.port}",
    }
    setup = {"pip": ["evil"], "npm": ["delta"], "envs": told}
    with world.served.session(setup=setup) as session:
        state = world.served.attack(lambda: world.set_up(session))
        assert state["setup_status"] == "completed", state
        look = "import evil, os; print(open(os.path.expanduser('~/report.json')).read())"
        report = json.loads(said(session.run(look)))
        check(report)
        assert (report["there"], report["server"]) in (([], ""), ([], "ConnectionResetError"))
        assert report["env"].items() >= told.items()
        read = "cat /node_modules/delta/report.json"
        check(json.loads(said(session.command(read))))


ODD = [
    'for p in . ~ /tmp; do touch "$p/--checkpoint=1" "$p/--checkpoint-action=exec=sh evil.sh"; done',
    "printf 'touch /tmp/executed /workspace/executed' > evil.sh; cp evil.sh ~ ; cp evil.sh /tmp",
    "ln -s /etc d; ln -s / root; ln -s ../../../.. up; ln -s d/passwd two; mkfifo fifo; touch $'a\\nb'",
    "printf hard > one; ln one other; mkdir -p deep/er; chmod 6755 one; truncate -s 1M hole",
    "rm -rf /opt/era/layer/workspace /opt/era/layer/home; ln -s / /opt/era/layer/home",
    "echo prefix=/evil > ~/.npmrc; mkdir -p ~/.config/go; echo GOFLAGS=-toolexec=/x > ~/.config/go/env",
]  # fmt: skip
SHOWN = """
import os
print(sorted(name for name in os.listdir() if not name.startswith(".")))
print([p for p in ("/tmp/executed", "executed", os.path.expanduser("~/executed")) if os.path.exists(p)])
print(open("other").read(), oct(os.stat("one").st_mode)[-4:], os.path.getsize("hole"), os.path.exists("fifo"))
print(os.path.islink("/home/era"), os.stat("/root").st_ino if os.path.exists("/root") else "no root")
"""


def test_a_layer_of_odd_files(world: World) -> None:
    """45, 47: names that are options of tar, links, special files, marks; packed and unpacked in boxes."""
    with world.served.session(setup={"commands": ODD}) as session:
        state = world.served.attack(lambda: world.set_up(session))
        assert state["setup_status"] == "completed", json.dumps(state)
        names, executed, kept, places = said(session.run(SHOWN)).splitlines()
        assert executed == "[]"
        assert all(f"'{name}'" in names for name in ("one", "other", "evil.sh", "--checkpoint=1"))
        assert kept.startswith("hard 0755 1048576")
        assert places == "False no root"


SIZES = {
    "head -c 64M /dev/zero > zeros": False,
    "truncate -s 1T hole": False,
    "head -c 4M /dev/zero > f": True,
}


@pytest.mark.parametrize("command", SIZES)
def test_a_layer_counts_as_what_it_unpacks_to(world: World, command: str) -> None:
    """46: zeros by the million, which pack to nothing, and a hole; the last fits."""
    with world.served.session(setup={"commands": [command]}) as session:
        state = world.served.attack(lambda: world.set_up(session))
        result = state["setup_result"]
        assert result["success"] is SIZES[command], state
        if not SIZES[command]:
            assert result["error"] in ("Setup too large", "Custom command failed"), state
        world.served.hello()


POISON = [
    "echo 'VERSION = \"poisoned\"' > /opt/era/layer/python/alpha.py",
    "echo \"exports.version = 'poisoned'\" > /opt/era/layer/node/node_modules/delta/main.js",
]
ASK = "import alpha; print(alpha.VERSION)"
ASK_NODE = "node -p \"require('delta').version\""


def test_nobody_poisons_what_others_share(world: World) -> None:
    """48: packages are installed once for all who ask for the same; commands change one's own copy.
    The poisoner's own runs are the mirror."""
    packages = {"pip": ["alpha"], "npm": ["delta"]}
    with world.served.session(setup=packages | {"commands": POISON}) as poisoner:
        assert world.set_up(poisoner)["setup_status"] == "completed"
        assert said(poisoner.run(ASK)) == "poisoned\n"
        assert said(poisoner.command(ASK_NODE)) == "poisoned\n"
        said(poisoner.command("echo 'VERSION = 0' > /opt/era/layer/python/alpha.py"))
        with world.served.session(setup=packages) as other:
            state = world.set_up(other)
            assert (state["setup_status"], state["setup_result"]["cached"]) == ("completed", True)
            assert said(other.run(ASK)) == "1.0\n"
            assert said(other.command(ASK_NODE)) == "3.0.0\n"
        other_index = packages | {
            "envs": {"PIP_INDEX_URL": "http://192.0.2.9/", "UV_INDEX_URL": "http://192.0.2.9/"}
        }
        with world.served.session(setup=other_index) as hijacker:
            world.set_up(hijacker)
        with world.served.session(setup=packages) as again:
            world.set_up(again)
            assert said(again.run(ASK)) == "1.0\n"


HOSTILE = [
    *({"pip": [entry]} for entry in entries.PIP_BAD),
    *({"npm": [entry]} for entry in entries.NPM_BAD),
    *({"go": [entry]} for entry in entries.GO_BAD),
    *({"pip": {"requirements": text}} for text in entries.REQUIREMENTS_BAD),
    *({"npm": {"packageJson": text}} for text in entries.PACKAGE_JSON_BAD),
    *({"go": {"goMod": text}} for text in entries.GO_MOD_BAD),
]


def _create(client: Client, setup: Any) -> tuple[int, Any]:
    body = {"id": "injected", "language": "python", "setup": setup}
    answer = client.ask("POST", "/api/sessions", json.dumps(body).encode())
    return answer.status, answer.json


def test_no_entry_is_an_option_or_a_path(server: Served) -> None:
    """48: refused as a whole, nothing is created, nothing asked; an honest entry is the mirror."""
    client = server.client
    for setup in HOSTILE:
        status, answer = _create(client, setup)
        assert (status, answer["code"]) == (400, "invalid_setup"), (setup, answer)
    assert client.call("GET", "/api/sessions?prefix=injected").json["count"] == 0
    assert len(HOSTILE) > 150
    assert _create(client, {"commands": ["true"]})[0] == 201
    assert client.call("DELETE", "/api/sessions/injected").status == 200
