"""Commands in this process, against a server of the module's own."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from era.cli.main import main
from tests.e2e.conftest import watched
from tests.e2e.harness import WatchedServer


@pytest.fixture(scope="module")
def server() -> Iterator[WatchedServer]:
    """The real service, with real boxes."""
    with watched({"ERA_PYTHON_PACKAGES": "none"}) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Shown:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)


class Cli(Protocol):
    """Runs one command line."""

    def __call__(self, *arguments: str, stdin: str = "") -> Shown: ...


@pytest.fixture
def cli(
    server: WatchedServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Cli:
    monkeypatch.setenv("ERA_API_URL", server.url)
    monkeypatch.delenv("ERA_API_KEY", raising=False)

    def run(*arguments: str, stdin: str = "") -> Shown:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main(arguments)
        sys.stdout.flush()
        shown = capfd.readouterr()
        return Shown(code, shown.out, shown.err)

    return run
