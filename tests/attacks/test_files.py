"""What programs leave in a workspace, and what the server makes of it: links, swaps, special files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.served import Answer, Served, Session, said
from tests.sandbox import programs

pytestmark = pytest.mark.xdist_group("attacks")

SECRET = b"secret of the host"


@dataclass(frozen=True, slots=True)
class Victim:
    """A directory of the host that no run and no request has to do with."""

    path: Path

    def look(self) -> list[tuple[str, int, int, int, bytes]]:
        """All of it."""
        found = []
        for one in sorted([self.path, *self.path.rglob("*")]):
            info = one.lstat()
            content = one.read_bytes() if one.is_file() else b""
            found.append((one.name, info.st_mode, info.st_uid, info.st_nlink, content))
        return found


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    """It is the same afterwards."""
    place = tmp_path / "victim"
    place.mkdir(mode=0o711)
    (place / "secret").write_bytes(SECRET)
    (place / "secret").chmod(0o640)
    victim = Victim(place)
    before = victim.look()
    yield victim
    assert victim.look() == before


LINKS = """
import os
os.makedirs("a/b"); os.mkdir("real"); open("real/f", "w").write("mine")
os.symlink("../..", "a/b/up")  # the workspace itself
targets = {
    "abs": VICTIM + "/secret", "dir": VICTIM, "passwd": "/etc/passwd", "shadow": "/etc/shadow",
    "environ": "/proc/self/environ", "root1": "/proc/1/root", "cwd": "/proc/self/cwd",
    "fd": "/proc/self/fd/0", "up": "..", "climb": "../" * 20 + VICTIM[1:] + "/secret",
    "twist": "a/b/up/../../.." + VICTIM + "/secret", "hop1": "hop2", "hop2": "hop3",
    "hop3": VICTIM + "/secret", "loop1": "loop2", "loop2": "loop1", "self": "self",
    "zero": "/dev/zero", "state": STATE + "/secret.key", "dangling": "nothing", "empty dir": "/",
    "real/deep": "../../../.." + VICTIM,
}
for name, target in targets.items(): os.symlink(target, name)
os.symlink("real/f", "inside"); os.symlink("real", "indir")
"""


def _acts(session: Session, name: str) -> list[Answer]:
    below = (f"{name}/secret", f"{name}/x")
    return [
        session.file("GET", name),
        *(session.file("GET", path) for path in below),
        *(session.file("PUT", path, b"forged") for path in below),
        *(session.file("DELETE", path) for path in below),
        session.client.ask("GET", f"{session.path}/files?prefix={name.replace(' ', '%20')}"),
        session.client.ask("DELETE", f"{session.path}/files/{name.replace(' ', '%20')}?recursive=1"),
        session.file("PUT", name, b"replaced"),
        session.file("GET", name),
        session.file("DELETE", name),
    ]  # fmt: skip


def test_no_link_leads_the_server_out(server: Served, victim: Victim) -> None:
    """35, 36, 37, 39, 42, 43: read, written, listed, deleted, copied, run again; the victim is the same."""
    code = f"VICTIM, STATE = {str(victim.path)!r}, {str(server.server.state_dir)!r}\n" + LINKS
    with server.session() as session:
        ended = server.attack(lambda: session.run(code))
        assert ended["exit_code"] == 0, ended
        skipped = {one["path"]: one["reason"] for one in ended["files_skipped"]}
        assert {"abs", "dir", "climb", "zero", "root1", "up", "real/deep"} <= skipped.keys()
        assert set(skipped.values()) == {"outside_link"}
        # The mirror: links that stay inside are kept, and lead to their files.
        assert session.files()["inside"]["symlink"] == "real/f"
        assert session.file("GET", "inside").content == b"mine"
        copied = session.client.call("POST", f"{session.path}/duplicate", id="copy")
        assert copied.status == 201
        names = [*skipped, *session.files(), "a/b/up"]
        for name in [name for name in names if name not in ("real/f", "inside")]:
            for answer in _acts(session, name):
                assert answer.status in (200, 400, 404), (name, answer)
                assert SECRET not in answer.content, name
                assert b"root:" not in answer.content, name
        look = "import os\nfor at, _, names in os.walk('.'): print(at, names)\nprint(open('inside').read())"
        assert said(session.run(look)).endswith("mine\n")
        assert session.client.call("DELETE", "/api/sessions/copy").status == 200


SWAP = """
import os, shutil, time
end = time.monotonic() + 1.5
os.makedirs("real", exist_ok=True)
while time.monotonic() < end:
    for name in ("d", "e"):
        if os.path.islink(name): os.unlink(name)
        else: shutil.rmtree(name, ignore_errors=True)
    os.symlink(VICTIM, "d"); os.symlink(VICTIM + "/secret", "f2")
    os.unlink("f2")
    os.unlink("d"); os.mkdir("d"); open("d/f", "w").write("mine")
    os.symlink("real", "e")
