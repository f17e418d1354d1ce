"""Memory and disk, through the API: whatever is filled, it is the program's own limit that is met."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.attacks.served import Served, said
from tests.sandbox import programs

pytestmark = pytest.mark.xdist_group("attacks")

MB = 1 << 20
TAKE = {kind: code for kind, code in programs.TAKE.items() if kind != "/dev/shm"}
TAKE |= {
    "/dev/shm and heap": "open('/dev/shm/y', 'wb').write(b'y' * (50 << 20))\nk = b'x' * (100 << 20)",
    "pipes and heap": """
import os
for _ in range(2):
    ready, told = os.pipe()
    if not os.fork():
        keep = [os.pipe() for _ in range(480)]
        for _, write in keep:
            os.set_blocking(write, False)
            os.write(write, b"x" * 65536)
        os.write(told, b"x")
        os.kill(os.getpid(), 19)
    os.read(ready, 1)
k = b"x" * (80 << 20)""",
}


@pytest.mark.parametrize("kind", TAKE)
def test_memory_of_every_kind_is_counted(server: Served, kind: str) -> None:
    """11, 12, 13: the run is killed, and told apart from every other end; with more it ends well."""
    code = TAKE[kind] + "\nprint('had it', flush=True)\n"
    ended = server.run(code)
    flags = [ended[name] for name in ("exit_code", "signal", "oom_killed", "timed_out", "stdout")]
    assert flags == [137, "SIGKILL", True, False, ""]
    assert said(server.client.execute(code, memory_mib=1024)) == "had it\n"


def test_shared_memory_has_a_size_of_its_own(server: Served) -> None:
    """12: it is met before the box's memory is."""
    code = programs.TAKE["/dev/shm"] + "\nprint('had it')\n"
    assert "No space left" in server.run(code)["stderr"]
    assert said(server.client.execute(code, memory_mib=1024)) == "had it\n"


def test_datagrams_that_wait_are_bounded(server: Served) -> None:
    """12: buffers of the network count apart from other memory."""
    few = server.run(programs.DATAGRAMS)
    assert few["oom_killed"] or int(few["stdout"]) < 24 * MB
    assert int(said(server.client.execute(programs.DATAGRAMS, memory_mib=1024))) > 48 * MB


NODE_BOMB = "const keep = []; while (true) keep.push(Buffer.alloc(1 << 20, 1));"


def test_memory_in_another_language(server: Served) -> None:
    """11"""
    ended = server.run(NODE_BOMB, "node")
    assert (ended["exit_code"], ended["oom_killed"]) == (137, True)
    assert said(server.client.execute(NODE_BOMB.replace("true", "keep.length < 20"), "node")) == ""


CHILD = """
import os
if not os.fork(): keep = b"x" * (400 << 20)
os.wait()
print("survived", flush=True)
"""


def test_the_whole_run_dies_of_its_memory(server: Served) -> None:
    """13"""
    ended = server.run(CHILD)
    assert (ended["exit_code"], ended["oom_killed"], ended["stdout"]) == (137, True, "")
    small = CHILD.replace("400", "4").replace("20)", "20); os._exit(0)")
    assert said(server.client.execute(small)) == "survived\n"


def test_a_limit_is_each_runs_own(server: Served) -> None:
    """14: three runs at once have each what one alone may have, and not three times that."""
    code = "keep = b'x' * (90 << 20); import time; time.sleep(0.5); print('had it')"
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: server.client.execute(code), range(3)))
    assert [said(result) for result in results] == ["had it\n"] * 3
    assert server.client.execute(code.replace("90", "270"))["oom_killed"]


@pytest.mark.parametrize("way", ["write", "fallocate"])
def test_a_full_disk_is_an_error_of_the_program(server: Served, ample: Served, way: str) -> None:
    """15, 16: the three places share one bound."""
    code = programs.FILL.replace("int(sys.argv[1])", str(int(way == "fallocate")))
    total, why = said(server.run(code)).split()
    assert (40 <= int(total) <= 64, why) == (True, "ENOSPC")
    assert said(ample.client.execute(code)) == "120 \n"


