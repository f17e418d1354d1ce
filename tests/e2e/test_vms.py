"""Managed VMs in real boxes: what stays, what does not, what they cannot do."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from api import Api, RefusedError
from tests.e2e.conftest import StartServer
from tests.e2e.harness import WatchedServer
from tests.e2e.pairs import until

pytestmark = pytest.mark.xdist_group("vms")


class Vm:
    """A VM of a server."""

    def __init__(self, client: Api, **body: Any) -> None:
        self.client = client
        self.id = client.call("POST", "/api/vm", **{"language": "python", **body})["id"]
        self.path = f"/api/vm/{self.id}"

    def run(self, command: str, **body: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.client.call(
            "POST", f"{self.path}/run", command=command, **body
        )
        return result

    def out(self, command: str, **body: Any) -> str:
        """What a command that must succeed says."""
        result = self.run(command, **body)
        assert (result["exit_code"], result["stderr"]) == (0, ""), result
        return str(result["stdout"])

    def delete(self, query: str = "") -> None:
        self.client.call("DELETE", self.path + query)


def test_everything_written_stays_and_no_process_does(server: WatchedServer) -> None:
    vm = Vm(Api(server.url))
    vm.out(
        "echo w > w; echo h > ~/h; echo t > /tmp/t; mkdir -p ~/.x/y; chmod 700 ~/.x; ln -s ~/h l;"
        "printf '#!/bin/sh\\necho run' > tool; chmod 755 tool; sleep 987654 >/dev/null 2>&1 &"
    )
    assert vm.out("cat w ~/h /tmp/t l; ./tool; stat -c %a ~/.x tool /tmp; id -u") == (
        "w\nh\nt\nh\nrun\n700\n755\n1777\n1000\n"
    )
    assert "987654" not in vm.out("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    vm.out("rm w ~/h; rm -r ~/.x; echo more >> /tmp/t; mkdir ~/.x; echo z > ~/.x/z")
    assert vm.out("ls -A ~ . ~/.x; cat /tmp/t") == (
        ".:\nl\ntool\n\n/home/era:\n.x\n\n/home/era/.x:\nz\nt\nmore\n"
    )
    vm.delete()


def test_a_virtual_environment_works_again(server: WatchedServer) -> None:
    """It is links, scripts and files with set times: what few packages of files survive."""
    vm = Vm(Api(server.url))
    vm.out("python3 -m venv --without-pip ~/venv", timeout=60)
    vm.out("echo 'X = 7' > $(echo ~/venv/lib/python3*/site-packages)/mine.py")
    assert vm.out("~/venv/bin/python -c 'import mine; print(mine.X)'") == "7\n"
    assert vm.out("~/venv/bin/python -c 'import mine; print(mine.__cached__)'").endswith(".pyc\n")
    vm.delete()


@pytest.mark.parametrize("language", ["python", "deno"])
def test_the_tools_are_there(server: WatchedServer, language: str) -> None:
    vm = Vm(Api(server.url), language=language)
    tools = "python3 python node npm go deno"
    assert len(vm.out(f"for t in {tools}; do command -v $t; done").split()) == len(tools.split())
    vm.delete()


def test_limits_hold(server: WatchedServer) -> None:
    vm = Vm(Api(server.url), memory_mib=64)
    result = vm.run("echo kept > f; python3 -c 'x = bytearray(200 << 20)'")
    assert (result["exit_code"], result["oom_killed"]) == (137, True)
    assert vm.out("cat f") == "kept\n"
    vm.delete()


def test_offline_is_the_default_and_can_be_changed(server: WatchedServer) -> None:
    """What a box reaches is another test's matter; here, that the policy is the VM's."""
    vm = Vm(Api(server.url))
    look = "env | grep -ic _proxy= || true"
    assert vm.out(look) == "0\n"
    vm.client.call("PATCH", vm.path, network_mode="allow_all")
    assert vm.out(look) != "0\n"
    vm.client.call("PATCH", vm.path, network_mode="none")
    assert vm.out(look) == "0\n"
    vm.delete()


def test_a_vm_outlives_its_server(start_server: StartServer) -> None:
    server = start_server()
    vm = Vm(Api(server.url), persist=True)
    vm.out("echo w > w; echo h > ~/h; echo t > /tmp/t")
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(vm.run, "echo half > w; echo half > half; sleep 98766", timeout=900)
        until(lambda: ["sleep", "98766"] in commands())
        server.kill()
        assert lost.exception() is not None
    assert server.left_behind(killed=True) == []
    server.start()
    vm.client = Api(server.url)
    assert vm.out("cat w ~/h /tmp/t; ls") == "w\nh\nt\nw\n"
    vm.client.call("POST", f"{vm.path}/stop")
    assert server.stop() == 0
    server.start()
    vm.client = Api(server.url)
    found = vm.client.call("GET", vm.path)
    assert (found["status"], found["persist"]) == ("stopped", True)
    assert vm.client.call("GET", f"{vm.path}/files")["count"] == 1
    vm.delete()


def commands() -> list[list[str] | None]:
    return [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]


def test_what_fills_the_disk_is_refused_and_the_rest_is_kept(start_server: StartServer) -> None:
    server = start_server(ERA_RUN_DISK_BYTES="32 MiB")
    vm = Vm(Api(server.url))
    full = vm.run("echo small > s; head -c 64M /dev/zero > /tmp/big; ls /tmp/big")
    assert "No space left" in full["stderr"]
    vm.out("rm -f /tmp/big; head -c 20M /dev/urandom > a")
    # Each run has scratch of its own, but all that a VM holds together is bounded.
    over = vm.run("head -c 20M /dev/urandom > b")
    assert (over["exit_code"], over["files_error"]) == (0, "quota_exceeded")
    assert vm.out("ls") == "a\ns\n"
    with pytest.raises(RefusedError) as refused:
        vm.client.call("PUT", f"{vm.path}/files/c", x="y" * (13 << 20))
    assert refused.value.body["code"] == "quota_exceeded"
    vm.out("rm a; echo small > b")
    vm.delete()


def test_what_is_to_persist_is_left_for_the_operator(start_server: StartServer) -> None:
    server = start_server()
    client = Api(server.url)
    vm, gone = Vm(client, persist=True), Vm(client)
    for each in (vm, gone):
        each.out("mkdir -p d/e; echo w > d/w; ln -s /etc/passwd l; chmod 640 d/w; echo h > ~/h")
        each.delete("?keep_persist=true")
    kept = server.state_dir / "kept-vms"
    assert [path.name for path in kept.iterdir()] == [vm.id]
    names = sorted(str(path.relative_to(kept / vm.id)) for path in (kept / vm.id).rglob("*"))
    assert names == ["d", "d/e", "d/w", "l"]
    file = kept / vm.id / "d" / "w"
    assert (file.read_text(), file.stat().st_mode & 0o777, file.stat().st_nlink) == (
        "w\n",
        0o640,
        1,
    )
    assert os.readlink(kept / vm.id / "l") == "/etc/passwd"
    again = Vm(client, persist=True)
    again.out("echo w > w")
    again.delete()
    assert len(list(kept.iterdir())) == 1


def test_vms_are_made_and_deleted_side_by_side(server: WatchedServer) -> None:
    trees = server.state_dir / "trees"
    before = {path.name for path in trees.iterdir()}

    def work(number: int) -> None:
        for _ in range(3):
            vm = Vm(Api(server.url))
            assert vm.out(f"echo {number} > n; cat n") == f"{number}\n"
            vm.delete()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [None] * 4
    until(lambda: {path.name for path in trees.iterdir()} <= before)


def test_events_of_a_command(server: WatchedServer) -> None:
    vm = Vm(Api(server.url))
    body = json.dumps({"command": "echo a; echo b; exit 3"}).encode()
    text = vm.client.send("POST", f"{vm.path}/stream", body).decode()
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert "".join(e["content"] for e in events) == "a\nb\n"
    assert (events[-1]["type"], events[-1]["exit_code"]) == ("done", 3)
    vm.delete()
