"""Composes the read-only root that boxes see: the system, its /etc, the places things are put.

Of the host it holds /usr (with /bin and /lib* as they are) and nothing else: no /etc, no home, no
/var, and none of the Python packages that the host has installed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from glob import glob
from typing import Final

from era import layout
from era.languages.environment import CA_FILE, DENO_CACHE, GO_CACHE
from era.runtimes.pythons import Python, glob_escape
from era.sandbox.base import Bind, RootImage

_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OURS: Final = frozenset(
    "dev etc home mnt media node_modules package.json proc root run srv sys tmp var workspace".split()
)
"""Names at the top of an operator's root that boxes do not take from it."""
_PYTHON: Final = f"{layout.RUNTIMES}/python"
_PACKAGES: Final = (
    "/usr/lib/python3*/dist-packages",
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
    "/usr/local/lib/python3*/dist-packages",
    "/usr/local/lib/python3*/site-packages",
    "/usr/local/lib64/python3*/site-packages",
)
"""Where systems keep installed Python packages: they are the host's, not a session's."""
_CA_BUNDLES: Final = (
    CA_FILE,
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_FILES: Final[dict[str, str]] = {
    "/etc/passwd": (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        f"era:x:{layout.UID}:{layout.GID}:era:{layout.HOME}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "/etc/group": f"root:x:0:\nera:x:{layout.GID}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1\tlocalhost era\n::1\tlocalhost era\n",
    "/etc/hostname": "era\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
    # The box's own: egress answers there when the network policy allows it, and offline nothing
    # does, so that a look-up fails at once.
    "/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:5 attempts:2\n",
    "/etc/protocols": "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n",
    "/etc/services": (
        "ftp 21/tcp\nssh 22/tcp\ntelnet 23/tcp\nsmtp 25/tcp\ndomain 53/tcp\ndomain 53/udp\n"
        "http 80/tcp\npop3 110/tcp\nntp 123/udp\nimap2 143/tcp imap\nhttps 443/tcp\n"
    ),
    "/etc/fonts/fonts.conf": (
        '<?xml version="1.0"?>\n<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">\n'
        "<fontconfig>\n  <dir>/usr/share/fonts</dir>\n"
        '  <cachedir prefix="xdg">fontconfig</cachedir>\n</fontconfig>\n'
    ),
    # The go tool counts its uses in HOME unless this says not to.
    "/opt/era/etc/go/telemetry/mode": "off 2024-01-01\n",
    # Where the program of a run is shown that was compiled for it.
    layout.PROGRAM: "",
    # And where stored code finds the body of the request that it answers.
    layout.REQUEST_BODY: "",
}
_LINKS: Final[dict[str, str]] = {
    "/etc/mtab": "/proc/self/mounts",
    "/etc/ssl/cert.pem": CA_FILE,
    "/etc/pki/tls/certs/ca-bundle.crt": CA_FILE,
    "/var/tmp": layout.TMP,  # noqa: S108 - a name inside the box
    "/var/run": "/run",
    # The search for node packages from /workspace ends at the top; what is there is the setup's.
    # Links, so that a setup's own commands and the runs after it find the same, and without a setup
    # there is nothing to find.
    layout.NODE_MODULES: f"{layout.LAYER}/node/node_modules",
    "/package.json": f"{layout.LAYER}/node/package.json",
}
_DIRS: Final = (
    layout.WORKSPACE,
    layout.HOME,
    layout.TMP,
    layout.LAYER,
    GO_CACHE,
    DENO_CACHE,
    "/etc/ssl/certs",
    "/run",
    "/var",
)


@dataclass(slots=True)
class Draft:
    """A root image while it is composed.  Binds come in order: a later one covers what is below."""

    binds: list[Bind] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=lambda: dict(_LINKS))
    files: dict[str, bytes] = field(
        default_factory=lambda: {path: text.encode() for path, text in _FILES.items()}
    )

    def bind(self, source: str, target: str) -> None:
        """Show a file or directory of the host, read-only."""
        self.binds.append(Bind(source=source, target=target))

    def show(self, source: str, target: str) -> None:
        """Show `source` as it is: a link as the same link, a directory by a bind, else nothing."""
        if os.path.islink(source):
            self.links[target] = os.readlink(source)
        elif os.path.isdir(source):
            self.bind(source, target)

    def image(self) -> RootImage:
        """The image composed."""
        return RootImage(binds=tuple(self.binds), links=self.links, files=self.files, dirs=_DIRS)


def add_host_system(draft: Draft, python: Python, empty: str) -> Python:
    """The host's own /usr without what is the host's business.

    `empty` is a directory to cover things with.  Gives the interpreter as boxes see it.
    """
    draft.bind("/usr", "/usr")
    for name in _SYSTEM:
        draft.show(f"/{name}", f"/{name}")
    local = python.prefix.startswith("/usr/local")
    if not local and os.path.isdir("/usr/local"):
        draft.bind(empty, "/usr/local")
    for packages in _host_packages():
        if local or not packages.startswith("/usr/local/"):
            draft.bind(empty, packages)
    _add_alternatives(draft)
    _add_linker_cache(draft, "/")
    return python if python.is_system else add_python(draft, python, empty)


def add_given_system(draft: Draft, root: str) -> None:
    """An operator's directory as the system."""
    for name in sorted(set(os.listdir(root)) - _OURS - {"opt"}):
        draft.show(os.path.join(root, name), f"/{name}")
    opt = os.path.join(root, "opt")
    for name in sorted(os.listdir(opt)) if os.path.isdir(opt) else ():
        if f"/opt/{name}" != layout.RUNTIMES:
            draft.show(os.path.join(opt, name), f"/opt/{name}")
    _add_linker_cache(draft, root)


def add_python(draft: Draft, python: Python, empty: str) -> Python:
    """An interpreter that is not the system's, at a place of its own in the box."""
    draft.bind(python.prefix, _PYTHON)
    inside = glob_escape(python.prefix)
    for packages in glob(os.path.join(inside, "lib", "python3*", "site-packages")):
        draft.bind(empty, _PYTHON + packages[len(python.prefix) :])
    return replace(
        python, executable=_PYTHON + python.executable[len(python.prefix) :], prefix=_PYTHON
    )


def package_directories(python: Python, seen: Python) -> tuple[str, ...]:
    """Where an interpreter of the host looks for packages, as boxes see it; `seen` is the interpreter
    as they do.  Not below /usr/local, unless it is from there: boxes do not have that."""
    local = python.prefix.startswith("/usr/local")
    inside = (os.path.realpath(path) for path in python.packages)
    return tuple(
        seen.prefix + path[len(python.prefix) :]
        for path in inside
        if path.startswith(f"{python.prefix}/") and (local or not path.startswith("/usr/local/"))
    )


def add_certificates(draft: Draft, bundle: str | None) -> None:
    """The certificates that programs trust: a copy of `bundle`, else of the host's."""
    for path in (bundle,) if bundle else _CA_BUNDLES:
        if path and os.path.isfile(path):
            with open(path, "rb") as file:
                draft.files[CA_FILE] = file.read()
            return


def _host_packages() -> list[str]:
    found = (directory for pattern in _PACKAGES for directory in glob(pattern))
    return sorted({os.path.realpath(directory) for directory in found})


def _add_alternatives(draft: Draft) -> None:
    """Debian's links from a general name (awk) to the program that stands for it."""
    directory = "/etc/alternatives"
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        path = os.path.join(directory, name)
        target = os.path.realpath(path)
        if os.path.islink(path) and target.startswith(("/usr/bin/", "/usr/sbin/")):
            draft.links[path] = target


def _add_linker_cache(draft: Draft, root: str) -> None:
    path = os.path.join(root, "etc/ld.so.cache")
    if os.path.isfile(path):
        with open(path, "rb") as file:
            draft.files["/etc/ld.so.cache"] = file.read()
