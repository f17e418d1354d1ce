"""`era vm`, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from era.client import Era
from tests.cli.conftest import Cli
from tests.e2e.harness import WatchedServer

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(autouse=True)
def era(server: WatchedServer) -> Iterator[Era]:
    with Era(server.url) as era:
        yield era
        for found in era.list_vms():
            era.vm(found.id).delete()


def made(cli: Cli, *arguments: str) -> str:
    shown = cli("vm", "create", "--language", "python", *arguments)
    assert (shown.code, shown.err) == (0, "")
    return shown.out.strip()


def test_create_run_and_list(cli: Cli, era: Era) -> None:
    assert cli("vm", "list").out == "No VMs found.\n"
    vm = made(cli, "--mem", "300", "--network", "allow_all", "--persist")
    assert era.vm(vm).info().network_mode == "allow_all"
    shown = cli("vm", "run", "--vm", vm, "--cmd", "echo out; echo err >&2; exit 3")
    assert (shown.code, shown.out, shown.err) == (3, "out\n", "err\n")
    assert cli("vm", "run", "--vm", vm, "--cmd", "true", "--json").json["vm_id"] == vm
    headings, row, total = cli("vm", "list").out.splitlines()
    assert re.split(r"  +", headings) == [
        "ID",
        "Language",
        "Status",
        "CPU",
        "Mem(MiB)",
        "Persist",
        "Created",
        "Last Run",
    ]
    assert re.split(r"  +", row)[:6] == [vm, "python", "running", "1", "300", "yes"]
    assert total == "Total: 1"
    assert cli("vm", "stop", "--vm", vm).out == f"{vm} stopped\n"
    assert cli("vm", "list").out == "No VMs found.\n"
    assert cli("vm", "list", "--all", "--json").json["count"] == 1
    assert cli("vm", "list", "--status", "stopped", "--json").json["vms"][0]["id"] == vm
    shown = cli("vm", "run", "--vm", vm, "--cmd", "true")
    assert (shown.code, "not running" in shown.err) == (125, True)
    assert cli("vm", "clean", "--vm", vm).out == f"{vm} cleaned\n"
    assert era.list_vms() == []


def test_several_at_once(cli: Cli, era: Era) -> None:
    first, second = made(cli), made(cli)
    cli("vm", "run", "--vm", second, "--cmd", "echo 5 > code")
    shown = cli("vm", "exec", "--all", "--cmd", "echo here; exit $(cat code 2>/dev/null || echo 0)")
    assert shown.code == 5
    assert shown.out == f"== {first}\nhere\n== {second}\nhere\n"
    assert cli("vm", "exec", "--vm", first, "--cmd", "echo alone").out == "alone\n"
    cli("vm", "stop", "--vm", first)
    shown = cli("vm", "exec", "--vm", first, "--vm", second, "--cmd", "echo here")
    assert (shown.code, shown.out) == (125, f"== {first}\n== {second}\nhere\n")
    assert "not running" in shown.err
    both = ("--vm", first, "--vm", second)
    answers = cli("vm", "exec", *both, "--cmd", "true", "--json").json
    assert [each["vm_id"] for each in answers] == [first, second]
    assert [answers[0]["code"], answers[1]["exit_code"]] == ["vm_not_running", 0]
    shown = cli("vm", "clean", "--vm", first, "--vm", "python-1", "--vm", second)
    assert (shown.code, shown.out) == (125, f"{first} cleaned\n{second} cleaned\n")
    assert "vm not found" in shown.err
    made(cli)
    assert cli("vm", "stop", "--all", "--json").json["stopped"] != []
    assert cli("vm", "clean", "--all").code == 0
    assert era.list_vms() == []


def test_temp_leaves_nothing(cli: Cli, era: Era) -> None:
    shown = cli("vm", "temp", "--language", "node", "--cmd", "node -p 6*7; exit 4")
    assert (shown.code, shown.out) == (4, "42\n")
    assert cli("vm", "temp", "--cmd", "true", "--mem", "1").code == 125
    assert era.list_vms() == []


def test_a_shell(cli: Cli) -> None:
    vm = made(cli)
    typed = """mkdir -p "a b'c" && cd "a b'c"
pwd; echo made > here

ls; cd ..
(exit 7)
ls; pwd; cd nowhere
if true; then
exit
ls
"""
    shown = cli("vm", "shell", "--vm", vm, stdin=typed)
    assert shown.out == "/workspace/a b'c\nhere\na b'c\n/workspace\n"
    assert "nowhere" in shown.err
    assert "syntax error" in shown.err
    assert shown.code != 0, "of the last line"
    shown = cli("vm", "shell", "--vm", vm, "--cmd", "/bin/sh", stdin="cd /tmp\npwd; echo $0\n")
    assert (shown.code, shown.out) == (0, "/tmp\n/bin/sh\n")
    assert cli("vm", "shell", "--vm", "python-1", stdin="ls\n").code == 125