if END: shutil.rmtree("d"); os.symlink(VICTIM, "d"); os.unlink("e"); os.symlink(VICTIM, "e")
"""


def _meanwhile(session: Session, number: int) -> list[Answer]:
    copy = f"swap-copy-{number}"
    return [
        session.file("PUT", "d/secret", b"forged"),
        session.file("PUT", "e/secret", b"forged"),
        session.file("GET", "d/secret"),
        session.file("GET", "d/f"),
        session.file("GET", "e/secret"),
        session.client.call("POST", f"{session.path}/duplicate", id=copy),
        session.client.call("DELETE", f"/api/sessions/{copy}"),
        session.file("DELETE", "d/secret"),
    ]


def test_directories_that_turn_into_links_while_the_server_works(
    server: Served, victim: Victim
) -> None:
    """38: uploads, downloads, copies and collecting, while runs swap directories and links."""
    with server.session() as session, ThreadPoolExecutor(1) as pool:
        answers: list[Answer] = []
        for end in (False, True, False):
            code = f"VICTIM, END = {str(victim.path)!r}, {end}\n{SWAP}"
            running = pool.submit(session.run, code, timeout=60)
            while not running.done():
                answers += _meanwhile(session, len(answers))
            assert running.result()["exit_code"] == 0, running.result()
    assert {answer.status for answer in answers} <= {200, 201, 400, 404}
    assert not [answer for answer in answers if SECRET in answer.content]
    assert any(answer.content == b"forged" for answer in answers)  # something was read and written
    assert any(answer.content == b"mine" for answer in answers)


SPECIAL = """
import os, socket
os.mkfifo("fifo"); os.mkfifo(".era_fifo")
listener = socket.socket(socket.AF_UNIX); listener.bind("sock")
os.mkdir("d"); os.mkfifo("d/fifo")
for kind, name in ((0o60000, "block"), (0o20000, "char")):
    try: os.mknod(name, kind | 0o666, os.makedev(1, 5))
    except OSError as error: print(name, error.strerror)
os.symlink("/dev/zero", "zero"); os.symlink("/dev/full", "full"); os.symlink("/dev/stdin", "stdin")
open("plain", "w").write("plain")
"""


def test_special_files_are_neither_read_nor_waited_for(server: Served) -> None:
    """40: they are named as skipped; an ordinary file beside them is kept."""
    with server.session() as session:
        ended = server.attack(lambda: session.run(SPECIAL))
        refused = "block Operation not permitted\nchar Operation not permitted\n"
        assert (ended["exit_code"], ended["stdout"]) == (0, refused)
        reasons = {one["path"]: one["reason"] for one in ended["files_skipped"]}
        assert {name for name, why in reasons.items() if why == "special_file"} >= {
            *("fifo", "sock", "d/fifo")
        }
        assert session.files().keys() == {"plain"}
        for name in ("fifo", "sock", "zero", "full", "d/fifo"):
            assert session.file("GET", name).status == 404


DATA = {
    "os.mkfifo(P)": "unreadable",
    "os.symlink('/dev/zero', P)": "unreadable",
    "os.symlink('/etc/passwd', P)": "unreadable",
    "os.mkdir(P)": "unreadable",
    "open(P, 'wb').truncate(1 << 42)": "too_large",
    "open(P, 'w').write('[' * 100_000)": "invalid_json",
    "open(P, 'w').write('{\"a\":' * 600 + '1' + '}' * 600)": "invalid_json",
    "open(P, 'w').write('NaN')": "invalid_json",
    "open(P, 'wb').write(b'\"\\xff\"')": "invalid_json",
    "open(P, 'w').write('{\"a\": 1}')": None,
}


def test_a_data_file_that_is_none(server: Served) -> None:
    """18, 40: the old data stays, and nobody waits; the last is the mirror."""
    with server.session(data={"old": True}) as session:
        for act, error in DATA.items():
            code = f"import os\nP = '.session_data.json'\nos.unlink(P)\n{act}"
            ended = session.run(code)
            assert (ended["exit_code"], ended.get("data_error")) == (0, error), act
            assert ended["data"] == ({"old": True} if error else {"a": 1}), act


MODES = """
import os
for name, mode in (("suid", 0o6755), ("sticky", 0o1777), ("plain", 0o750)):
    open(name, "w").close()
    os.chmod(name, mode)
    for attribute in ("user.x", "security.capability", "trusted.x", "system.posix_acl_access"):
        try: os.setxattr(name, attribute, b"x")
        except OSError: pass
