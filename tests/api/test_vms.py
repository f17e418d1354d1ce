"""Managed VMs through the whole application, with real programs, in both families of paths."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from era.api import answers_schema as schema
from era.errors import CODES
from era.sessions.service import Sessions

pytestmark = pytest.mark.anyio

ABSENT = "python-1761254854924000000"


async def create(api: httpx2.AsyncClient, **body: Any) -> str:
    answer = await api.post("/api/vm", json={"language": "python", **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def run(api: httpx2.AsyncClient, vm: str, command: str, **body: Any) -> dict[str, Any]:
    answer = await api.post(f"/api/vm/{vm}/run", json={"command": command, **body})
    assert answer.status_code == 200, answer.text
    result = answer.json()
    schema.VmRunResult.model_validate(result)
    return dict(result)


async def until_running(sessions: Sessions, vm: str) -> None:
    """Until a command of the VM is in its box."""
    uid = (await sessions.vms.get(vm)).uid
    async with asyncio.timeout(60):
        while (now := sessions._runs.registry.current(uid)) is None or now._now is None:
            await asyncio.sleep(0.01)


# --- records ------------------------------------------------------------------------------------


async def test_a_new_vm(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/api/vm", json={"language": "PY", "more": 1})
    assert answer.status_code == 201
    vm = answer.json()
    schema.Vm.model_validate(vm)
    assert re.fullmatch(r"python-\d{19}", vm.pop("id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", vm.pop("created_at"))
    assert vm == {
        "language": "python",
        "status": "running",
        "cpu_count": 1,
        "memory_mib": 256,
        "network_mode": "none",
        "persist": False,
        "rootfs_image": "",
        "last_run_at": "0001-01-01T00:00:00Z",
        "warnings": ["unknown field ignored: more"],
    }
    found = (await api.get(answer.headers["location"])).json()
    assert {**found, "warnings": vm["warnings"]} == answer.json()


async def test_a_vm_as_it_was_asked_for(api: httpx2.AsyncClient) -> None:
    asked = {"cpu_count": 2, "memory_mib": 512, "network_mode": "bridge", "persist": True}
    vm = (await api.get(f"/api/vm/{await create(api, **asked)}")).json()
    assert {name: vm[name] for name in asked} == asked


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({}, "missing_field", "language is required"),
        ({"language": "cobol"}, "unsupported_language", "unsupported language: cobol"),
        ({"language": "deno"}, "unsupported_language", "unsupported language: deno"),
        ({"cpu_count": 0}, "invalid_field", "cpu_count must be an integer from 1 to 4"),
        ({"cpu_count": True}, "invalid_field", "cpu_count must be an integer"),
        ({"memory_mib": 63}, "invalid_field", "memory_mib must be an integer from 64 to 8192"),
        (
            {"network_mode": "hosts"},
            "invalid_field",
            "network_mode must be none, bridge, host, allow_all or full",
        ),
        (
            {"image": "/etc"},
            "invalid_field",
            "image must be empty or the name of an image that the operator set up",
        ),
    ],
)
async def test_what_is_refused_creates_nothing(
    api: httpx2.AsyncClient, body: dict[str, Any], code: str, text: str
) -> None:
    body = body if not body or "language" in body else {"language": "python", **body}
    answer = await api.post("/api/vm", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert answer.json()["error"] == text
    assert (await api.get("/api/vms")).json() == {"vms": [], "count": 0, "total_count": 0}


async def test_there_are_so_many_and_no_more(
    api: httpx2.AsyncClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions.vms, "_limits", _with_vms(sessions, 2))
    made = [await create(api) for _ in range(2)]
    answer = await api.post("/api/vm", json={"language": "python"})
    assert (answer.status_code, answer.json()["code"]) == (429, "server_busy")
    assert int(answer.headers["retry-after"]) >= 1
    await api.delete(f"/api/vm/{made[0]}")
    await create(api)


def _with_vms(sessions: Sessions, most: int) -> Any:

    return replace(sessions.vms._limits, max_vms=most)


async def test_lists_come_oldest_first_and_in_pages(api: httpx2.AsyncClient) -> None:
    made = [await create(api) for _ in range(3)]
    whole = (await api.get("/api/vms")).json()
    schema.VmList.model_validate(whole)
    assert [vm["id"] for vm in whole["vms"]] == made
    assert whole["count"] == 3
    first = (await api.get("/api/vms?limit=2")).json()
    rest = (await api.get(f"/api/vms?cursor={first['next_cursor']}")).json()
    assert [vm["id"] for vm in first["vms"] + rest["vms"]] == made
    assert (await api.get("/api/vms?limit=0")).json()["code"] == "invalid_field"


async def test_no_session_is_a_vm_nor_the_reverse(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    await api.post("/api/sessions", json={"id": "python-1", "language": "python"})
    assert [s["id"] for s in (await api.get("/api/sessions")).json()["sessions"]] == ["python-1"]
    for path in (f"/api/sessions/{vm}", f"/api/sessions/vm:{vm}", f"/api/sessions/vm%3A{vm}"):
        assert (await api.get(path)).json()["code"] == "session_not_found"
    assert (await api.get("/api/vm/python-1")).json()["code"] == "vm_not_found"
    assert (await api.delete("/api/sessions")).json()["deleted_sessions"] == ["python-1"]
    assert (await api.get(f"/api/vm/{vm}")).status_code == 200


async def test_the_network_can_be_changed_and_nothing_else(api: httpx2.AsyncClient) -> None:
    path = f"/api/vm/{await create(api)}"
    changed = await api.patch(path, json={"network_mode": "full"})
    assert (changed.status_code, changed.json()["network_mode"]) == (200, "full")
    assert (await api.get(path)).json() == changed.json()
    for body, code, text in [
        ({}, "no_fields", "no valid fields to update"),
        ({"network_mode": None}, "no_fields", "no valid fields to update"),
        ({"memory_mib": 1}, "unknown_field", "unknown field: memory_mib"),
        ({"network_mode": 1}, "invalid_field", "network_mode must be a string"),
    ]:
        answer = await api.patch(path, json=body)
        assert (answer.status_code, answer.json()["code"], answer.json()["error"]) == (
            (400, code, text)
        )


@pytest.mark.parametrize(
    "vm", [ABSENT, "x", "vm:x", "python-", "..%2fx", "Python-1", "python-1%00"]
)
@pytest.mark.parametrize(
    ("method", "end"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/run"),
        ("POST", "/stream"),
        ("POST", "/stop"),
        ("GET", "/files"),
        ("GET", "/files/a"),
        ("PUT", "/files/a"),
        ("DELETE", "/files/a"),
        ("PUT", "/files/..%2fa"),
    ],
)
async def test_a_vm_that_is_not_there(
    api: httpx2.AsyncClient, vm: str, method: str, end: str
) -> None:
    body = {"network_mode": "none"} if method == "PATCH" else {"command": "true"}
    answer = await api.request(method, f"/api/vm/{vm}{end}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "vm_not_found")
    assert answer.json()["error"] == "vm not found"


async def test_deleted_is_gone(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    answer = await api.delete(f"/api/vm/{vm}")
    schema.VmDone.model_validate(answer.json())
    message = "VM cleaned successfully"
    assert answer.json() == {"status": "deleted", "vm_id": vm, "message": message}
    assert (await api.delete(f"/api/vm/{vm}")).status_code == 404
    assert (await api.get("/api/vms")).json()["count"] == 0


# --- commands -----------------------------------------------------------------------------------


async def test_a_command(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    result = await run(
        api, vm, 'read x; echo "$x $A"; echo no >&2; exit 3', stdin="in\n", env={"A": "b"}
    )
    assert (result["exit_code"], result["stdout"], result["stderr"]) == (3, "in b\n", "no\n")
    assert result["vm_id"] == vm
    assert "files_modified" not in result
    assert (await api.get(f"/api/vm/{vm}")).json()["last_run_at"] > "2025"


async def test_what_a_command_is_told_of_its_vm(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    result = await run(api, vm, "env | grep ^ERA_ | sort", env={"ERA_VM_ID": "mine"})
    assert result["stdout"] == f"ERA_LANGUAGE=python\nERA_VM_ID={vm}\n"
    assert result["warnings"] == ["env ERA_VM_ID is set by the service and was ignored"]


async def test_workspace_home_and_tmp_stay(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    wrote = await run(api, vm, "echo w > w; echo h > $HOME/h; echo t > /tmp/t; echo s > .env")
    assert "files_skipped" not in wrote
    read = await run(api, vm, "cat w $HOME/h /tmp/t .env; rm w $HOME/h; mkdir d; echo x > /tmp/t")
    assert (read["stdout"], read["stderr"]) == ("w\nh\nt\ns\n", "")
    again = await run(api, vm, "ls -A . $HOME; cat /tmp/t")
    assert again["stdout"].split() == [".:", ".env", "d", f"{again['stdout'].split()[3]}", "x"]
    other = await run(api, await create(api), "ls -A . $HOME /tmp | grep -v :")
    assert other["stdout"].split() == []


async def test_links_that_lead_anywhere_stay(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    await run(api, vm, "ln -s /usr/bin/python3 $HOME/py; ln -s /nowhere l")
    result = await run(api, vm, "readlink $HOME/py l")
    assert result["stdout"] == "/usr/bin/python3\n/nowhere\n"


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({}, "missing_field", "command is required"),
        ({"command": ""}, "missing_field", "command is required"),
        ({"command": " \n"}, "missing_field", "command is required"),
        ({"command": 1}, "invalid_field", "command must be a string"),
        ({"command": "a\0b"}, "invalid_field", "command must be a string without NUL"),
        (
            {"command": "x", "timeout": -1},
            "invalid_field",
            "timeout must be a number of seconds, 0 or more",
        ),
        (
            {"command": "x", "timeout": 3601},
            "timeout_too_large",
            "timeout exceeds the maximum of 3600 seconds",
        ),
        ({"command": "x", "timeout": 1, "timeout_ms": 2}, "conflicting_fields", None),
        ({"command": "x", "file": "/etc/passwd"}, "field_not_supported", "file is not supported"),
    ],
)
async def test_commands_that_are_refused(
    api: httpx2.AsyncClient, body: dict[str, Any], code: str, text: str | None
) -> None:
    vm = await create(api)
    for end in ("run", "stream"):
        answer = await api.post(f"/api/vm/{vm}/{end}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert text in (None, answer.json()["error"])
    word = await api.post("/api/vm/execute", json={"vm_id": vm, **body})
    assert (word.status_code, word.json()["code"]) == (400, code)


async def test_a_command_that_takes_too_long(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    result = await run(api, vm, "echo kept > f; echo out; sleep 60", timeout_ms=700)
    assert (result["exit_code"], result["timed_out"], result["stdout"]) == (124, True, "out\n")
    assert (await run(api, vm, "cat f"))["stdout"] == "kept\n"


async def test_commands_of_one_vm_take_turns(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    step = "n=$(cat n 2>/dev/null || echo 0); sleep 0.02; echo $((n + 1)) > n"
    await asyncio.gather(*(run(api, vm, step) for _ in range(6)))
    assert (await run(api, vm, "cat n"))["stdout"] == "6\n"


async def test_output_comes_as_events(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    answer = await api.post(f"/api/vm/{vm}/stream", json={"command": "echo a; echo b >&2; exit 2"})
    assert answer.headers["content-type"] == "text/event-stream"
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line[:6] == "data: "]
    assert {(e["type"], e["content"]) for e in events[:-1]} == {
        ("stdout", "a\n"),
        ("stderr", "b\n"),
    }
    done = events[-1]
    assert (done["type"], done["content"], done["exit_code"], done["vm_id"]) == ("done", "", 2, vm)
    assert {"stdout", "stderr", "session_id", "data"}.isdisjoint(done)


# --- the end ------------------------------------------------------------------------------------


async def test_a_stopped_vm_runs_nothing_and_keeps_its_files(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    await run(api, vm, "echo kept > f")
    for _ in range(2):
        answer = await api.post(f"/api/vm/{vm}/stop")
        message = "VM stopped successfully"
        assert answer.json() == {"status": "stopped", "vm_id": vm, "message": message}
    for end in ("run", "stream"):
        refused = await api.post(f"/api/vm/{vm}/{end}", json={"command": "true"})
        assert (refused.status_code, refused.json()["code"]) == (409, "vm_not_running")
        assert refused.json()["error"] == "vm is not running"
    assert (await api.get(f"/api/vm/{vm}/files/f")).text == "kept\n"
    assert (await api.get(f"/api/vm/{vm}")).json()["status"] == "stopped"


async def test_stopping_cancels_the_run_and_refuses_those_that_wait(
    api: httpx2.AsyncClient, sessions: Sessions
) -> None:
    vm = await create(api)
    running = asyncio.ensure_future(run(api, vm, "echo kept > f; sleep 60"))
    await until_running(sessions, vm)
    waiting = asyncio.ensure_future(api.post(f"/api/vm/{vm}/run", json={"command": "true"}))
    uid = (await sessions.vms.get(vm)).uid
    async with asyncio.timeout(60):
        while not sessions._runs.registry.queued(uid):
            await asyncio.sleep(0.01)
        await api.post(f"/api/vm/{vm}/stop")
        result, refused = await running, await waiting
    assert result["cancelled"]
    assert result["exit_code"] in (143, 137)
    assert (refused.status_code, refused.json()["code"]) == (409, "vm_not_running")


async def test_deleting_kills_the_run(api: httpx2.AsyncClient, sessions: Sessions) -> None:
    vm = await create(api)
    body = {"command": "echo out; sleep 60"}
    running = asyncio.ensure_future(api.post(f"/api/vm/{vm}/run", json=body))
    await until_running(sessions, vm)
    async with asyncio.timeout(60):
        assert (await api.delete(f"/api/vm/{vm}")).status_code == 200
        answer = await running
    assert (answer.status_code, answer.json()["code"]) == (409, "session_deleted")
    assert answer.json()["error"] == "vm was deleted during the run"


# --- files --------------------------------------------------------------------------------------


async def test_files_go_in_and_out(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    files = f"/api/vm/{vm}/files"
    put = await api.put(f"{files}/d/a%23b.json", content=b"{}", headers={"content-type": "x/y"})
    assert put.json() == {"path": "d/a#b.json", "size": 2}
    await run(api, vm, "cat d/a#b.json > copy; echo secret > .env; echo h > $HOME/h")
    listed = (await api.get(files)).json()
    schema.VmFileList.model_validate(listed)
    assert listed["files"] == [
        {"path": ".env", "size": 7, "is_dir": False},
        {"path": "copy", "size": 2, "is_dir": False},
        {"path": "d/a#b.json", "size": 2, "is_dir": False},
    ]
    assert (listed["count"], listed["total_count"]) == (3, 3)
    got = await api.get(f"{files}/d/a%23b.json")
    assert (got.content, got.headers["content-type"]) == (b"{}", "x/y")
    assert (await api.delete(f"{files}/copy")).json() == {"deleted": "copy"}
    assert (await api.delete(f"{files}/d?recursive=1")).status_code == 200
    assert (await run(api, vm, "ls -A"))["stdout"] == ".env\n"


async def test_lists_of_files_come_in_pages(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    await run(api, vm, "touch a b c; mkdir d; touch d/e")
    first = (await api.get(f"/api/vm/{vm}/files?limit=3")).json()
    rest = (await api.get(f"/api/vm/{vm}/files?cursor={first['next_cursor']}")).json()
    assert [f["path"] for f in first["files"] + rest["files"]] == ["a", "b", "c", "d/e"]
    some = (await api.get(f"/api/vm/{vm}/files/?prefix=d/")).json()
    assert ([f["path"] for f in some["files"]], some["total_count"]) == (["d/e"], 1)


async def test_a_link_shows_what_a_program_would_see(api: httpx2.AsyncClient) -> None:
    """In the whole VM, and in nothing of the host's."""
    vm = await create(api)
    home = "/home/era"
    await run(api, vm, "echo h > $HOME/h; echo w > w; ln -s w near; ln -s /etc/passwd out")
    await run(api, vm, f"ln -s ..{home}/h up")
    files = f"/api/vm/{vm}/files"
    assert (await api.get(f"{files}/near")).text == "w\n"
    assert (await api.get(f"{files}/up")).text == "h\n"
    assert (await api.get(f"{files}/out")).json()["code"] == "file_not_found"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("%2e%2e%2fx", "invalid_path"),
        ("..%2Fhome%2Fera%2Fx", "invalid_path"),
        ("%2Fetc%2Fpasswd", "invalid_path"),
        ("a%00b", "invalid_path"),
        ("a%2F%2Fb", "invalid_path"),
        ("%ff", "invalid_path"),
        (".session_data.json", "reserved_path"),
        (".era/x", "reserved_path"),
        ("x" * 256, "invalid_path"),
        ("/".join(["x" * 100] * 11), "invalid_path"),
    ],
)
async def test_paths_that_are_refused(api: httpx2.AsyncClient, path: str, code: str) -> None:
    vm = await create(api)
    raw = f"http://era.test/api/vm/{vm}/files/".encode() + path.encode()
    for method in ("GET", "PUT", "DELETE"):
        url = httpx2.URL("http://era.test/").copy_with(raw_path=raw[len("http://era.test") :])
        answer = await api.request(method, url, content=b"x" if method == "PUT" else None)
        assert (answer.status_code, answer.json()["code"]) == (400, code), method
    assert (await api.get(f"/api/vm/{vm}/files")).json()["count"] == 0


