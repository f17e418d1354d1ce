"""The Worker in workerd, in front of the real service, with Durable Objects and R2 of the platform's own.

The service's process and its disk stand for the container: they are thrown away and replaced.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from era.errors import UnavailableError
from era.models import FileEntry, NewSession
from era.relpath import RelPath
from era.storage.base import Quota
from era.storage.worker.records import WorkerRecords
from tests.servers.ordinary import OrdinaryUser, ordinary
from tests.servers.worker import (
    NODE,
    ROOT,
    TOKEN,
    Worker,
    environment,
    free_port,
    worker,
    workspace,
    wrangler,
)

__all__ = ["ordinary"]
pytestmark = [pytest.mark.xdist_group("worker"), pytest.mark.timeout(1200)]
FREE = Quota(total_bytes=0, count=0)


class Service:
    """The service, as the container runs it; its disk is gone with it."""

    def __init__(
        self,
        port: int,
        state_url: str,
        *,
        at: str = "primary",
        more: Mapping[str, str] | None = None,
        run_by: Sequence[str] = (sys.executable,),
        user: int | None = None,
    ) -> None:
        self.port = port
        self._state_url = state_url
        self._at = at
        self._more = dict(more or {})
        self._run_by = run_by
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._disk = ""

    def start(self) -> None:
        self._disk = tempfile.mkdtemp(prefix="era-container-", dir="/dev/shm")
        given = {
            "PORT": str(self.port),
            "AGENT_STATE_DIR": self._disk,
            "ERA_STATE_DRIVER": "worker",
            "ERA_STATE_URL": f"{self._state_url}/at/{self._at}",
            "ERA_STATE_TOKEN": TOKEN,
            "ERA_SECRET_KEY": "key-of-the-tests",
            "ERA_TRUST_PROXY": "1",
            "ERA_GO_AHEAD": "0",
            "ERA_READY_BOXES": "0",
            **self._more,
        }
        if self._user is not None:
            os.chown(self._disk, self._user, self._user)
        log = Path(self._disk + ".log").open("ab")  # noqa: SIM115 - the process has it
        self._process = subprocess.Popen(
            [*self._run_by, "-m", "era", "serve"],
            env={**os.environ, **given},
            cwd=ROOT,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        self._answering(f"http://127.0.0.1:{self.port}")
        # Through the Worker too: it may still have a connection to the container before.
        if self._at == "primary":
            self._answering(self._state_url.removesuffix("/_state"))

    def _answering(self, url: str) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 300
        while True:
            assert self._process.poll() is None, Path(self._disk + ".log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/health", timeout=120).close()
                return
            except urllib.error.HTTPError as error:
                with error:
                    if b"isolation_unavailable" in error.read():
                        return
            except OSError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def throw_away(self) -> None:
        """The container and its disk, at any moment."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        shutil.rmtree(self._disk, ignore_errors=True)
        log = Path(self._disk + ".log")
        print(
            *(line for line in log.read_text().splitlines() if '"level":"error"' in line), sep="\n"
        )
        log.unlink()


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Worker, Service]]:
    port, edge = free_port(), free_port()
    variables = {"ERA_ENGINE_URL": f"http://127.0.0.1:{port}", "ERA_START_SECONDS": "60"}
    with worker(variables, edge) as running:
        service = Service(port, f"{running.url}/_state")
        try:
            service.start()
            yield running, service
        finally:
            service.throw_away()


@pytest.fixture
def edge(both: tuple[Worker, Service]) -> Worker:
    return both[0]


@pytest.fixture
def service(both: tuple[Worker, Service]) -> Service:
    return both[1]


def run(edge: Worker, session: str, code: str) -> dict[str, Any]:
    status, result = edge.request("POST", f"/api/sessions/{session}/run", {"code": code})
    assert status == 200, result
    assert result["exit_code"] == 0, result
    return dict(result)


