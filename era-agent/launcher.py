"""The first thing in `agent`: installs what the archive holds, once, and becomes the `agent` command.

`agent` is a zip archive that Python runs: this program, the sources, and the list of every package
it needs with its hashes.  The first start makes a virtual environment from them (which takes a
package registry and a minute); every later one goes straight on.  `agent --install DIR` makes the
environment in DIR and ends, which is what an image build wants.  Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FAILED = 1


def main(argv: list[str]) -> int:  # noqa: RET503 - the last line does not return
    """Run the command line; does not return when there is a command to run."""
    archive = Path(__file__).resolve().parent
    packages = os.environ.get("AGENT_PACKAGES", "serve")
    if argv[:1] == ["--install"]:
        if len(argv) != 2:
            return fail("--install takes the directory to install into")
        return install(archive, Path(argv[1]).resolve(), packages)
    home = directory(archive, packages)
    if code := install(archive, home, packages):
        return code
    command = home / "bin" / "agent"
    os.execv(command, [str(command), *argv])  # noqa: S606 - this process becomes it


def fail(*lines: str) -> int:
    """Say what is wrong, and what to do."""
    print("agent: " + "\n  ".join(lines), file=sys.stderr)
    return FAILED


def directory(archive: Path, packages: str) -> Path:
    """Where this very archive is installed: named by its content, so another version has another."""
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if chosen := os.environ.get("AGENT_HOME"):
        return Path(chosen) / f"{digest}-{packages}"
    # Programs in boxes are shown the runtimes below it, so others must be able to walk there.
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path("/var/cache") if os.geteuid() == 0 else own) / "era-agent" / f"{digest}-{packages}"


def install(archive: Path, home: Path, packages: str) -> int:
    """Make the environment unless it is there; one process at a time."""
    done = home / "installed"
    if done.exists():
        return 0
    home.mkdir(parents=True, exist_ok=True)
    with (home.parent / f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return 0
        print(f"agent: installing into {home} (once) ...", file=sys.stderr)
        shutil.rmtree(home)
        try:
            with tempfile.TemporaryDirectory(prefix="agent-") as folder:
                unpack_and_install(archive, Path(folder), home, packages)
        except subprocess.CalledProcessError as error:
            return fail(
                f"installing failed: {' '.join(map(str, error.cmd[:4]))} ended with {error.returncode}",
                "A package registry must be reachable; pip's own settings name a mirror.",
                "On Debian, Python's venv is a package of its own: apt-get install python3-venv",
            )
        done.touch()
    return 0


def unpack_and_install(archive: Path, folder: Path, home: Path, packages: str) -> None:
    """The environment: the locked packages, checked by hash, then the service itself."""
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    source = folder / "source"
    lock = source / "requirements" / f"{packages}.txt"
    if not lock.exists():
        raise SystemExit(fail(f"AGENT_PACKAGES={packages}: there is no such set of packages"))
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [
        str(home / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--no-cache-dir",
    ]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--require-hashes", "-r", str(lock)], check=True
    )
    own = ["--no-index", "--no-deps", "--no-build-isolation", str(source)]
    subprocess.run([*pip, "--disable-pip-version-check", *own], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