def test_inodes_run_out_for_the_program_alone(server: Served, ample: Served) -> None:
    """17"""
    assert 1000 < int(said(server.run(programs.INODES))) < 5000
    assert int(said(ample.client.execute(programs.INODES))) == 9000


def test_a_full_disk_costs_no_file_of_the_session(server: Served) -> None:
    """15: what could be written within the session's bound is kept, the rest is the run's loss."""
    fill = "import os\nfd = os.open('big', os.O_CREAT | os.O_WRONLY)\ntry:\n while True: os.write(fd, bytes(1 << 20))\nexcept OSError as error: print(error.errno)"  # noqa: E501
    with server.session() as session:
        session.file("PUT", "kept", b"kept")
        ended = server.attack(lambda: session.run(fill))
        assert (ended["stdout"], ended["files_error"]) == ("28\n", "quota_exceeded")
        assert session.files().keys() == {"kept"}
        assert session.run("open('small', 'w').write('x')")["files_modified"] == ["small"]


HOLE = "open('hole', 'wb').truncate({}); open('file', 'w').write('x')"


def test_a_hole_is_neither_read_nor_counted_as_space(server: Served, ample: Served) -> None:
    """18: eight TiB of nothing are over every bound, and nobody reads them; a small hole is a file."""
    with ample.session() as session:
        ended = ample.attack(lambda: session.run(HOLE.format(1 << 43)))
        assert (ended["exit_code"], ended["files_error"]) == (0, "quota_exceeded")
        assert session.files() == {}
        copied = session.client.call("POST", f"{session.path}/duplicate", id="hole-copy")
        assert copied.json["total_size_bytes"] == 0
        session.client.call("DELETE", "/api/sessions/hole-copy")
    with server.session() as session:
        assert session.run(HOLE.format(1 << 20))["files_modified"] == ["file", "hole"]
        assert session.file("GET", "hole").content == bytes(1 << 20)


LINKS = """
import os
with open("big", "wb") as file: file.write(b"x" * (2 << 20))
for number in range({}):
    os.link("big", f"hard{{number}}")
    os.symlink("big", f"soft{{number}}")
"""


def test_links_do_not_multiply_a_file(server: Served) -> None:
    """19: each hard link counts as a file, so many are over the bound; a link is as large as its file."""
    with server.session() as session:
        ended = server.attack(lambda: session.run(LINKS.format(200)))
        assert (ended["exit_code"], ended["files_error"]) == (0, "quota_exceeded")
    with server.session() as session:
        session.run(LINKS.format(3))
        sizes = {path: entry["size"] for path, entry in session.files().items()}
        assert sizes["hard2"] == sizes["soft2"] == sizes["big"] == 2 << 20


TREES = {
    "deep": "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\nopen('f', 'w').close()",
    "wide": "import os\nfor n in range(3000): os.close(os.open(str(n), os.O_CREAT | os.O_WRONLY))",
}


@pytest.mark.parametrize("kind", TREES)
def test_trees_beyond_the_bounds(server: Served, kind: str) -> None:
    """20: what is too deep to have a name is skipped, what is too many is over the bound."""
    with server.session() as session:
        session.file("PUT", "kept", b"kept")
        ended = server.attack(lambda: session.run(TREES[kind]))
        assert ended["exit_code"] == 0, ended
        assert session.files().keys() == {"kept"}
        if kind == "wide":
            assert ended["files_error"] == "quota_exceeded"
        few = TREES[kind].replace("1500", "100").replace("'d'", "'e'").replace("3000", "30")
        assert len(session.run(few)["files_modified"]) == {"deep": 1, "wide": 30}[kind]


NAMES = r"""
import os
odd = [b"n" * 255, b"\xff\xfe", b"new\nline", b"\x1b[31m", b"-rf", b" ", b"\\", b"%2e%2e", "ü".encode()]
for name in odd:
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    os.mkdir(name + b"d" if len(name) < 200 else b"d")
    os.chmod(name, 0)
"""


