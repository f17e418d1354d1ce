"""Secrets at rest, and the stored form of setups."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era import jsontext
from era.errors import InternalError
from era.models import SetupSpec
from era.sessions.seal import Seal
from era.sessions.specs import Failure, asked, opened_spec, result_text, sealed_spec, without_envs

TEXT = st.text(max_size=20)
WORDS = st.lists(TEXT, max_size=3).map(tuple)
SPECS = st.builds(
    SetupSpec,
    pip=WORDS,
    requirements=st.none() | TEXT,
    npm=WORDS,
    package_json=st.none() | TEXT,
    go=WORDS,
    go_mod=st.none() | TEXT,
    commands=WORDS,
    envs=st.dictionaries(TEXT, TEXT, max_size=3),
    request=st.just('{"pip":["x"]}'),
)


@given(SPECS)
def test_a_stored_specification_is_the_same_again(spec: SetupSpec) -> None:
    seal = Seal("key")
    assert opened_spec(sealed_spec(spec, seal), seal) == spec


def test_a_stored_specification_shows_no_secret() -> None:
    stored = sealed_spec(SetupSpec(envs={"TOKEN_NAME": "sesame"}), Seal("key"))
    assert "sesame" not in stored
    with pytest.raises(InternalError) as caught:
        opened_spec(stored, Seal("another key"))
    assert "sesame" not in str(caught.value)


def test_a_seal_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    sealed = Seal.from_file(str(path)).seal({"a": "1"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Seal.from_file(str(path)).open(sealed) == {"a": "1"}
    path.write_text("")
    with pytest.raises(InternalError):
        Seal.from_file(str(path))


def test_a_digest_depends_on_the_key_and_on_every_value() -> None:
    one = Seal("key")
    digests = [
        one.digest({"a": "1", "b": "2"}),
        one.digest({"b": "2", "a": "1"}),
        one.digest({"a": "12", "b": ""}),
        Seal("other").digest({"a": "1", "b": "2"}),
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_erased_variables_are_not_asked_for_again() -> None:
    request = '{"commands":["x"],"envs":{"A":"***"},"env":{"B":"***"}}'
    spec = without_envs(SetupSpec(commands=("x",), envs={"A": "***"}), request)
    assert (spec.envs, spec.request) == ({}, '{"commands":["x"]}')


@pytest.mark.parametrize(
    ("spec", "kind", "expected"),
    [
        (SetupSpec(pip=("a", "b==1")), "pip", ("a", "b==1")),
        (SetupSpec(requirements="a==1 --hash=sha256:00\nb[x]>=2\n"), "pip", ("a==1", "b[x]>=2")),
        (SetupSpec(npm=("ms@2",)), "npm", ("ms@2",)),
        (SetupSpec(package_json='{"dependencies":{"ms":"^2"}}'), "npm", ("ms@^2",)),
        (SetupSpec(package_json='{"dependencies":[]}'), "npm", ()),
        (SetupSpec(go=("example.org/m@v1.0.0",)), "go", ("example.org/m@v1.0.0",)),
        (
            SetupSpec(
                go_mod="module x\n\nrequire (\n\texample.org/a v1.2.0 // indirect\n)\n"
                "require example.org/b v0.1.0\n"
            ),
            "go",
            ("example.org/a@v1.2.0", "example.org/b@v0.1.0"),
        ),
    ],
)
def test_what_was_asked_for(spec: SetupSpec, kind: str, expected: tuple[str, ...]) -> None:
    assert asked(spec, kind) == expected


def test_results_as_clients_see_them() -> None:
    done = [("pip", "a"), ("pip", "b"), ("commands", "c")]
    assert jsontext.loads(result_text(duration_ms=5, cached=True, done=done)) == {
        "success": True,
        "duration_ms": 5,
        "cached": True,
        "pip_packages": ["a", "b"],
        "commands_run": ["c"],
    }
    failure = Failure(error="Setup timed out", step="npm", exit_code=124)
    assert jsontext.loads(result_text(duration_ms=1, output=("o", ""), failure=failure)) == {
        "success": False,
        "duration_ms": 1,
        "cached": False,
        "stdout": "o",
        "stderr": "",
        "error": "Setup timed out",
        "step": "npm",
        "exit_code": 124,
    }
