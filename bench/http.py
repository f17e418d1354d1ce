"""The whole service over HTTP: a server started as an operator would, and clients in another process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.machine import Meter
from bench.measure import skipped
from bench.programs import HELLO, PANDAS

START_SECONDS: Final = 180
SESSION: Final = "bench-pandas"
GO_SESSION: Final = "bench-go"


def _environment(state_dir: str, settings: Mapping[str, str]) -> dict[str, str]:
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("ERA_", "AGENT_"))
    }
    return {**ours, "AGENT_STATE_DIR": state_dir, "ERA_GO_AHEAD": "0", **settings}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running `era serve`."""

    def __init__(self, state_dir: str, **settings: str) -> None:
        self.port = _free_port()
        command = (sys.executable, "-m", "era", "serve", "--port", str(self.port))
        log = Path(f"{state_dir}.log")
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=_environment(state_dir, settings),
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def _healthy(self) -> bool:
        try:
            return self.ask("GET", "/health") is not None
        except OSError:
            return False

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request; the answer's JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data,
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """End it and wait."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)


class Load:
    """The client process.  It leaves our CPU group, so that the group is the service's alone."""

    def __init__(self, port: int, meter: Meter) -> None:
        path = meter.own.path if meter.own else ""
        self._process = subprocess.Popen(
            (sys.executable, "-m", "bench.load", str(port), path, meter.aside or ""),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.own_cpu_ns = 0
        self.runs = 0

    def order(self, **order: Any) -> list[tuple[int, float]]:
        """Have it run something; latency (ns) and the run's own CPU (ms) of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the client process ended")
        found = json.loads(answer)
        self.own_cpu_ns += found["own_cpu_ns"]
        self.runs += len(found["runs"])
        return [(latency, cpu) for latency, cpu in found["runs"]]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass(slots=True, kw_only=True)
class Requested:
    """A program run by requests."""

    name: str
    load: Load
    path: str
    body: dict[str, Any]
    marker: str = ""
    """How the language begins a comment, where each run shall have code never seen before."""
    usage_ms: list[float] = field(default_factory=list)

    async def _order(self, **order: Any) -> list[int]:
        found = await asyncio.to_thread(
            lambda: self.load.order(path=self.path, body=self.body, marker=self.marker, **order)
        )
        self.usage_ms += [cpu for _latency, cpu in found]
        return [latency for latency, _cpu in found]

    async def spaced(self, count: int, seconds: float) -> list[int]:
        """See `Subject`."""
        return await self._order(clients=0, count=count, seconds=seconds)

    async def crowded(self, clients: int, seconds: float) -> list[int]:
        """See `Subject`."""
        return await self._order(clients=clients, seconds=seconds)


@contextmanager
def served(state_dir: str, meter: Meter) -> Iterator[tuple[Server, Load]]:
    """A server and a client process for it."""
    server = Server(state_dir)
    try:
        load = Load(server.port, meter)
        try:
            yield server, load
        finally:
            load.close()
    finally:
        server.stop()


def subjects(server: Server, load: Load) -> list[Requested]:
    """Hello in each language the server has, by `POST /api/execute`."""
    there = server.ask("GET", "/health")["languages"]
    made = []
    for language in ("python", "node", "typescript", "deno", "go"):
        if language not in there:
            skipped(f"{language} over HTTP", "the server does not have it")
            continue
        body = {"language": language, "code": HELLO[language]}
        if language == "go":
            made.append(requested("go, new program", load, body, marker="//"))
            made.append(_unchanged_go(server, load))
        else:
            made.append(requested(language, load, body))
    return made


def _unchanged_go(server: Server, load: Load) -> Requested:
    """Hello in a session, where it has been compiled before."""
    path = f"/api/sessions/{GO_SESSION}/run"
    body = {"code": HELLO["go"]}
    server.ask("POST", "/api/sessions", {"id": GO_SESSION, "language": "go"})
    server.ask("POST", path, body)
    return Requested(name="go, unchanged program in a session", load=load, path=path, body=body)


def requested(name: str, load: Load, body: dict[str, Any], marker: str = "") -> Requested:
    """One-shot runs of `body`."""
    return Requested(name=name, load=load, path="/api/execute", body=body, marker=marker)


def given_pandas(server: Server, load: Load) -> Requested | None:
    """The pandas snippet where every box has pandas; None where the server has none to give."""
    body = {"language": "python", "code": PANDAS}
    if server.ask("POST", "/api/execute", body)["exit_code"]:
        skipped("pandas in every box", "the server has no pandas (scripts/setup data)")
        return None
    return requested("pandas in every box", load, body)


def pandas(server: Server, load: Load) -> Requested | None:
    """The pandas snippet in a session whose setup has installed it; None when that fails."""
    body = {"id": SESSION, "language": "python", "setup": {"pip": ["pandas"]}}
    try:
        server.ask("POST", "/api/sessions", body)
        server.ask("POST", f"/api/sessions/{SESSION}/run", {"code": PANDAS})
    except urllib.error.HTTPError as error:
        skipped("pandas in a session", error.read().decode()[:500])
        return None
    path = f"/api/sessions/{SESSION}/run"
    return Requested(name="pandas in a session", load=load, path=path, body={"code": PANDAS})