def state_of(edge: Worker, session: str) -> dict[str, Any]:
    """Everything that a client can see of a session."""
    status, found = edge.request("GET", f"/api/sessions/{session}?files=1")
    assert status == 200
    code = edge.request("GET", f"/api/sessions/{session}/code")
    setup = edge.request("GET", f"/api/sessions/{session}/setup")
    files = {
        each["path"]: edge.request("GET", f"/api/sessions/{session}/files/{quote(each['path'])}")
        for each in found["files"]
    }
    return {"session": found, "code": code, "setup": setup, "files": files}


def settled(edge: Worker, session: str) -> str:
    deadline = time.monotonic() + 300
    while True:
        _, found = edge.request("GET", f"/api/sessions/{session}/setup")
        if found["setup_status"] not in ("pending", "running"):
            return str(found["setup_status"])
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_a_session_is_whole_after_its_container_is_replaced(edge: Worker, service: Service) -> None:
    setup = {"commands": ["mkdir -p tools && echo from-the-layer > tools/note"]}
    body = {"id": "kept", "language": "python", "setup": setup, "data": {"count": 41}}
    status, made = edge.request("POST", "/api/sessions", {**body, "metadata": {"owner": "ann"}})
    assert (status, made["id"]) == (201, "kept")
    assert settled(edge, "kept") == "completed"
    assert edge.request("PUT", "/api/sessions/kept/files/in%20put.txt", b"uploaded")[0] == 200
    code = "import json; print(json.load(open('.session_data.json'))['count'])"
    assert edge.request("PUT", "/api/sessions/kept/code", {"code": code})[0] == 200
    run(
        edge,
        "kept",
        "import json, os\n"
        "data = json.load(open('.session_data.json')); data['count'] += 1\n"
        "json.dump(data, open('.session_data.json', 'w'))\n"
        "os.makedirs('deep/er'); open('deep/er/made.bin', 'wb').write(bytes(range(256)) * 5000)\n"
        "os.symlink('in put.txt', 'link')\n"
        "print(open('tools/note').read())",
    )
    status, copy = edge.request("POST", "/api/sessions/kept/duplicate", {"id": "copy"})
    assert status == 201, copy
    before, of_copy = state_of(edge, "kept"), state_of(edge, "copy")
    service.throw_away()
    service.start()
    assert state_of(edge, "kept") == before
    assert state_of(edge, "copy") == of_copy
    assert before["session"]["data"] == {"count": 42}
    assert run(edge, "kept", "")["stdout"] == "42\n"
    assert run(edge, "kept", "print(open('tools/note').read())")["stdout"] == "from-the-layer\n\n"
    assert (
        run(edge, "copy", "print(len(open('deep/er/made.bin', 'rb').read()))")["stdout"]
        == "1280000\n"
    )


def test_what_was_committed_lasts_through_a_kill_at_any_moment(
    edge: Worker, service: Service
) -> None:
    edge.request("POST", "/api/sessions", {"id": "counter", "language": "python"})
    for number in range(3):
        run(edge, "counter", f"open('n{number}', 'w').write('{number}')")
        service.throw_away()
        service.start()
    found = run(edge, "counter", "import os; print(sorted(os.listdir('.')))")["stdout"]
    assert "['n0', 'n1', 'n2']" in re.sub(r"'\.[^']*', ", "", found)


def test_a_setup_that_was_cut_off_begins_anew(edge: Worker, service: Service) -> None:
    setup = {"commands": ["sleep 3", "echo done > made"]}
    edge.request("POST", "/api/sessions", {"id": "cut", "language": "python", "setup": setup})
    deadline = time.monotonic() + 300
    while edge.request("GET", "/api/sessions/cut/setup")[1]["setup_status"] == "pending":
        assert time.monotonic() < deadline
    service.throw_away()
    service.start()
    assert settled(edge, "cut") == "completed"
    assert run(edge, "cut", "print(open('made').read())")["stdout"] == "done\n\n"


