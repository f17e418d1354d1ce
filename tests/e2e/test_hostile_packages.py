"""Packages made to do harm, from a mirror that this test serves on loopback; each act has its mirror:
the same where it is allowed, or works because nothing stands in its way."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api import Api, RefusedError
from tests.e2e.conftest import StartServer, watched
from tests.e2e.harness import WatchedServer
from tests.fakes.registry import Registry, serving
from tests.sessions.conftest import contents

pytestmark = [pytest.mark.xdist_group("hostile-packages"), pytest.mark.timeout(600)]

ADDRESS = "127.0.0.2"
"""Of the mirror: a loopback address of the host that a box does not take for its own."""
SECRET = "sesame-of-the-operator"

LOOK = """
import glob, json, os, socket
found = {"env": dict(os.environ), "uid": os.getuid(), "files": [], "reached": []}
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try: found["env"][path] = open(path, errors="replace").read()
    except OSError: pass
for path in ("/etc/shadow", "/root", "/var/lib", "/etc/pip.conf", "/root/.npmrc", "STATE"):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read()
        found["files"].append(path)
    except OSError: pass
for host, port in (("127.0.0.1", PORT), ("127.0.0.3", PRIVATE), ("127.0.0.2", MIRROR)):
    for proxy in (False, True):
        try:
            to = socket.create_connection(("127.0.0.1", 3128) if proxy else (host, port), 3)
            if proxy:
                to.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
                if b" 200 " not in to.recv(100): continue
            to.sendall(b"GET /health HTTP/1.0\\r\\n\\r\\n")
            if to.recv(100): found["reached"].append(port)
        except OSError: pass
os.makedirs("/opt/era/layer/python", exist_ok=True)
json.dump(found, open("/opt/era/layer/python/found.json", "w"))
"""
SEARCH = """
import json, os
found = {"seen": [], "files": 0}
for top in ("/opt/era/layer/.era-cache", "/tmp", os.path.expanduser("~"), "/workspace"):
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            try: text = open(path, "rb").read()
            except OSError: continue
            found["files"] += 1
            if any(part.encode() in text for part in PARTS): found["seen"].append(path)
if any(part in value for part in PARTS for value in os.environ.values()): found["seen"].append("env")
os.makedirs("/opt/era/layer/python", exist_ok=True)
json.dump(found, open("/opt/era/layer/python/found.json", "w"))
"""
"""Looks for a credential, which it knows in two halves each, in all that code of a package can read."""
FROM_NODE = "require('child_process').execFileSync('python3', ['-c', PROGRAM])"
READ = "import json; print(open('/opt/era/layer/python/found.json').read())"


@contextmanager
def private_service() -> Iterator[int]:
    """Something of the host's own, at a loopback address that no setting opens; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.3", 0), Handler) as service:
        threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True).start()
        yield service.server_address[1]
        service.shutdown()


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with serving(ADDRESS, ADDRESS) as made:
        made.add_python("plain", "1.0")
        made.add_node("ordinary", "1.0.0")
        yield made


def settings(registry: Registry) -> dict[str, str]:
    """Of a server whose setups fetch from the mirror, with a credential of the operator's."""
    at = f"{ADDRESS}:{registry.port}"
    return {
        "ERA_PIP_INDEX_URL": f"http://operator:{SECRET}@{at}/pip/simple",
        "ERA_NPM_REGISTRY": f"http://{at}/npm/",
        "ERA_GOPROXY": f"http://{at}/go",
        "ERA_ALLOW_NETWORKS": f"{ADDRESS}/32",
        "ERA_LAYER_MAX_BYTES": "64 MiB",
        "ERA_API_KEY": "",
        "OPERATORS_TOKEN": SECRET,
    }


@pytest.fixture(scope="module")
def server(registry: Registry) -> Iterator[WatchedServer]:
    with watched(settings(registry)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: WatchedServer) -> Api:
    return Api(server.url)


def set_up(client: Api, session: str, **setup: Any) -> Any:
    """The state of a setup that has ended."""
    client.call("POST", "/api/sessions", id=session, language="python", setup=setup)
    return client.wait_for_setup(session)


