"""What state costs: `python -m bench.state [--quick] [--json FILE]`.

Each figure is beside the one it must not grow from: the same on an empty session, a small layer, few
sessions.  Sizes are gone through in turns, so what else the machine does falls on all of them alike.
The server runs in its state directory below `--folder`, so name a directory on the disk to be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psutil

from bench.http import Server
from era.models import Changes, FileEntry, NewSession, SessionRecord
from era.relpath import RelPath
from era.storage.base import Quota, RunCommit
from era.storage.blobs.local import LocalBlobs
from era.storage.records.sqlite import SqliteRecords
from era.workspace.collect import CollectContext, collect
from era.workspace.trees import Trees

FILES: Final = (0, 100, 1_000, 10_000)
LARGE_MIB: Final = 1024
LAYER: Final = 100_000
SESSIONS: Final = (1_000, 1_000_000)
CHANGED: Final = 5
FREE: Final = Quota(total_bytes=0, count=0)
_MAKE: Final = """
import os
for n in range({count}):
    if n % 100 == 0: os.makedirs(f"d{{n // 100}}", exist_ok=True)
    open(f"d{{n // 100}}/f{{n}}", "w").write(str(n))
"""
_CHANGE: Final = "import time\nfor n in range(5): open(f'c{n}', 'w').write(str(time.time_ns()))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    files: tuple[int, ...] = FILES
    large_mib: int = LARGE_MIB
    layer: int = LAYER
    sessions: tuple[int, ...] = SESSIONS
    rounds: int = 40


QUICK: Final = Scale(
    files=(0, 1_000), large_mib=64, layer=5_000, sessions=(1_000, 20_000), rounds=8
)


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median milliseconds of each call, all of them called once in each round."""
    taken: dict[str, list[int]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(0.03)
            begin = time.perf_counter_ns()
            call()
            taken[name].append(time.perf_counter_ns() - begin)
    return {name: statistics.median(values) / 1e6 for name, values in taken.items()}


# --- through the whole service ------------------------------------------------------------------


class Client:
    """One kept connection to a server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; the JSON of its answer."""
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text)
        answer = self._connection.getresponse()
        found = json.loads(answer.read())
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {found}")
        return found

    def run(self, session: str, code: str, **members: Any) -> Any:
        """A run that must end with 0."""
        body = {"code": code, **members}
        found = self.ask("POST", f"/api/sessions/{session}/run", body)
        if found["exit_code"]:
            raise RuntimeError(found["stderr"])
        return found

    def upload(self, session: str, path: str, mib: int) -> float:
        """Send `mib` MiB; how many of them a second."""
        block = os.urandom(1 << 20)
        begin = time.perf_counter()
        self._connection.request(
            "PUT",
            f"/api/sessions/{session}/files/{path}",
            (block for _ in range(mib)),
            {"Content-Length": str(mib << 20)},
        )
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"upload: {answer.status}")
        return mib / (time.perf_counter() - begin)

    def download(self, session: str, path: str, mib: int) -> float:
        """Receive `mib` MiB; how many of them a second."""
        begin = time.perf_counter()
        self._connection.request("GET", f"/api/sessions/{session}/files/{path}")
        answer = self._connection.getresponse()
        while answer.read(1 << 20):
            pass
        return mib / (time.perf_counter() - begin)


@contextmanager
def served(folder: str) -> Iterator[tuple[Client, psutil.Process]]:
    """A server, a client of it, and its process."""
    server = Server(f"{folder}/state")
    try:
        process = next(
            child
            for child in psutil.Process().children()
            if "serve" in child.cmdline() and str(server.port) in child.cmdline()
        )
        yield Client(server.port), process
    finally:
        server.stop()


def of_sessions(client: Client, scale: Scale) -> dict[str, dict[str, float]]:
    """Runs by what the session holds, and copies of it."""
    names = {count: f"files-{count}" for count in scale.files}
    for count, name in names.items():
        client.ask("POST", "/api/sessions", {"id": name, "language": "python"})
        if count:
            client.run(name, _MAKE.format(count=count), timeout=600)
    client.ask("POST", "/api/sessions", {"id": "large", "language": "python"})
    client.upload("large", "large.bin", scale.large_mib)
    subjects = {f"{count:,} files": name for count, name in names.items()}
    subjects[f"one file of {scale.large_mib} MiB"] = "large"
    nothing = {what: _runs(client, name, "pass") for what, name in subjects.items()}
    change = {what: _runs(client, name, _CHANGE) for what, name in subjects.items()}
    return {
        "run that changes nothing, ms": in_turns(nothing, scale.rounds),
        f"run that writes {CHANGED} files, ms": in_turns(change, scale.rounds),
        "duplicate, ms": in_turns(
            {what: _copies(client, name) for what, name in subjects.items()}, scale.rounds // 2
        ),
    }