def test_a_deleted_session_leaves_nothing(edge: Worker) -> None:
    edge.request("POST", "/api/sessions", {"id": "gone", "language": "python"})
    edge.request("PUT", "/api/sessions/gone/files/a.txt", b"a")
    run(edge, "gone", "open('b.txt', 'w').write('b')")
    with closing(edge.client()) as client:
        record = client.call("GET", client.session("gone")).json()
        blobs = [json.loads(body)["blob"] for name, _, body in record["rows"] if name == "entries"]
        assert len(blobs) == 2
        places = [client.session("gone", "blobs", blob, uid=record["uid"]) for blob in blobs]
        assert [client.call("HEAD", place).status for place in places] == [200, 200]
        assert edge.request("DELETE", "/api/sessions/gone")[0] == 200
        assert [client.call("HEAD", place).status for place in places] == [404, 404]
        assert client.call("GET", client.session("gone")).status == 404
    assert "gone" not in [item["id"] for item in edge.sessions()]
    assert edge.request("GET", "/api/sessions/gone")[0] == 404
    status, made = edge.request("POST", "/api/sessions", {"id": "gone", "language": "python"})
    assert (status, made["file_count"]) == (201, 0)


def test_a_file_that_is_replaced_takes_no_room(edge: Worker) -> None:
    edge.request("POST", "/api/sessions", {"id": "one", "language": "python"})
    with closing(edge.client()) as client:
        seen = set()
        for content in (b"first", b"second"):
            edge.request("PUT", "/api/sessions/one/files/a.txt", content)
            record = client.call("GET", client.session("one")).json()
            (row,) = [json.loads(body) for name, _, body in record["rows"] if name == "entries"]
            seen.add(client.session("one", "blobs", row["blob"], uid=record["uid"]))
        assert sorted(client.call("HEAD", place).status for place in seen) == [200, 404]


def test_lists_are_answered_while_the_container_sleeps(edge: Worker, service: Service) -> None:
    for name in ("list-a", "list-b", "list-c"):
        edge.request("POST", "/api/sessions", {"id": name, "language": "python"})
    awake = edge.request("GET", "/api/sessions?prefix=list-&limit=2")
    service.throw_away()
    try:
        status, first = edge.request("GET", "/api/sessions?prefix=list-&limit=2")
        assert (status, first) == awake
        assert [item["id"] for item in first["sessions"]] == ["list-a", "list-b"]
        assert (first["count"], first["total_count"]) == (2, 3)
        _, rest = edge.request("GET", f"/api/sessions?prefix=list-&cursor={first['next_cursor']}")
        assert [item["id"] for item in rest["sessions"]] == ["list-c"]
        assert "next_cursor" not in rest
    finally:
        service.start()
    _, own = edge.request("GET", f"/api/sessions/{first['sessions'][0]['id']}")
    for name, value in first["sessions"][0].items():
        assert own[name] == value, name


def test_events_come_as_they_happen(edge: Worker) -> None:
    edge.request("POST", "/api/sessions", {"id": "stream", "language": "python"})
    code = "import time\nprint('one', flush=True)\ntime.sleep(2)\nprint('two')"
    asked = urllib.request.Request(
        f"{edge.url}/api/sessions/stream/stream", json.dumps({"code": code}).encode(), method="POST"
    )
    with urllib.request.urlopen(asked, timeout=300) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines: list[str] = []
        while not any("one" in line for line in lines):
            lines.append(answer.readline().decode())
        assert not any("two" in line for line in lines)
        rest = answer.read().decode()
    assert "two" in rest
    assert "event: done" in rest


