"""Managed VMs: what lasts in them, and the requests that name them, get nobody further than a run."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.attacks.served import Answer, Client, Served, said
from tests.attacks.test_files import LINKS, SECRET, Victim, victim

__all__ = ["victim"]

pytestmark = pytest.mark.xdist_group("attacks")


@dataclass(frozen=True, slots=True)
class Vm:
    """One VM, as a client sees it."""

    client: Client
    id: str

    @property
    def path(self) -> str:
        return f"/api/vm/{self.id}"

    def command(self, command: str, **members: Any) -> Any:
        answer = self.client.call("POST", f"{self.path}/run", command=command, **members)
        assert answer.status == 200, answer
        return answer.json

    def file(self, method: str, name: str, content: bytes | None = None) -> Answer:
        return self.client.ask(method, f"{self.path}/files/{quote(name)}", content)


@contextmanager
def vm(server: Served, **members: Any) -> Iterator[Vm]:
    """A VM with the limits of a run, so that it gets boxes made ahead; deleted afterwards."""
    body = {"language": "python", "memory_mib": 128, **members}
    made = server.client.call("POST", "/api/vm", **body)
    assert made.status == 201, made
    found = Vm(server.client, made.json["id"])
    try:
        yield found
    finally:
        assert server.client.call("DELETE", found.path).status in (200, 404)


def python(code: str) -> str:
    return f"python3 -c {shlex.quote(code)}"


def test_no_link_of_a_vm_leads_the_server_out(server: Served, victim: Victim) -> None:
    """35, 36, 37, 39, 42, 43: here links to anywhere are kept, for programs of the VM alone."""
    names = f"VICTIM, STATE = {str(victim.path)!r}, {str(server.server.state_dir)!r}\n"
    with vm(server, persist=True) as found:
        said(server.attack(lambda: found.command(python(names + LINKS))))
        kept = found.command("find . -type l -printf '%P\\n'")["stdout"].split("\n")[:-1]
        assert {"abs", "dir", "climb", "shadow", "state", "real/deep", "a/b/up"} <= {*kept}
        # The mirror: a link that stays in the VM is followed.
        assert found.file("GET", "inside").content == b"mine"
        server.client.call("DELETE", f"{found.path}?keep_persist=1")
    kept_there = server.server.state_dir / "kept-vms" / found.id
    assert (kept_there / "abs").is_symlink()
    assert not [path for path in kept_there.rglob("*") if _holds(path)]
    shutil.rmtree(kept_there)
    with vm(server) as found:
        said(found.command(python(names + LINKS)))
        for name in [name for name in kept if name not in ("inside", "indir")]:
            for answer in _acts(found, name):
                assert answer.status in (200, 400, 404), (name, answer)
                assert SECRET not in answer.content, name
                assert b"root:" not in answer.content, name
        assert said(found.command("cat real/f")) == "mine"


def _holds(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and SECRET in path.read_bytes()


def _acts(found: Vm, name: str) -> list[Answer]:
    encoded = quote(name)
    return [
        found.file("GET", name),
        found.file("GET", f"{name}/secret"),
        found.file("PUT", f"{name}/secret", b"forged"),
        found.file("DELETE", f"{name}/secret"),
        found.client.ask("GET", f"{found.path}/files?prefix={encoded}"),
        found.client.ask("DELETE", f"{found.path}/files/{encoded}?recursive=1"),
        found.file("PUT", name, b"replaced"),
        found.file("GET", name),
        found.file("DELETE", name),
    ]


_UP = ("..", "%2e%2e", "..%2f..", "%2e%2e%2f%2e%2e", "..%5c..", "%252e%252e", "..%00")


def test_no_path_leads_out_of_a_workspace(server: Served) -> None:
    """34: not to HOME beside it, nor further."""
    with vm(server) as found:
        said(found.command("echo home > ~/f; echo tmp > /tmp/f; echo mine > f"))
        for up in _UP:
            for rest in ("home/era/f", "tmp/f", "etc/passwd", "f"):
                path = f"{found.path}/files/{up}/{rest}"
                for method, content in (("GET", None), ("PUT", b"forged"), ("DELETE", None)):
                    answer = server.client.ask(method, path, content)
                    # An upload may make a directory of an odd name, in the workspace.
                    assert answer.status in (200, 400, 404), (method, path, answer)
                    assert b"root:" not in answer.content
                    assert answer.content not in (b"home\n", b"tmp\n", b"mine\n"), path
        assert said(found.command("cat f ~/f /tmp/f")) == "mine\nhome\ntmp\n"
        assert found.file("GET", "f").content == b"mine\n"


def test_names_of_vms_open_nothing_else(server: Served) -> None:
    """77: with another form of a name, as a session, without a key."""
    with vm(server) as found, server.session() as session:
        session.file("PUT", "f", b"of the session")
        said(found.command("echo of the vm > f"))
        forms = [
            f"vm:{session.id}", f"vm%3a{found.id}", f"{found.id}%00", f"{found.id}%2f..",
            f"{found.id.upper()}", f"{found.id};x", f" {found.id}", session.id, "*", "%", "_",
        ]  # fmt: skip
        for form in (quote(form, safe="%") for form in forms):
            for path in (f"/api/vm/{form}", f"/api/sessions/vm:{form}"):
                for method in ("GET", "DELETE"):
                    assert server.client.ask(method, path).status == 404, (method, path)
                assert server.client.ask("GET", f"{path}/files/f").status == 404
        for path in (f"/api/sessions/{quote(f'vm:{found.id}')}", f"/api/sessions/{found.id}"):
            assert server.client.ask("GET", f"{path}/files/f").status == 404
        listed = server.client.call("GET", "/api/sessions?prefix=v").json
        assert (listed["sessions"], listed["total_count"]) == ([], 0)
        nobody = server.other(key=None)
        for method, path in [
            ("GET", found.path), ("GET", "/api/vms"), ("GET", "/api/vm/list"),
            ("POST", "/api/vm/execute"), ("POST", "/api/vm/clean?all=true"), ("POST", "/api/vm"),
        ]:  # fmt: skip
            assert nobody.ask(method, path, b"{}" if method == "POST" else None).status == 401
        assert found.file("GET", "f").content == b"of the vm\n"
        assert session.file("GET", "f").content == b"of the session"


def test_a_body_names_no_file_of_the_server_and_no_other_request(server: Served) -> None:
    """33, 48: the word's body goes where its VM is; what else is in it goes nowhere."""
    with vm(server) as found:
        for path in (f"{found.path}/run", "/api/vm/execute", "/api/vm/temp"):
            body = {"command": "true", "file": "/etc/passwd", "vm_id": found.id, "language": "py"}
            answer = server.client.call("POST", path, **body)
            assert (answer.status, answer.json["code"]) == (400, "field_not_supported")
        for vm_id in (f"{found.id}\r\nX: y", f"{found.id}/../x", f"{found.id}?all=true", ""):
            for word in ("execute", "stop", "clean"):
                answer = server.client.call("POST", f"/api/vm/{word}", vm_id=vm_id, command="true")
                assert (answer.status, answer.json["code"]) == (404, "vm_not_found")
        odd = json.dumps(
            {"vm_id": found.id, "command": 'printf %s "$A"', "env": {"A": 'é\u2028"\\'}}
        )
        answer = server.client.ask("POST", "/api/vm/execute", odd.encode())
        assert answer.json["data"]["stdout"] == 'é\u2028"\\'


