"""Which changes of a run are not kept, told from their names alone."""

from __future__ import annotations

from typing import Final

from era import layout

SECRET_NAMES: Final = frozenset(
    {
        ".env",
        ".env.local",
        ".env.production",
        ".env.development",
        "credentials.json",
        "service-account.json",
        ".aws/credentials",
        ".ssh/id_rsa",
        ".ssh/id_ed25519",
        ".netrc",
        ".dockercfg",
        ".npmrc",
        ".pypirc",
        "secrets.json",
        "secrets.yaml",
        "secrets.yml",
    }
)
"""Files that usually hold credentials, by the end of their path."""

_CACHE_DIR: Final = "__pycache__"
_CACHE_SUFFIX: Final = ".pyc"
_ROOT: Final = layout.WORKSPACE.strip("/").split("/")


def is_secret(path: str) -> bool:
    """Whether a file at `path` looks like one that holds credentials; case does not matter."""
    *above, name = path.lower().rsplit("/", 2)
    return name in SECRET_NAMES or "/".join([*above[-1:], name]) in SECRET_NAMES


def is_cache(path: str, *, directory: bool) -> bool:
    """Whether an interpreter made it for itself and will again."""
    name = path.rpartition("/")[2]
    return name == _CACHE_DIR if directory else name.endswith(_CACHE_SUFFIX)


def leads_outside(path: str, target: str) -> bool:
    """Whether the link at `path` in the workspace names something out of it.

    Told from the text alone, without looking at what is there: `..` undoes the segment before it.
    Absolute targets are as the program in the box sees them.
    """
    depth = path.count("/")
    steps = [segment for segment in target.split("/") if segment not in ("", ".")]
    if target.startswith("/"):
        if steps[: len(_ROOT)] != _ROOT:
            return True
        depth, steps = 0, steps[len(_ROOT) :]
    for step in steps:
        depth += -1 if step == ".." else 1
        if depth < 0:
            return True
    return False
