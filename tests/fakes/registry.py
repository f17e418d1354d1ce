"""A small package registry on this machine: an index for pip, one for npm, a proxy for Go modules.

It speaks the real protocols and counts what is asked.  Each package says its own version.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import ssl
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_BUILT = "require('fs').writeFileSync('built.txt', 'by a script')"
_BUILD_SYSTEM = """
[build-system]
requires = {requires}
build-backend = "backend"
backend-path = ["."]
"""
_BACKEND = """
import zipfile

{act}


def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        for path, text in {members!r}.items():
            wheel.writestr(path, text)
    return name
"""


@dataclass(slots=True)
class Registry:
    """`port` is on loopback, where boxes reach it as `host`; `asked` are the paths of requests, in
    order, `headers` what came with each."""

    host: str
    port: int = 0
    scheme: str = "http"
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    guarded: dict[str, str] = field(default_factory=dict)
    """By path: the `Authorization` without which it is not given."""

    @property
    def url(self) -> str:
        """Where boxes reach it; indexes are at `/pip/simple`, `/npm/` and `/go` below."""
        return f"{self.scheme}://{self.host}:{self.port}"

    def add_python(self, name: str, version: str, *, script: str | None = None) -> None:
        """A wheel of one module; `script` is the name of a console script that prints its version."""
        members = {f"{name}.py": f"VERSION = '{version}'\ndef main(): print(VERSION)\n"}
        self.add_wheel(name, version, members, script=script)

    def add_wheel(
        self, name: str, version: str, members: dict[str, str], *, script: str | None = None
    ) -> None:
        """A wheel of the files `members`."""
        wheel = f"{name}-{version}-py3-none-any.whl"
        self._link(name, wheel, _zip(_wheel(name, version, members, script)))

    def _link(self, name: str, file: str, data: bytes) -> None:
        """List a file in the index."""
        self.files[f"/pip/files/{file}"] = data
        links = self.files.get(f"/pip/simple/{name}/", b"").decode()
        digest = hashlib.sha256(data).hexdigest()
        links += f'<a href="/pip/files/{file}#sha256={digest}">{file}</a>\n'
        self.files[f"/pip/simple/{name}/"] = links.encode()

    def add_source(
        self, name: str, version: str, act: str, *, requires: tuple[str, ...] = ()
    ) -> None:
        """A source distribution of one module, which builds itself; `act` is what its build does
        besides, `requires` what it says that this needs."""
        top = f"{name}-{version}"
        members = {
            f"{top}/PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{top}/pyproject.toml": _BUILD_SYSTEM.format(requires=json.dumps(requires)),
            f"{top}/backend.py": _BACKEND.format(
                act=act,
                name=name,
                version=version,
                members=_wheel(name, version, {f"{name}.py": f"VERSION = '{version}'"}),
            ),
        }
        self._link(name, f"{top}.tar.gz", _tar(members))

    def add_node(self, name: str, version: str, built: str = _BUILT, **manifest: object) -> None:
        """A package of one CommonJS file; `manifest` are further members of its package.json, `built`
        is a script that one of these may name as `built.js`."""
        own = {"name": name, "version": version, "main": "main.js", **manifest}
        data = _tar(
            {
                "package/package.json": json.dumps(own),
                "package/main.js": f"exports.version = '{version}'",
                "package/cli.js": f"#!/usr/bin/env node\nconsole.log('{version}')",
                "package/built.js": built,
            }
        )
        path = f"/npm/{name}/-/{name}-{version}.tgz"
        self.files[path] = data
        dist = {
            "tarball": f"{self.url}{path}",
            "shasum": hashlib.sha1(data).hexdigest(),  # what the protocol asks for
        }
        known = json.loads(self.files.get(f"/npm/{name}", b'{"versions":{}}'))
        known |= {"name": name, "dist-tags": {"latest": version}}
        known["versions"][version] = {**own, "dist": dist}
        self.files[f"/npm/{name}"] = json.dumps(known).encode()

    def add_go(
        self, module: str, version: str, packages: dict[str, str], requires: str = ""
    ) -> None:
        """A module; `packages` are files by path below its root."""
        at = f"/go/{module}/@v"
        mod = f"module {module}\n\ngo 1.22\n{requires}"
        inside = {f"{module}@{version}/{path}": text for path, text in packages.items()}
        self.files[f"{at}/{version}.info"] = json.dumps({"Version": version}).encode()
        self.files[f"{at}/{version}.mod"] = mod.encode()
        self.files[f"{at}/{version}.zip"] = _zip({f"{module}@{version}/go.mod": mod, **inside})
        self.files[f"{at}/list"] = self.files.get(f"{at}/list", b"") + f"{version}\n".encode()
        self.files[f"/go/{module}/@latest"] = self.files[f"{at}/{version}.info"]


def _wheel(
    name: str, version: str, members: dict[str, str], script: str | None = None
) -> dict[str, str]:
    """The files of a wheel."""
    info = f"{name}-{version}.dist-info"
    found = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        found[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {name}:main\n"
    record = "".join(f"{path},,\n" for path in [*found, f"{info}/RECORD"])
    return {**found, f"{info}/RECORD": record}


def _zip(members: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, text in members.items():
            archive.writestr(path, text)
    return data.getvalue()


def _tar(members: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path, text in members.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text.encode())
            entry.mode = 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


@contextmanager
def serving(
    host: str = "registry.test",
    address: str = "127.0.0.1",
    context: ssl.SSLContext | None = None,
) -> Iterator[Registry]:
    """A registry without packages, answering at a loopback address while the context lasts; with
    `context` over TLS."""
    registry = Registry(host, scheme="https" if context else "http")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            registry.asked.append(path)
            registry.headers.append(dict(self.headers.items()))
            body = registry.files.get(path)
            wanted = registry.guarded.get(path)
            if wanted is not None and self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                body = None
            else:
                self.send_response(404 if body is None else 200)
            kind = "text/html" if path.startswith("/pip/simple") else "application/octet-stream"
            self.send_header("Content-Type", "application/json" if path[:4] == "/npm" else kind)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body or b"")

        do_HEAD = do_GET  # noqa: N815 - the server looks for this name

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((address, 0), Handler) as server:
        registry.port = server.server_address[1]
        if context is not None:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