def _runs(client: Client, name: str, code: str) -> Callable[[], object]:
    return lambda: client.run(name, code)


def _copies(client: Client, name: str) -> Callable[[], object]:
    return lambda: client.ask("POST", f"/api/sessions/{name}/duplicate")


def of_layers(client: Client, scale: Scale) -> dict[str, dict[str, float]]:
    """Runs by what the setup layer holds."""
    many = (
        "mkdir -p /workspace/layer && cd /workspace/layer && "
        f"python3 -c 'for n in range({scale.layer}): open(str(n), \"w\").close()'"
    )
    subjects = {
        "no layer": None,
        "a layer of 1 file": ["touch /workspace/one"],
        f"a layer of {scale.layer:,} files": [many],
    }
    calls: dict[str, Callable[[], object]] = {}
    for number, (what, commands) in enumerate(subjects.items()):
        name = f"layer-{number}"
        body: dict[str, Any] = {"id": name, "language": "python"}
        setup = {"setup": {"commands": commands}} if commands else {}
        client.ask("POST", "/api/sessions", body | setup)
        calls[what] = _runs(client, name, "pass")
    for number in range(1, len(subjects)):
        while (state := client.ask("GET", f"/api/sessions/layer-{number}"))["setup_status"] in (
            "pending",
            "running",
        ):
            time.sleep(0.2)
        if state["setup_status"] != "completed":
            raise RuntimeError(state["setup_result"])
    return {"run over a setup layer, ms": in_turns(calls, scale.rounds)}


def of_streams(client: Client, server: psutil.Process, scale: Scale) -> dict[str, dict[str, float]]:
    """One large file in and out, and what the server grows by meanwhile."""
    with open(f"/proc/{server.pid}/clear_refs", "w") as file:
        file.write("5")  # the highest so far counts no more (proc(5))
    before = _peak_mib(server)
    up = client.upload("large", "again.bin", scale.large_mib)
    down = client.download("large", "again.bin", scale.large_mib)
    return {
        f"one file of {scale.large_mib} MiB": {
            "upload, MiB/s": up,
            "download, MiB/s": down,
            "growth of the server, MiB": _peak_mib(server) - before,
        }
    }


def _peak_mib(process: psutil.Process) -> float:
    """Resident memory at its highest."""
    with open(f"/proc/{process.pid}/status") as file:
        status = file.read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# --- the workspace and the stores alone ---------------------------------------------------------


async def of_workspace(folder: str, scale: Scale) -> dict[str, dict[str, float]]:
    """What a run pays for its files besides the box, until its answer: looking, scanning, storing,
    committing; and behind the answer, for bringing the tree up to what was committed."""
    records = SqliteRecords(f"{folder}/ws/era.db")
    blobs = LocalBlobs(f"{folder}/ws/blobs")
    trees = Trees(root=f"{folder}/ws/trees", records=records, blobs=blobs)
    upper = f"{folder}/ws/upper"
    taken: dict[int, list[int]] = {count: [] for count in scale.files}
    behind: dict[int, list[int]] = {count: [] for count in scale.files}
    for count in scale.files:
        await _filled(records, blobs, count, folder)
    for turn in range(scale.rounds):
        for count in scale.files:
            _change(upper, f"{turn} {count}")
            begin = time.perf_counter_ns()
            committed = await _handled(records, blobs, trees, f"s{count}", upper)
            answered = time.perf_counter_ns()
            trees.follow(committed)
            await trees.close()
            taken[count].append(answered - begin)
            behind[count].append(time.perf_counter_ns() - answered)
    await blobs.close()
    await records.close()
    return {
        f"files of a run that writes {CHANGED}, ms": _medians(taken),
        "the same, behind its answer, ms": _medians(behind),
    }


def _medians(taken: dict[int, list[int]]) -> dict[str, float]:
    return {
        f"{count:,} files": statistics.median(values[1:]) / 1e6 for count, values in taken.items()
    }


def _change(upper: str, text: str) -> None:
    """What a run leaves in the upper directory of its overlay."""
    shutil.rmtree(upper, ignore_errors=True)
    os.mkdir(upper)
    for number in range(CHANGED):
        with open(f"{upper}/c{number}", "w") as file:
            file.write(f"{text} {number}")


