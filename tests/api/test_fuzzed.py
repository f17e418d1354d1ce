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
SEED = 1
SETTINGS = {
    "ERA_API_KEY": "k",
    "ERA_PYTHON_PACKAGES": "none",
    "ERA_READY_BOXES": "1",
    "ERA_DEFAULT_TIMEOUT": "2",
    "ERA_MAX_TIMEOUT": "5",
    "ERA_SHUTDOWN_GRACE": "0.5",
}


def fuzzed(url: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """What the fuzzer says of a server, with the same requests every time.

    Its phases are all but the chains of calls, which need links that the document has not.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file"]
    command += [str(HERE / "schemathesis.toml"), "run", f"{url}/openapi.json"]
    command += ["--header", "Authorization: Bearer k", "--seed", str(SEED)]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)]
    command += ["--continue-on-failure", "--request-timeout", "240", "--no-color"]
    command += ["--suppress-health-check", "all", "--generation-database", "none"]
    command += ["--warnings", "off", *more]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.api.fuzz.hooks",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.xdist_group("fuzzed")
@pytest.mark.timeout(900)
def test_nothing_contradicts_the_document(tmp_path: Path) -> None:
    """All checks, the fuzzer's and ours, of every operation."""
    with watched(SETTINGS) as server:
        ended = fuzzed(server.url, tmp_path)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said[-20000:]
    tested = re.search(r"Tested: (\d+)", said)
    assert tested is not None, said[-2000:]
    assert int(tested[1]) > 50
