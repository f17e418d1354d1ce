"""Asking installers for their registries: real ones where they are installed, programs of ours where
an answer has to be a particular one."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from era.egress.hosts import Installers, goproxy_rules, registry_hosts, rules_of_urls
from era.egress.policy import HostRule

NONE = Installers()


def _program(folder: Path, name: str, text: str) -> tuple[str, ...]:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return (str(path),)


def test_pip_tells_its_index_and_where_the_files_lie() -> None:
    found = registry_hosts(Installers(python=(sys.executable,)))
    assert "python" not in found.unread
    assert len({rule.name for rule in found.rules}) == 2
    assert all(rule.ports == {80, 443} for rule in found.rules)


def test_an_interpreter_without_pip_answers_from_the_pip_it_brings_along(tmp_path: Path) -> None:
    pytest.importorskip("ensurepip")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
    bare = registry_hosts(Installers(python=(str(tmp_path / "v/bin/python"),)))
    assert bare.rules == registry_hosts(Installers(python=(sys.executable,))).rules


@pytest.mark.parametrize("name", ["uv", "npm", "go", "deno"])
def test_installers_on_path_tell_their_defaults(name: str) -> None:
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if name != "go" and beside.exists() else shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here")
    found = registry_hosts(Installers(**{name: (path,)}))
    assert name not in found.unread
    assert found.rules


def test_the_operators_own_configuration_does_not_leak_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here")
    (tmp_path / ".npmrc").write_text("registry=https://user-chosen.example/\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "https://env-chosen.example/")
    names = {rule.name for rule in registry_hosts(Installers(npm=(npm,))).rules}
    assert names
    assert not {name for name in names if "chosen" in name}


def test_go_proxies_and_checksum_database(tmp_path: Path) -> None:
    answer = 'printf "https://one.example|http://two.example:81,direct\\nsums.example+abc\\n"'
    found = registry_hosts(Installers(go=_program(tmp_path, "go", answer)))
    assert set(found.rules) == {
        HostRule.parse("one.example"),
        HostRule.parse("two.example:81"),
        HostRule.parse("sums.example"),
    }


@pytest.mark.parametrize(
    ("sums", "names"),
    [
        ("off", {"one.example"}),
        ("sums.example", {"one.example", "sums.example"}),
        ("sums.example+key https://mirror.example/x", {"one.example", "mirror.example"}),
    ],
)
def test_forms_of_the_checksum_database(tmp_path: Path, sums: str, names: set[str]) -> None:
    go = _program(tmp_path, "go", f"echo https://one.example; echo '{sums}'")
    assert {rule.name for rule in registry_hosts(Installers(go=go)).rules} == names


def test_deno_hosts_keep_their_ports(tmp_path: Path) -> None:
    text = (
        "  -I, --allow-import[=<X>]  Words.\\n   Default value: a.example:443,b.example:8443\\n  -N"
    )
    deno = _program(tmp_path, "deno", f'printf "\\033[1m{text}\\033[0m"')
    assert registry_hosts(Installers(deno=deno)).rules == (
        HostRule.parse("a.example:443"),
        HostRule.parse("b.example:8443"),
    )


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "it ended with status 3"),
        ("true", "it tells no default"),
        ("echo not-a-url", "not an http(s) URL"),
    ],
)
def test_what_cannot_be_read_is_left_out_with_a_reason(
    tmp_path: Path, script: str, reason: str
) -> None:
    found = registry_hosts(Installers(npm=_program(tmp_path, "npm", script)))
    assert found.rules == ()
    assert found.unread["npm"] == reason


def test_a_missing_installer_is_left_out() -> None:
    found = registry_hosts(Installers(uv=("/nonexistent/uv",)))
    assert found.rules == ()
    assert found.unread["uv"].startswith("it cannot be started")
    assert "/nonexistent" not in found.unread["uv"]
    assert found.unread["go"] == "it is not installed"


def test_mirrors_and_extra_hosts_come_on_top() -> None:
    found = registry_hosts(
        NONE,
        mirrors=["https://user:secret@mirror.example/simple", "http://go.example:81,direct"],
        extra=["*.import.example", "x.example:8443"],
    )
    assert found.rules == (
        HostRule.parse("mirror.example"),
        HostRule.parse("go.example:81"),
        HostRule.parse("*.import.example"),
        HostRule.parse("x.example:8443"),
    )


@pytest.mark.parametrize("bad", [{"mirrors": ["mirror.example"]}, {"extra": ["https://a.example"]}])
def test_an_operators_mistake_is_an_error(bad: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for people
        registry_hosts(NONE, **bad)


def test_rules_of_urls() -> None:
    assert rules_of_urls(["http://[2001:db8::1]:8/x"])[0].matches("2001:db8::1", 8)
    assert goproxy_rules("off") == []


def test_no_registry_is_named_in_the_source() -> None:
    source = Path(sys.modules["era.egress.hosts"].__file__ or "").read_text()
    hosts = set(
        re.findall(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:org|com|io|net|dev|land|sh)\b", source)
    )
    assert hosts <= {"example.org"}
