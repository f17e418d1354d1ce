"""`kill -9` at any moment, again and again, with a witness of everything that was acknowledged.

    python -m tests.e2e.crash_loop 1000              one server, 1,000 kills
    python -m tests.e2e.crash_loop 1000 --nodes 2    two on one PostgreSQL and S3, either is killed

Each worker has a session of its own and changes it without a pause: runs that count in the data and
leave a file of that number, in one commit; uploads; metadata.  After each kill every session must be
as its worker was told last, or one step further if an answer was still to come, and never in between:
the count in the data and the files of runs are of one commit.  Bytes are read back.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
import time
import traceback
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from api import Api, RefusedError
from tests.e2e.conftest import watched
from tests.e2e.harness import WatchedServer
from tests.e2e.pairs import pair
from tests.servers.objects import objects
from tests.servers.postgres import postgres

RUN = """
import json, os
data = json.load(open(".session_data.json"))
data["count"] += 1
open(f"run-{data['count']}", "w").write("x" * data["count"])
if os.path.exists(f"run-{data['count'] - 20}"):
    os.unlink(f"run-{data['count'] - 20}")
json.dump(data, open(".session_data.json", "w"))
"""
KEPT = 20
"""Files of runs that a session has at most."""
PATIENCE_SECONDS = 60.0
_LOST = (urllib.error.URLError, OSError, EOFError, ValueError, http.client.HTTPException)
"""What a client sees of a server that dies: before, in or after the head of its answer."""


@dataclass
class Worker:
    """What one session is known to be.  `open` is the change whose answer has not come."""

    name: str
    seed: int
    count: int = 0
    uploads: int = 0
    label: int = 0
    open: str = ""
    problems: list[str] = field(default_factory=list)

    def step(self, api: Api) -> None:
        """Make one change, and note it when it is acknowledged."""
        kind = random.Random(f"{self.seed}-{self.count}-{self.uploads}-{self.label}").choice(
            ("run", "run", "upload", "patch")
        )
        self.open = kind
        if kind == "run":
            result = api.call("POST", f"/api/sessions/{self.name}/run", code=RUN)
            self.count += 1
            if result["exit_code"] or result["data"] != {"count": self.count}:
                self.say(f"run {self.count} answered otherwise", result)
        elif kind == "upload":
            api.upload(self.name, f"up-{self.uploads + 1}", b"u" * (self.uploads + 1))
            self.uploads += 1
        else:
            api.call("PATCH", f"/api/sessions/{self.name}", metadata={"label": self.label + 1})
            self.label += 1
        self.open = ""

    def say(self, what: str, found: object) -> None:
        """Note something wrong, with all that is known of it."""
        known = f"count {self.count}, uploads {self.uploads}, label {self.label}"
        self.problems.append(
            f"{self.name}: {what}\n  acknowledged: {known}; still to be answered: {self.open or '-'}"
            f"\n  found: {json.dumps(found, default=str)[:4000]}"
        )

    def check(self, api: Api) -> None:
        """Compare the session with what is known of it, and take it as it is from here on."""
        state = api.call("GET", f"/api/sessions/{self.name}?files=1")
        count, label = state["data"]["count"], state["metadata"].get("label", 0)
        paths = {entry["path"]: entry["size"] for entry in state["files"]}
        uploads = sum(path.startswith("up-") for path in paths)
        for what, known, found in (
            ("run", self.count, count),
            ("upload", self.uploads, uploads),
            ("patch", self.label, label),
        ):
            if found not in (known, known + (self.open == what)):
                self.say(f"{what} {found}, acknowledged {known}", state)
        runs = {f"run-{n}": n for n in range(max(1, count - KEPT + 1), count + 1)}
        wanted = runs | {f"up-{n}": n for n in range(1, uploads + 1)}
        if paths != wanted:
            self.say(f"files {paths} with count {count}, wanted {wanted}", state)
        for path in (f"run-{count}", f"up-{uploads}"):
            if path in wanted and api.download(self.name, path)[1:] != (
                path[:1].replace("r", "x").encode() * (wanted[path] - 1)
            ):
                self.say(f"{path} has other bytes", state)
        self.count, self.uploads, self.label, self.open = count, uploads, label, ""


@contextmanager
def servers(nodes: int) -> Iterator[Sequence[WatchedServer]]:
    """One server with its own stores, or two that share theirs."""
    if nodes == 1:
        with watched({"ERA_READY_BOXES": "1"}) as server:
            yield (server,)
        return
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        shared = stack.enter_context(pair(database, stack.enter_context(objects())))
        yield shared.one, shared.two


def work(worker: Worker, apis: Sequence[Api], stop: threading.Event) -> None:
    """Change the session until it is told to stop, or an answer does not come."""
    turn = 0
    while not stop.is_set():
        try:
            worker.step(apis[turn % len(apis)])
        except (RefusedError, *_LOST):
            return
        except Exception:  # noqa: BLE001 - nothing else may come; nobody hears of it in a thread
            worker.say("the client failed", traceback.format_exc())
            return
        turn += 1


def patiently(check: Callable[[], None]) -> None:
    """Call until it is answered: a server that died keeps its sessions for a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return check()
        except (RefusedError, *_LOST):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def round_of(
    chance: random.Random, workers: Sequence[Worker], running: Sequence[WatchedServer]
) -> None:
    """Let all work, kill one server at some moment, look, start it again."""
    apis = [Api(server.url) for server in running]
    stop = threading.Event()
    threads = [
        threading.Thread(target=work, args=(worker, apis[at % len(apis) :] + apis, stop))
        for at, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    time.sleep(chance.uniform(0, 0.7))
    victim = chance.choice(running)
    victim.kill()
    stop.set()
    for thread in threads:
        thread.join()
    others = [Api(server.url) for server in running if server is not victim]
    for worker in workers if others else ():
        # A change that was passed on may still be under way; a run after it comes after it.
        patiently(lambda worker=worker: others[0].run(worker.name, "pass") and None)  # type: ignore[misc]
        worker.check(others[0])
    victim.start()
    for worker in workers:
        worker.check(Api(victim.url))


def logs(running: Sequence[WatchedServer]) -> str:
    """What the servers said last."""
    return "\n".join(f"--- log of {server.url}\n{server.said()}" for server in running)


def loop(
    rounds: int, nodes: int = 1, seed: int = 0, say: Callable[[str], None] = print
) -> Sequence[str]:
    """Kill `rounds` times; what was wrong."""
    chance = random.Random(seed)
    workers = [Worker(f"w{number}", seed + number) for number in range(3)]
    with servers(nodes) as running:
        for worker in workers:
            Api(running[0].url).call(
                "POST", "/api/sessions", id=worker.name, language="python", data={"count": 0}
            )
        for number in range(1, rounds + 1):
            where = f"kill {number} of seed {seed}, {nodes} servers"
            try:
                round_of(chance, workers, running)
            except Exception as error:
                error.add_note(f"{where}\n{logs(running)}")
                raise
            problems = [problem for worker in workers for problem in worker.problems]
            if problems:
                return [f"{where}: {problem}" for problem in problems] + [logs(running)]
            if number % 50 == 0 or number == rounds:
                done = sum(w.count + w.uploads + w.label for w in workers)
                say(f"{number} kills, {done} changes acknowledged, nothing lost")
    return []


def main() -> int:
    """The loop as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    problems = loop(given.rounds, given.nodes, given.seed)
    print("\n".join(problems) or "no commit was lost, none was half", flush=True)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
