"""Setups beside the bare installers: how long until packages are there, the first time and again.

    python -m bench.setup [--rounds N] [--json FILE] [case ...]

Each round runs the bare installer of a case (uv, npm, go; an empty cache, the same disk) and then a
setup of the same packages, at a server whose finished setups serve others for a few seconds only: so
the next round is cold again.  The best of the rounds counts for each.  Right after each, from create
to completed for an identical setup.  At the end, when nothing goes on in the background, a run of
hello in the last session beside one in a session without a setup.  Ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.http import Server
from bench.machine import Meter, meter
from bench.measure import as_json
from bench.programs import HELLO, on_host, tool_paths
from era.languages.table import Tools
from era.runtimes import discover

COLD: Final = 1.2
"""A setup that is done for the first time, over the fastest bare installer."""
AGAIN_SECONDS: Final = 0.3
"""From create to completed of an identical one."""
RUN: Final = 1.2
"""The run after it, over one without a layer: what a measurement of milliseconds leaves open."""
RUNS: Final = 25
AGE_SECONDS: Final = {"pip": 8, "npm": 10, "go": 45}
"""How long a finished setup serves identical ones; longer than any takes, by the kind of packages."""
_POLL_SECONDS: Final = 0.02
"""As a client would ask: each question costs the server, on the same cores, half a millisecond."""
_SETTLE_SECONDS: Final = 60.0
_LIBRARY_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Packages of one installer."""

    name: str
    kind: str
    packages: tuple[str, ...]
    language: str


CASES: Final = (
    Case(
        name="requests+pydantic", kind="pip", packages=("requests", "pydantic"), language="python"
    ),
    Case(name="pandas+numpy", kind="pip", packages=("pandas", "numpy"), language="python"),
    Case(name="lodash", kind="npm", packages=("lodash",), language="node"),
    Case(
        name="axios+cheerio+moment",
        kind="npm",
        packages=("axios", "cheerio", "moment"),
        language="node",
    ),
    Case(
        name="gin",
        kind="go",
        packages=("github.com/gin-gonic/gin@v1.10.0",),
        language="go",
    ),
)


@dataclass(slots=True, kw_only=True)
class Measured:
    """Seconds of one case, one value a round (`again`: one a try; `plain`, `layered`: one a run)."""

    name: str
    bare: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    layered: list[float] = field(default_factory=list)

    @property
    def cold_ratio(self) -> float:
        """The best setup over the best bare installation."""
        return min(self.cold) / min(self.bare)

    @property
    def run_ratio(self) -> float:
        """The median run over the layer, over the median run without one."""
        return _median(self.layered) / _median(self.plain)

    def missed(self) -> list[str]:
        """The targets that were missed, in words."""
        found = []
        if self.cold_ratio > COLD:
            found.append(f"{self.name}: cold is {self.cold_ratio:.2f} of the bare installer")
        if min(self.again) > AGAIN_SECONDS:
            found.append(f"{self.name}: an identical setup took {min(self.again):.2f} s")
        if self.run_ratio > RUN:
            found.append(f"{self.name}: a run takes {self.run_ratio:.2f} of one without a layer")
        return found


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


# --- the bare installers ----------------------------------------------------------------------


class Bare:
    """The installers as an operator would call them on the host, each time from nothing."""

    def __init__(self, folder: str) -> None:
        runtimes = discover(os.path.join(folder, "look"))
        self._folder = folder
        self._tools: Tools = runtimes.tools
        self._paths: Mapping[str, str] = tool_paths(runtimes)
        self._go_tool = on_host(runtimes, runtimes.tools.go)
        self._library = ""

    def install(self, case: Case) -> float:
        """Install the packages; seconds."""
        place = tempfile.mkdtemp(dir=self._folder)
        try:
            if case.kind == "go":
                return self._go(case, place)
            return self._timed(self._argv(case, place), {}, place)
        finally:
            shutil.rmtree(place)

    def _argv(self, case: Case, place: str) -> tuple[str, ...]:
        if case.kind == "pip":
            uv = (_beside("uv"), "pip", "install", "--quiet", "--python", self._tools.python)
            return (*uv, "--target", f"{place}/to", "--cache-dir", f"{place}/cache", *case.packages)
        npm = os.path.join(
            os.path.dirname(self._paths["node"]), "../lib/node_modules/npm/bin/npm-cli.js"
        )
        call = (self._paths["node"], npm, "install", "--prefix", place, "--cache", f"{place}/cache")
        return (*call, "--no-audit", "--no-fund", "--silent", *case.packages)

    def _go(self, case: Case, place: str) -> float:
        """Fetch the modules and compile the packages named, over a compiled standard library."""
        env = {
            "GOMODCACHE": f"{place}/mod",
            "GOCACHE": f"{place}/cache",
            "GOFLAGS": "-modcacherw",
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
        }
        shutil.copytree(self._go_library(env), f"{place}/cache")
        Path(f"{place}/go.mod").write_text("module bare\n\ngo 1.22\n")
        go = self._go_tool
        named = [f"{package.partition('@')[0]}/..." for package in case.packages]
        seconds = self._timed((go, "get", *case.packages), env, place)
        return seconds + self._timed((go, "build", "-buildvcs=false", *named), env, place)

    def _go_library(self, env: Mapping[str, str]) -> str:
        if not self._library:
            self._library = os.path.join(self._folder, "library")
            self._timed(
                (self._go_tool, "build", "std"),
                {**env, "GOCACHE": self._library},
                self._folder,
            )
        return self._library

    def _timed(self, argv: Sequence[str], env: Mapping[str, str], place: str) -> float:
        begin = time.perf_counter()
        made = subprocess.run(
            argv, env={**os.environ, **env}, cwd=place, capture_output=True, text=True
        )
        seconds = time.perf_counter() - begin
        if made.returncode:
            raise RuntimeError(f"{argv[0]} failed:\n{made.stderr[-2000:]}")
        return seconds