def test_the_service_hears_where_the_client_came_to(edge: Worker) -> None:
    edge.request("POST", "/api/sessions", {"id": "host", "language": "python"})
    _, found = edge.request("GET", "/api/sessions/host/host?port=3000")
    assert found["url"].startswith(edge.url), found


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}]
)
def test_to_strangers_there_is_no_state(edge: Worker, headers: dict[str, str]) -> None:
    for method, path in (
        ("GET", "/_state/sessions"),
        ("PUT", "/_state/sessions/x"),
        ("GET", "/_state"),
    ):
        assert edge.request(method, path, headers=headers)[0] == 404
    ours = {"Authorization": f"Bearer {TOKEN}"}
    assert edge.request("GET", "/_state/sessions", headers=ours)[0] == 200


@pytest.mark.anyio
async def test_two_containers_at_once_lose_nothing(edge: Worker, tmp_path: Path) -> None:
    clients = [edge.client("primary") for _ in range(2)]
    keepers = [
        await asyncio.to_thread(WorkerRecords, str(tmp_path / f"{number}.db"), client)
        for number, client in enumerate(clients)
    ]
    new = NewSession(id=None, language="python", allow_internet=False)
    await keepers[0].create("raced", new, 1000, None)
    paths = [f"{writer}-{number}" for writer in range(2) for number in range(12)]
    puts = [
        keepers[int(path[0])].put_file(
            "raced", FileEntry(path=RelPath(path), blob="0" * 64, size=1), FREE, 2000
        )
        for path in paths
    ]
    await asyncio.gather(*puts)
    fresh = await asyncio.to_thread(
        WorkerRecords, str(tmp_path / "fresh.db"), edge.client("primary")
    )
    found = await fresh.files("raced")
    assert sorted(str(entry.path) for entry in found.items) == sorted(paths)
    assert (await fresh.get("raced")).file_count == len(paths)
    await fresh.delete("raced")
    for keeper in (*keepers, fresh):
        await keeper.close()


def test_a_crowd_of_creations_of_one_id_makes_one(edge: Worker) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        body = {"id": "crowd", "language": "python"}
        made = list(pool.map(lambda _: edge.request("POST", "/api/sessions", body)[0], range(8)))
    assert sorted(made) == [201] + [409] * 7


def test_a_container_sleeps_when_nothing_goes_on(service: Service) -> None:
    """It has no request open while a setup runs, and stays; afterwards it is let go, and wakes."""
    here = f"http://127.0.0.1:{service.port}"
    with worker({"ERA_ENGINE_URL": here, "ERA_SLEEP_AFTER": "1s"}) as running:
        setup = {"commands": ["sleep 5"]}
        body = {"id": "sleepy", "language": "python", "setup": setup}
        assert running.request("POST", "/api/sessions", body)[0] == 201
        deadline = time.monotonic() + 300
        while "container sleeps" not in running.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        asleep = running.log.read_text()
        assert asleep.count("container starts") == 1
        with urllib.request.urlopen(f"{here}/api/sessions/sleepy/setup", timeout=60) as answer:
            assert json.load(answer)["setup_status"] == "completed"
        assert running.request("DELETE", "/api/sessions/sleepy")[0] == 200
        assert running.log.read_text().count("container starts") == 2


# --- what one value or one message of the platform cannot hold ------------------------------------


def test_bodies_of_any_size_are_kept_whole(edge: Worker) -> None:
    big = {
        "a": "x" * 5_000_000,
        "b": "\U0001f40d" * 1_300_001,
        "c": '{"small":1}',
        "d": "y" * 3_000_000,
    }
    with closing(edge.client()) as client:
        path = client.session("large")

        def write(revision: int, kept: dict[str, str], dropped: list[str]) -> int:
            change = {"change": f"c{revision}", "uid": "1", "summary": "{}"}
            rows = {
                "set": [["t", *row] for row in kept.items()],
                "drop": [["t", k] for k in dropped],
            }
            body = json.dumps(change | rows, ensure_ascii=False).encode()
            reply = client.call("PUT", path, body, headers={"If-Match": f'"{revision}"'})
            assert reply.status == 204
            return reply.revision

        def read() -> dict[str, str]:
            found: dict[str, str] = {}
            after: str | None = ""
            while after is not None:
                part = client.call("GET", client.session("large", after=after)).json()
                found |= {key: body for _, key, body in part["rows"]}
                after = part["next"]
            return found

        assert write(0, big, []) == 1
        assert read() == big
        assert write(1, {"a": "short", "c": "z" * 700_000}, ["b"]) == 2
        assert read() == {"a": "short", "c": "z" * 700_000, "d": big["d"]}
        with pytest.raises(UnavailableError) as refused:
            write(2, {"a": "x" * (31 << 20)}, [])
        assert refused.value.code == "storage_full"
        assert "fewer files" in refused.value.extra["message"]
        assert read()["a"] == "short"
        assert client.call("DELETE", path, headers={"If-Match": '"2"'}).status == 204
        assert client.call("GET", path).status == 404