async def test_a_path_as_long_as_can_be(api: httpx2.AsyncClient) -> None:
    vm = await create(api)
    path = "/".join(["x" * 203] * 5) + "/abcd"
    assert len(path) == 1024
    assert (await api.put(f"/api/vm/{vm}/files/{path}", content=b"x")).status_code == 200
    assert (await run(api, vm, f"cat {path}; echo y >> {path}"))["stdout"] == "x"
    assert (await api.get(f"/api/vm/{vm}/files/{path}")).content == b"xy\n"


# --- the second family --------------------------------------------------------------------------


def data(answer: httpx2.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"success", "data", "status_code"}
    assert (body["success"], body["status_code"]) == (True, status)
    return body["data"]


async def test_the_words_work_on_the_same_vms(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/api/vm/create", json={"mem": 300, "cpu": 2, "network": "host"})
    info = data(answer, 201)
    schema.VmCreated.model_validate(answer.json())
    assert (info["status"], info["language"]) == ("ready", "python")
    assert (info["memory_mib"], info["cpu_count"], info["network_mode"]) == (300, 2, "host")
    assert "rootfs_image" not in info
    assert (await api.get(f"/api/vm/{info['id']}")).json()["status"] == "running"
    body = {"vm_id": info["id"], "command": "echo ö > f; cat f; exit 5"}
    answer = await api.post("/api/vm/execute", json=body)
    schema.VmExecuted.model_validate(answer.json())
    assert (data(answer)["exit_code"], data(answer)["stdout"]) == (5, "ö\n")
    assert data(answer)["vm_id"] == info["id"]
    assert (await api.get(f"/api/vm/{info['id']}/files/f")).text == "ö\n"
    stopped = data(await api.post("/api/vm/stop", json={"vm_id": info["id"]}))
    assert stopped == {"vm_id": info["id"], "message": "VM stopped successfully"}
    cleaned = data(await api.post("/api/vm/clean", json={"vm_id": info["id"]}))
    assert cleaned == {"vm_id": info["id"], "message": "VM cleaned successfully"}
    assert (await api.get(f"/api/vm/{info['id']}")).status_code == 404


async def test_stopped_vms_are_listed_when_asked_for(api: httpx2.AsyncClient) -> None:
    on, off = await create(api), await create(api)
    await api.post(f"/api/vm/{off}/stop")

    async def listed(query: str) -> list[str]:
        answer = await api.get(f"/api/vm/list{query}")
        schema.VmsListed.model_validate(answer.json())
        return [info["id"] for info in data(answer)]

    assert await listed("") == await listed("?status=ready") == [on]
    assert await listed("?status=running") == await listed("?all=0") == [on]
    assert await listed("?all=true") == await listed("?all=1") == [on, off]
    assert await listed("?status=stopped") == [off]
    assert (await api.get("/api/vm/list?status=x")).json()["code"] == "invalid_field"


async def test_all_are_stopped_and_cleaned(api: httpx2.AsyncClient) -> None:
    made = [await create(api) for _ in range(3)]
    await api.post(f"/api/vm/{made[0]}/stop")
    assert data(await api.post("/api/vm/stop?all=true")) == {"stopped": 2}
    assert data(await api.post("/api/vm/stop?all=true")) == {"stopped": 0}
    assert data(await api.post("/api/vm/clean?all=true")) == {"cleaned": 3}
    assert (await api.get("/api/vms")).json()["count"] == 0


async def test_a_temporary_vm_leaves_nothing(api: httpx2.AsyncClient) -> None:
    body = {"language": "python", "command": "pwd; python3 -c 'print(6*7)'; exit 4", "mem": 128}
    result = data(await api.post("/api/vm/temp", json=body))
    assert result["exit_code"] == 4
    assert result["stdout"].endswith("\n42\n")
    assert re.fullmatch(r"python-\d{19}", result["vm_id"])
    assert (await api.get("/api/vms")).json()["count"] == 0


@pytest.mark.parametrize(
    ("method", "word", "body", "status", "code"),
    [
        ("POST", "create", {"language": "x"}, 400, "unsupported_language"),
        ("POST", "create", {"memory": 1}, 400, "invalid_field"),
        ("POST", "create", {"memory": 64, "mem": 65}, 400, "conflicting_fields"),
        ("POST", "create", {"file": "x"}, 400, "field_not_supported"),
        ("POST", "execute", {"vm_id": ABSENT, "command": "true"}, 404, "vm_not_found"),
        ("POST", "execute", {"vm_id": "x\r\nHost: y", "command": "true"}, 404, "vm_not_found"),
        ("POST", "execute", {"command": "true"}, 400, "missing_field"),
        ("POST", "execute", {"vm_id": ABSENT}, 400, "missing_field"),
        ("POST", "temp", {"command": "true"}, 400, "missing_field"),
        ("POST", "temp", {"language": "python"}, 400, "missing_field"),
        (
            "POST",
            "temp",
            {"language": "python", "command": "x", "file": 1},
            400,
            "field_not_supported",
        ),
        ("POST", "stop", {}, 400, "missing_field"),
        ("POST", "stop", {"vm_id": ABSENT}, 404, "vm_not_found"),
        ("POST", "clean", {"vm_id": "../.."}, 404, "vm_not_found"),
        ("POST", "clean", [], 400, "invalid_body"),
        ("GET", "shell", None, 501, "not_implemented"),
        ("POST", "shell", {}, 501, "not_implemented"),
        ("GET", "create", None, 405, "method_not_allowed"),
    ],
)
async def test_errors_of_the_words_are_in_the_envelope(
    api: httpx2.AsyncClient, method: str, word: str, body: Any, status: int, code: str
) -> None:
    answer = await api.request(method, f"/api/vm/{word}", json=body)
    said = answer.json()
    schema.EnvelopedError.model_validate(said)
    assert (answer.status_code, said["status_code"], said["code"]) == (status, status, code)
    assert said["success"] is False
    assert CODES[code].status == status


async def test_the_door_refuses_in_the_envelope_too(connect: Callable[..., Any]) -> None:
    locked = await connect(api_keys=("k",))
    for path in ("/api/vm/list", "/api/vm/l%69st", "/api/vm/list/"):
        answer = await locked.get(path)
        assert (answer.status_code, answer.json()["success"]) == (401, False)
    plain = await locked.get(f"/api/vm/{ABSENT}")
    assert plain.status_code == 401
    assert "success" not in plain.json()
    assert (await locked.get("/api/vm/list", headers={"Authorization": "Bearer k"})).is_success


async def test_operations_have_names_of_their_own(api: httpx2.AsyncClient) -> None:
    paths = (await api.get("/openapi.json")).json()["paths"]
    names = [op["operationId"] for path, ops in paths.items() for op in ops.values()]
    assert sorted(set(names)) == sorted(names)
