"""What untrusted code tries with files: names, links, depth, number, and the overlay's own marks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from era.errors import InternalError
from era.sandbox.base import BoxSpec, Limits
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import fill, listing, output_of, python, shell
from tests.sandbox import programs
from tests.sandbox.attack import ROOT, SMALL, TOOLS, answers, attack, needs_cgroups, ok
from tests.sandbox.boxes import namespaces_driver
from tests.sandbox.census import launcher_processes, settled, until

MANY = 200_000
DEEP = 3_000
LARGE = BoxSpec(limits=Limits(memory_bytes=1 << 30, disk_bytes=4 << 30))


@pytest.fixture(scope="module")
async def driver(anyio_backend: str) -> AsyncIterator[NamespacesDriver]:
    """Images in memory, where that many files are made in seconds."""
    with TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        async with namespaces_driver(directory, on_disk=ROOT) as driver:
            yield driver


@pytest.mark.anyio
async def test_links_lead_nowhere_but_into_the_box(
    driver: NamespacesDriver, tmp_path: Path
) -> None:
    """A link to a path of the host is a link to that path of the box."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    script = f"ln -s {secret} s; cat s; ln -s /etc/shadow p; cat p; ln -s / r; ls r/root; exit 0"
    ended = await attack(driver, shell(TOOLS, script))
    assert ended.stdout == b""
    assert ended.stderr.count(b"No such file or directory") == 3
    assert os.path.exists("/etc/passwd")


GAMES = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def exchange(a, b): return libc.renameat2(-100, a, -100, b, 2)
for round in range(300):
    os.makedirs(f"x/{round}/deep", exist_ok=True)
    os.symlink("/", f"y{round}")
    exchange(b"x", f"y{round}".encode())
    exchange(b"d", f"y{round}".encode())
    exchange(b"d", f"y{round}".encode())
    exchange(b"x", f"y{round}".encode())
    os.rename(f"x/{round}", f"moved{round}")
    os.link("a", f"hard{round}")
    os.rename(f"hard{round}", "a2")
    if os.path.lexists("d/x"): os.unlink("d/x")
    with open("d/x", "w") as file: file.write(str(round))
os.rename("d", "e"); os.mkdir("d"); os.rename("d", "f")
print(sorted(os.listdir("e")), open("a2").read(), libc.renameat2(-100, b"b", -100, b"c", 4))
"""


@pytest.mark.anyio
async def test_games_on_the_overlay_stay_above_it(driver: NamespacesDriver, tmp_path: Path) -> None:
    files = {"a": "lower a", "b": "lower b", "d/x": "lower x", "d/y": "lower y"}
    lower = fill(str(tmp_path), files)
    spec = replace(SMALL, workspace=(lower,))
    if not ROOT:  # a directory of a lower cannot be renamed there
        script = GAMES.replace('os.rename("d", "e"); os.mkdir("d")', 'os.mkdir("g")')
        script = script.replace('os.rename("d", "f")', 'os.rename("g", "f")').replace('"e"', '"d"')
    else:
        script = GAMES.replace('os.rename("d", "e")', 'os.system("mv d e")')
    assert ok(await attack(driver, script, spec)) == "['x', 'y'] lower a -1\n"
    found = {
        str(path.relative_to(lower)): path.read_text()
        for path in Path(lower).rglob("*")
        if path.is_file()
    }
    assert found == files


@pytest.mark.anyio
async def test_marks_of_the_overlay_cannot_be_forged(
    driver: NamespacesDriver, tmp_path: Path
) -> None:
    """Whiteouts by mknod, opaque directories and redirections by attribute."""
    lower = fill(str(tmp_path), {"a": "a", "d/x": "x", "e/y": "y"})
    code = """
import os
def outcome(act):
    try: act()
    except OSError as error: return type(error).__name__
    return "done"
print(outcome(lambda: os.mknod("a2", 0o20000, 0)), outcome(lambda: os.mknod("d/w", 0o20000, 0)))
for space in ("user", "trusted"):
    for name, value in (("opaque", b"y"), ("redirect", b"/e"), ("whiteout", b""), ("metacopy", b"")):
        outcome(lambda: os.setxattr("d", f"{space}.overlay.{name}", value))
