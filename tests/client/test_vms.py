"""VMs by the SDK, against the real service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import pytest

from era import AsyncEra, ConflictError, Era, InputError, NotFoundError
from tests.e2e.harness import WatchedServer

pytestmark = pytest.mark.xdist_group("sdk")


@pytest.fixture
def era(server: WatchedServer) -> Iterator[Era]:
    with Era(server.url) as era:
        yield era
        for found in era.list_vms():
            era.vm(found.id).delete()


def test_a_vm_from_its_making_to_its_end(era: Era) -> None:
    vm = era.create_vm("py", memory_mib=300, persist=True)
    info = vm.info()
    assert (info.id, info.language, info.status) == (vm.id, "python", "running")
    assert (info.cpu_count, info.memory_mib, info.persist) == (1, 300, True)
    assert (info.network_mode, info.last_run_at) == ("none", None)
    result = vm.run('echo "$A $(cat)" > made; python --version', env={"A": "a"}, stdin="in")
    assert (result.exit_code, result.vm_id, result.stdout[:8]) == (0, vm.id, "Python 3")
    assert vm.files.read_text("made") == "a in\n"
    vm.files.write("d/x y", b"12")
    assert [(f.path, f.size) for f in vm.files.list()] == [("d/x y", 2), ("made", 5)]
    assert vm.run("cat 'd/x y'; exit 3").exit_code == 3
    vm.files.delete("made")
    with pytest.raises(NotFoundError):
        vm.files.read("made")
    assert vm.set_network("allow_all").network_mode == "allow_all"
    with pytest.raises(InputError):
        vm.set_network("everything")
    assert [found.id for found in era.list_vms()] == [vm.id]
    vm.stop()
    assert vm.info().status == "stopped"
    with pytest.raises(ConflictError) as stopped:
        vm.run("true")
    assert stopped.value.code == "vm_not_running"
    assert vm.files.read("d/x y") == b"12"
    vm.delete()
    with pytest.raises(NotFoundError) as gone:
        vm.info()
    assert gone.value.code == "vm_not_found"
    assert era.list_vms() == []


async def test_a_vm_asynchronously(era: Era, server: WatchedServer, anyio_backend: str) -> None:
    async with AsyncEra(server.url) as asynchronous:
        vm = await asynchronous.create_vm("node")
        assert (await vm.run("node -p 6*7")).stdout == "42\n"
        async with aclosing(vm.stream("echo out; echo err >&2; exit 2")) as events:
            seen = [event async for event in events]
    result = seen[-1].result
    assert result is not None
    assert (result.exit_code, result.stdout, result.stderr) == (2, "out\n", "err\n")