def test_large_code_outlives_the_container(edge: Worker, service: Service) -> None:
    assert edge.request("POST", "/api/sessions", {"id": "wordy", "language": "python"})[0] == 201
    code = {"code": "# " + "\u00e9" * 490_000 + "\nprint(6 * 7)"}
    assert edge.request("PUT", "/api/sessions/wordy/code", code)[0] == 200
    service.throw_away()
    service.start()
    assert edge.request("GET", "/api/sessions/wordy/code")[1]["code"] == code["code"]
    status, result = edge.request("POST", "/api/sessions/wordy/run", {})
    assert (status, result["stdout"]) == (200, "42\n")
    assert edge.request("DELETE", "/api/sessions/wordy")[0] == 200


# --- where the platform is the boundary ---------------------------------------------------------

ALONE = {"ERA_ISOLATION": "process", "ERA_ALLOW_PROCESS_TIER": "1", "ERA_PLACEMENT": "session"}
CODE = {"language": "python", "code": "print(6 * 7)"}


@contextmanager
def one_session(more: Mapping[str, str], user: OrdinaryUser | None = None) -> Iterator[Worker]:
    """A Worker that gives each session its container, in front of the one of the session `one`."""
    port, edge = free_port(), free_port()
    variables = {"ERA_ENGINE_URL": f"http://127.0.0.1:{port}", "ERA_PLACEMENT": "session"}
    as_user: dict[str, Any] = {} if user is None else {"run_by": user.python, "user": user.uid}
    more = dict(more) | ({} if user is None else user.environment)
    with worker(variables, edge) as running:
        service = Service(port, f"{running.url}/_state", at="session-one", more=more, **as_user)
        try:
            service.start()
            yield running
        finally:
            service.throw_away()


def test_without_any_tier_clients_are_told_what_would_help() -> None:
    """The container cannot make boxes, and its sessions are not each on a machine of their own."""
    with one_session({"ERA_ISOLATION": "process"}) as running:
        status, told = running.request("POST", "/api/execute", CODE)
        assert (status, told["code"]) == (503, "isolation_unavailable")
        assert "ERA_PLACEMENT=session" in told["message"]
        assert "ERA_ALLOW_PROCESS_TIER=1" in told["hint"]
        status, health = running.request("GET", "/health")
        assert (status, health["isolation"]["tier"]) == (503, "none")
        assert "ERA_PLACEMENT=session" in health["checks"]["isolation"]
        assert running.request("POST", "/api/sessions", {**NEW, "id": "one"})[0] == 201
        assert running.request("GET", "/api/sessions/one")[0] == 200


NEW = {"language": "python", "allowInternetAccess": True}


def test_a_session_with_a_machine_of_its_own_runs_without_boxes(ordinary: OrdinaryUser) -> None:
    with one_session(ALONE, ordinary) as running:
        assert running.request("POST", "/api/sessions", {**NEW, "id": "one"})[0] == 201
        code = "open('kept', 'w').write('x'); print(6 * 7)"
        status, result = running.request("POST", "/api/sessions/one/run", {"code": code})
        assert (status, result["stdout"], result["isolation"]) == (200, "42\n", "process")
        assert any("no boundary but the platform's" in words for words in result["warnings"])
        assert running.request("GET", "/api/sessions/one/files/kept") == (200, b"x")
        status, told = running.request("POST", "/api/sessions", {**NEW, "id": "two"})
        assert (status, told["code"]) == (503, "isolation_unavailable")
        assert running.request("DELETE", "/api/sessions/one")[0] == 200
        deadline = time.monotonic() + 60
        while "container ends with its session" not in running.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)