def test_what_lasts_in_a_vm_is_bounded(server: Served) -> None:
    """15, 82: run after run, in each of its directories; 64 MiB here."""
    with vm(server) as found:
        for place in ("/workspace", "$HOME", "/tmp"):
            said(found.command(f"head -c 20M /dev/urandom > {place}/a"))
        over = found.command("head -c 20M /dev/urandom > /tmp/b")
        assert (over["exit_code"], over["files_error"]) == (0, "quota_exceeded")
        assert found.command("ls /tmp/b")["exit_code"] != 0
        # The mirror: with room again, the same is kept.
        said(found.command("rm /tmp/a"))
        assert "files_error" not in found.command("head -c 20M /dev/urandom > /tmp/b")
        said(found.command("ls /tmp/b"))
        full = found.command("rm -f ~/a; head -c 100M /dev/zero > ~/c")
        assert "No space left" in full["stderr"]


def test_nothing_but_files_lasts(server: Served) -> None:
    """2, 22: not a process, not shared memory; and files are those of one VM alone."""
    with vm(server) as one, vm(server) as other:
        said(
            one.command("setsid sleep 98768 >/dev/null 2>&1 & echo mine | tee /dev/shm/s > /tmp/t")
        )
        look = "ls -A /dev/shm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /tmp/t 2>&1"
        again = one.command(look)["stdout"]
        assert "98768" not in again.replace(look, "")
        assert again.endswith("mine\n")
        assert not again.startswith("s\n")
        assert "No such file" in other.command(look)["stdout"]
