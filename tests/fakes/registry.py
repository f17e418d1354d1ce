"""A small package registry on this machine: an index for pip, one for npm, a proxy for Go modules.

It speaks the real protocols and counts what is asked.  Each package says its own version.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Registry:
    """`host` and `port` are where packages say that it is; `asked` are the paths of requests, in order."""

    host: str = "registry.test"
    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add_python(self, name: str, version: str, *, script: str | None = None) -> None:
        """A wheel of one module; `script` is the name of a console script that prints its version."""
        wheel = f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        members = {
            f"{name}.py": f"VERSION = '{version}'\ndef main(): print(VERSION)\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        if script:
            members[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {name}:main\n"
        record = "".join(f"{path},,\n" for path in [*members, f"{info}/RECORD"])
        self._add_python_file(name, wheel, _zip({**members, f"{info}/RECORD": record}))

    def add_python_source(self, name: str, version: str, backend: str) -> None:
        """A source distribution that is built by its own module, whose text is `backend`."""
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        members = {
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "pyproject.toml": f'{project}[project]\nname = "{name}"\nversion = "{version}"\n',
            "backend.py": backend,
        }
        at = f"{name}-{version}"
        data = _tar({f"{at}/{path}": text for path, text in members.items()})
        self._add_python_file(name, f"{at}.tar.gz", data)

    def _add_python_file(self, name: str, file: str, data: bytes) -> None:
        self.files[f"/pip/files/{file}"] = data
        links = self.files.get(f"/pip/simple/{name}/", b"").decode()
        digest = hashlib.sha256(data).hexdigest()
        links += f'<a href="/pip/files/{file}#sha256={digest}">{file}</a>\n'
        self.files[f"/pip/simple/{name}/"] = links.encode()

    def add_node(
        self, name: str, version: str, files: Mapping[str, str] | None = None, **manifest: object
    ) -> None:
        """A package of CommonJS files; `manifest` are further members of its package.json."""
        own = {"name": name, "version": version, "main": "main.js", **manifest}
        data = _tar(
            {
                "package/package.json": json.dumps(own),
                "package/main.js": f"exports.version = '{version}'",
                "package/cli.js": f"#!/usr/bin/env node\nconsole.log('{version}')",
                "package/built.js": "require('fs').writeFileSync('built.txt', 'by a script')",
                **{f"package/{path}": text for path, text in (files or {}).items()},
            }
        )
        path = f"/npm/{name}/-/{name}-{version}.tgz"
        self.files[path] = data
        dist = {
            "tarball": f"http://{self.host}:{self.port}{path}",
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
def serving(address: str = "") -> Iterator[Registry]:
    """A registry without packages, answering while the context lasts: on loopback, by a name that is
    to be made up for it, or on an `address` of this host."""
    registry = Registry(host=address or "registry.test")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            registry.asked.append(path)
            body = registry.files.get(path)
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

    with http.server.ThreadingHTTPServer((address or "127.0.0.1", 0), Handler) as server:
        registry.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