print(sorted(os.listdir(".")), sorted(os.listdir("d")))
"""
    spec = replace(SMALL, workspace=(lower,))
    async with driver.box(spec) as box:
        first = await output_of(box, python(TOOLS, code))
        again = await output_of(box, shell(TOOLS, "ls; ls d"))
        placed = listing(box.workspace_fd)
    assert first == "PermissionError PermissionError\n['a', 'd', 'e'] ['x']\n"
    assert again == "a\nd\ne\nx\n"
    assert set(placed.values()) <= {"d"}


@pytest.mark.anyio
async def test_mount_points_stay(driver: NamespacesDriver) -> None:
    assert ok(await attack(driver, programs.MOUNT_POINTS)) == "no " * 10 + "True\n"


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["/workspace", "/tmp"])
async def test_very_deep_directories_are_removed(driver: NamespacesDriver, place: str) -> None:
    code = f"""
import os
os.chdir({place!r})
for _ in range({DEEP}):
    os.mkdir("d"); os.chdir("d")
open("end", "w").close()
print("deep")
"""
    assert ok(await attack(driver, code, LARGE, timeout_seconds=120)) == "deep\n"


@needs_cgroups
@pytest.mark.anyio
async def test_many_files_of_one_box_do_not_slow_the_next(driver: NamespacesDriver) -> None:
    """CPU time of the same work in fresh space and in space that was another box's before."""
    code = "for i in range(5000): open(f'/tmp/{i}', 'w').close()"
    first = await attack(driver, code, LARGE)
    second = await attack(driver, code, LARGE)
    assert first.usage.cpu_ms is not None
    assert second.usage.cpu_ms is not None
    assert second.usage.cpu_ms < 5 * first.usage.cpu_ms  # 20 times, when inodes were remembered


@pytest.mark.anyio
async def test_odd_names_and_modes_are_removed(driver: NamespacesDriver) -> None:
    code = r"""
import os
for place in (b"/workspace/", b"/tmp/", b"/home/era/"):
    for name in (b"n" * 255, b"\xff\xfe", b"new\nline", b"\x1b[31m", b"-rf", b".removed-0", b" ", b"\\"):
        os.mkdir(place + name)
        open(place + name + b"/" + name, "w").close()
        os.mkfifo(place + name + b"/fifo")
        os.symlink(b"/", place + name + b"/link")
        os.mkdir(place + name + b"/.removed-1")
        os.chmod(place + name, 0)
    os.chmod(place, 0)
print("odd")
"""
    async with driver.box(SMALL) as box:
        assert await output_of(box, python(TOOLS, code)) == "odd\n"
        with pytest.raises(InternalError):  # its own doing: there is no way into /workspace now
            await box.run(shell(TOOLS, "true"))
    assert await answers(driver)


FILES = f"""
import os
for place in ("/workspace", "/tmp"):
    for group in range({MANY // 2000}):
        os.mkdir(f"{{place}}/{{group}}")
        os.chdir(f"{{place}}/{{group}}")
        for name in range(1000): os.close(os.open(str(name), os.O_CREAT | os.O_WRONLY))
print("many")
"""


@pytest.mark.anyio
async def test_many_files_are_removed_while_others_go_on(driver: NamespacesDriver) -> None:
    before = launcher_processes(driver)
    box = driver.box(LARGE)
    ended = await (await box.__aenter__()).run(python(TOOLS, FILES, timeout_seconds=120))
    assert ok(ended) == "many\n"
    await box.__aexit__(None, None, None)
    closing = asyncio.create_task(settled(driver))
    await asyncio.sleep(0)
    assert await answers(driver)
    if ROOT:  # in memory there is not enough to do to be seen at it
        assert not closing.done()
    while not closing.done():
        assert await answers(driver)
    await closing
    await settled(driver)
    until(lambda: not before[1].family(), "the end of every process")
