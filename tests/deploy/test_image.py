"""The image, really built and run: what each set of rights gives, and the service in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from five_languages import EXPECTED, PROGRAMS
from tests.deploy import podman
from tests.deploy.podman import Running, Store
from tests.deploy.scripts import COMPILER, ROOT, record, run

pytestmark = [pytest.mark.xdist_group("image"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build is sent: the generated files and the agent."""
    folder = tmp_path_factory.mktemp("context")
    done = run([COMPILER, "--output", folder])
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, ROOT / "era-agent/build.py", folder / "agent"], check=True)
    return folder


@pytest.fixture(scope="module")
def image(context: Path) -> Iterator[Store]:
    problem = podman.missing()
    if problem and not os.environ.get("CI"):
        pytest.skip(problem)
    assert problem is None, "CI installs what builds images"
    with podman.store(context) as found:
        yield found


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volume")


@pytest.fixture(scope="module")
def service(image: Store, state: Path) -> Iterator[Running]:
    """The service as the compose file runs it."""
    with podman.served(image, "named", state) as running:
        yield running


def doctor(image: Store, rights: str) -> tuple[int, dict[str, Any]]:
    process = image.start(f"era-doctor-{rights}", rights, ["agent", "--json", "doctor"])
    out, _ = process.communicate(timeout=120)
    found: dict[str, Any] = json.loads(out)
    return process.returncode, found


def test_default_rights_are_too_few_and_it_says_so(image: Store) -> None:
    code, report = doctor(image, "default")
    assert (code, report["ok"]) == (1, False)
    (box,) = (check for check in report["checks"] if check["name"] == "box")
    assert "no isolation tier available" in box["detail"]
    assert "Operation not permitted" in box["detail"]


def test_under_default_rights_the_platform_may_be_the_boundary(
    image: Store, tmp_path: Path
) -> None:
    os.chown(tmp_path, 10001, 10001)
    alone = ("ERA_PLACEMENT=session", "ERA_ALLOW_PROCESS_TIER=1", "ERA_ALLOW_UNENFORCED_NETWORK=1")
    with podman.served(image, "default", tmp_path, alone) as service:
        assert service.get("/health")["isolation"]["tier"] == "process"
        service.post("/api/sessions", {"id": "one", "language": "python"})
        code = (
            "import os; open('/workspace/kept', 'w').write('by its name'); print(os.getuid())\n"
            "print(open('kept').read(), os.path.exists('/opt/era/node/bin/node'))"
        )
        result = service.post("/api/sessions/one/run", {"code": code})
        assert (result["stderr"], result["stdout"]) == ("", "10001\nby its name True\n")
        assert result["files_modified"] == ["kept"]
        assert result["isolation"] == "process"


def test_an_ordinary_user_with_named_rights_has_boxes(image: Store) -> None:
    code, report = doctor(image, "ordinary")
    assert (code, report["tier"]) == (0, "namespaces")
    missing = " ".join(report["unenforced"])
    assert "memory" in missing
    assert "CPU" in missing


@pytest.mark.parametrize("rights", ["named", "privileged"])
def test_the_named_rights_give_what_all_rights_give(image: Store, rights: str) -> None:
    code, report = doctor(image, rights)
    assert (code, report["tier"], report["unenforced"]) == (0, "namespaces", [])


def test_health_names_the_tier_found(service: Running) -> None:
    health = service.get("/health")
    assert health["status"] == "healthy"
    assert health["isolation"] == {"tier": "namespaces", "unenforced": []}
    assert set(health["languages"]) == {"python", "node", "typescript", "go", "deno"}


@pytest.mark.parametrize("language", sorted(PROGRAMS))
def test_each_language_runs(service: Running, language: str) -> None:
    body = {"language": language, "code": PROGRAMS[language], "env": {"NAME": "Ada"}}
    result = service.post("/api/execute", {**body, "timeout": 240})
    assert (result["exit_code"], result["stdout"]) == (0, EXPECTED), result["stderr"]


def test_the_memory_of_a_run_is_bounded(service: Running) -> None:
    body = {"language": "python", "code": "bytearray(1_500_000_000)"}
    result = service.post("/api/execute", body)
    assert (result["exit_code"], result["oom_killed"]) == (137, True)


def test_a_program_has_none_of_the_rights(service: Running) -> None:
    code = (
        "print([l for l in open('/proc/self/status') if l.startswith('Cap')])\n"
        "import os; print(os.path.exists('/srv/era'), os.path.exists('/var/lib/era'))"
    )
    result = service.post("/api/execute", {"language": "python", "code": code})
    assert result["stdout"].count("0000000000000000") == 5
    assert "False False" in result["stdout"]


def test_the_generated_check_passes(context: Path, service: Running, tmp_path: Path) -> None:
    record(tmp_path / "bin", "docker")
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = run([context / "test-docker.sh", service.url], path=path)
    assert done.returncode == 0, done.stderr
    done = run([context / "test-docker.sh", f"http://127.0.0.1:{podman.free_port()}"], path=path)
    assert (done.returncode, "no answer" in done.stderr) == (1, True)


def test_the_image_says_how_it_is_run(image: Store) -> None:
    (about,) = json.loads(image.call("podman", "image", "inspect", podman.IMAGE))
    config = about["Config"]
    assert config["User"] == "10001:10001"
    assert config["Cmd"] == ["agent", "serve"]
    assert "8787/tcp" in config["ExposedPorts"]
    assert "ERA_HOST=0.0.0.0" in config["Env"]
    assert "/health" in " ".join(about["Healthcheck"]["Test"])


def test_a_session_survives_the_container(image: Store, tmp_path: Path) -> None:
    with podman.served(image, "named", tmp_path) as first:
        first.post("/api/sessions", {"id": "kept", "language": "python"})
        code = "open('note.txt', 'w').write('still here')"
        assert first.post("/api/sessions/kept/run", {"code": code})["exit_code"] == 0
    with podman.served(image, "named", tmp_path) as second:
        result = second.post("/api/sessions/kept/run", {"code": "print(open('note.txt').read())"})
        assert result["stdout"] == "still here\n"
