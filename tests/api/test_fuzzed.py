"""The document at /openapi.json is true: a fuzzer that believes it finds nothing on a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import watched

HERE = Path(__file__).parent / "fuzz"
ROOT = HERE.parents[2]
EXAMPLES = 4
SETTINGS = {
    "ERA_API_KEY": "k",
    "ERA_PYTHON_PACKAGES": "none",
    "ERA_READY_BOXES": "1",
    "ERA_DEFAULT_TIMEOUT": "2",
    "ERA_MAX_TIMEOUT": "5",
    "ERA_SHUTDOWN_GRACE": "0.5",
}


@pytest.mark.xdist_group("fuzzed")
@pytest.mark.timeout(900)
def test_nothing_contradicts_the_document(tmp_path: Path) -> None:
    """All checks, the fuzzer's and ours, in every phase but chains of calls."""
    with watched(SETTINGS) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file"]
        command += [str(HERE / "schemathesis.toml"), "run", f"{server.url}/openapi.json"]
        command += ["--header", "Authorization: Bearer k", "--checks", "all"]
        command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)]
        command += ["--continue-on-failure", "--request-timeout", "60", "--no-color"]
        command += ["--warnings", "off", "--seed", "1", "--generation-database", "none"]
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.api.fuzz.hooks",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        ended = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said[-20000:]
    assert "No issues found" in said or re.search(r"\b0 failures|passed", said), said[-2000:]
