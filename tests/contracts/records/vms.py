"""Managed VMs: created within a bound, listed, changed, deleted; never taken for sessions."""

from __future__ import annotations

import asyncio

from era.errors import BusyError, ConflictError, InputError, NotFoundError
from era.ids import vm_key
from era.models import FileKind, NewVm, VmState
from era.storage.base import Records
from era.storage.leases import Lease, LeaseStore, Node
from tests.contracts.records.kit import commit, file, link, make, paths, refuses, upload

VM = NewVm(language="python")
MANY = 100


async def test_a_vm_is_as_it_was_created(records: Records) -> None:
    new = NewVm(
        language="go",
        cpu_count=2,
        memory_mib=512,
        network_mode="bridge",
        persist=True,
        image="small",
    )
    made = await records.create_vm("go-1", new, 1234, MANY)
    assert made == await records.get(vm_key("go-1"))
    assert made.vm == VmState(network_mode="bridge", persist=True, image="small", stopped=False)
    assert (made.id, made.language, made.cpu_count, made.memory_mib) == ("vm:go-1", "go", 2, 512)
    assert (made.created_at_ms, made.last_run_at_ms) == (1234, None)
    assert made.allow_internet
    assert made.persistent


async def test_a_session_is_no_vm(records: Records) -> None:
    assert (await make(records)).vm is None
    assert (await records.vms()).items == ()
    with refuses("session_not_found", NotFoundError):
        await records.change_vm("s", 1, stopped=True)


async def test_vms_are_in_no_list_of_sessions(records: Records) -> None:
    await make(records, "v")
    vm = await records.create_vm("python-1", VM, 1, MANY)
    for prefix in ("", "v", "vm"):
        page = await records.list(prefix=prefix)
        found = ["v"] if prefix != "vm" else []
        assert [each.id for each in page.items] == found
        assert page.total == len(found)
    assert [each.id for each in await records.delete_all()] == ["v"]
    assert (await records.list()).total == 0
    assert (await records.vms()).items == (vm,)


async def test_vms_are_listed_oldest_first_and_in_pages(records: Records) -> None:
    made = [await records.create_vm(f"python-{9 - n}", VM, n, MANY) for n in range(5)]
    whole = await records.vms()
    assert whole.items == tuple(made)
    assert (whole.total, whole.next_cursor) == (5, None)
    first = await records.vms(limit=2)
    await records.delete(made[2].id)
    rest = await records.vms(limit=4, cursor=first.next_cursor)
    assert first.items + rest.items == (*made[:2], *made[3:])
    assert (rest.total, rest.next_cursor) == (4, None)


async def test_a_cursor_of_another_list_is_refused(records: Records) -> None:
    await make(records, "a")
    await make(records, "b")
    page = await records.list(limit=1)
    with refuses("invalid_field", InputError):
        await records.vms(cursor=page.next_cursor)


async def test_there_are_at_most_so_many(records: Records) -> None:
    await make(records)
    made = await records.create_vm("python-1", VM, 1, 2)
    await records.create_vm("python-2", VM, 1, 2)
    with refuses("server_busy", BusyError):
        await records.create_vm("python-3", VM, 1, 2)
    await records.delete(made.id)
    await records.create_vm("python-3", VM, 1, 2)
    assert (await records.vms()).total == 2


async def test_of_simultaneous_ones_no_more_than_allowed_are_made(records: Records) -> None:
    outcomes = await asyncio.gather(
        *(records.create_vm(f"python-{n}", VM, 1, 3) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, BusyError) for outcome in outcomes) == 5
    assert (await records.vms()).total == len((await records.vms()).items) == 3


async def test_an_id_is_given_once(records: Records) -> None:
    await records.create_vm("python-1", VM, 1, MANY)
    with refuses("session_exists", ConflictError):
        await records.create_vm("python-1", VM, 1, MANY)
    assert (await records.vms()).total == 1


async def test_a_change_is_of_what_is_named(records: Records) -> None:
    await records.create_vm("python-1", VM, 1, MANY)
    changed = await records.change_vm("python-1", 5, network_mode="full")
    assert changed == await records.get(vm_key("python-1"))
    assert changed.allow_internet
    assert changed.updated_at_ms == 5
    stopped = await records.change_vm("python-1", 6, stopped=True)
    assert stopped.vm == VmState(network_mode="full", persist=False, image="", stopped=True)
    back = await records.change_vm("python-1", 7, network_mode="none")
    assert back.vm is not None
    assert (back.allow_internet, back.vm.stopped) == (False, True)


async def test_what_is_gone_is_not_found(records: Records) -> None:
    made = await records.create_vm("python-1", VM, 1, MANY)
    assert (await records.delete(made.id)).uid == made.uid
    for missing in (records.get(made.id), records.change_vm("python-1", 1, stopped=True)):
        with refuses("session_not_found", NotFoundError):
            await missing
    assert await records.existing([made.uid]) == frozenset()


async def test_runs_are_committed_as_those_of_sessions(records: Records) -> None:
    vm = await records.create_vm("python-1", VM, 1, MANY)
    await upload(records, file("workspace/a", "1"), name=vm.id)
    await commit(records, file("home/era/b", "22"), removed=["workspace/a"], name=vm.id, now=9)
    assert await paths(records, vm.id) == ["home/era/b"]
    after = await records.get(vm.id)
    assert (after.last_run_at_ms, after.vm, after.total_size_bytes) == (9, vm.vm, 2)


async def test_links_lead_through_the_whole_box(records: Records) -> None:
    """A session's manifest is its workspace, that of a VM is the box."""
    vm = await records.create_vm("python-1", VM, 1, MANY)
    await upload(records, file("home/era/b", "22"), file("workspace/c", "333"), name=vm.id)
    links = {"absolute": "/home/era/b", "relative": "../home/era/b", "out": "/etc/passwd"}
    links |= {"near": "c", "root": "/"}
    await commit(records, *(link(f"workspace/{n}", t) for n, t in links.items()), name=vm.id)
    entries = (await records.files(vm.id, prefix="workspace/")).items
    sizes = {e.path.rpartition("/")[2]: e.size for e in entries if e.kind is FileKind.LINK}
    assert sizes == {"absolute": 2, "relative": 2, "out": 0, "near": 3, "root": 0}


async def test_a_vm_has_a_lease(records: LeaseStore) -> None:
    vm = await records.create_vm("python-1", VM, 1, MANY)  # type: ignore[attr-defined]
    lease = await records.take_lease(vm.id, Node(name="n/1", address="http://a"), 60)
    assert lease == Lease(uid=vm.uid, epoch=1)
