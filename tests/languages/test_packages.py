"""Setups: what may be asked for, and how it is installed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.errors import InputError
from era.languages import entries, environment
from era.languages.asked import (
    MAX_COMMAND_BYTES,
    MAX_COMMANDS,
    MAX_PACKAGES,
    parse_setup,
)
from era.languages.mirrors import Mirrors
from era.languages.packages import (
    INSTALLER_CACHE,
    Step,
    recipe_key,
    steps,
)
from era.languages.table import Tools
from era.models import SetupSpec
from tests.corpora import setup_entries as corpus

TOOLS = Tools(versions={"python": "3.11.2", "node": "24.1.0", "go": "1.27.3"}, platform="x86_64")
NO_MIRRORS = Mirrors()


def spec(**setup: Any) -> SetupSpec:
    return parse_setup(setup)[0]


def refusal(setup: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_setup(setup)
    assert caught.value.code == "invalid_setup"
    return caught.value


# --- entries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", corpus.PIP_GOOD)
def test_pip_entries_that_pass(entry: str) -> None:
    assert spec(pip=[entry]).pip == (entry.strip(),)


@pytest.mark.parametrize("entry", corpus.PIP_BAD, ids=ascii)
def test_pip_entries_that_are_refused(entry: str) -> None:
    assert refusal({"pip": ["good", entry]}).text.startswith("invalid setup: pip[1] ")


@pytest.mark.parametrize("entry", corpus.NPM_GOOD)
def test_npm_entries_that_pass(entry: str) -> None:
    assert spec(npm=[entry]).npm == (entry,)


@pytest.mark.parametrize("entry", corpus.NPM_BAD, ids=ascii)
def test_npm_entries_that_are_refused(entry: str) -> None:
    assert refusal({"npm": [entry]}).text.startswith("invalid setup: npm[0] ")


@pytest.mark.parametrize("entry", corpus.GO_GOOD)
def test_go_entries_that_pass(entry: str) -> None:
    assert spec(go=[entry]).go == (entry,)


@pytest.mark.parametrize("entry", corpus.GO_BAD, ids=ascii)
def test_go_entries_that_are_refused(entry: str) -> None:
    assert refusal({"go": [entry]}).text.startswith("invalid setup: go[0] ")


@pytest.mark.parametrize("text", corpus.REQUIREMENTS_GOOD)
def test_requirements_are_rewritten_one_to_a_line(text: str) -> None:
    expected = "".join(f"{line}\n" for line in corpus.REQUIREMENTS_GOOD[text])
    assert spec(pip={"requirements": text}).requirements == expected


@pytest.mark.parametrize("text", corpus.REQUIREMENTS_BAD, ids=ascii)
def test_requirements_that_are_refused(text: str) -> None:
    assert refusal({"pip": {"requirements": text}}).text.startswith(
        "invalid setup: pip.requirements "
    )


@pytest.mark.parametrize("text", corpus.PACKAGE_JSON_GOOD)
def test_package_json_as_text_and_as_object(text: str) -> None:
    for form in (text, json.loads(text)):
        written = spec(npm={"packageJson": form}).package_json
        assert written is not None
        assert json.loads(written) == json.loads(text)


@pytest.mark.parametrize("text", corpus.PACKAGE_JSON_BAD)
def test_package_json_that_is_refused(text: str) -> None:
    assert refusal({"npm": {"packageJson": text}}).text.startswith(
        "invalid setup: npm.packageJson "
    )


@pytest.mark.parametrize("text", corpus.GO_MOD_GOOD)
def test_go_mod_that_passes(text: str) -> None:
    assert spec(go={"goMod": text}).go_mod == text


@pytest.mark.parametrize("text", corpus.GO_MOD_BAD, ids=ascii)
def test_go_mod_that_is_refused(text: str) -> None:
    assert refusal({"go": {"goMod": text}}).text.startswith("invalid setup: go.goMod ")


CHECKS = {"pip": entries.pip_problem, "npm": entries.npm_problem, "go": entries.go_problem}
ENTRY_PARTS = st.sampled_from(
    [
        *"-@/.:;#=~<>*[]()'\"\\ \t\n\r\0$`&|",
        "--",
        "name",
        "file:",
        "git+https://",
        "..",
        "https://h/",
    ]
)


@pytest.mark.parametrize("kind", CHECKS)
@given(parts=st.lists(ENTRY_PARTS, max_size=8))
def test_whatever_passes_is_no_option_and_no_path(kind: str, parts: list[str]) -> None:
    entry = "".join(parts)
    if CHECKS[kind](entry) is not None:
        return
    assert entry.strip()
    assert not entry.strip().startswith(("-", ".", "/", "~"))
    before, _, url = entry.partition("https://")
    assert not any(char in before for char in "\n\r\0`$|&\\")
    assert not any(char in url for char in "\n\r\0`\\")
    assert "file:" not in before
    assert " -" not in entry


@given(st.text(max_size=200))
def test_no_text_breaks_a_check(text: str) -> None:
    for check in (*CHECKS.values(), entries.go_mod_problem):
        assert check(text) is None or isinstance(check(text), str)
    lines, problem = entries.requirements(text)
    assert problem is None or not lines


@given(st.lists(st.sampled_from(["six", "a==1", "# x", "\\", "\n", " ", "--pre", "--hash"])))
def test_requirements_read_the_same_a_second_time(parts: list[str]) -> None:
    """What is written is what was checked: no second reading finds anything else in it."""
    lines, problem = entries.requirements(" ".join(parts))
    if problem is None:
        assert entries.requirements("".join(f"{line}\n" for line in lines)) == (lines, None)


# --- shape ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setup",
    [
        {"pip": "requests"},
        {"pip": 1},
        {"pip": [1]},
        {"pip": [None]},
        {"pip": {"requirements": 1}},
        {"npm": {"packageJson": []}},
        {"npm": {"packageJson": 5}},
        {"go": {"goMod": {}}},
        {"commands": "ls"},
        {"commands": {}},
        {"commands": [1]},
        {"commands": [""]},
        {"commands": [" \n"]},
        {"commands": ["a\0b"]},
        {"commands": ["\ud800"]},
        {"commands": ["x" * (MAX_COMMAND_BYTES + 1)]},
        {"commands": ["é" * (MAX_COMMAND_BYTES // 2 + 1)]},
        {"commands": ["x"] * (MAX_COMMANDS + 1)},
        {"pip": ["x"] * (MAX_PACKAGES + 1)},
        {"envs": []},
        {"envs": {"A": 1}},
        {"envs": {"A-B": "x"}},
        {"env": {"A": "x\0"}},
        {"pip": {"requirements": "#" * (entries.MAX_TEXT_BYTES + 1)}},
    ],
    ids=lambda setup: ascii(setup)[:60],
)
def test_wrong_shapes(setup: dict[str, Any]) -> None:
    assert refusal(setup).status == 400


def test_limits_are_inclusive() -> None:
    big = spec(
        pip=["x"] * MAX_PACKAGES,
        commands=["x" * MAX_COMMAND_BYTES] * MAX_COMMANDS,
        envs={"A": "x" * environment.MAX_VALUE_BYTES},
    )
    assert len(big.pip) == MAX_PACKAGES


def test_empty_and_null_mean_nothing() -> None:
    empty: list[dict[str, Any]] = [
        {},
        {"pip": None, "envs": None},
        {"pip": [], "npm": {}, "commands": []},
    ]
    for setup in empty:
        parsed, ignored = parse_setup(setup)
        assert parsed.empty
        assert ignored == ()


def test_unknown_members_are_named() -> None:
    _, ignored = parse_setup({"pip": {"requirements": "six", "extra": 1}, "brew": [], "apt": None})
    assert set(ignored) == {"pip.extra", "brew"}


def test_envs_have_an_alias() -> None:
    assert spec(env={"A": "b"}).envs == {"A": "b"}
    assert spec(env={"A": "b"}, envs={"A": "b"}).envs == {"A": "b"}
    with pytest.raises(InputError) as caught:
        parse_setup({"env": {"A": "b"}, "envs": {}})
    assert caught.value.code == "conflicting_fields"


def test_the_request_is_kept_without_values_of_variables() -> None:
    setup = {"pip": ["six"], "envs": {"TOKEN": "secret"}, "mystery": "secret"}
    request = spec(**setup).request
    assert json.loads(request) == {"pip": ["six"], "envs": {"TOKEN": "***"}}
    assert "secret" not in request


# --- steps ------------------------------------------------------------------------------------


def step_of(kind: str, **setup: Any) -> Step:
    return next(step for step in steps(spec(**setup), TOOLS, NO_MIRRORS) if step.kind == kind)


def test_the_order_is_pip_npm_go_commands() -> None:
    parsed = spec(commands=["a", "b"], go=["example.com/x"], npm=["ms"], pip=["six"])
    found = steps(parsed, TOOLS, NO_MIRRORS)
    assert [step.kind for step in found] == ["pip", "npm", "go", "commands", "commands"]
    assert [step.command for step in found] == [None, None, None, "a", "b"]
    assert [step.error for step in found] == [
        "Pip install failed",
        "npm install failed",
        "Go module install failed",
        "Custom command failed",
        "Custom command failed",
    ]


@pytest.mark.parametrize(
    ("kind", "entry"), [("pip", "six==1.0"), ("npm", "ms@2"), ("go", "example.com/x@v1")]
)
def test_entries_are_single_arguments_at_the_end(kind: str, entry: str) -> None:
    argv = step_of(kind, **{kind: [entry, entry]}).argv
    assert argv[-2:] == (entry, entry)
    assert sum(entry in argument for argument in argv) == 2


@pytest.mark.parametrize("kind", ["pip", "npm"])
def test_options_end_before_the_entries(kind: str) -> None:
    argv = step_of(kind, **{kind: ["six"]}).argv
    assert argv[-2:] == ("--", "six")


def test_text_forms_are_files_of_the_layer() -> None:
    requirements = step_of("pip", pip={"requirements": "six # x"})
    assert requirements.files == {"python/requirements.txt": b"six\n"}
    assert requirements.argv[-2:] == ("--requirements", "/opt/era/layer/python/requirements.txt")
    manifest = step_of("npm", npm={"packageJson": {"type": "module"}})
    assert manifest.files == {"node/package.json": b'{"type":"module"}'}
    assert step_of("go", go={"goMod": "module mine\n"}).files == {"go/go.mod": b"module mine\n"}


def test_a_command_is_run_by_bash_unchanged() -> None:
    command = "echo 'a b' > x && cat < x | sort; exit $?"
    step = step_of("commands", commands=[command])
    assert step.argv == ("/bin/bash", "-c", command)
    assert step.cwd == "/workspace"


def test_mirrors_reach_the_installers_and_commands() -> None:
    mirrors = Mirrors(
        pip_index_url="https://pip.example/simple",
        npm_registry="https://npm.example/",
        goproxy="https://go.example",
        env={"SSL_CERT_FILE": "/etc/own.pem"},
    )
    setup = {"pip": ["six"], "npm": ["ms"], "go": ["example.com/x"], "commands": ["true"]}
    found = steps(spec(**setup), TOOLS, mirrors)
    assert "https://pip.example/simple" in found[0].argv
    assert "https://npm.example/" in found[1].argv
    for step in found:
        assert step.env["GOPROXY"] == "https://go.example"
        assert step.env["npm_config_registry"] == "https://npm.example/"
        assert step.env["UV_DEFAULT_INDEX"] == "https://pip.example/simple"
        assert step.env["SSL_CERT_FILE"] == "/etc/own.pem"


def test_without_mirrors_the_ecosystems_defaults_hold() -> None:
    for step in steps(spec(pip=["six"], npm=["ms"], go=["example.com/x"]), TOOLS, NO_MIRRORS):
        assert not {"GOPROXY", "GOSUMDB", "UV_DEFAULT_INDEX", "npm_config_registry"} & set(step.env)
        assert not any("://" in argument for argument in step.argv)


def test_caches_are_where_they_are_left_out() -> None:
    env = step_of("commands", commands=["true"]).env
    assert env["UV_CACHE_DIR"].startswith(INSTALLER_CACHE)
    assert env["npm_config_cache"].startswith(INSTALLER_CACHE)


# --- recipes ----------------------------------------------------------------------------------


def test_a_recipe_is_of_packages_only() -> None:
    assert recipe_key(spec(commands=["ls"]), TOOLS, None) is None
    assert recipe_key(spec(), TOOLS, None) is None
    key = recipe_key(spec(pip=["six"]), TOOLS, None)
    assert key == recipe_key(spec(pip=["six"], commands=["ls"]), TOOLS, None)
    assert key is not None
    assert len(key) == 64


def test_order_and_repetition_do_not_matter() -> None:
    one = recipe_key(spec(pip=["six", "a", " six"]), TOOLS, None)
    assert one == recipe_key(spec(pip=["a", "six"]), TOOLS, None)


def test_whatever_matters_changes_the_key() -> None:
    base = spec(pip=["six"], envs={"A": "b"})
    keys = [
        recipe_key(base, TOOLS, "digest"),
        recipe_key(base, TOOLS, "other"),
        recipe_key(spec(pip=["six"]), TOOLS, "digest"),
        recipe_key(spec(pip=["six==1"]), TOOLS, None),
        recipe_key(spec(npm=["six"]), TOOLS, None),
        recipe_key(spec(pip={"requirements": "six"}), TOOLS, None),
        recipe_key(spec(pip=["six"]), replace(TOOLS, versions={"python": "3.12.0"}), None),
        recipe_key(spec(pip=["six"]), replace(TOOLS, platform="aarch64"), None),
    ]
    assert len(set(keys)) == len(keys)


def test_runtimes_that_are_not_used_do_not_matter() -> None:
    newer = replace(TOOLS, versions={**TOOLS.versions, "go": "1.99"})
    assert recipe_key(spec(pip=["x"]), TOOLS, None) == recipe_key(spec(pip=["x"]), newer, None)
