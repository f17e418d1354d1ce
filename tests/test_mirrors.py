"""Where the operator has installers fetch packages from, as read from this host and handed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from era.assemble import mirrors
from era.config import installer_variables, load
from era.languages.asked import parse_setup
from era.languages.mirrors import Mirrors
from era.languages.packages import Step, steps
from era.languages.table import Tools

ASKED = {"pip": ["six"], "npm": ["ms"], "go": ["example.com/x"], "commands": ["true", "true"]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose operator has configured nothing; the home directory."""
    for name in (*installer_variables(), "ERA_GOPROXY", "ERA_NPM_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mirrors, "_PIP_FILES", ())
    monkeypatch.setattr(mirrors, "_NPM_FILES", ())
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def found(**flags: Any) -> Mirrors:
    return mirrors.find(load(flags)).mirrors


def asked(direct: bool, given: Mirrors) -> tuple[Step, ...]:
    return steps(parse_setup(ASKED)[0], Tools(), given, direct=direct)


def test_nothing_configured_means_nothing_said(home: Path) -> None:
    ways = mirrors.find(load({}))
    assert (ways.mirrors, ways.upstream) == (Mirrors(), None)
    assert mirrors.hosts(load({})) == ()


def test_files_of_pip_npm_and_go(home: Path) -> None:
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text(
        "[global]\nindex-url = https://pip.test/simple\ntrusted_host = pip.test\n"
        "[install]\nextra-index-url =\n    https://more.test/a\n    https://more.test/b\n"
    )
    (home / ".npmrc").write_text(
        "; mine\nregistry=https://npm.test/\n@own:registry=https://own.test/npm/\n"
        "//own.test/npm/:_authToken=${TOKEN}\naudit=false\n"
    )
    (home / ".config/go").mkdir()
    (home / ".config/go/env").write_text(
        "GOPROXY=https://go.test,direct\nGOPRIVATE=corp.test/*\nGOFLAGS=-toolexec=/bin/evil\n"
    )
    assert found() == Mirrors(
        pip_index_url="https://pip.test/simple",
        pip_extra_index_urls=("https://more.test/a", "https://more.test/b"),
        pip_trusted_hosts=("pip.test",),
        npm_registry="https://npm.test/",
        npmrc=("@own:registry=https://own.test/npm/", "//own.test/npm/:_authToken=${TOKEN}"),
        goproxy="https://go.test,direct",
        go={"GOPRIVATE": "corp.test/*"},
    )
    assert mirrors.hosts(load({})) == (
        *("https://pip.test/simple", "https://more.test/a", "https://more.test/b"),
        *("https://npm.test/", "https://go.test,direct", "https://own.test/npm/"),
    )


def test_npm_is_given_no_url_with_a_password(home: Path) -> None:
    (home / ".npmrc").write_text("@own:registry=https://me:sesa%6De@own.test:8443/npm\n")
    given = found(ERA_NPM_REGISTRY="https://npm.test/a/?x=sesame")
    assert given.npm_registry == "https://npm.test/a/?x=sesame"
    given = found(ERA_NPM_REGISTRY="https://me:sesa%6De@npm.test/a/")
    assert given.npm_registry == "https://npm.test/a/"
    assert given.npmrc == (
        "@own:registry=https://own.test:8443/npm",
        "//own.test:8443/npm/:_auth=bWU6c2VzYW1l",
        "//npm.test/a/:_auth=bWU6c2VzYW1l",
    )
    assert given.secrets == ("bWU6c2VzYW1l",)
    assert given.public().npmrc == ("@own:registry=https://own.test:8443/npm",)


def test_variables_go_before_files_and_settings_before_variables(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".npmrc").write_text("registry=https://file.test/\n")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://variable.test/")
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.test/simple")
    monkeypatch.setenv("GOPROXY", "https://variable.test/go")
    assert found() == Mirrors(
        pip_index_url="https://variable.test/simple",
        npm_registry="https://variable.test/",
        goproxy="https://variable.test/go",
    )
    settings = {
        "ERA_PIP_INDEX_URL": "https://own.test/simple",
        "ERA_NPM_REGISTRY": "https://own.test/",
        "ERA_GOPROXY": "https://own.test/go",
    }
    assert found(**settings) == Mirrors(
        pip_index_url="https://own.test/simple",
        npm_registry="https://own.test/",
        goproxy="https://own.test/go",
        go={"GOSUMDB": "off"},
    )


def test_directories_of_the_host_are_no_mirrors(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY", f"file://{home}/modules")
    monkeypatch.setenv("PIP_FIND_LINKS", str(home))
    assert found() == Mirrors()


def test_certificates_are_handed_on_with_those_of_the_host(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = home / "own.pem"
    own.write_text("-----BEGIN CERTIFICATE-----\nown\n")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    assert found().certificates is None
    monkeypatch.setenv("PIP_CERT", str(own))
    given = found()
    assert given.certificates is not None
    assert given.certificates.endswith(b"\nown\n")
    for step in asked(True, given):
        assert step.env["SSL_CERT_FILE"] == "/opt/era/layer/.era-cache/certificates.pem"
    places = [".era-cache/certificates.pem" in step.files for step in asked(True, given)]
    assert places == [True, True, True, True, False]


@pytest.mark.parametrize("name", ["https_proxy", "HTTP_PROXY", "npm_config_https_proxy"])
def test_the_proxy_of_the_host_is_the_way_out_and_no_box_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://user:sesame@proxy.test:3129")
    monkeypatch.setenv("NO_PROXY", "intern.test")
    ways = mirrors.find(load({}))
    assert ways.upstream is not None
    assert (ways.upstream.host, ways.upstream.port) == ("proxy.test", 3129)
    assert ways.upstream.serves("pypi.test")
    assert not ways.upstream.serves("a.intern.test")
    assert "sesame" not in repr(asked(True, ways.mirrors))


def test_a_proxy_that_cannot_be_used_is_not(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.test:1080")
    assert mirrors.find(load({})).upstream is None


def test_credentials_go_where_no_code_of_packages_runs() -> None:
    given = Mirrors(
        pip_index_url="https://me:sesa%6De@pip.test/simple",
        pip_extra_index_urls=("https://me:sesa%6De@more.test/",),
        npm_registry="https://npm.test/",
        npmrc=("@own:registry=https://own.test/", "//own.test/:_authToken=sesame"),
        goproxy="https://me:sesame@go.test,direct",
    )
    assert set(given.secrets) == {"me:sesa%6De", "me:sesame", "me:****", "sesa%6De", "sesame"}
    direct, other = asked(True, given), asked(False, given)
    for step in direct[:3]:
        assert "sesa%6De" in step.env["UV_DEFAULT_INDEX"]
        assert b"sesame" in step.files[".era-cache/npmrc"]
        assert step.env["npm_config_userconfig"] == "/opt/era/layer/.era-cache/npmrc"
    for step in (*direct[3:], *other):
        assert "sesa" not in repr(step)
        assert step.env["UV_DEFAULT_INDEX"] == "https://pip.test/simple"
        assert step.env["GOPROXY"] == "https://go.test,direct"