def completed(client: Api, session: str, **setup: Any) -> Any:
    state = set_up(client, session, **setup)
    assert state["setup_status"] == "completed", json.dumps(state)
    return state["setup_result"]


# --- code that runs while packages are installed ------------------------------------------------


@pytest.mark.parametrize("kind", ["pip", "npm", "commands"])
def test_install_time_code_sees_nothing_of_the_host(
    client: Api, server: WatchedServer, registry: Registry, kind: str
) -> None:
    with private_service() as private:
        program = LOOK.replace("STATE", str(server.state_dir)).replace("PORT", str(server.port))
        program = program.replace("PRIVATE", str(private)).replace("MIRROR", str(registry.port))
        if kind == "pip":
            registry.add_source("looker", "1.0", program)
            completed(client, "look-pip", pip=["looker"])
        elif kind == "npm":
            built = FROM_NODE.replace("PROGRAM", json.dumps(program))
            scripts = {"postinstall": "node built.js"}
            registry.add_node("looker", "1.0.0", built, scripts=scripts)
            completed(client, "look-npm", npm=["looker"])
        else:
            completed(client, "look-commands", commands=[f"python3 - <<'EOF'\n{program}\nEOF"])
    found = json.loads(client.run(f"look-{kind}", READ)["stdout"])
    assert found["uid"] == 1000
    assert found["files"] == []
    assert SECRET not in json.dumps(found["env"])
    assert not {"ERA_API_KEY", "OPERATORS_TOKEN", "AGENT_STATE_DIR"} & set(found["env"])
    # The mirror, which the operator has opened, is the proof that the way out works.
    assert set(found["reached"]) == {registry.port}


def test_a_mirror_that_asks_for_a_credential_gets_it(client: Api, registry: Registry) -> None:
    """While nobody reads it in what the installer says."""
    pair = base64.b64encode(f"operator:{SECRET}".encode()).decode()
    registry.add_python("guarded", "1.0")
    registry.guarded = {"/pip/simple/guarded/": f"Basic {pair}"}
    result = completed(client, "credential", pip=["guarded"])
    assert SECRET not in json.dumps(result)
    code = "import os, guarded; print(guarded.VERSION, [n for n in os.environ if 'INDEX' in n])"
    assert client.run("credential", code)["stdout"] == "1.0 []\n"
    # A command is started by whoever asks, so it has no credential.
    refused = set_up(client, "guarded", commands=["pip install guarded"])
    assert refused["setup_status"] == "failed"
    completed(client, "open", commands=["pip install plain"])
    failed = set_up(client, "unknown", pip=["nowhere"])
    assert failed["setup_result"]["error"] == "Pip install failed"
    assert "nowhere" in failed["setup_result"]["stderr"]
    assert SECRET not in json.dumps(failed)


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Api, Registry]]:
    """A server whose mirror gives nothing without a credential."""
    with serving(ADDRESS, ADDRESS) as registry:
        at = f"http://operator:{SECRET}@{ADDRESS}:{registry.port}/npm/"
        with watched({**settings(registry), "ERA_NPM_REGISTRY": at}) as running:
            yield Api(running.url), registry


@pytest.mark.parametrize("kind", ["pip", "npm"])
def test_code_that_builds_a_guarded_package_finds_no_credential(
    guarded: tuple[Api, Registry], kind: str
) -> None:
    """The package itself was fetched with one, by a box that ran nothing of it."""
    client, registry = guarded
    pair = base64.b64encode(f"operator:{SECRET}".encode()).decode()
    parts = [SECRET, base64.b64encode(SECRET.encode()).decode()[:-2]]
    assert parts[1] in pair
    halves = ", ".join(f"{part[:9]!r} + {part[9:]!r}" for part in parts)
    program = SEARCH.replace("PARTS", f"({halves})")
    if kind == "pip":
        registry.add_python("guardedneed", "1.0")
        program = f"import guardedneed\n{program}"
        registry.add_source(f"guarded{kind}", "1.0", program, requires=("guardedneed",))
    else:
        built = FROM_NODE.replace("PROGRAM", json.dumps(program))
        registry.add_node(
            f"guarded{kind}", "1.0.0", built, scripts={"postinstall": "node built.js"}
        )
    registry.guarded |= {path: f"Basic {pair}" for path in registry.files if "guarded" in path}
    result = completed(client, f"build-{kind}", **{kind: [f"guarded{kind}"]})
    assert SECRET not in json.dumps(result)
    found = json.loads(client.run(f"build-{kind}", READ)["stdout"])
    assert found["files"] > 0
    assert found["seen"] == []


