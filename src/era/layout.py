"""Where things are inside a box.  Names only: shared by every room that writes or reads a path there."""

from __future__ import annotations

from typing import Final

WORKSPACE: Final = "/workspace"
HOME: Final = "/home/era"
TMP: Final = "/tmp"  # noqa: S108 - the box's own /tmp, never the host's
VM_PLACES: Final = (WORKSPACE, HOME, TMP)
"""What a managed VM keeps."""
RUNTIMES: Final = "/opt/era"
"""Runtimes that came as packages; `/opt/era/bin` holds links to every tool and is on PATH."""
BIN: Final = f"{RUNTIMES}/bin"
LAYER: Final = "/opt/era/layer"
"""Root of the setup layer.  Below it: `python/`, `bin/`, `node/`, `go/`, `workspace/`, `home/`, `tmp/`."""
NODE_MODULES: Final = "/node_modules"
"""Setup's node packages: where Node's own upward search from /workspace ends.  In the root of every
box this is a link to `node/node_modules` of the layer, as /package.json is to its `node/package.json`."""
CACHE: Final = "/opt/era/cache"
"""Shared caches of the runtimes (Go's compiled standard library), read-only lowers."""
PROGRAM: Final = f"{RUNTIMES}/program"
"""A program that was compiled for the run, read-only."""
REQUEST_BODY: Final = f"{RUNTIMES}/request"
"""The body of the HTTP request that stored code answers, read-only."""
ENTRY_PREFIX: Final = ".era"
"""Names of the service's own files at the workspace root begin with this."""
UID: Final = 1000
GID: Final = 1000
