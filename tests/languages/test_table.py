"""Names of languages, and how code of each is launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from era.errors import InputError
from era.languages import environment
from era.languages.table import (
    ALIASES,
    LANGUAGES,
    Launch,
    Tools,
    canonical,
    check_available,
    command_launch,
    launch,
    resolve_launch,
)

TOOLS = Tools(python="/usr/bin/python3.11", versions={"go": "1.27.3"})


def nothing_taken(name: str) -> bool:
    return False


def started(
    language: str,
    code: str = "code",
    *args: str,
    taken: Callable[[str], bool] = nothing_taken,
    has_layer: bool = False,
) -> Launch:
    return launch(language, code, args, tools=TOOLS, taken=taken, has_layer=has_layer)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("python", "python"),
        ("py", "python"),
        ("python3", "python"),
        ("node", "node"),
        ("nodejs", "node"),
        ("js", "node"),
        ("javascript", "node"),
        ("typescript", "typescript"),
        ("ts", "typescript"),
        ("go", "go"),
        ("golang", "go"),
        ("deno", "deno"),
        ("  JavaScript\t", "node"),
        ("TS", "typescript"),
    ],
)
def test_every_accepted_name(text: str, name: str) -> None:
    assert canonical(text) == name


@pytest.mark.parametrize("text", ["", " ", "ruby", "py thon", "python\0", "pythön", "node.js", "c"])
def test_anything_else_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(InputError) as caught:
        canonical(text)
    body = caught.value.body()
    assert body["error"] == f"unsupported language: {text}"
    assert body["code"] == "unsupported_language"
    assert body["supported"] == list(LANGUAGES)
    assert body["aliases"] == dict(ALIASES)
    assert "hint" not in body


def test_a_missing_runtime_is_told_with_a_hint() -> None:
    tools = replace(TOOLS, missing={"deno": "the package deno is not installed"})
    with pytest.raises(InputError) as caught:
        check_available("deno", tools)
    assert caught.value.code == "unsupported_language"
    assert caught.value.text == "unsupported language: deno"
    assert "era doctor" in caught.value.body()["hint"]
    with pytest.raises(InputError):
        launch("deno", "1", (), tools=tools, taken=nothing_taken, has_layer=False)
    check_available("python", tools)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_code_is_a_file_and_never_an_argument(language: str) -> None:
    code = "x" * 1_000_000
    found = started(language, code, "a", "--b")
    (name,) = found.files
    assert name.startswith(".era")
    assert "/" not in name
    assert found.files[name] == code.encode()
    assert code not in found.argv
    assert found.argv[-2:] == ("a", "--b")
    made_by = found.build.argv if found.build is not None else ()
    assert any(name in argument for argument in (*found.argv, *made_by))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_entry_takes_no_name_of_the_session(language: str) -> None:
    (usual,) = started(language).files
    (other,) = started(language, taken=lambda name: name == usual).files
    assert other != usual
    assert other.startswith(".era")
    assert other.rpartition(".")[2] == usual.rpartition(".")[2]


def test_go_builds_under_a_name_that_is_free() -> None:
    usual = started("go").build
    assert usual is not None
    assert "era_main.go" in usual.argv
    taken = ("era_main.go", usual.product)
    other = started("go", taken=lambda name: name in taken).build
    assert other is not None
    assert not {*taken} & {*other.argv, other.product}


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_has_to_be_made_is_run_from_where_it_is_shown(language: str) -> None:
    found = started(language, "code", "a", "--b")
    assert (found.build is not None) == (language == "go")
    if found.build is not None:
        assert found.argv == ("/opt/era/program", "a", "--b")
        assert "--b" not in found.build.argv
        assert found.build.product.startswith(".era")


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_of_a_request_is_in_a_shell_program(language: str) -> None:
    hostile = "'; touch /tmp/x #$(id)`"
    plain = started(language, "1", "arg", has_layer=True)
    found = started(language, hostile, hostile, has_layer=True)
    assert plain.argv[:-1] == found.argv[:-1]
    assert plain.build == found.build


def test_a_lone_surrogate_is_the_programs_problem() -> None:
    assert started("python", "'\ud800'").files


@pytest.mark.parametrize("language", LANGUAGES)
def test_caches_are_asked_for_where_they_are_used(language: str) -> None:
    found = started(language)
    assert found.uses_go_cache == (language == "go")
    assert found.uses_deno_cache == (language == "deno")


def test_deno_resolves_without_running() -> None:
    found = resolve_launch("import 'npm:ms'", tools=TOOLS, taken=nothing_taken, has_layer=False)
    assert found.files == started("deno", "import 'npm:ms'").files
    assert " run " not in found.argv[2]
    assert "--allow-import" not in found.argv
    wider = resolve_launch(
        "1", tools=TOOLS, taken=nothing_taken, has_layer=False, any_import_host=True
    )
    assert wider.argv[-1] == "--allow-import"


def test_a_command_goes_to_bash() -> None:
    found = command_launch("echo $HOME", tools=TOOLS, language="go")
    assert found.argv == ("/bin/bash", "-c", "echo $HOME")
    assert found.uses_go_cache
    assert not found.files


def test_the_base_environment() -> None:
    env = environment.base(has_layer=False)
    expected = {
        "HOME": "/home/era",
        "USER": "era",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "TZ": "UTC",
    }
    assert expected.items() <= env.items()
    assert env["PATH"].split(":") == ["/opt/era/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
    assert "PYTHONPATH" not in env
    layered = environment.base(has_layer=True)
    assert layered["PATH"].endswith(env["PATH"])
    assert layered["PYTHONPATH"] == "/opt/era/layer/python"
    assert layered["PATH"].split(":")[1:3] == ["/opt/era/layer/python/bin", "/node_modules/.bin"]


def test_only_deno_is_told_not_to_colour() -> None:
    assert [name for name in LANGUAGES if "NO_COLOR" in started(name).env] == ["deno"]


@pytest.mark.parametrize("language", ["python", "node", "typescript"])
def test_an_interpreter_that_waits_serves_programs_with_a_setup_too(language: str) -> None:
    """A box that was made ahead is taken by its command line."""
    with_layer, without = (
        launch(language, "1", (), tools=Tools(), taken=lambda _: False, has_layer=has_layer)
        for has_layer in (True, False)
    )
    assert with_layer.argv == without.argv