async def _filled(records: SqliteRecords, blobs: LocalBlobs, count: int, folder: str) -> None:
    new = NewSession(id=None, language="python", allow_internet=False)
    record = await records.create(f"s{count}", new, 1, None)
    _change(f"{folder}/ws/upper", "content")
    fd = os.open(f"{folder}/ws/upper/c0", os.O_RDONLY)
    (blob,) = await blobs.put_fds([fd])
    os.close(fd)
    written = tuple(
        FileEntry(path=RelPath(f"d{n // 100}/f{n}"), blob=blob.hash, size=blob.size, mtime_ns=n)
        for n in range(count)
    )
    commit = RunCommit(
        uid=record.uid, snapshot_revision=0, finished_at_ms=2, changes=Changes(written=written)
    )
    await records.commit_run(commit, FREE)


async def _handled(
    records: SqliteRecords, blobs: LocalBlobs, trees: Trees, name: str, upper: str
) -> SessionRecord:
    record = await records.get(name)
    tree = await trees.ensure(record)
    lower, top = tree.open(), os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
    try:
        context = CollectContext(
            tree_fd=lower,
            layer_fd=None,
            own_names=frozenset(),
            max_bytes=10 << 30,
            xattr_prefix="trusted",
        )
        collected = await collect(top, blobs=blobs, context=context)
    finally:
        os.close(lower)
        os.close(top)
    commit = RunCommit(
        uid=record.uid,
        snapshot_revision=tree.revision,
        finished_at_ms=int(time.time() * 1000),
        data=None,
        changes=collected.changes,
    )
    return (await records.commit_run(commit, FREE)).session


async def of_lists(folder: str, scale: Scale) -> dict[str, dict[str, float]]:
    """A page of 50 sessions by how many there are."""
    found: dict[str, float] = {}
    for count in scale.sessions:
        path = f"{folder}/list-{count}.db"
        records = SqliteRecords(path)
        new = NewSession(id=None, language="python", allow_internet=False)
        await records.create("first", new, 1, None)
        await records.close()
        _multiply(path, count)
        records = SqliteRecords(path)
        cursor = (await records.list(limit=500)).next_cursor
        taken = []
        for _ in range(scale.rounds):
            begin = time.perf_counter_ns()
            await records.list(limit=50, cursor=cursor)
            taken.append(time.perf_counter_ns() - begin)
        found[f"{count:,} sessions"] = statistics.median(taken) / 1e6
        await records.close()
        os.unlink(path)
    return {"list of 50 sessions, ms": found}


def _multiply(path: str, count: int) -> None:
    """Copies of the one session of a database, made inside it."""
    with sqlite3.connect(path) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(sessions)")]
        rest = ", ".join(name for name in names if name not in ("uid", "id"))
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            f" INSERT INTO sessions (id, {rest}) SELECT 'copy-' || i, {rest} FROM sessions, n",
            [count - 1],
        )
        connection.execute("UPDATE counts SET sessions = ? WHERE stripe = 0", [count])
        connection.execute("UPDATE counts SET sessions = 0 WHERE stripe > 0")
    connection.close()


# --- report -------------------------------------------------------------------------------------


def table(results: dict[str, dict[str, float]]) -> str:
    """Every figure, with its ratio to the first of its kind where they must not differ."""
    lines = []
    for title, figures in results.items():
        lines.append(title)
        first = next(iter(figures.values()))
        for name, value in figures.items():
            ratio = f"  x{value / first:.2f}" if title.endswith(", ms") and first else ""
            lines.append(f"  {name:32} {value:10.2f}{ratio}")
    return "\n".join(lines)


def measure(folder: str, memory: str, scale: Scale) -> dict[str, dict[str, float]]:
    """Everything; `memory` is a directory on a tmpfs."""
    results: dict[str, dict[str, float]] = {}
    with served(folder) as (client, server):
        results |= of_sessions(client, scale)
        results |= of_layers(client, scale)
        results |= of_streams(client, server, scale)
    for name, place in (("disk", folder), ("tmpfs", memory)):
        for title, figures in asyncio.run(of_workspace(place, scale)).items():
            results[f"{name}: {title}"] = figures
    return results | asyncio.run(of_lists(folder, scale))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.state", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes; only a first look")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk to measure")
    parser.add_argument("--json", metavar="FILE", help="also keep the results there")
    asked = parser.parse_args(arguments)
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="era-state-", dir=asked.folder) as folder,
        tempfile.TemporaryDirectory(prefix="era-state-", dir="/dev/shm") as memory,
    ):
        os.mkdir(f"{folder}/ws")
        os.mkdir(f"{memory}/ws")
        results = measure(folder, memory, QUICK if asked.quick else Scale())
    print(table(results))
    if asked.json:
        with open(asked.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    load = os.getloadavg()[0]
    print(f"bench.state: {time.monotonic() - begin:.0f} s, load {load:.1f}", file=sys.stderr)


if __name__ == "__main__":
    main()
