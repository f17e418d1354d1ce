"""A small client for the examples: JSON and bytes over HTTP, with the standard library alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

DEFAULT_URL = "http://127.0.0.1:8787"


class RefusedError(Exception):
    """The service answered with an error; `status` and `body` say which."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body.get('code')}: {body.get('error')}")
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Api:
    """The service at `url`."""

    url: str

    def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request; the bytes of its answer.  Raises `RefusedError` for a status of 400 or above."""
        request = urllib.request.Request(self.url + path, body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            raise RefusedError(error.code, json.loads(error.read() or b"{}")) from None
        return content

    def call(self, method: str, path: str, /, **members: Any) -> Any:
        """One JSON request, `members` as its body; the JSON of its answer."""
        body = json.dumps(members).encode() if members else None
        return json.loads(self.send(method, path, body))

    def upload(self, session: str, path: str, content: bytes) -> Any:
        """Store `content` as a file of the session."""
        return json.loads(self.send("PUT", f"/api/sessions/{session}/files/{quote(path)}", content))

    def download(self, session: str, path: str) -> bytes:
        """The bytes of a file of the session."""
        return self.send("GET", f"/api/sessions/{session}/files/{quote(path)}")

    def run(self, session: str, code: str, **members: Any) -> Any:
        """Run `code` in the session and require that it exits 0."""
        result = self.call("POST", f"/api/sessions/{session}/run", code=code, **members)
        check("exit code of the run", result["exit_code"], 0, result["stderr"])
        return result

    def wait_for_setup(self, session: str) -> Any:
        """Poll until the session's setup has finished, showing how far it is; its state."""
        shown = ""
        while True:
            state = self.call("GET", f"/api/sessions/{session}/setup")
            progress = state.get("setup_progress") or {}
            line = f"  {state['setup_status']} {progress.get('step', '')}".rstrip()
            line += f": {progress['last_line']}" if progress.get("last_line") else ""
            if line != shown:
                say(shown := line)
            if state["setup_status"] in ("completed", "failed"):
                return state
            time.sleep(0.2)


def say(text: str) -> None:
    """Show progress at once."""
    print(text, flush=True)


def check(what: str, got: object, expected: object, more: str = "") -> None:
    """Leave with status 1 unless `got` is what was expected."""
    if got != expected:
        sys.exit(f"MISMATCH in {what}: got {got!r}, expected {expected!r}\n{more}")


def url_option(description: str | None) -> argparse.ArgumentParser:
    """A command line with `--url`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", help=f"a running service (for example {DEFAULT_URL})")
    return parser