def test_where_a_credential_is_withheld_it_is_said(guarded: tuple[Api, Registry]) -> None:
    """A setup that is given none says so, and so does Deno; what a setup has fetched is imported."""
    client, registry = guarded
    pair = base64.b64encode(f"operator:{SECRET}".encode()).decode()
    registry.add_node("guardeddeno", "1.0.0")
    registry.add_source("guardedone", "1.0", "pass")
    registry.guarded |= {path: f"Basic {pair}" for path in registry.files if "guarded" in path}
    for kind, name in (("pip", "guardedone"), ("npm", "guardeddeno")):
        withheld = set_up(client, f"withheld-{kind}", **{kind: [name], "envs": {"A": "b"}})
        assert "hint: a mirror asks for a credential" in withheld["setup_result"]["stderr"]
    code = "import g from 'npm:guardeddeno@1'; console.log(g.version)"
    refused = client.call("POST", "/api/execute", language="deno", code=code)
    assert refused["exit_code"] == 1
    assert "hint: a registry asks for a credential" in refused["stderr"]
    client.call(
        "POST", "/api/sessions", id="for-deno", language="deno", setup={"npm": ["guardeddeno"]}
    )
    assert client.wait_for_setup("for-deno")["setup_status"] == "completed"
    assert client.run("for-deno", code)["stdout"] == "1.0.0\n"


@pytest.mark.parametrize("kind", ["pip", "npm"])
def test_install_time_code_cannot_fill_the_disk(client: Api, registry: Registry, kind: str) -> None:
    """It ends where the layer's room ends; half of it would have been fine."""
    for name, mebibytes in (("small", 30), ("flood", 400)):
        write = f"open('/opt/era/layer/{kind}-{name}', 'wb').write(bytes({mebibytes} << 20))"
        if kind == "pip":
            registry.add_source(name, "1.0", write)
        else:
            built = FROM_NODE.replace("PROGRAM", json.dumps(write))
            registry.add_node(name, "1.0.0", built, scripts={"postinstall": "node built.js"})
    completed(client, f"small-{kind}", **{kind: ["small"]})
    state = set_up(client, f"flood-{kind}", **{kind: ["flood"]})
    assert state["setup_status"] == "failed"
    assert state["setup_result"]["error"] == "Setup too large"
    assert client.run(f"flood-{kind}", "print('usable')")["stdout"] == "usable\n"


def test_an_archive_that_unpacks_to_more_than_fits(client: Api, registry: Registry) -> None:
    registry.add_wheel("bomb", "1.0", {"bomb/data.txt": "0" * (300 << 20)})
    registry.add_wheel("packed", "1.0", {"packed/__init__.py": f"# {'0' * (20 << 20)}\n"})
    completed(client, "packed", pip=["packed"])
    state = set_up(client, "bomb", pip=["bomb"])
    assert state["setup_result"]["error"] == "Setup too large"


# --- code that waits for the runs after -----------------------------------------------------------


def test_what_a_package_leaves_for_interpreters_stays_with_its_own_recipe(
    client: Api, registry: Registry
) -> None:
    """A `.pth` file, a `sitecustomize`, a shadowed module: they act on whoever asked for them (the
    mirror: the last does), and on nobody else."""
    act = "import sys; sys.stdout.write('owned ')\n"
    registry.add_wheel(
        "pthful",
        "1.0",
        {"pthful.pth": act, "sitecustomize.py": act, "shadowed_by_pthful.py": "X = 1\n"},
    )
    completed(client, "pth", pip=["pthful"])
    completed(client, "clean", pip=["plain"])
    code = "import shadowed_by_pthful; print(shadowed_by_pthful.X)"
    assert client.run("pth", code)["stdout"].endswith("1\n")
    assert client.run("clean", "print('clean')")["stdout"] == "clean\n"
    gone = client.call("POST", "/api/sessions/clean/run", code=code)
    assert gone["exit_code"] == 1
    assert (
        client.call("POST", "/api/execute", language="python", code="print(2)")["stdout"] == "2\n"
    )