def test_odd_names(server: Served) -> None:
    """20: names that are text are kept and come back exactly; bytes that are none are reported."""
    with server.session() as session:
        ended = server.attack(lambda: session.run(NAMES))
        assert ended["exit_code"] == 0, ended
        kept = {"n" * 255, "new\nline", "\x1b[31m", "-rf", " ", "\\", "%2e%2e", "ü"}
        assert session.files().keys() == kept
        assert {skipped["reason"] for skipped in ended["files_skipped"]} == {"bad_name"}
        assert session.file("GET", "new\nline").status == 200
        for name in kept:
            assert session.file("DELETE", name).status == 200, name


VERSIONS = [bytes([65 + number]) * (300_000 + 70_001 * number) for number in range(6)]


def test_a_file_that_changes_while_it_is_downloaded(server: Served) -> None:
    """21: every answer is one whole version; and all versions are seen, so they did change."""
    with server.session() as session, ThreadPoolExecutor(4) as pool:
        session.file("PUT", "f", VERSIONS[0])
        turning = "import itertools\nfor n in range(3): open('f', 'wb').write(bytes([65 + n]) * (300_000 + 70_001 * n))"  # noqa: E501
        running = pool.submit(session.run, turning)
        seen: set[bytes] = set()
        for _ in range(3):
            for version in VERSIONS:
                reading = [pool.submit(session.file, "GET", "f") for _ in range(3)]
                assert session.file("PUT", "f", version).status == 200
                answers = [one.result() for one in reading]
                assert all(len(a.content) == int(a.headers["content-length"]) for a in answers)
                seen |= {answer.content for answer in answers}
                seen.add(session.file("GET", "f").content)
        running.result()
    assert seen == set(VERSIONS)


PLACES = "/workspace /tmp /dev/shm /home/era /var/tmp /run/lock /var/lock /dev/mqueue".split()
LEAVE = f"""
import os
for place in {PLACES}:
    try:
        os.makedirs(place, exist_ok=True)
        open(place + "/left", "w").write("left")
    except OSError: pass
"""
FIND = f"""
import os
print([place for place in {PLACES} if os.path.exists(place + "/left")])
"""


def test_nothing_is_left_in_places_that_all_may_write(server: Served) -> None:
    """22"""
    there = said(server.run(LEAVE + FIND))
    assert (
        there == "['/workspace', '/tmp', '/dev/shm', '/home/era', '/var/tmp']\n"
    )  # within one run it is seen
    for _ in range(4):
        assert said(server.run(FIND)) == "[]\n"
    with server.session() as session:  # and a session keeps its workspace alone
        assert said(session.run(LEAVE + FIND)) == there
        assert said(session.run(FIND)) == "['/workspace']\n"


REMNANT = {
    "write": "open('/tmp/x', 'wb').write(b'remnant!' * (5 << 17)); import os; os.sync()",
    "read": """
import os
fd = os.open("/tmp/y", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, 40 << 20)
os.truncate(fd, 40 << 20)
print(any(b"remnant!" in os.read(fd, 1 << 20) for _ in range(40)))
""",
}


def test_no_byte_of_an_earlier_run(server: Served) -> None:
    """22: space that was another's comes back as zeros, also when it is only reserved."""

    def read(results: list[Any]) -> list[str]:
        return [said(result) for result in results]

    with ThreadPoolExecutor(4) as pool:
        read(list(pool.map(server.client.execute, [REMNANT["write"]] * 6)))
        found = read(list(pool.map(server.client.execute, [REMNANT["read"]] * 6)))
    assert found == ["False\n"] * 6
    assert (
        said(
            server.client.execute(
                REMNANT["write"] + REMNANT["read"].replace("/y", "/x").replace("os.posix", "#")
            )
        )
        == "True\n"
    )
