"""The recipes of docs/backup.md, as they stand there, on servers at work."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from api import Api
from tests.e2e.conftest import watched
from tests.e2e.pairs import pair
from tests.servers.objects import Objects
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.xdist_group("backup")

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"
COUNT = """
import json
data = json.load(open(".session_data.json"))
data["count"] += 1
json.dump(data, open(".session_data.json", "w"))
open(f"file-{data['count']}.txt", "w").write(str(data["count"]))
"""


def recipe(name: str) -> str:
    """The shell lines behind a mark of the page."""
    found = re.search(rf"<!-- test: {name} -->\n\n```shell\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, name
    return found[1]


def shell(script: str, folder: Path, **environment: str) -> None:
    subprocess.run(
        ["bash", "-euc", script], cwd=folder, env={**os.environ, **environment}, check=True
    )


def begin(client: Api) -> None:
    client.call("POST", "/api/sessions", id="s", language="python", data={"count": 0})
    client.upload("s", "kept.bin", b"kept" * 1000)
    client.call("PUT", "/api/sessions/s/code", code="print('stored')")


def keep_busy(client: Api, stop: Event) -> None:
    while not stop.is_set():
        client.run("s", COUNT)


def assert_whole(client: Api) -> int:
    """The session is as after one of its commits; which one."""
    state = client.call("GET", "/api/sessions/s?files=1")
    count: int = state["data"]["count"]
    wanted = {"kept.bin", *(f"file-{number}.txt" for number in range(1, count + 1))}
    assert {entry["path"] for entry in state["files"]} == wanted
    for number in range(1, count + 1):
        assert client.download("s", f"file-{number}.txt") == str(number).encode()
    assert client.download("s", "kept.bin") == b"kept" * 1000
    client.run("s", COUNT)
    assert client.call("GET", "/api/sessions/s")["data"] == {"count": count + 1}
    assert client.call("GET", "/api/sessions/s/code")["code"] == "print('stored')"
    return count


def test_a_copy_made_at_work_is_whole(tmp_path: Path) -> None:
    with watched({}) as server:
        client, stop = Api(server.url), Event()
        begin(client)
        client.run("s", COUNT)
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(keep_busy, client, stop)
            script = recipe("backup").replace("/var/lib/era", str(server.state_dir))
            for _ in range(3):
                shell(script.replace("/backup/era", str(tmp_path / "backup")), tmp_path)
            stop.set()
            busy.result()
    with watched({}) as restored:
        restored.stop()
        script = recipe("restore").replace("/var/lib/era", str(restored.state_dir))
        # As on a new machine: there is nothing there.
        subprocess.run(["rm", "-rf", str(restored.state_dir)], check=True)
        shell(script.replace("/backup/era", str(tmp_path / "backup")), tmp_path)
        restored.start()
        assert assert_whole(Api(restored.url)) >= 1


def test_a_dump_is_restored_beside_its_bucket(
    postgres_server: Postgres, object_server: Objects, tmp_path: Path
) -> None:
    path = f"{postgres_server.bin}:{os.environ['PATH']}"
    restored = f"restored{next(postgres_server.numbers)}"
    with pair(postgres_server, object_server) as nodes:
        client, stop = nodes.clients[0], Event()
        begin(client)
        client.run("s", COUNT)
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(keep_busy, client, stop)
            url = nodes.environment["ERA_DATABASE_URL"]
            shell(recipe("dump"), tmp_path, PATH=path, ERA_DATABASE_URL=url)
            stop.set()
            busy.result()
        environment = nodes.environment
    shell(
        recipe("load").replace("restored\n", f"{restored}\n"),
        tmp_path,
        PATH=path,
        ADMIN_URL=postgres_server.url("postgres"),
        RESTORED_URL=postgres_server.url(restored),
    )
    changed = {**environment, "ERA_DATABASE_URL": postgres_server.url(restored)}
    with watched(changed) as server:
        assert assert_whole(Api(server.url)) >= 1
    postgres_server.drop(restored)