def test_members_of_archives_that_lead_outside(
    client: Api, server: WatchedServer, registry: Registry
) -> None:
    """Whatever the installers make of them, nothing arrives beyond the layer."""
    registry.add_wheel("slip", "1.0", {"../../../../../../tmp/era-slip": "x", "slip.py": "X = 1"})
    state = set_up(client, "slip", pip=["slip"])
    found = contents(str(server.state_dir / "layers"))
    assert not any("era-slip" in path for path in found)
    seen = client.run("slip", "import os; print(os.path.exists('/tmp/era-slip'))")["stdout"]
    assert seen == "False\n"
    assert state["setup_status"] in ("completed", "failed")
    assert not (server.state_dir / "tmp").exists()


def test_a_box_that_spoils_what_it_was_given_spoils_it_for_itself(
    client: Api, server: WatchedServer
) -> None:
    """A cache of the installer, linked into one setup, was how another could be poisoned."""
    find = "find / -name plain.py -path '*python*' 2>/dev/null"
    spoil = f"{find} | while read f; do echo 'VERSION = 6' >> $f; done"
    completed(client, "victim-a", pip=["plain"], commands=["true"])
    result = completed(client, "attacker", pip=["plain"], commands=[spoil])
    assert result["cached"] is True
    client.call("POST", "/api/sessions/victim-a/run", command=spoil)
    completed(client, "victim-b", pip=["plain"])
    code = "import plain; print(plain.VERSION)"
    assert client.run("attacker", code)["stdout"] == "6\n"
    for session in ("victim-a", "victim-b"):
        assert client.run(session, code)["stdout"] == "1.0\n"


# --- entries that want to be more than a package --------------------------------------------------

HOSTILE: dict[str, list[str]] = {
    "pip": [
        *("--index-url=http://evil", "-r /etc/passwd", "-e .", "plain --no-deps", "plain\n-e ."),
        *(
            "./plain",
            "/etc/passwd",
            "file:///etc/passwd",
            "git+file:///srv",
            "plain; os.system('id')",
        ),
        *("plain beta", "plain @ file:///x", "plain @ git+ssh://h/x", "plain.whl", ""),
    ],
    "npm": [
        *(
            "--prefix=/x",
            "ordinary --ignore-scripts --prefix x",
            "file:../x",
            "link:x",
            "./x",
            "/x",
        ),
        *("ordinary\n--prefix", "git+file:///srv", "git+ssh://h/x", "ordinary.tgz", "-g", ""),
    ],
    "go": [
        "-toolexec=x",
        "example.com/x -insecure",
        "./x",
        "../x",
        "/x",
        "example.com/../x",
        "all",
        "",
    ],
}


@pytest.mark.parametrize(("kind", "entry"), [(k, e) for k, es in HOSTILE.items() for e in es])
def test_hostile_entries_are_refused_and_nothing_is_made(
    client: Api, kind: str, entry: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        client.call("POST", "/api/sessions", id="hostile", language="python", setup={kind: [entry]})
    assert (caught.value.status, caught.value.body["code"]) == (400, "invalid_setup")
    with pytest.raises(RefusedError) as missing:
        client.call("GET", "/api/sessions/hostile")
    assert missing.value.status == 404


def test_variables_of_the_request_cannot_lead_a_direct_installer(
    client: Api, registry: Registry, start_server: StartServer
) -> None:
    """They are for all steps, so they hold (the mirror), but then no step works on the layer itself:
    what they start is bounded like any command."""
    flood = "python3 -c \"open('/opt/era/layer/f', 'wb').write(bytes(400 << 20))\""
    envs = {"npm_config_foreground_scripts": "true", "npm_config_script_shell": "/bin/bash"}
    registry.add_node("led", "1.0.0", scripts={"postinstall": flood})
    state = set_up(client, "led", npm=["led"], envs=envs)
    assert state["setup_result"]["error"] == "Setup too large"
    result = completed(
        client, "kept", npm=["ordinary"], commands=["echo $WORD"], envs={"WORD": "w"}
    )
    assert result["stdout"].endswith("w\n")
