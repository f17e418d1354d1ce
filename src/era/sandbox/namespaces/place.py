"""Where the driver works, and what the launcher builds there once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from era.sandbox.base import RootImage
from era.sandbox.namespaces import filter as seccomp
from era.sandbox.namespaces.native import Native
from era.sandbox.plan import BindMount, Foundation

BOX_UID: Final = 1_879_048_192 + 1000
"""The host's id of every box's user when the service is root: far above the ranges that
distributions give to people, services and containers, so it owns nothing on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the driver works: directories it owns, and the interpreter of the launcher.

    `images` is None for scratch in memory, `native` without a helper in C.
    """

    base_dir: str
    scratch_dir: str
    images: str | None
    helper_python: str
    native: Native | None = None


def foundation(place: Place, image: RootImage, *, rootless: bool) -> Foundation:
    """What the launcher builds once, from a root image."""
    return Foundation(
        rootless=rootless,
        base_dir=place.base_dir,
        scratch_dir=place.scratch_dir,
        images=place.images,
        uid=0 if rootless else BOX_UID,
        gid=0 if rootless else BOX_UID,
        filter=seccomp.build().hex(),
        first="" if place.native is None else place.native.first,
        stand="" if place.native is None else place.native.stand,
        binds=tuple(
            BindMount(source=bind.source, target=bind.target, writable=bind.writable)
            for bind in image.binds
        ),
        links=tuple(image.links.items()),
        files=tuple((path, data.decode("latin-1")) for path, data in image.files.items()),
        dirs=image.dirs,
    )
