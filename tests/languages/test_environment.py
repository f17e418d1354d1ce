"""The environment of a program: order, names, limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.errors import InputError
from era.languages import environment
from era.languages.environment import (
    MAX_NAMES,
    MAX_TOTAL_BYTES,
    MAX_VALUE_BYTES,
    base,
    build,
    check_env,
)

SERVICE = {"ERA_SESSION": "true", "ERA_SESSION_ID": "s"}


def test_later_wins() -> None:
    env, warnings = build(
        {"A": "base", "B": "base", "C": "base"},
        {"B": "request", "C": "request"},
        {"C": "service"},
        has_layer=False,
    )
    assert env == {"A": "base", "B": "request", "C": "service"}
    assert warnings == ()


def test_names_of_the_service_are_ignored_with_a_warning() -> None:
    env, warnings = build({}, {"ERA_SESSION": "no", "ERA_MINE": "yes"}, SERVICE, has_layer=False)
    assert env == {"ERA_MINE": "yes", **SERVICE}
    assert warnings == ("env ERA_SESSION is set by the service and was ignored",)


def test_outside_a_session_the_names_are_free() -> None:
    env, warnings = build({}, {"ERA_SESSION": "mine"}, {}, has_layer=False)
    assert env == {"ERA_SESSION": "mine"}
    assert warnings == ()


@pytest.mark.parametrize("name", ["PATH", "PYTHONPATH", "NODE_PATH"])
@pytest.mark.parametrize("value", ["/mine", "/a:/b", ""])
def test_search_paths_keep_the_services_part(name: str, value: str) -> None:
    ours = {**base(has_layer=True), "NODE_PATH": "/node_modules"}[name]
    env, _ = build(base(has_layer=True), {name: value}, {}, has_layer=True)
    assert env[name] == (f"{value}:{ours}" if value else ours)


def test_without_a_layer_only_path_is_lengthened() -> None:
    request = {"PATH": "/mine", "PYTHONPATH": "/p", "NODE_PATH": "/n"}
    env, _ = build(base(has_layer=False), request, {}, has_layer=False)
    assert env["PATH"] == f"/mine:{base(has_layer=False)['PATH']}"
    assert (env["PYTHONPATH"], env["NODE_PATH"]) == ("/p", "/n")


def test_the_arguments_stay_as_they_are() -> None:
    given_base = base(has_layer=True)
    build(given_base, {"PATH": "/x"}, SERVICE, has_layer=True)
    assert given_base == base(has_layer=True)


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)


@given(st.dictionaries(NAMES, VALUES, max_size=20))
def test_every_valid_variable_arrives(variables: dict[str, str]) -> None:
    env, warnings = build(base(has_layer=False), check_env("env", variables), {}, has_layer=False)
    assert warnings == ()
    for name, value in variables.items():
        assert env[name] == value or name == "PATH"


@pytest.mark.parametrize(
    "value",
    [
        [],
        "A=b",
        {"A": 1},
        {"A": None},
        {"": "x"},
        {"1A": "x"},
        {"A-B": "x"},
        {"A=B": "x"},
        {"A\n": "x"},
        {"Ä": "x"},
        {"A": "x\0y"},
        {"A": "\ud800"},
        {"A": "x" * (MAX_VALUE_BYTES + 1)},
        {"A": "é" * (MAX_VALUE_BYTES // 2 + 1)},
        {f"A{n}": "" for n in range(MAX_NAMES + 1)},
        {f"A{n}": "x" * 120_000 for n in range(MAX_TOTAL_BYTES // 120_000 + 1)},
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_no_environment(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        check_env("envs", value)
    assert caught.value.code == "invalid_field"
    assert caught.value.text.startswith("envs must be ")


def test_limits_are_inclusive() -> None:
    assert len(check_env("env", {f"A{n}": "x" for n in range(MAX_NAMES)})) == MAX_NAMES
    assert check_env("env", {"A": "x" * MAX_VALUE_BYTES})


COMPILERS = {
    "GOFLAGS": "-tags=x",
    "GOARCH": "arm64",
    "CGO_ENABLED": "1",
    "CGO_CFLAGS": "-O1",
    "CC": "clang",
    "PKG_CONFIG_PATH": "/x",
    "GO111MODULE": "off",
    "GO_EXTLINK_ENABLED": "1",
}
"""What a build heeds."""
OTHERS = {
    "GOGC": "1",
    "GOMAXPROCS": "1",
    "GOMEMLIMIT": "1",
    "GOTRACEBACK": "all",
    "PATH": "/x",
    "HOME": "/x",
    "BASH_ENV": "/x",
    "LD_PRELOAD": "/x",
    "GOOGLE_KEY": "x",
    "MINE": "x",
    "XDG_CONFIG_HOME": "/x",
    "go": "x",
    "TMPDIR": "/x",
    "CCX": "x",
}


def test_a_build_sees_the_variables_of_compilers_only() -> None:
    base = environment.base(has_layer=False)
    alone = environment.of_build(base, {})
    plain = {"ERA_PLAIN": "1"}
    assert alone.items() >= {**base, **plain}.items()
    assert environment.of_build(base, OTHERS) == alone
    assert environment.of_build(base, {**OTHERS, **COMPILERS}) | plain == {
        **alone,
        **COMPILERS,
    }
    assert "ERA_PLAIN" not in environment.of_build(base, COMPILERS)


@pytest.mark.parametrize(
    ("env", "plain"),
    [
        ({}, True),
        (OTHERS, True),
        ({"GOOS": "linux", "GOAMD64": "v2", "GODEBUG": "x=1", "CGO_ENABLED": "0"}, True),
        *(({name: "x"}, False) for name in ("GOFLAGS", "GOROOT", "GOWORK", "CC", "CGO_CFLAGS")),
        *(({name: "x"}, False) for name in ("GOENV", "GOPROXY", "GOCACHE", "GONEW", "CPATH")),
    ],
)
def test_which_variables_lead_a_build_elsewhere(env: dict[str, str], plain: bool) -> None:
    assert environment.is_plain(env) is plain
