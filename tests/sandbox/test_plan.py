"""A plan survives the way to the launcher, and what can never be a plan is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era import layout
from era.models import Network
from era.sandbox import policy
from era.sandbox.base import Bind, BoxSpec, Limits, Overlay, Program
from era.sandbox.plan import (
    BindMount,
    Foundation,
    Plan,
    ScratchMount,
    Start,
    decode_foundation,
    decode_plan,
    decode_start,
    encode,
    tail,
)

TEXT = st.text(max_size=20)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple)
BINDS = st.lists(
    st.builds(BindMount, source=TEXT, target=TEXT, writable=st.booleans(), device=st.booleans()),
    max_size=3,
).map(tuple)
SCRATCH = st.lists(
    st.builds(ScratchMount, name=TEXT, target=TEXT, lowers=st.lists(TEXT, max_size=3).map(tuple)),
    max_size=3,
).map(tuple)
PLANS = st.builds(
    Plan,
    scratch=SCRATCH,
    binds=BINDS,
    rlimits=st.lists(st.tuples(TEXT, st.integers(0, 2**63)), max_size=3).map(tuple),
    masked=st.lists(TEXT, max_size=3).map(tuple),
    egress=st.booleans(),
)


@given(PLANS)
def test_a_plan_survives_the_way(plan: Plan) -> None:
    assert decode_plan(encode(plan)) == plan


@given(st.builds(Start, argv=st.lists(TEXT, max_size=3).map(tuple), env=PAIRS, cwd=TEXT))
def test_a_start_survives_the_way(start: Start) -> None:
    assert decode_start(encode(start)) == start


@given(PAIRS, BINDS, st.booleans())
def test_a_foundation_survives_the_way(
    files: tuple[tuple[str, str], ...], binds: tuple[BindMount, ...], rootless: bool
) -> None:
    made = Foundation(
        rootless=rootless,
        base_dir="/b",
        scratch_dir="/s",
        images=None,
        uid=1,
        gid=2,
        filter="00",
        files=files,
        binds=binds,
    )
    assert decode_foundation(encode(made)) == made


@pytest.mark.parametrize("more", [{"root": True}, {"argv": []}])
def test_what_is_no_plan_is_refused(more: dict[str, object]) -> None:
    raw = json.loads(encode(Plan(scratch=()))) | more
    with pytest.raises((TypeError, ValueError)):
        decode_plan(json.dumps(raw).encode())


@pytest.mark.parametrize("argv", [(), ("python3",), ("",)])
def test_a_program_is_named_by_an_absolute_path(argv: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        policy.start(Program(argv=argv), {})


@pytest.mark.parametrize("target", ["relative", "/a/../b"])
def test_mounts_go_to_absolute_paths(target: str) -> None:
    spec = BoxSpec(binds=(Bind(source="/usr", target=target),))
    with pytest.raises(ValueError, match="absolute path"):
        policy.plan(spec, egress=False)


def test_every_box_has_a_workspace_a_home_and_a_tmp_of_its_own() -> None:
    plan = policy.plan(BoxSpec(), egress=False)
    targets = {scratch.target: scratch for scratch in plan.scratch}
    assert set(targets) == {layout.WORKSPACE, layout.HOME, layout.TMP}
    assert len({scratch.name for scratch in plan.scratch}) == 3


def test_lowers_of_home_keep_its_scratch() -> None:
    spec = BoxSpec(overlays=(Overlay(target=layout.HOME, lowers=("/layers/x/home",)),))
    plan = policy.plan(spec, egress=False)
    (home,) = [scratch for scratch in plan.scratch if scratch.target == layout.HOME]
    assert (home.name, home.lowers) == ("home", ("/layers/x/home",))


def test_the_environment_of_the_box_gives_way_to_the_programs_own() -> None:
    program = Program(argv=("/bin/true",), env={"A": "1"})
    assert dict(policy.start(program, {"A": "0", "B": "2"}).env) == {"A": "1", "B": "2"}


def test_limits_become_the_plan() -> None:
    limits = Limits(memory_bytes=64 << 20, pids=7, open_files=9)
    spec = BoxSpec(limits=limits, network=Network.INTERNET)
    plan = policy.plan(spec, egress=True)
    assert plan.shm_bytes == 32 << 20
    assert dict(plan.rlimits)["RLIMIT_NPROC"] == 8
    assert dict(plan.rlimits)["RLIMIT_NOFILE"] == 9
    assert dict(plan.rlimits)["RLIMIT_CORE"] == 1
    assert plan.egress


@given(
    st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1, max_size=5),
    st.dictionaries(
        st.text(st.characters(exclude_characters="\0="), min_size=1),
        st.text(st.characters(exclude_characters="\0")),
        max_size=4,
    ),
)
def test_a_tail_has_every_word_once(argv: list[str], env: dict[str, str]) -> None:
    start = Start(argv=tuple(argv), env=tuple(env.items()), cwd="/w")
    data = encode(start) + tail(start)
    _, cwd, arguments, variables, *words, end = data.split(b"\0")
    assert (cwd, int(arguments), int(variables), end) == (b"/w", len(argv), len(env), b"")
    assert len(words) == len(argv) + len(env)
    assert decode_start(encode(start)) == start


def test_a_tail_holds_no_nul() -> None:
    with pytest.raises(ValueError, match="NUL"):
        tail(Start(argv=("a\0b",), env=(), cwd="/"))