def _beside(name: str) -> str:
    """A program of the environment that the service runs in."""
    found = shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed")
    return found


# --- the service ------------------------------------------------------------------------------


class Client:
    """One connection to the server, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self._used = time.monotonic()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request; the answer's JSON."""
        if self._used + 2 < time.monotonic():
            self._connection.close()  # the server may have closed it meanwhile
        self._used = time.monotonic()
        self._connection.request(
            method,
            path,
            None if body is None else json.dumps(body),
            {"Content-Type": "application/json"},
        )
        answer = self._connection.getresponse()
        found = json.loads(answer.read())
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {found}")
        return found

    def set_up(self, case: Case, *, cached: bool) -> tuple[str, float]:
        """A session with the packages, and the seconds from its creation until they were there."""
        name = f"bench-{uuid.uuid4().hex[:12]}"
        setup = {case.kind: case.packages}
        begin = time.perf_counter()
        self.ask("POST", "/api/sessions", {"id": name, "language": case.language, "setup": setup})
        while True:
            state = self.ask("GET", f"/api/sessions/{name}/setup")
            if state["setup_status"] in ("completed", "failed"):
                break
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - begin
        if state["setup_status"] == "failed":
            raise RuntimeError(f"the setup failed: {state['setup_result']}")
        if state["setup_result"]["cached"] is not cached:
            raise RuntimeError(f"{case.name}: the cache did what was not expected of it")
        return name, seconds

    def run(self, session: str, code: str) -> float:
        """Run something in a session; seconds."""
        begin = time.perf_counter()
        ended = self.ask("POST", f"/api/sessions/{session}/run", {"code": code})
        seconds = time.perf_counter() - begin
        if ended["exit_code"]:
            raise RuntimeError(f"the run failed: {ended['stderr']}")
        return seconds


@contextmanager
def serving(folder: str, kind: str) -> Iterator[Client]:
    """A server for setups of a kind, with its state below `folder`; for Go with the whole library
    compiled, as the bare tool has it and every server after a while."""
    ahead = {"ERA_GO_AHEAD": "1"} if kind == "go" else {}
    state = f"{folder}/{kind}"
    server = Server(state, ERA_LAYER_MAX_AGE=str(AGE_SECONDS[kind]), **ahead)
    try:
        client = Client(server.port)
        deadline = time.monotonic() + _LIBRARY_SECONDS
        while kind == "go" and not list(Path(state, "go").glob("*.std")):
            if time.monotonic() > deadline:
                raise RuntimeError("Go's library was not compiled")
            time.sleep(1)
        yield client
    finally:
        server.stop()


def measure(case: Case, rounds: int, bare: Bare, client: Client, clock: Meter) -> Measured:
    """All of one case."""
    measured = Measured(name=case.name)
    for number in range(rounds):
        if number:
            time.sleep(AGE_SECONDS[case.kind])
        _settle(clock)
        measured.bare.append(bare.install(case))
        _settle(clock)
        session, seconds = client.set_up(case, cached=False)
        measured.cold.append(seconds)
        measured.again += [client.set_up(case, cached=True)[1] for _ in range(3)]
    plain = f"bench-plain-{case.language}"
    with_plain = client.ask("GET", "/api/sessions?limit=100")["sessions"]
    if plain not in [one["id"] for one in with_plain]:
        client.ask("POST", "/api/sessions", {"id": plain, "language": case.language})
    _settle(clock)
    for _ in range(RUNS):
        # With a pause for the next box to be made: what is measured is the run, not the refill.
        for where, found in ((plain, measured.plain), (session, measured.layered)):
            time.sleep(0.1)
            found.append(client.run(where, HELLO[case.language]))
    return measured


def _settle(clock: Meter) -> None:
    """Wait until what goes on behind the server's answers has ended."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < deadline:
        before = clock.read()
        time.sleep(0.3)
        after = clock.read()
        if after.own - before.own < 0.05 * (after.at - before.at):
            return


def as_text(found: Sequence[Measured]) -> str:
    """A table of Markdown."""
    head = ("", "bare", "cold", "ratio", "identical", "run", "run without", "ratio")
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for one in found:
        cells = (
            one.name,
            f"{min(one.bare):.2f} s",
            f"{min(one.cold):.2f} s",
            f"{one.cold_ratio:.2f}",
            f"{1000 * min(one.again):.0f} ms",
            f"{1000 * _median(one.layered):.1f} ms",
            f"{1000 * _median(one.plain):.1f} ms",
            f"{one.run_ratio:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.setup", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help="by name; all if none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="also keep the results there")
    asked = parser.parse_args()
    chosen = [case for case in CASES if not asked.cases or case.name in asked.cases]
    with meter() as clock, tempfile.TemporaryDirectory(prefix="era-bench-") as folder:
        os.mkdir(f"{folder}/look")
        bare = Bare(folder)
        found = []
        for kind in AGE_SECONDS:
            of_kind = [case for case in chosen if case.kind == kind]
            if not of_kind:
                continue
            with serving(folder, kind) as client:
                for case in of_kind:
                    found.append(measure(case, asked.rounds, bare, client, clock))
                    print(as_json(found[-1]), file=sys.stderr, flush=True)
    print(as_text(found))
    if asked.json:
        Path(asked.json).write_text(json.dumps([as_json(one) for one in found], indent=1))
    missed = [text for one in found for text in one.missed()]
    print("\n".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
