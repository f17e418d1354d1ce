"""Executions and runs through the whole application, with real programs."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from era.api import answers_schema as schema

pytestmark = pytest.mark.anyio


async def execute(api: httpx2.AsyncClient, **body: Any) -> httpx2.Response:
    return await api.post("/api/execute", json={"language": "python", **body})


async def create(api: httpx2.AsyncClient, **body: Any) -> None:
    answer = await api.post("/api/sessions", json={"id": "s", "language": "python", **body})
    assert answer.status_code == 201, answer.text


async def run(api: httpx2.AsyncClient, **body: Any) -> httpx2.Response:
    return await api.post("/api/sessions/s/run", json=body)


async def test_an_execution(api: httpx2.AsyncClient) -> None:
    answer = await execute(
        api,
        code="import sys; print(input(), sys.argv[1:]); sys.exit(3)",
        stdin="hé\n",
        args=["-a"],
        tiemout=1,
    )
    assert answer.status_code == 200
    result = answer.json()
    schema.ExecuteResult.model_validate(result)
    assert (result["exit_code"], result["stdout"]) == (3, "hé ['-a']\n")
    assert (result["language"], result["session_id"]) == ("python", None)
    assert result["vm_id"].startswith("python-")
    assert result["warnings"] == ["unknown field ignored: tiemout"]
    assert ": " not in answer.text.replace("unknown field ignored: ", "")


async def test_files_and_variables_of_an_execution(api: httpx2.AsyncClient) -> None:
    answer = await execute(
        api,
        code="import os; print(open('d/x y').read(), os.environ['A'], 'ERA_SESSION' in os.environ)",
        files={"d/x y": "text"},
        envs={"A": "1"},
    )
    assert answer.json()["stdout"] == "text 1 False\n"


async def test_a_program_that_takes_too_long(api: httpx2.AsyncClient) -> None:
    code = "import time; print('begun', flush=True); time.sleep(60)"
    result = (await execute(api, code=code, timeout_ms=300)).json()
    assert (result["exit_code"], result["timed_out"], result["stdout"]) == (124, True, "begun\n")


async def test_a_run_keeps_data_and_files(api: httpx2.AsyncClient) -> None:
    await create(api, data={"count": 1})
    code = (
        "import json\n"
        "d = json.load(open('.session_data.json')); d['count'] += 1\n"
        "json.dump(d, open('.session_data.json', 'w')); open('out.txt', 'w').write('x')\n"
    )
    result = (await run(api, code=code, update_data={"more": [1]})).json()
    schema.RunResult.model_validate(result)
    assert result["data"] == {"count": 2, "more": [1]}
    assert (result["files_modified"], result["files_deleted"]) == (["out.txt"], [])
    assert result["session_id"] == "s"
    session = (await api.get("/api/sessions/s?files=1")).json()
    assert session["data"] == {"count": 2, "more": [1]}
    assert [file["path"] for file in session["files"]] == ["out.txt"]


async def test_numbers_keep_every_digit(api: httpx2.AsyncClient) -> None:
    digits = "12345678901234567890123456789"
    await create(api)
    answer = await run(api, code=f"open('.session_data.json','w').write('[{digits},1.0]')")
    assert f'"data":[{digits},1.0]' in answer.text


async def test_a_command(api: httpx2.AsyncClient) -> None:
    await create(api)
    result = (await run(api, command="echo $ERA_SESSION_ID-$ERA_BASE_URL; exit 4")).json()
    assert (result["exit_code"], result["stdout"]) == (4, "s-http://era.test\n")


async def test_stored_code_runs_when_none_is_given(api: httpx2.AsyncClient) -> None:
    await create(api)
    refused = await run(api)
    assert refused.status_code == 400
    assert refused.json()["code"] == "no_code"
    assert refused.json()["error"] == "no code provided and no stored code found"
    assert refused.json()["hint"] == "Use PUT /api/sessions/{id}/code to store default code"
    await api.put("/api/sessions/s/code", json={"code": "print(7)"})
    assert (await run(api, code="  ")).json()["stdout"] == "7\n"


async def test_a_run_in_no_session(api: httpx2.AsyncClient) -> None:
    for target in ("/api/sessions/none/run", "/api/sessions/a.b/run", "/api/sessions/%00/run"):
        answer = await api.post(target, json={"code": "1"})
        assert answer.status_code == 404
        assert answer.json()["code"] == "session_not_found"
        assert answer.json()["error"] == "Session not found"


async def test_a_language_without_a_runtime(api: httpx2.AsyncClient) -> None:
    answer = await execute(api, code="1", language="deno")
    assert answer.status_code == 400
    assert answer.json()["code"] == "unsupported_language"
    assert "era doctor" in answer.json()["hint"]
    unknown = (await execute(api, code="1", language="Cobol")).json()
    assert unknown["error"] == "unsupported language: Cobol"
    assert unknown["supported"] == ["python", "node", "typescript", "go", "deno"]
    assert unknown["aliases"]["js"] == "node"
