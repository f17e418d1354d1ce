"""What programs that are no server read from the environment; the server's settings are `config`'s.

Nothing is imported here, so that the help and the SDK stay light.
"""

from __future__ import annotations

import os
from typing import Final

DEFAULT_URL: Final = "http://127.0.0.1:8787"


def server_url() -> str:
    """The server to talk to: `ERA_API_URL`, else the one that `era serve` starts here."""
    return os.environ.get("ERA_API_URL") or DEFAULT_URL


def api_key() -> str:
    """A key for that server: the first of `ERA_API_KEY`, or the empty string."""
    return os.environ.get("ERA_API_KEY", "").split(",")[0].strip()


def serves_by_default() -> bool:
    """Whether `AGENT_MODE` says that the program without a command is the server."""
    return os.environ.get("AGENT_MODE", "").lower() in ("http", "server")