print(oct(os.stat("suid").st_mode)[-4:])
"""
SEEN = """
import os
for name in ("suid", "sticky", "plain"): print(name, oct(os.stat(name).st_mode)[-4:], os.listxattr(name))
"""


def test_marks_that_give_rights_are_not_kept(server: Served) -> None:
    """41: set-id bits and attributes are dropped, ordinary rights are kept."""
    with server.session() as session:
        assert said(session.run(MODES)) == "6755\n"
        modes = {path: entry["mode"] for path, entry in session.files().items()}
        assert modes == {"suid": "0755", "sticky": "0777", "plain": "0750"}
        seen = "suid 0755 []\nsticky 0777 []\nplain 0750 []\n"
        assert said(session.run(SEEN)) == seen
        stored = server.server.state_dir
        for at, _, names in os.walk(stored / "trees"):
            for name in names:
                assert not os.lstat(f"{at}/{name}").st_mode & 0o7000


HARD = """
import os
def outcome(act):
    try: act()
    except OSError as error: return error.strerror
    return "done"
for path in ("/usr/bin/env", "/etc/passwd", "/proc/self/environ", "/proc/self/fd/0", "/dev/zero", "/bin"):
    print(path, outcome(lambda: os.link(path, "linked", follow_symlinks=True)))
open("/tmp/own", "w").close()
print("/tmp/own", outcome(lambda: os.link("/tmp/own", "linked")))
open("own", "w").close()
print("own", outcome(lambda: os.link("own", "linked")))
"""


def test_nothing_of_others_can_be_linked(server: Served) -> None:
    """39: each place is a mount of its own; a link of one's own file is the mirror."""
    rows = dict(line.split(" ", 1) for line in said(server.run(HARD)).splitlines())
    assert rows.pop("own") == "done"
    assert set(rows.values()) <= {"Invalid cross-device link", "Operation not permitted"}, rows


def test_mount_points_stay(server: Served) -> None:
    """44: none can be removed, renamed or replaced; a directory of one's own can."""
    *outcomes, there = said(server.run(programs.MOUNT_POINTS)).split()
    assert (set(outcomes), there) == ({"no"}, "True")
    own = (
        "import os\nos.mkdir('a'); os.mkdir('b'); os.rename('a', 'b'); os.rmdir('b'); print('done')"
    )
    assert said(server.run(own)) == "done\n"


ODD_OVERLAYS = """
import os
def outcome(act):
    try: act()
    except OSError as error: return type(error).__name__
    return "done"
print(outcome(lambda: os.mknod("kept", 0o20000, 0)), outcome(lambda: os.mknod("w", 0o20000, 0)))
for space in ("user", "trusted"):
    for name, value in (("opaque", b"y"), ("redirect", b"/e"), ("whiteout", b""), ("metacopy", b"")):
        outcome(lambda: os.setxattr("d", f"{space}.overlay.{name}", value))
print(sorted(os.listdir("d")))
"""


def test_marks_of_the_overlay_cannot_be_forged(server: Served) -> None:
    """35, 41: no file of the session disappears, and none appears; a real deletion does both."""
    with server.session() as session:
        for name in ("kept", "d/x", "d/y"):
            session.file("PUT", name, b"kept")
        forged = session.run(ODD_OVERLAYS)
        assert forged["stdout"] == "FileExistsError PermissionError\n['x', 'y']\n", forged
        assert (forged["files_modified"], forged["files_deleted"]) == ([], [])
        gone: Any = session.run("import shutil; shutil.rmtree('d')")
        assert gone["files_deleted"] == ["d/x", "d/y"]