# --- what goes wrong -------------------------------------------------------------------------------


def test_a_container_that_does_not_answer_is_said_so() -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with worker({"ERA_ENGINE_URL": closed, "ERA_START_SECONDS": "1"}) as running:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{running.url}/health", timeout=60)
        error = refused.value
        with error:
            told = json.loads(error.read())
        assert (error.code, told["code"]) == (503, "container_unavailable")
        assert told["error"] == "Container not responding"
        assert error.headers["Retry-After"] == "5"
        assert "wrangler tail" in told["hint"]
        assert running.request("GET", "/api/sessions") == (
            200,
            {"sessions": [], "count": 0, "total_count": 0},
        )


MISSING = {
    "ERA_AGENT": ("container_binding_missing", "Container binding not found", "wrangler.toml"),
    "SESSIONS": ("durable_object_unavailable", "Cannot connect to Durable Object", "migrations"),
    "SESSIONS_BUCKET": ("bucket_unavailable", "R2 bucket", "r2 bucket create era-sessions"),
}


@pytest.mark.parametrize("binding", MISSING)
def test_a_missing_binding_is_named(binding: str) -> None:
    code, words, hint = MISSING[binding]
    with worker(rename={binding: f"{binding}_X"}) as running:
        status, told = running.request("GET", "/api/sessions/x")
        assert (status, told["code"]) == (503, code)
        assert words in told["error"]
        assert hint in told["hint"]


# --- the tools of the platform ---------------------------------------------------------------------


def test_wrangler_would_deploy_it_and_the_types_hold() -> None:
    with workspace() as folder:
        for command in (
            wrangler(folder, "types", "--strict-vars=false"),
            [str(NODE / "bin/node"), str(folder / "node_modules/typescript/bin/tsc"), "--noEmit"],
            wrangler(folder, "deploy", "--dry-run", "--containers-rollout=none", "--outdir=dist"),
        ):
            done = subprocess.run(
                command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, done.stdout + done.stderr
        for binding in ("ERA_AGENT", "SESSIONS", "SESSIONS_BUCKET"):
            assert f"env.{binding}" in done.stdout


def test_the_names_are_those_that_deployments_rely_on() -> None:
    found = tomllib.loads((ROOT / "cloudflare/wrangler.toml").read_text())
    assert (found["name"], found["main"]) == ("era-agent", "src/index.ts")
    (container,) = found["containers"]
    assert container == {
        "name": "era-agent-container",
        "class_name": "EraAgent",
        "image": "../era-agent/Dockerfile",
        "instance_type": "standard",
        "max_instances": 10,
    }
    bindings = {each["name"]: each["class_name"] for each in found["durable_objects"]["bindings"]}
    assert bindings == {"ERA_AGENT": "EraAgent", "SESSIONS": "SessionDO"}
    assert found["r2_buckets"] == [{"binding": "SESSIONS_BUCKET", "bucket_name": "era-sessions"}]
    assert found["migrations"] == [
        {"tag": "v1", "new_sqlite_classes": ["EraAgent"]},
        {"tag": "v2", "new_sqlite_classes": ["SessionDO"]},
    ]
    assert found["vars"]["AGENT_LOG_LEVEL"] == "info"
    package = json.loads((ROOT / "cloudflare/package.json").read_text())
    assert {"deploy", "dev", "tail"} <= set(package["scripts"])
    assert all(re.fullmatch(r"[\d.]+", pin) for pin in package["devDependencies"].values())
