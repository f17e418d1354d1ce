"""What untrusted code tries to use up: processes, memory, disk, inodes, descriptors.

Every limit is the box's own: others go on (`attack.py`), and with a higher limit the same program
gets further, so it is the limit that stops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from era.sandbox.base import BoxSpec, Limits
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import Watch, output_of, python, shell
from tests.sandbox import programs
from tests.sandbox.attack import ROOT, SMALL, TOOLS, attack, needs_cgroups, ok
from tests.sandbox.boxes import namespaces_driver

MB = 1 << 20
needs_users = pytest.mark.skipif(
    not ROOT, reason="an ordinary user has one host user for all boxes"
)


@pytest.fixture(scope="module")
async def driver(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    directory = str(tmp_path_factory.mktemp("resources"))
    async with namespaces_driver(directory, on_disk=ROOT) as driver:
        yield driver


@pytest.fixture(scope="module")
async def in_memory(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    directory = str(tmp_path_factory.mktemp("memory"))
    async with namespaces_driver(directory, on_disk=False) as driver:
        yield driver


def limited(**limits: int) -> BoxSpec:
    """SMALL, but for these limits."""
    return replace(SMALL, limits=replace(SMALL.limits, **limits))


# --- processes -------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("code", [programs.FORKS, programs.THREADS], ids=["forks", "threads"])
async def test_processes_are_counted(driver: NamespacesDriver, code: str) -> None:
    few = int(ok(await attack(driver, code, limited(pids=64))))
    assert 50 < few < 64
    assert int(ok(await attack(driver, code, limited(pids=300)))) == 150


@pytest.mark.anyio
@pytest.mark.parametrize(
    "script",
    [
        "bomb() { bomb | bomb & }; bomb; sleep 600",
        "exec python3 -c 'import os\nwhile True:\n try: os.fork()\n except OSError: pass'",
        'exec python3 -c \'import os\nwhile True:\n try: os.posix_spawn("/usr/bin/sleep", ["sleep", "600"], {})\n except OSError: pass\'',  # noqa: E501
    ],
    ids=["shell", "fork", "vfork"],
)
async def test_a_fork_bomb_ends_at_the_deadline(driver: NamespacesDriver, script: str) -> None:
    program = shell(TOOLS, script, timeout_seconds=1.0, grace_seconds=0.2)
    ended = await attack(driver, program)
    end = (ended.exit_code, ended.timed_out, ended.oom_killed)
    # So many processes may be as much memory as a run may have.
    assert end in ((124, True, False), (137, False, True))


# --- memory ----------------------------------------------------------------------------------------


def big(limits: Limits) -> Limits:
    return replace(limits, memory_bytes=1024 * MB)


@needs_cgroups
@pytest.mark.anyio
@pytest.mark.parametrize("kind", programs.TAKE)
async def test_memory_of_every_kind_is_counted(driver: NamespacesDriver, kind: str) -> None:
    code = programs.TAKE[kind] + "\nprint('had it', flush=True)\n"
    if kind == "/dev/shm":  # its own size, half of the memory, is met first
        assert b"No space left" in (await attack(driver, code)).stderr
        code = "open('/dev/shm/y', 'wb').write(b'y' * (50 << 20))\nk = b'x' * (100 << 20)\n"
    ended = await attack(driver, code)
    assert (ended.exit_code, ended.signal, ended.oom_killed) == (137, "SIGKILL", True)
    assert ended.stdout == b""
    assert ended.timed_out is ended.cancelled is False
    enough = BoxSpec(limits=big(SMALL.limits))
    assert (await attack(driver, code, enough)).oom_killed is False
    assert (await attack(driver, code, enough)).exit_code == 0


@needs_cgroups
@pytest.mark.anyio
async def test_scratch_in_memory_is_memory(in_memory: NamespacesDriver) -> None:
    code = """
with open("/tmp/x", "wb") as file:
    for _ in range(200): file.write(b"x" * (1 << 20))
"""
    spec = limited(disk_bytes=1024 * MB)
    assert (await attack(in_memory, code, spec)).oom_killed
    enough = replace(spec, limits=big(spec.limits))
    assert (await attack(in_memory, code, enough)).exit_code == 0


@needs_cgroups
@pytest.mark.anyio
async def test_a_memory_limit_is_each_boxs_own(driver: NamespacesDriver) -> None:
    code = "keep = b'x' * (90 << 20); import time; time.sleep(0.5); print('had it')"

    async def take() -> bytes:
        async with driver.box(SMALL) as box:
            return (await box.run(python(TOOLS, code))).stdout

    assert await asyncio.gather(*(take() for _ in range(3))) == [b"had it\n"] * 3


@needs_cgroups
@pytest.mark.anyio
async def test_the_whole_box_dies_of_its_memory(driver: NamespacesDriver) -> None:
    """A child takes too much; the program, which would go on, goes with it."""
    code = """
