"""The program `era` as a process of its own."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

SECONDS = 120


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without settings of some other server."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ERA_", "AGENT_")) and name != "PORT"
    }
    return ours | {"ERA_GO_AHEAD": "0", "ERA_PYTHON_PACKAGES": "none"} | dict(variables or {})


def era(
    *arguments: str, stdin: str = "", variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "era", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment(variables),
        check=False,
    )


@dataclass
class Running:
    """A server that listens; `lines` is its log as far as it was read."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    _coming: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._coming.put(line)
        self._coming.put("")

    @property
    def port(self) -> int:
        return int(self.wait_for("listening")["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first log line of that event, read when it comes."""
        found = next((line for line in self.lines if line["event"] == event), None)
        while found is None:
            text = self._coming.get(timeout=SECONDS)
            assert text, f"no {event} in {self.lines}"
            self.lines.append(json.loads(text))
            if self.lines[-1]["event"] == event:
                found = self.lines[-1]
        return found

    def post(self, path: str, body: Any, **headers: str) -> Any:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop; its exit code.  The rest of the log is read."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=SECONDS)
        while text := self._coming.get(timeout=SECONDS):
            self.lines.append(json.loads(text))
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def serving(*arguments: str, variables: Mapping[str, str] | None = None) -> Iterator[Running]:
    """A server on a free port, ended with the context."""
    command = [sys.executable, "-m", "era", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=environment(variables),
    )
    running = Running(process)
    try:
        running.wait_for("listening")
        yield running
    finally:
        if process.poll() is None:
            running.end()


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
