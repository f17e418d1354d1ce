"""A real overlay for one script at a time, in a mount namespace that ends with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PRIVATE = ("unshare", "--mount", "--propagation", "private")


@dataclass(frozen=True)
class Overlay:
    """`tree` and `layer` are lowers, the layer above; scripts run in the merged directory."""

    root: str
    userxattr: bool = False

    @property
    def tree(self) -> str:
        return f"{self.root}/tree"

    @property
    def layer(self) -> str:
        return f"{self.root}/layer"

    @property
    def upper(self) -> str:
        return f"{self.root}/upper"

    def make(self) -> Overlay:
        for name in ("tree", "layer", "upper", "work", "merged"):
            os.mkdir(f"{self.root}/{name}")
        return self

    def run(self, script: str, *, program: tuple[str, ...] = ("bash", "-euc")) -> None:
        """Run a bash script (or another program given as argv without its code) in the overlay."""
        options = (
            f"lowerdir={self.layer}:{self.tree},upperdir={self.upper},workdir={self.root}/work"
        )
        if self.userxattr:
            options += ",userxattr"
        mount = f'mount -t overlay overlay -o "{options}" merged; cd merged; exec "$@"'
        subprocess.run(
            [*PRIVATE, "bash", "-euc", mount, "bash", *program, script],
            cwd=self.root,
            check=True,
            stdin=subprocess.DEVNULL,
        )


@contextmanager
def opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