import os
if not os.fork(): keep = b"x" * (400 << 20)
os.wait()
print("survived", flush=True)
"""
    ended = await attack(driver, code)
    assert (ended.exit_code, ended.oom_killed, ended.stdout) == (137, True, b"")


@needs_cgroups
@pytest.mark.anyio
async def test_datagrams_waiting_in_sockets_are_bounded(driver: NamespacesDriver) -> None:
    few = await attack(driver, programs.DATAGRAMS)
    much = await attack(driver, programs.DATAGRAMS, BoxSpec(limits=big(SMALL.limits)))
    assert few.oom_killed or int(few.stdout) < 24 * MB
    assert int(ok(much)) > 48 * MB


# --- disk ------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["write", "fallocate"])
async def test_a_full_disk_is_an_error_of_the_program(driver: NamespacesDriver, way: str) -> None:
    code = programs.FILL.replace("int(sys.argv[1])", str(int(way == "fallocate")))
    memory = 512 * MB
    total, why = ok(await attack(driver, code, limited(memory_bytes=memory))).split()
    assert why == "ENOSPC"
    assert 40 <= int(total) <= 64  # all three places together
    enough = limited(memory_bytes=memory, disk_bytes=256 * MB)
    assert ok(await attack(driver, code, enough)) == "120 \n"


@pytest.mark.anyio
async def test_inodes_run_out_for_the_box_alone(driver: NamespacesDriver) -> None:
    few = int(ok(await attack(driver, programs.INODES)))
    assert 1000 < few < 5000
    assert int(ok(await attack(driver, programs.INODES, limited(disk_bytes=256 * MB)))) == 9000


@pytest.mark.anyio
async def test_a_hole_takes_no_space(driver: NamespacesDriver) -> None:
    code = """
import os
with open("/workspace/hole", "wb") as file: file.truncate(1 << 43)
print(os.stat("/workspace/hole").st_blocks)
"""
    assert ok(await attack(driver, code)) == "0\n"


@pytest.mark.anyio
async def test_no_byte_of_an_earlier_box(driver: NamespacesDriver) -> None:
    """Space that was another box's comes back as zeros, also when it is only reserved."""
    write = "open('/tmp/x', 'wb').write(b'remnant!' * (5 << 17)); import os; os.sync()"
    read = """
import os
fd = os.open("/tmp/y", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, 40 << 20)
os.truncate(fd, 40 << 20)
print(any(b"remnant!" in os.read(fd, 1 << 20) for _ in range(40)))
"""
    for _ in range(2):
        ok(await attack(driver, write))
    assert ok(await attack(driver, read)) == "False\n"


# --- descriptors and counters of the kernel --------------------------------------------------------


@pytest.mark.anyio
async def test_descriptors_run_out(driver: NamespacesDriver) -> None:
    code = """
import errno, os
made = 0
try:
    while made < 300: os.open("/dev/null", os.O_RDONLY); made += 1
except OSError as error: assert error.errno == errno.EMFILE
print(made)
"""
    assert ok(await attack(driver, code, limited(open_files=77))) == "74\n"
    assert ok(await attack(driver, code)) == "300\n"


@needs_users
@pytest.mark.anyio
@pytest.mark.parametrize("what", programs.HOARD)
async def test_what_the_kernel_counts_by_user_is_each_boxs_own(
    driver: NamespacesDriver, what: str
) -> None:
    """One box takes all of it; another still has some, a second program of the first has none."""
    use = f"try: {programs.USE[what]}\nexcept OSError: print(False)\n"
    hold = (
        f"{programs.HOARD[what]}\nprint('up', flush=True)\nif not os.fork():\n    time.sleep(0.3)\n"
    )
    again = (
        hold + "    exec(" + repr(use) + ")\n    sys.stdout.flush()\n    os._exit(0)\nos.wait()\n"
    )
    watch = Watch(b"up\n")
    async with driver.box(SMALL) as hoarder, driver.box(SMALL) as other:
        hoarding = asyncio.create_task(hoarder.run(python(TOOLS, programs.IMPORTS + again), watch))
        await watch.came.wait()
        assert await output_of(other, python(TOOLS, programs.IMPORTS + use)) == "True\n"
        ended = await hoarding
    assert ended.stdout == b"up\nFalse\n", ended.stderr
